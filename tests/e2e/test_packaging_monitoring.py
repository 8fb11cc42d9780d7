"""Alerts and dashboard: promtool accepts them, and they use only metrics and labels that the plugin has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support.command import ROOT
from support.monitoring import catch_up, settings_of, watched

from in_jumpcloud.errors import Retryable
from in_jumpcloud.monitoring import health
from in_jumpcloud.monitoring.group_status import GroupStatus
from in_jumpcloud.monitoring.metrics import Metrics
from in_jumpcloud.monitoring.snapshot import take_snapshot
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS, now_ms

FOLDER = ROOT / "conf" / "monitoring"
ALERTS = FOLDER / "alerts.yaml"
TESTS = sorted(FOLDER.glob("alerts*.test.yaml"))
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = [each for panel in DASHBOARD["panels"] for each in (panel, *panel.get("panels", ()))]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]
EXPRESSIONS += [each["expr"] for each in DASHBOARD["annotations"]["list"]]
SCRAPED = {"job", "instance", "host"}  # labels that Prometheus or a rule adds
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool (package prometheus)")


def _promtool(*arguments: object, code: int = 0) -> str:
    done = subprocess.run([str(PROMTOOL), *map(str, arguments)], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_promtool
def test_alerts(tmp_path: Path) -> None:
    """The rules are valid and pass their tests; without the rules, each alert makes a test fail."""
    _promtool("check", "rules", "--lint-fatal", ALERTS)
    _promtool("test", "rules", *TESTS)
    (tmp_path / ALERTS.name).write_text("groups: []")
    output = _promtool("test", "rules", *(shutil.copy(path, tmp_path) for path in TESTS), code=1)
    missed = {name for pair in re.findall(r'alertname="?(\w+)|alertname: (\w+)', output) for name in pair if name}
    assert missed == {rule["alert"] for rule in RULES}


@needs_promtool
def test_dashboard_expressions(tmp_path: Path) -> None:
    """Every expression is valid once Grafana has replaced the variables."""
    rules = []
    for number, expression in enumerate(EXPRESSIONS):
        filled = re.sub(r"\$__(?:rate_)?interval\b", "5m", expression)
        rules.append({"record": f"panel:{number}", "expr": re.sub(r"\$(?:job|instance|stream)\b", ".*", filled)})
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert "$" not in file.read_text()
    _promtool("check", "rules", file)


def test_dashboard_layout() -> None:
    """Panels do not overlap and fit on the page; ids are unique."""
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        grid = panel["gridPos"]
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not cells & taken, panel["title"]
        assert grid["x"] + grid["w"] <= 24, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)


def test_metrics_and_labels_exist(tmp_path: Path, receiver: SimulatedReceiver) -> None:
    """Rules, their tests and the dashboard use only metrics and labels that a running plugin has."""
    end_ms = now_ms() - MINUTE_MS
    with (
        SimulatedApi(EventSource(start_ms=end_ms - 9 * MINUTE_MS, end_ms=end_ms)) as api,
        watched(settings_of(api.url, tmp_path, receiver.port)) as seen,
    ):
        catch_up(*seen.plugin.collectors)
        seen.plugin.resources.mapper.unknown_types["new"] = 1
        seen.plugin.collectors[0].poller.error = Retryable("no answer")
        families = list(text_string_to_metric_families(seen.get("/metrics").body))
        group = GroupStatus(
            members=(), streams=1, unowned=0, held=1, share=1.0, renewed=1.0, lease=5.0, taken={"new": 1}
        )
        alone = take_snapshot(seen.plugin, now_ms=now_ms(), began=0.0)
        shared = Metrics(lambda: msgspec.structs.replace(alone, group=group))
        families += text_string_to_metric_families(shared.encode("")[0].decode())
    samples = [sample for family in families for sample in family.samples]
    names = {sample.name for sample in samples} | {family.name for family in families}
    labels = SCRAPED.union(*(sample.labels for sample in samples))

    queries = [*EXPRESSIONS, *(rule["expr"] for rule in RULES)]
    queries += [each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    cases = [case for path in TESTS for case in yaml.safe_load(path.read_text())["tests"]]
    series = [each["series"] for case in cases for each in case["input_series"]]
    used = {name for text in [*queries, *series] for name in re.findall(r"\b(?:in_jumpcloud|process)_\w+", text)}
    assert used - names == set()
    grouped = [group for text in queries for group in re.findall(r"(?:\bby|\bon) \(([^)]*)\)", text)]
    shown = re.findall(r"\{\{(\w+)\}\}", json.dumps(DASHBOARD)) + re.findall(r"\$labels\.(\w+)", ALERTS.read_text())
    assert {*shown, *(label for group in grouped for label in group.split(", "))} - labels == set()


def test_every_reason_is_documented() -> None:
    """The page of conf has each code of a reason and of a warning, and the alerts take each of them."""
    page, alerts = (ROOT / "conf" / "README.md").read_text(), ALERTS.read_text()
    tables = page.split("`in_jumpcloud_not_ready` has the same codes")[1].split("With more than 100 streams")[0]
    reasons, warnings = tables.split("is a warning on the page")
    for codes, text in ((health.REASONS, reasons), (health.WARNINGS, warnings)):
        assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(codes)
    with_own_alert = {
        "refused",
        "lagging",
        "receivers",
        "receiver",
        "dead_letters",
        "given_up_minutes",
        "left_out",
        "reload",
        *health.OF_GROUP,
    }
    others = {*health.REASONS, *health.WARNINGS} - with_own_alert - {"trouble"}
    assert [code for code in others if not re.search(rf"\b{code}\b", alerts)] == []
