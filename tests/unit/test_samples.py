"""The mapping rules, as data: raw events with the records expected of them.

`data/samples/*.yaml` hold whole records for each service, `data/samples/rules/*.yaml` the smallest event for each rule.
"""

from __future__ import annotations

import copy
import json
import socket
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import in_jumpcloud
from in_jumpcloud.config.schema import EcsSettings
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.insights.event import parse_event

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "tests" / "data" / "samples"
COMMON = yaml.safe_load((SAMPLES / "common.yaml").read_text(encoding="utf-8"))
FILES = sorted(path for path in SAMPLES.glob("*.yaml") if path.name != "common.yaml")
RULES = sorted((SAMPLES / "rules").glob("*.yaml"))
RECEIVED_NS = 1_788_264_000_000_000_000  # 2026-09-01T12:00:00Z
# Each service, and each group of event types that JumpCloud documents by itself.
EXPECTED_FILES = {
    *("access_management", "aigw", "alerts", "asset_management", "certificates", "directory", "genai", "ldap", "mdm"),
    *("mtp", "notifications", "object_storage", "password_manager", "password_vault", "radius", "reports", "risk"),
    *("saas_app_management", "software", "sso", "systems", "workflows"),
}


class Loader(yaml.SafeLoader):
    """YAML without duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """An object, which must not have a key twice."""
        names = [key.value for key, _ in node.value]
        assert len(names) == len(set(names)), f"{node.start_mark}: duplicate key"
        return super().construct_mapping(node, deep)


@cache
def load(path: Path) -> list[dict[str, Any]]:
    """The entries of one file."""
    entries: list[dict[str, Any]] = yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506 - a SafeLoader
    return entries


@pytest.fixture(scope="module", name="databases")
def _databases() -> Iterator[dict[str, GeoIPLookup]]:
    """The demo databases, opened for each profile."""
    paths = (ROOT / "geoip" / "demo-city.mmdb", ROOT / "geoip" / "demo-asn.mmdb")
    databases = {profile: GeoIPLookup(*paths, extended=profile == "extended") for profile in ("extended", "elastic")}
    yield databases
    for each in databases.values():
        each.close()


def map_event(databases: dict[str, GeoIPLookup], raw: str, profile: str, **settings: Any) -> dict[str, Any]:
    """The body of the record of an event."""
    chosen = EcsSettings(profile=profile, **settings)  # type: ignore[arg-type]
    mapper = Mapper(chosen, databases[profile], agent_id="the agent", ephemeral_id="the process")
    return mapper.map(parse_event(raw.encode()), RECEIVED_NS).body


def whole(sample: dict[str, Any], raw: str) -> dict[str, Any]:
    """The expected record, with the parts that samples leave to `common.yaml`."""
    record: dict[str, Any] = copy.deepcopy(COMMON["record"])
    record["agent"] |= {"name": socket.gethostname(), "version": in_jumpcloud.__version__}
    expected = copy.deepcopy(sample["expected"])
    record["event"] |= expected.pop("event")
    record |= expected
    if sample.get("original"):
        record["event"]["original"] = raw
    if "client" in record and "src_ip" not in sample["event"]:
        record["source"] = copy.deepcopy(record["client"]) | record.get("source", {})
    for side in ("client", "source"):
        address = record.get(side, {})
        if "geo" in address:
            address["geo"] = COMMON["places"][address["geo"]]
        if "as" in address:
            address["as"] = {"number": address["as"], "organization": {"name": COMMON["systems"][address["as"]]}}
    return record


def at(body: dict[str, Any], path: str) -> Any:
    """The value at a dotted path; None if there is none."""
    value: Any = body
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def unordered(path: str, value: Any) -> Any:
    """The value at a path; the order of `related` does not matter."""
    return sorted(value) if path.startswith("related.") and value else value


def text(body: dict[str, Any]) -> str:
    """A record as text, in which 1, 1.0 and true differ; the order of `related` does not matter."""
    related = {name: sorted(values) for name, values in body.get("related", {}).items()}
    return json.dumps(body | {"related": related}, indent=1, sort_keys=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_samples(databases: dict[str, GeoIPLookup], path: Path) -> None:
    """Each event becomes exactly the expected record."""
    for sample in load(path):
        raw = json.dumps(sample["event"])
        assert text(map_event(databases, raw, "extended")) == text(whole(sample, raw)), sample["name"]


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_rules(databases: dict[str, GeoIPLookup], path: Path) -> None:
    """Each event becomes a record with the expected values, and only the expected problems."""
    offenders = []
    for rule in load(path):
        body = map_event(databases, json.dumps(rule["event"]), path.stem, **rule.get("settings", {}))
        values = {name: unordered(name, at(body, name)) for name in rule["expected"]}
        problems = [message.partition(": ")[0] for message in at(body, "error.message") or []]
        expected = [{name: unordered(name, each) for name, each in rule["expected"].items()}, rule.get("problems", [])]
        if json.dumps([values, problems], sort_keys=True) != json.dumps(expected, sort_keys=True):
            offenders.append((rule["rule"], values, problems))
    assert offenders == []


def test_every_service() -> None:
    """Each service has at least three samples, each with a name, a reason and an id; rules have different names."""
    assert {path.stem for path in FILES} == EXPECTED_FILES
    for path in FILES:
        names = {sample["name"] for sample in load(path)}
        assert len(names) == len(load(path)) >= 3
        assert all(sample["why"] for sample in load(path))
    assert [path.stem for path in RULES] == ["elastic", "extended"]
    for path in RULES:
        assert len({rule["rule"] for rule in load(path)}) == len(load(path)) > 70
    ids = Counter(sample["event"]["id"] for path in FILES for sample in load(path))
    assert {each for each, count in ids.items() if count > 1} == set()
