"""What a user sees if the receiver is not there, or refuses the plugin."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest
import trustme
from support.command import Command, wait_until

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver


@pytest.fixture
def api() -> SimulatedApi:
    """An hour of events."""
    now_ms = time.time_ns() // 1_000_000
    return SimulatedApi(EventSource(start_ms=now_ms - 3_600_000, end_ms=now_ms - 60_000, per_minute=2))


def last_line(stderr: bytes) -> str:
    """The last line of its output, which has no traceback."""
    assert b"Traceback" not in stderr
    return stderr.decode().splitlines()[-1]


def test_no_receiver(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Without a receiver `run --once` requests nothing from JumpCloud: one line, and exit code 4."""
    settings = command.settings(api.start(), receiver)
    with api:
        receiver.stop()
        result = command("run", "--once", *settings)
        assert not api.requests
    assert result.returncode == 4
    expected = f"in-jumpcloud: receiver 127.0.0.1:{receiver.port}: Connection refused; nothing listens there: "
    assert last_line(result.stderr).startswith(expected)


def test_wrong_key_and_wrong_password(command: Command, api: SimulatedApi) -> None:
    """Each is one line that names the setting to check, and never shows the secret."""
    with api, SimulatedReceiver(shared_key="right", users={"alice": "pass"}) as receiver:
        wrong_value = "8f2c71wrong"
        user = {"forward__username": "alice", "forward__password": wrong_value}
        wrong = {
            "forward.shared_key": command.settings(api, receiver, forward__shared_key=wrong_value),
            "forward.username and forward.password": command.settings(
                api, receiver, forward__shared_key="right", **user
            ),
        }
        for setting, settings in wrong.items():
            result = command("run", "--once", *settings)
            assert result.returncode == 4
            assert setting in last_line(result.stderr)
            assert wrong_value.encode() not in result.stderr
        assert not api.requests


def test_a_wrong_key_is_not_tried_fast(command: Command, api: SimulatedApi) -> None:
    """A running plugin says what is wrong and waits a minute: only another configuration helps."""
    with api, SimulatedReceiver(shared_key="right") as receiver:
        command.start("run", *command.settings(api, receiver, forward__shared_key="wrong"))
        wait_until(lambda: command.log.exists() and "in 60 s" in command.log.read_text())
        assert receiver.denied == 2
        assert "forward.shared_key probably does not match; resending the chunk in 60 s" in command.log.read_text()


def test_tls_and_user_from_files(command: Command, api: SimulatedApi, tmp_path: Path) -> None:
    """With key and password in files, and a certificate that is checked, everything arrives."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    (tmp_path / "key").write_text("the key\n")
    (tmp_path / "password").write_text("pass word\n")
    with api, SimulatedReceiver(shared_key="the key", users={"alice": "pass word"}, tls=context) as receiver:
        settings = command.settings(
            api,
            receiver,
            forward__shared_key_file=str(tmp_path / "key"),
            forward__username="alice",
            forward__password_file=str(tmp_path / "password"),
            forward__tls={"enabled": True, "ca_file": str(tmp_path / "ca.pem")},
            forward__compress="gzip",
        )
        result = command("run", "--once", *settings)
        assert result.returncode == 0, result.stderr
        assert len(receiver.ids) == sum(receiver.ids.values()) > 100
        assert receiver.refused == 0


def test_a_secret_that_others_may_read_is_warned_about(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path
) -> None:
    """A key file that everybody may read gives a warning at the start, without the key."""
    key = tmp_path / "api-key"
    key.write_text("simulated-key")
    key.chmod(0o644)
    with api:
        settings = command.settings(api, receiver, jumpcloud__api_key=None, jumpcloud__api_key_file=str(key))
        result = command("run", "--once", *settings)
        assert result.returncode == 0, result.stderr
        assert f"{key}" in result.stderr.decode()
        assert "simulated-key" not in result.stderr.decode()
        key.chmod(0o600)
        assert str(key) not in command("run", "--once", *settings).stderr.decode()
