"""What the answers of a Fluent Bit mean, also those of older ones and of stranger servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.samples import Sample
from support.insights import Request

from in_jumpcloud.checks.fluent_bit import check_fluent_bit, judge
from in_jumpcloud.checks.result import CheckResult
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.errors import ConfigError

PLUGINS = ["forward", "tail", "emitter", "storage_backlog"]


def _judged(
    version: str = "5.1.1", metrics: list[Sample] | None = None, storage: dict[str, Any] | None = None
) -> Iterator[CheckResult]:
    return judge(version, metrics or [], storage, PLUGINS)


@pytest.mark.parametrize(
    ("version", "mark", "says"),
    [
        ("3.1.10", "warning", "acknowledges what it throws away while it is paused"),
        ("3.2.0", "ok", "5.1 or later is better"),
        ("5.0.9", "ok", "5.1 or later is better"),
        ("5.1.0", "ok", "version 5.1.0"),
        ("10.0.0-rc1", "ok", "version 10.0.0-rc1"),
        ("strange", "warning", "version strange"),
    ],
)
def test_old_versions_lose_data(version: str, mark: str, says: str) -> None:
    """Before 3.2 no ack can be trusted; before 5.1 not that of every mode."""
    finding = next(_judged(version))

    assert finding.mark == mark
    assert says in finding.found
    assert ("better" in finding.found) == ("better" in says)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("forward.0", True),
        ("jumpcloud", True),
        ("tail", True),
        ("tail.3", False),
        ("storage_backlog.1", False),
        ("emitter_for_rewrite_tag.0", False),
    ],
)
def test_inputs_of_other_kinds_are_left_out(name: str, told: bool) -> None:
    """A default name tells the kind, and a threaded tail harms nobody; an alias may be the forward input's."""
    sample = Sample("fluentbit_input_ring_buffer_writes_total", {"name": name}, 3.0)

    found = [finding for finding in _judged(metrics=[sample]) if "threaded" in finding.found]

    assert bool(found) == told


def test_an_output_is_told_whatever_its_name() -> None:
    """An output may have the name of a kind of inputs."""
    sample = Sample("fluentbit_output_dropped_records_total", {"name": "tail.0"}, 3.0)

    assert any("has given up 3 records" in finding.found for finding in _judged(metrics=[sample]))


def test_acknowledged_and_lost_in_the_ring_buffer() -> None:
    """A threaded input whose buffer was full has lost something."""
    sample = Sample("fluentbit_input_ring_buffer_retry_failures_total", {"name": "forward.0"}, 2.0)

    (finding,) = [each for each in _judged(metrics=[sample]) if each.mark == "warning"]
    assert "input forward.0 could not keep 2 times what it had acknowledged" in finding.found


def test_without_metrics_and_storage() -> None:
    """An older one shows less; what is not seen is named."""
    findings = list(judge("2.2.0", None, {"storage_layer": None}, None))

    assert "threaded, pauses and drops, storage.type" in findings[-1].found


def _replies(body: bytes, status: str = "200 OK") -> Any:
    return lambda request: request.wfile.write(
        f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
    )


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"fluent-bit": 1}', b"\xff"])
def test_somebody_else_answers(get_server: Any, body: bytes) -> None:
    """Whatever a stranger says, it is a warning in one line."""
    (finding,) = check_fluent_bit(get_server(_replies(body)))

    assert finding.mark == "warning"
    assert "no Fluent Bit answers there" in finding.found


def test_a_password_in_the_url_is_not_shown(get_server: Any) -> None:
    """The URL is shown without it."""
    url = get_server(_replies(b"{}", "401 Unauthorized")).replace("//", "//name:geheim@")

    (finding,) = check_fluent_bit(url)

    assert "it answers 401" in finding.found
    assert "geheim" not in str(finding)


@pytest.fixture
def get_server(serve: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Start a server that answers a GET; its URL."""

    def start(reply: Any) -> str:
        server = serve(reply)
        monkeypatch.setattr(Request, "do_GET", reply, raising=False)
        return str(server.url)

    return start


@pytest.mark.parametrize("monitor", ["127.0.0.1:2020", "ftp://h", "http://", "http://u:geheim@h:0"])
def test_a_monitor_is_a_url(monitor: str) -> None:
    """Anything else is refused, with its path in the file and without what it may hold."""
    server = json.dumps([{"host": "127.0.0.1", "monitor": monitor}])

    with pytest.raises(ConfigError, match=r"forward\.servers\[0\]\.monitor: expected") as raised:
        load_config(None, ["jumpcloud.api_key=key", f"forward.servers={server}"])

    assert "geheim" not in str(raised.value)
