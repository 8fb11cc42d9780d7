"""`check --assumptions`: all hold for the simulated API, and each fails when the simulator breaks it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command import KEY, invoke

from in_jumpcloud.checks.assumptions import ASSUMPTIONS, MAX_REQUESTS
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault, FaultKind
from in_jumpcloud.timestamps import DAY_MS, MINUTE_MS, now_ms, rfc3339

Break = Callable[[SimulatedApi], None]


def always(kind: FaultKind, **options: object) -> Break:
    """Every request that the fault fits has it."""
    return lambda api: api.faults.always(Fault(kind, **options))  # type: ignore[arg-type]


def once(kind: FaultKind, **options: object) -> Break:
    """The next request that the fault fits has it."""
    return lambda api: api.faults.once(Fault(kind, **options))  # type: ignore[arg-type]


def undated(api: SimulatedApi) -> None:
    """No answer has a date."""
    api.date_skew = None


BREAKS: dict[str, Break] = {
    "counts": always("counts_lower"),
    "sparse counts": always("bucket_missing"),
    "order": always("reversed"),
    "ids": always("repeated_row"),
    "repeatable": always("other_bytes"),
    "result count": always("no_count"),
    "cursor": always("cursor_ignored"),
    "full page": always("cursor_ignored"),
    "bounds": always("end_included"),
    "retention": always("status", status=402, path="/events"),
    "future": always("status", status=500, path="/events"),
    "date": undated,
    "Retry-After": once("status", status=429, retry_after="soon", path="/events"),
}


def assumptions(api: SimulatedApi, tmp_path: Path) -> tuple[int, dict[str, str], str]:
    """The exit code, the result of each assumption, and the whole output."""
    file = tmp_path / "jumpcloud.yaml"
    file.write_text(f"jumpcloud: {{api_key: '${{JUMPCLOUD_API_KEY}}', url: '{api.url}', requests_per_second: 1000}}\n")
    done = invoke("check", "--assumptions", "--json", "-c", file)
    report = json.loads(done.stdout)
    return done.returncode, {each["check"]: each["result"] for each in report["checks"]}, done.stdout.decode()


@pytest.fixture(name="source")
def _source() -> EventSource:
    """Two events in three minutes, for three days, and four in one minute."""
    source = EventSource(start_ms=now_ms() - 3 * DAY_MS, per_minute=0.7)
    at_ms = (now_ms() - 20 * MINUTE_MS) // MINUTE_MS * MINUTE_MS
    for number in range(4):
        source.add({"id": f"burst-{number}", "timestamp": rfc3339(at_ms + number)}, timestamp_ms=at_ms + number)
    return source


def test_all_hold(source: EventSource, tmp_path: Path) -> None:
    """In less than 30 requests; what was not seen is said; nothing that an event contains is printed."""
    with SimulatedApi(source, api_key=KEY) as api:
        code, results, output = assumptions(api, tmp_path)
        requests = list(api.requests)
    assert code == 0
    assert {name for name, result in results.items() if result != "ok"} == {"Retry-After"}
    assert list(results) == [*(each.name for each in ASSUMPTIONS), "requests"]
    assert len(requests) < MAX_REQUESTS
    assert all(request.path.startswith("/insights/directory/v1/events") for request in requests)
    events = source.between(now_ms() - DAY_MS, now_ms(), now_ms=now_ms())
    assert not any(each.event_id in output for each in events)
    assert KEY not in output


@pytest.mark.parametrize("name", [each.name for each in ASSUMPTIONS])
def test_each_fails_when_it_does_not_hold(name: str, source: EventSource, tmp_path: Path) -> None:
    """The simulator breaks it, and the check says so, with exit code 1."""
    with SimulatedApi(source, api_key=KEY) as api:
        BREAKS[name](api)
        code, results, output = assumptions(api, tmp_path)
        assert len(api.requests) < MAX_REQUESTS
    assert (code, results[name]) == (1, "failed"), output


def test_a_tenant_without_events(tmp_path: Path) -> None:
    """What needs events could not be tested, which is no failure."""
    with SimulatedApi(EventSource(start_ms=now_ms(), per_minute=0), api_key=KEY) as api:
        code, results, _ = assumptions(api, tmp_path)
    assert code == 0
    assert [name for name, result in results.items() if result == "ok"] == ["retention", "future", "date", "requests"]
