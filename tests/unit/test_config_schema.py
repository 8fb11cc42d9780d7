"""The JSON schema of the configuration file: current, true of every file in conf/, and of one mind with the loader."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from in_jumpcloud.config.document import load_yaml
from in_jumpcloud.config.json_schema import json_schema
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"
DOCUMENTED = CONF / "jumpcloud.yaml"
SHIPPED = CONF / "jumpcloud.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(json.loads(SHIPPED.read_text(encoding="utf-8")))


def configurations() -> Iterator[tuple[str, Any]]:
    """Every configuration of the plugin in conf/, also the one in a Kubernetes manifest."""
    for path in sorted(CONF.rglob("jumpcloud*.yaml")):
        yield str(path.relative_to(CONF)), load_yaml(path.read_bytes())
    path = CONF / "helm" / "in-jumpcloud.yaml"
    for each in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        if each["kind"] == "ConfigMap":
            yield str(path.relative_to(CONF)), load_yaml(each["data"]["jumpcloud.yaml"])


def test_it_is_current() -> None:
    """`make generate` writes what is there, and the documented file names it in its first line."""
    documented = DOCUMENTED.read_text(encoding="utf-8")
    assert json.loads(SHIPPED.read_text(encoding="utf-8")) == json_schema(documented), "run `make generate`"
    jsonschema.Draft202012Validator.check_schema(VALIDATOR.schema)
    assert documented.splitlines()[0] == f"# yaml-language-server: $schema={SHIPPED.name}"


def test_every_key_is_described() -> None:
    """Each key has a text for the editor, or is a section, or one of the few that need none."""

    def undescribed(schema: dict[str, Any], path: str) -> Iterator[str]:
        for name, inner in schema.get("properties", {}).items():
            if "properties" in inner:
                yield from undescribed(inner, f"{path}{name}.")
            elif "description" not in inner:
                yield f"{path}{name}"

    plain = {"jumpcloud.connect_timeout", "ecs.tags", "forward.password", "forward.connect_timeout"}
    plain |= {f"forward.tls.{name}" for name in ("enabled", "key_file", "verify")}
    assert set(undescribed(VALIDATOR.schema, "")) == plain


def test_the_shipped_files_pass() -> None:
    """All of them, and there are some."""
    found = list(configurations())
    names = {"jumpcloud.yaml", "systemd/jumpcloud-tls.yaml", "helm/in-jumpcloud.yaml"}
    names |= {f"kubernetes/{base}/jumpcloud.yaml" for base in ("sidecar", "standalone")}
    assert names <= {name for name, _ in found}
    problems = {name: [each.message for each in VALIDATOR.iter_errors(document)] for name, document in found}
    assert {name: messages for name, messages in problems.items() if messages} == {}


RIGHT = """\
jumpcloud: {interval: 1h30m, page_bytes: 64 kB, event_max_bytes: 1000, start: 2026-01-31}
jumpcloud: {interval: "${A}", page_limit: "${B:-5}", allow_plain_http: "${C:-true}", region: "${D:-eu}"}
jumpcloud:
forward: {servers: [{unix: /run/a.sock}], shared_key: "", tls: {verify: false}}
forward: {shared_key_file: key, servers: [{host: h, port: 1}]}
geoip: {city: demo, asn: demo}
geoip: {city: null}
state: {path: null}
http: {listen: null}
ecs: {profile: raw, raw_fields: []}
"""

WRONG = """\
jumpcloud: {interval: 30}
jumpcloud: {interval: 30 seconds}
jumpcloud: {regoin: eu}
jumpcloud: {region: mars}
jumpcloud: {services: []}
jumpcloud: {page_limit: 10001}
jumpcloud: {page_limit: "5"}
jumpcloud: {requests_per_second: 0}
jumpcloud: {page_bytes: lots}
jumpcloud: {organizations: [5]}
forward: {servers: []}
forward: {servers: [h]}
forward: {servers: [{host: h, port: 0}]}
forward: {tag: null}
forward: {tag: ""}
forward: {tls: {verify: maybe}}
geoip: {cache: 0}
ecs: {profile: null}
ecs: {tags: forwarded}
http: {max_lag: null}
reconcile: 72h
extra: 1
"""


@pytest.mark.parametrize(("lines", "is_right"), [(RIGHT, True), (WRONG, False)], ids=["right", "wrong"])
def test_it_agrees_with_the_loader(tmp_path: Path, lines: str, is_right: bool) -> None:
    """What one of the two refuses, the other refuses too."""
    path = tmp_path / "jumpcloud.yaml"
    (tmp_path / "key").write_text("k")
    for line in lines.splitlines():
        path.write_text(line)
        with contextlib.nullcontext() if is_right else pytest.raises(ConfigError):
            load_config(path, environ={"JUMPCLOUD_API_KEY": "key-of-the-test", "A": "5m"})
        assert VALIDATOR.is_valid(load_yaml(line)) == is_right, line
