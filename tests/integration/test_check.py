"""What the checks of this machine say of files, and how the whole comes to its end."""

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
from in_jumpcloud.config.schema import Config, DeadLetterSettings, GeoIPSettings, JumpCloudSettings, StateSettings
from in_jumpcloud.config.types import Duration, Secret
from in_jumpcloud.errors import ConfigError, Fatal, KeyRefused, ReceiverDown, Stopped
from in_jumpcloud.timestamps import rfc3339

DAY = 86_400


@pytest.mark.parametrize(("days", "mark"), [(29, "ok"), (31, "warning")])
def test_an_old_database_is_a_warning(tmp_path: Path, days: int, mark: str) -> None:
    """A month after it was built, with its age and its type."""
    path = build(tmp_path / "city.mmdb", {"1.1.1.0/24": named("Here")})

    (city, asn) = local.check_databases(GeoIPSettings(city=path), now=time.time() + days * DAY)

    assert city.mark == mark
    assert "Test-City of 20" in city.found
    assert (f"{days} days old" in city.found) == (mark == "warning")
    assert asn.found == "geoip.asn: off"


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("jumpcloud: {api_key: abc}", "jumpcloud.api_key"),
        ("forward: {shared_key: abc}", "forward.shared_key"),
        ("forward: {username: u, shared_key: '${K:-}', password: abc}", "forward.password"),
        ("jumpcloud: {proxy: 'http://u:p@127.0.0.1:1'}", "jumpcloud.proxy"),
        ("jumpcloud: {api_key: '${KEY}', proxy: 'http://127.0.0.1:1'}\nforward: {shared_key: ''}", ""),
        ("", ""),
    ],
)
def test_which_file_holds_a_secret(tmp_path: Path, text: str, held: str) -> None:
    """Text that is a secret counts; a variable of the environment, or an empty key, is none."""
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    file.chmod(0o644)

    (finding,) = local.check_secrets(file, [], Config())

    assert finding.mark == ("warning" if held else "ok")
    assert held in finding.found
    assert "abc" not in str(finding)


def test_a_secret_file_is_found_through_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its path may hold variables, as those of a service's credentials do; -o may name it too."""
    monkeypatch.setenv("CREDENTIALS", str(tmp_path))
    secret, settings = tmp_path / "key", tmp_path / "settings.yaml"
    secret.write_text("abc")
    secret.chmod(0o604)
    settings.write_text("jumpcloud: {api_key_file: '${CREDENTIALS}/key'}")

    (of_file,) = local.check_secrets(settings, [], Config())
    settings.write_text("")
    (of_option,) = local.check_secrets(settings, ["jumpcloud.api_key_file=${CREDENTIALS}/key"], Config())

    assert of_file == of_option
    assert of_file.mark == "warning"
    assert of_file.advice == f"chmod o-rwx {secret}"


def test_a_state_of_an_older_version_is_no_failure(tmp_path: Path) -> None:
    """What the next run puts right is said and goes through."""
    path = tmp_path / "state.db"
    path.touch()

    (finding,) = local.check_state(StateSettings(path=path))

    assert finding.mark == "ok"
    assert "empty; the first `in-jumpcloud run` creates the state" in finding.found


def test_a_state_below_a_file(tmp_path: Path) -> None:
    """A folder that is a file: one line, of the configuration."""
    (tmp_path / "file").touch()

    (finding,) = local.check_state(StateSettings(path=tmp_path / "file" / "state.db"))

    assert finding.mark == "FAILED"
    assert "Not a directory" in finding.found
    assert finding.code == 2


