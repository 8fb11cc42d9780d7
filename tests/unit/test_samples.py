"""Raw events of every service, and the records that somebody who writes detection rules expects of them."""

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
RECEIVED_NS = 1_788_264_000_000_000_000  # 2026-09-01T12:00:00Z
# Each service, and what has a room of its own in JumpCloud's documents.
EXPECTED_FILES = {
    *("access_management", "aigw", "alerts", "asset_management", "certificates", "directory", "genai", "ldap", "mdm"),
    *("mtp", "notifications", "object_storage", "password_manager", "password_vault", "radius", "reports", "risk"),
    *("saas_app_management", "software", "sso", "systems", "workflows"),
}


class Loader(yaml.SafeLoader):
    """YAML in which no object has a name twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """An object of different names."""
        names = [key.value for key, _ in node.value]
        assert len(names) == len(set(names)), f"{node.start_mark}: a name stands twice"
        return super().construct_mapping(node, deep)


@cache
def loaded(path: Path) -> list[dict[str, Any]]:
    """The samples of one file."""
    samples: list[dict[str, Any]] = yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506 - a SafeLoader
    return samples


def samples() -> Iterator[Any]:
    """Every sample, named by its service and its name."""
    for path in FILES:
        for sample in loaded(path):
            yield pytest.param(sample, id=f"{path.stem}: {sample['name']}")


@pytest.fixture(scope="module", name="mapper")
def _mapper() -> Iterator[Mapper]:
    geo = GeoIPLookup(ROOT / "geoip" / "demo-city.mmdb", ROOT / "geoip" / "demo-asn.mmdb", extended=True)
    yield Mapper(EcsSettings(), geo, agent_id="the agent", ephemeral_id="the process")
    geo.close()


def whole(sample: dict[str, Any], raw: str) -> dict[str, Any]:
    """The expected record with what the samples leave to `common.yaml`."""
    record: dict[str, Any] = copy.deepcopy(COMMON["record"])
    record["agent"] |= {"name": socket.gethostname(), "version": in_jumpcloud.__version__}
    expected = copy.deepcopy(sample["expected"])
    record["event"] |= expected.pop("event")
    record |= expected
    if sample.get("original"):
        record["event"]["original"] = raw
    for side in ("client", "source"):
        address = record.get(side, {})
        if "geo" in address:
            address["geo"] = COMMON["places"][address["geo"]]
        if "as" in address:
            address["as"] = {"number": address["as"], "organization": {"name": COMMON["systems"][address["as"]]}}
    return record


def in_order(body: dict[str, Any]) -> str:
    """A record as text, which tells 1, 1.0 and true apart; the related ones are a set."""
    related = {name: sorted(values) for name, values in body.get("related", {}).items()}
    return json.dumps(body | {"related": related}, indent=1, sort_keys=True)


@pytest.mark.parametrize("sample", [*samples()])
def test_sample(mapper: Mapper, sample: dict[str, Any]) -> None:
    """The event becomes the expected record, no field missing and none in addition."""
    raw = json.dumps(sample["event"])
    assert in_order(mapper.map(parse_event(raw.encode()), RECEIVED_NS).body) == in_order(whole(sample, raw))


def test_every_service() -> None:
    """Each service has three samples at least, each with a name of its own and a reason."""
    assert {path.stem for path in FILES} == EXPECTED_FILES
    for path in FILES:
        names = Counter(sample["name"] for sample in loaded(path))
        assert len(names) == sum(names.values()) >= 3
        assert all(sample["why"] for sample in loaded(path))


def test_different_ids() -> None:
    """No two events have one id."""
    ids = Counter(sample["event"]["id"] for path in FILES for sample in loaded(path))
    assert {each for each, times in ids.items() if times > 1} == set()
