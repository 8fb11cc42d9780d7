"""`check --assumptions`: all hold for the simulated API, and each fails when the simulator breaks it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.command import KEY, invoke

from in_jumpcloud.checks.assumptions import ASSUMPTIONS
from in_jumpcloud.checks.tenant import MAX_REQUESTS
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault, FaultKind
from in_jumpcloud.timestamps import DAY_MS, MINUTE_MS, now_ms, rfc3339, whole_minute

BREAKS = [
    ("retention", Fault("status", status=402, path="/events")),
    ("retention", Fault("bad_json", path="/events")),
    ("future", Fault("start_ignored")),
    ("counts", Fault("counts_lower")),
    ("counts", Fault("counts_shifted")),
    ("counts", Fault("counts_negative")),
    ("counts", Fault("counts_ahead", seconds=3600)),
    ("counts", Fault("short_page")),
    ("counts", Fault("status", status=403, path="/interval")),
    ("sparse counts", Fault("bucket_missing")),
    ("order", Fault("reversed")),
    ("ids", Fault("repeated_row")),
    ("repeatable", Fault("other_bytes")),
    ("result count", Fault("no_count")),
    ("result count", Fault("wrong_count")),
    ("result count", Fault("long_count")),
    ("cursor", Fault("cursor_ignored")),
    ("cursor", Fault("no_cursor")),
    ("last page", Fault("short_page")),
    ("last page", Fault("cursor_ignored")),
    ("bounds", Fault("start_excluded")),
    ("bounds", Fault("start_ignored")),
    ("bounds", Fault("end_included")),
    ("milliseconds", Fault("whole_seconds")),
    ("encoding", Fault("deflate")),
    ("date", Fault("no_date")),
    ("date", Fault("date_ahead", seconds=600)),
    ("date", Fault("date_behind", seconds=3 * 86_400)),
    ("Retry-After", Fault("status", status=429, retry_after="soon")),
]


def write_settings(api: SimulatedApi, tmp_path: Path) -> Path:
    """A configuration file."""
    file = tmp_path / "jumpcloud.yaml"
    file.write_text(f"jumpcloud: {{api_key: '${{JUMPCLOUD_API_KEY}}', url: '{api.url}', requests_per_second: 1000}}\n")
    return file


def assumptions(api: SimulatedApi, tmp_path: Path) -> tuple[int, dict[str, str], str]:
    """The exit code, the result of each assumption, and the whole output."""
    done = invoke("check", "--assumptions", "--json", "-c", write_settings(api, tmp_path))
    report = json.loads(done.stdout)
    return done.returncode, {each["check"]: each["result"] for each in report["checks"]}, done.stdout.decode()


@pytest.fixture(name="source")
def _source() -> EventSource:
    """Two events in three minutes, for three days; four in one minute, and a fifth that is not visible yet."""
    source = EventSource(start_ms=now_ms() - 3 * DAY_MS, per_minute=0.7)
    at_ms = whole_minute(now_ms() - 18 * MINUTE_MS)
    for number in range(5):
        event = {"id": f"burst-{number}", "timestamp": rfc3339(at_ms + number), "user": {"name": "someone"}}
        visible_ms = now_ms() + 10 * MINUTE_MS if number == 4 else None
        source.add(event, timestamp_ms=at_ms + number, visible_ms=visible_ms)
    return source


def test_all_hold(source: EventSource, tmp_path: Path) -> None:
    """In less than 30 requests; what was not seen is said; nothing that an event contains is printed."""
    with SimulatedApi(source, api_key=KEY) as api:
        code, results, output = assumptions(api, tmp_path)
        requests = list(api.requests)
    assert {name for name, result in results.items() if result != "ok"} == {"Retry-After"}, output
    assert code == 0
    assert list(results) == [*(each.name for each in ASSUMPTIONS), "requests"]
    assert len(requests) < MAX_REQUESTS
    assert f"{len(requests)} requests" in output
    assert all(request.path.startswith("/insights/directory/v1/events") for request in requests)
    assert_private(output, source)


def assert_private(output: str, source: EventSource) -> None:
    """No text of an event, and no key, is in the output."""
    events = source.between(now_ms() - DAY_MS, now_ms(), now_ms=now_ms())
    texts = {text for event in events for text in re.findall(r'"([^"]{6,})"(?!:)', event.raw.decode())}
    assert len(texts) > 1000
    assert not [text for text in {KEY, *texts} if text in output]


def test_each_assumption_has_a_break() -> None:
    """Each can fail."""
    assert {name for name, _ in BREAKS} == {each.name for each in ASSUMPTIONS}


@pytest.mark.parametrize(("name", "fault"), BREAKS, ids=[f"{name}: {fault.kind}" for name, fault in BREAKS])
def test_each_fails_when_it_does_not_hold(name: str, fault: Fault, source: EventSource, tmp_path: Path) -> None:
    """The simulator breaks it, and the check says so, with exit code 1."""
    with SimulatedApi(source, api_key=KEY) as api:
        api.faults.always(fault)
        code, results, output = assumptions(api, tmp_path)
        assert len(api.requests) < MAX_REQUESTS
    assert (code, results[name]) == (1, "failed"), output
    assert_private(output, source)


@pytest.mark.parametrize("kind", ["date_ahead", "date_behind"])
def test_a_wrong_clock_of_this_machine_is_one_failure(kind: FaultKind, source: EventSource, tmp_path: Path) -> None:
    """The spans are chosen by JumpCloud's clock."""
    with SimulatedApi(source, api_key=KEY) as api:
        api.faults.always(Fault(kind, seconds=DAY_MS / 1000))
        _, results, output = assumptions(api, tmp_path)
    assert [name for name, result in results.items() if result == "failed"] == ["date"], output


