"""The checks of this machine and of JumpCloud, and how checks run in parallel."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from support.geoip import build, named
from support.insights import Request, Serve, answer

from in_jumpcloud.checks import local
from in_jumpcloud.checks.jumpcloud import check_jumpcloud
from in_jumpcloud.checks.result import CheckResult, exit_code, failed, ok, warning
from in_jumpcloud.checks.runner import Check, run_checks
from in_jumpcloud.cli.check import check
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config, GeoIPSettings, JumpCloudSettings, StateSettings
from in_jumpcloud.config.types import Duration, Secret
from in_jumpcloud.errors import ConfigError, Fatal, InJumpCloudError, KeyRefused, ReceiverDown, Stopped
from in_jumpcloud.timestamps import DAY_MS, now_ms, rfc3339

DAY = 86_400


def test_database_age(tmp_path: Path) -> None:
    """A database is a warning a month after it was built; the result names its type and build date."""
    path = build(tmp_path / "city.mmdb", {"1.1.1.0/24": named("Here")})
    for days, status in [(29, "ok"), (31, "warning")]:
        city, asn = local.check_databases(GeoIPSettings(city=path), now=time.time() + days * DAY)
        assert city.status == status
        assert "Test-City of 20" in city.message
        assert city.message.endswith(f": {days} days old")
        assert asn.message == "geoip.asn: off"


def test_a_real_database_is_named_where_the_demo_is_used(tmp_path: Path) -> None:
    """The default is the demo database; one where geoipupdate puts it is not used unless it is set."""
    demo = GeoIPSettings()
    for names, advice in [
        ((), "see geoip/README.md for a real one"),
        (("GeoLite2-City",), f"set geoip.city to {tmp_path}/GeoLite2-City.mmdb"),
        (("GeoLite2-City", "GeoIP2-City"), f"set geoip.city to {tmp_path}/GeoIP2-City.mmdb"),
    ]:
        for name in names:
            build(tmp_path / f"{name}.mmdb", {"1.1.1.0/24": named("Here")})
        city, _ = local.check_databases(demo, directories=(tmp_path,))
        assert (city.status, city.advice) == ("warning", advice)


def test_secrets_in_the_configuration_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A literal secret counts; a reference to the environment or an empty value does not."""
    monkeypatch.setenv("KEY", "abc")
    key, tls = "jumpcloud: {api_key: '${KEY}'", "tls: {enabled: true}"
    file = tmp_path / "settings.yaml"
    for text, name in [
        ("jumpcloud: {api_key: abc}", "jumpcloud.api_key"),
        (f"{key}}}\nforward: {{shared_key: abc, {tls}}}", "forward.shared_key"),
        (f"{key}}}\nforward: {{username: u, shared_key: '${{KEY}}', password: abc}}", "forward.password"),
        (f"{key}, proxy: 'http://u:p@127.0.0.1:1'}}", "jumpcloud.proxy"),
        (f"{key}, proxy: 'http://127.0.0.1:1'}}\nforward: {{shared_key: ''}}", ""),
        (f"{key}}}", ""),
    ]:
        file.write_text(text)
        file.chmod(0o644)
        (result,) = local.check_secrets(file, load_config(file))
        assert result.status == ("warning" if name else "ok"), text
        assert f"holds {name}" in result.message or not name
        assert "abc" not in str(result)


def test_secret_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a secret's file may contain variables, and may be given by -o."""
    monkeypatch.setenv("CREDENTIALS", str(tmp_path))
    secret, settings = tmp_path / "key", tmp_path / "settings.yaml"
    secret.write_text("abc")
    secret.chmod(0o604)
    settings.write_text("jumpcloud: {api_key_file: '${CREDENTIALS}/key'}")
    (from_file,) = local.check_secrets(settings, load_config(settings))
    settings.write_text("")
    overridden = load_config(settings, ["jumpcloud.api_key_file=${CREDENTIALS}/key"])
    (from_option,) = local.check_secrets(settings, overridden)
    assert from_file == from_option
    assert (from_file.status, from_file.advice) == ("warning", f"chmod o-rwx {secret}")


def test_state(tmp_path: Path) -> None:
    """A missing or empty state passes: the next run creates it. A path that cannot work is a configuration error."""
    (tmp_path / "empty.db").touch()
    (tmp_path / "file").touch()
    for name, status, code, text in [
        ("new/state.db", "ok", 0, "in-jumpcloud run"),
        ("empty.db", "ok", 0, "in-jumpcloud run"),
        ("file/state.db", "FAILED", 2, "Not a directory"),
    ]:
        (result,) = local.check_state(StateSettings(path=tmp_path / name))
        assert (result.status, result.code) == (status, code)
        assert text in result.message
    assert {path.name for path in tmp_path.iterdir()} == {"empty.db", "file"}


def test_low_disk_space(tmp_path: Path) -> None:
    """Little free space is a warning before the disk is full."""
    settings = StateSettings(path=tmp_path / "new" / "state.db")
    low, result = local.check_state(settings, min_free_bytes=2**80)
    assert (low.status, result.status) == ("warning", "ok")
    assert "MiB free on its disk" in low.message
    assert str(tmp_path) in low.advice


