"""Alerts and dashboard: they fire when they should, and ask only for metrics that the plugin has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.command import ROOT, Command, wait_until
from support.fluent_bit import free_port

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver

FOLDER = ROOT / "conf" / "monitoring"
ALERTS = FOLDER / "alerts.yaml"
TESTS = sorted(FOLDER.glob("alerts*.test.yaml"))
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
EXPRESSIONS += [each["expr"] for each in DASHBOARD["annotations"]["list"]]
OURS = re.compile(r"\b(?:in_jumpcloud|process)_\w+")
LABELS = re.compile(r"(?:\bby|\bon) \(([^)]*)\)")
SCRAPED = {"job", "instance", "host"}  # labels that the scrape, or the rule itself, adds
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool (package prometheus)")


def _promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(PROMTOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603


@needs_promtool
def test_prometheus_takes_the_alerts() -> None:
    """`promtool check rules` finds nothing wrong."""
    done = _promtool("check", "rules", "--lint-fatal", ALERTS)

    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    """`promtool test rules` agrees with its files, a sound plugin among their cases."""
    done = _promtool("test", "rules", *TESTS)

    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_each_alert_is_seen_to_fire(tmp_path: Path) -> None:
    """Without any rule the tests of the rules miss every single alert, so each of them is seen to fire there."""
    (tmp_path / ALERTS.name).write_text("groups: []")

    done = _promtool("test", "rules", *(shutil.copy(path, tmp_path) for path in TESTS))

    missed = set(re.findall(r'alertname="?(\w+)|alertname: (\w+)', done.stdout + done.stderr))
    assert {name for pair in missed for name in pair if name} == {rule["alert"] for rule in RULES}


@needs_promtool
def test_prometheus_takes_what_the_dashboard_asks(tmp_path: Path) -> None:
    """Every expression of the dashboard is valid, with Grafana's variables filled in."""
    rules = []
    for number, expression in enumerate(EXPRESSIONS):
        filled = re.sub(r"\$__(?:rate_)?interval\b", "5m", expression)
        rules.append({"record": f"panel:{number}", "expr": re.sub(r"\$(?:job|instance|stream)\b", ".*", filled)})
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))

    done = _promtool("check", "rules", file)

    assert "$" not in file.read_text()
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_panel_has_a_place_of_its_own() -> None:
    """No two panels overlap, none is wider than the page, and no id stands twice."""
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        own = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not own & places, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        places |= own
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.fixture
def exposed(command: Command, receiver: SimulatedReceiver) -> Iterator[str]:
    """What a running plugin answers at /metrics, once it has delivered."""
    port = free_port()
    source = EventSource(seed=4, start_ms=0, end_ms=1, per_minute=0)
    source.add({"id": "one", "timestamp": "2024-01-01T00:00:00Z"}, timestamp_ms=1_704_067_200_000)
    with SimulatedApi(source) as api:
        start = {"jumpcloud__start": "2024-01-01T00:00:00Z", "jumpcloud__window": "20000d"}
        command.start("run", *command.settings(api, receiver, http__listen=f"127.0.0.1:{port}", **start))
        wait_until(lambda: command.acknowledged() == 1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        yield text


def test_every_metric_and_label_that_is_asked_for_exists(exposed: str) -> None:
    """Rules, their tests, and the dashboard name only what the plugin exposes, with labels that it gives."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", exposed, re.MULTILINE))
    names = {f"{name}{end}" for name in kinds for end in ("", "_bucket", "_count", "_sum")}
    labels = {*SCRAPED, *re.findall(r'[{,](\w+)="', exposed), "event_type"}  # that one only where a type is unknown
    asked = [*EXPRESSIONS, *(rule["expr"] for rule in RULES)]
    asked += [each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    cases = [case for path in TESTS for case in yaml.safe_load(path.read_text())["tests"]]
    series = [each["series"] for case in cases for each in case["input_series"]]

    assert {name for text in [*asked, *series] for name in OURS.findall(text)} - names == set()
    assert {label for text in asked for list_ in LABELS.findall(text) for label in list_.split(", ")} - labels == set()
    legends = re.findall(r"\{\{(\w+)\}\}", json.dumps(DASHBOARD))
    told = re.findall(r"\$labels\.(\w+)", ALERTS.read_text())
    assert {*legends, *told} - labels == set()