def test_little_room_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the disk is full somebody is told."""
    monkeypatch.setattr(local, "_LITTLE_ROOM", 2**80)

    (low, found) = local.check_state(StateSettings(path=tmp_path / "new" / "state.db"))

    assert (low.mark, found.mark) == ("warning", "ok")
    assert "MiB are free on its disk" in low.found
    assert low.advice == f"free room on the disk of {tmp_path}"
    assert list(tmp_path.iterdir()) == []


def test_dead_letters_that_cannot_be_read(tmp_path: Path) -> None:
    """A folder where the file should be."""
    (finding,) = local.check_dead_letters(DeadLetterSettings(path=tmp_path))

    assert finding.mark == "FAILED"
    assert "cannot be read" in finding.found


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([], 0),
        ([Fatal("x")], 1),
        ([ReceiverDown("x"), Fatal("x")], 4),
        ([ReceiverDown("x"), KeyRefused("x")], 3),
        ([Fatal("x"), KeyRefused("x"), ConfigError("x")], 2),
    ],
)
def test_the_exit_code_is_of_the_first_that_applies(errors: list[Exception], code: int) -> None:
    """Configuration before key before receiver before the rest; a warning is none."""
    findings = [ok("a", "b"), warning("a", "b"), *(failed("a", error) for error in errors)]  # type: ignore[arg-type]

    assert exit_code(findings) == code


def test_findings_come_in_order_and_nobody_waits_for_a_dead_end() -> None:
    """What hangs fails at the deadline, with the exit code of its kind; what it had found is kept."""
    never = threading.Event()

    def hangs() -> Iterable[CheckResult]:
        yield ok("hangs", "so far")
        never.wait(60)

    def raises() -> Iterable[CheckResult]:
        raise Fatal("told")

    def broken() -> Iterable[CheckResult]:
        raise RuntimeError

    def stopped() -> Iterable[CheckResult]:
        raise Stopped

    checks = [
        Check("hangs", hangs, 4),
        Check("raises", raises),
        Check("broken", broken),
        Check("quick", lambda: [ok("quick", "done")]),
        Check("stopped", stopped),
    ]
    began = time.monotonic()

    findings = list(run_checks(checks, began + 0.5))
    never.set()

    assert [(each.what, each.mark, each.code) for each in findings] == [
        ("hangs", "ok", 0),
        ("hangs", "FAILED", 4),
        ("raises", "FAILED", 1),
        ("broken", "FAILED", 1),
        ("quick", "ok", 0),
        ("stopped", "FAILED", 1),
    ]
    assert findings[1].found == "did not come to its end in the time that a check has"
    assert findings[2].found == "told"
    assert time.monotonic() - began < 20


def test_more_checks_than_can_run_at_once() -> None:
    """Many are done by few, at most eight at the same time; all of them come to their end."""
    running, most, lock = 0, 0, threading.Lock()

    def one() -> Iterable[CheckResult]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        yield ok("one", "done")
        with lock:
            running -= 1

    findings = list(run_checks([Check("one", one) for _ in range(200)], time.monotonic() + 60))

    assert len(findings) == 200
    assert most <= 8


def _jumpcloud(url: str, **settings: Any) -> list[CheckResult]:
    section = JumpCloudSettings(url=url, api_key=Secret("the-key-of-this-test"), **settings)
    deadline = time.monotonic() + 60
    return list(check_jumpcloud(Config(jumpcloud=section), threading.Event(), deadline))


def test_a_plan_that_does_not_reach_back_so_far(serve: Serve) -> None:
    """402 for the span since jumpcloud.start, and not for the last hour: a later start helps."""
    day_ago = rfc3339(time.time_ns() // 1_000_000 - DAY * 1000)

    def reply(request: Request) -> None:
        start = json.loads(request.server.bodies[-1]).get("start_time", "")
        request.wfile.write(answer() if start > day_ago else answer(status="402 Payment Required"))

    found = _jumpcloud(serve(reply).url)

    (failure,) = [each for each in found if each.mark == "FAILED"]
    assert "JumpCloud answered 402" in failure.found
    assert failure.advice == "the last hour is there: set a later jumpcloud.start"


def test_an_answer_that_does_not_come(serve: Serve) -> None:
    """How long was waited is told, for it may be less than the settings allow; the key was not sent yet."""

    def reply(request: Request) -> None:
        request.server.ended.wait(60)

    server = serve(reply)

    (failure,) = _jumpcloud(server.url, read_timeout=Duration(0.3))

    assert "no answer within jumpcloud.read_timeout" in failure.found
    assert failure.advice.startswith("check waits 5 s for a connection and 0.3 s for an answer; ")
    assert "x-api-key" not in server.headers[0]


def test_counts_are_asked_of_who_is_let_in(serve: Serve) -> None:
    """An organization that is refused does not hide whether JumpCloud counts."""

    def reply(request: Request) -> None:
        known = request.headers.get("x-org-id") == "good"
        body = b'{"buckets": []}' if request.path.endswith("/interval") else b"[]"
        request.wfile.write(answer(body) if known else answer(status="403 Forbidden"))

    found = _jumpcloud(serve(reply).url, organizations=("bad", "good", "worse"))

    assert [each.mark for each in found if each.what == "JumpCloud"] == ["ok", "FAILED", "warning", "FAILED"]
    assert [(each.mark, each.found) for each in found if each.what == "counts"] == [("ok", "0 events in the last hour")]


def test_dead_ends_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An API and receivers that accept connections and say nothing: everything else is told, and it ends in time."""
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
            "dead_letter": {"path": str(tmp_path / "letters")},
        }
        settings.write_text(json.dumps(document))
        began = time.monotonic()

        code = check(settings, [], as_json=True, probe=True, timeout_seconds=2.5)

    assert time.monotonic() - began < 20
    text = capsys.readouterr().out
    found = json.loads(text)
    assert code == found["exit_code"] == 4
    assert [each["check"] for each in found["checks"] if each["result"] == "failed"] == [
        "JumpCloud",
        f"receiver 127.0.0.1:{port}",
        f"receiver localhost:{port}",
    ]
    assert [each["check"] for each in found["checks"]].count("state") == 1
    assert "not-to-be-seen" not in text
    assert "nor-this-one" not in text