def test_exit_code() -> None:
    """Configuration before key before receiver before anything else; a warning does not count."""
    errors: list[tuple[list[InJumpCloudError], int]] = [
        ([], 0),
        ([Fatal("x")], 1),
        ([ReceiverDown("x"), Fatal("x")], 4),
        ([ReceiverDown("x"), KeyRefused("x")], 3),
        ([Fatal("x"), KeyRefused("x"), ConfigError("x")], 2),
    ]
    for raised, code in errors:
        assert exit_code([ok("a", "b"), warning("a", "b"), *(failed("a", error) for error in raised)]) == code


def test_results_come_in_order_and_a_hanging_check_fails() -> None:
    """A check that hangs fails at the deadline with its exit code; its earlier results and the others are kept."""
    never = threading.Event()

    def hangs() -> Iterable[CheckResult]:
        yield ok("hangs", "so far")
        never.wait(60)

    def raises(error: Exception) -> Iterable[CheckResult]:
        raise error

    checks = [
        Check("hangs", hangs, 4),
        Check("raises", lambda: raises(Fatal("the reason"))),
        Check("broken", lambda: raises(RuntimeError())),
        Check("quick", lambda: [ok("quick", "done")]),
        Check("stopped", lambda: raises(Stopped())),
    ]
    began = time.monotonic()
    results = list(run_checks(checks, began + 0.5))
    never.set()
    assert [(result.check, result.status, result.code) for result in results] == [
        ("hangs", "ok", 0),
        ("hangs", "FAILED", 4),
        ("raises", "FAILED", 1),
        ("broken", "FAILED", 1),
        ("quick", "ok", 0),
        ("stopped", "FAILED", 1),
    ]
    assert results[1].message == "did not finish in time"
    assert results[2].message == "the reason"
    assert time.monotonic() - began < 20


def test_many_checks() -> None:
    """At most eight run at the same time, and all finish."""
    running, peak, lock = 0, 0, threading.Lock()

    def one() -> Iterable[CheckResult]:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        yield ok("one", "done")
        with lock:
            running -= 1

    assert len(list(run_checks([Check("one", one) for _ in range(200)], time.monotonic() + 60))) == 200
    assert peak <= 8


def _check_jumpcloud(url: str, **settings: Any) -> list[CheckResult]:
    section = JumpCloudSettings(url=url, api_key=Secret("the-key-of-this-test"), **settings)
    return list(check_jumpcloud(Config(jumpcloud=section), threading.Event(), time.monotonic() + 60))


def test_a_plan_that_does_not_reach_back(serve: Serve) -> None:
    """402 since jumpcloud.start but not for the last hour: the advice is a later start."""
    day_ago = rfc3339(now_ms() - DAY_MS)

    def reply(request: Request) -> None:
        start = json.loads(request.server.bodies[-1]).get("start_time", "")
        request.wfile.write(answer() if start > day_ago else answer(status="402 Payment Required"))

    (failure,) = [result for result in _check_jumpcloud(serve(reply).url) if result.status == "FAILED"]
    assert "JumpCloud answered 402" in failure.message
    assert "set a later jumpcloud.start" in failure.advice


def test_a_timeout(serve: Serve) -> None:
    """The advice names the timeouts, which may be shorter than the settings; the key was not sent yet."""

    def reply(request: Request) -> None:
        request.server.ended.wait(60)

    server = serve(reply)
    (failure,) = _check_jumpcloud(server.url, read_timeout=Duration(0.3))
    assert "jumpcloud.read_timeout" in failure.message
    assert "5 s for a connection and 0.3 s for a response" in failure.advice
    assert "x-api-key" not in server.headers[0]


def test_counts_of_an_accessible_organization(serve: Serve) -> None:
    """The counts are checked with an organization that the key has access to, not with a refused one."""

    def reply(request: Request) -> None:
        known = request.headers.get("x-org-id") == "good"
        body = b'{"buckets": []}' if request.path.endswith("/interval") else b"[]"
        request.wfile.write(answer(body) if known else answer(status="403 Forbidden"))

    results = _check_jumpcloud(serve(reply).url, organizations=("bad", "good", "worse"))
    assert [result.status for result in results if result.check == "JumpCloud"] == ["ok", "FAILED", "warning", "FAILED"]
    assert [result for result in results if result.check == "counts"] == [ok("counts", "0 events in the last hour")]


def test_hosts_that_never_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The API and the receivers accept connections but stay silent: the rest is checked, and the command ends."""
    with socket.create_server(("127.0.0.1", 0)) as dead:
        port = dead.getsockname()[1]
        settings = tmp_path / "settings.yaml"
        document = {
            "jumpcloud": {"api_key": "not-to-be-seen", "url": f"http://127.0.0.1:{port}"},
            "geoip": {"city": None},
            "forward": {
                "servers": [{"host": "127.0.0.1", "port": port}, {"host": "localhost", "port": port}],
                "shared_key": "nor-this-one",
            },
            "state": {"path": str(tmp_path / "state.db")},
        }
        settings.write_text(json.dumps(document))
        began = time.monotonic()
        code = check(settings, [], as_json=True, probe=True, timeout_seconds=2.5)
    assert time.monotonic() - began < 20
    text = capsys.readouterr().out
    report = json.loads(text)
    assert code == report["exit_code"] == 4
    assert [each["check"] for each in report["checks"] if each["result"] == "failed"] == [
        "JumpCloud",
        f"receiver 127.0.0.1:{port}",
        f"receiver localhost:{port}",
    ]
    assert [each["check"] for each in report["checks"]].count("state") == 1
    assert "not-to-be-seen" not in text
    assert "nor-this-one" not in text