def test_what_may_pass_is_no_failure(source: EventSource, tmp_path: Path) -> None:
    """JumpCloud is down, or one request is throttled: the rest could not be tested, and no more is sent."""
    with SimulatedApi(source, api_key=KEY) as api:
        api.faults.always(Fault("status", status=503, message="someone at 192.0.2.7"))
        code, results, output = assumptions(api, tmp_path)
        assert (code, set(results.values())) == (0, {"warning", "ok"}), output
        assert "192.0.2.7" not in output
        api.faults.clear()
        api.requests.clear()
        api.faults.once(Fault("bucket_missing"), Fault("status", status=429, retry_after="7"))
        code, results, output = assumptions(api, tmp_path)
        assert (code, results["Retry-After"], results["order"]) == (0, "ok", "warning"), output
        assert [request.status for request in api.requests].count(429) == 1
        assert api.requests[-1].status == 429


def test_a_refused_key_ends_it(source: EventSource, tmp_path: Path) -> None:
    """With the exit code of a key."""
    with SimulatedApi(source, api_key="another-key-of-forty-characters-0123456") as api:
        file = write_settings(api, tmp_path)
        done = invoke("check", "--assumptions", "-c", file)
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"401" in done.stderr


def test_a_tenant_without_events(tmp_path: Path) -> None:
    """What needs events could not be tested, which is no failure."""
    with SimulatedApi(EventSource(start_ms=now_ms(), per_minute=0), api_key=KEY) as api:
        code, results, _ = assumptions(api, tmp_path)
        assert len(api.requests) < MAX_REQUESTS
    assert code == 0
    tested = {"retention", "future", "encoding", "date", "requests"}
    assert {name for name, result in results.items() if result == "ok"} == tested


def test_a_tenant_with_many_events(tmp_path: Path) -> None:
    """All hold, too, where the counts cannot be used and a page ends within a minute."""
    source = EventSource(start_ms=now_ms() - DAY_MS, per_minute=240)
    with SimulatedApi(source, api_key=KEY) as api:
        api.faults.always(Fault("counts_negative"))
        _, results, output = assumptions(api, tmp_path)
        assert len(api.requests) < MAX_REQUESTS
    assert {name for name, result in results.items() if result == "failed"} == {"counts", "sparse counts"}, output
    assert "warning" not in {result for name, result in results.items() if name != "Retry-After"}
