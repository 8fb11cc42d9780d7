"""A key is replaced, in its file and at JumpCloud or the receiver: the process continues without a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import Command, wait_until
from support.senders import NEVER, SenderTo, some_chunk

from in_jumpcloud.config.types import Secret
from in_jumpcloud.errors import ReceiverDown
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.oauth import Tokens
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import now_ms

ID, OLD, NEW = "5f0c1a2b3c4d", "old-Hc8vB2kqR7mZpX4tW9s", "new-J5nD1yF6gKxQ0aLbU3e"


@pytest.mark.parametrize("kind", ["key", "account"])
def test_jumpcloud(command: Command, receiver: SimulatedReceiver, tmp_path: Path, kind: str) -> None:
    """The API key, or the secret of a service account whose tokens were revoked with it."""
    file = tmp_path / "secret"
    file.write_text(f"{OLD}\n")
    source = EventSource(start_ms=now_ms() - 60_000, per_minute=600)
    is_account = kind == "account"
    with SimulatedApi({"a": source} if is_account else source, api_key=OLD, accounts={ID: OLD}) as api:
        secret = {"client_id": ID, "client_secret_file": str(file), "organizations": ["a"], "token_url": api.token_url}
        secret = secret if is_account else {"api_key_file": str(file)}
        settings = {f"jumpcloud__{name}": value for name, value in secret.items()}
        command.start(
            *("run", *command.settings(api, receiver, jumpcloud__interval="1s", **settings)),
            *("-o", "jumpcloud.api_key=null"),
        )
        assert receiver.wait_for(100, timeout=60), command.log.read_text()
        file.write_text(f"{NEW}\n")
        api._api_key = NEW
        api.tokens = Tokens({ID: NEW}, now_ms)
        wait_until(lambda: any(request.status == 401 for request in api.requests))
        before = receiver.received
        assert receiver.wait_for(before + 20, timeout=60), command.log.read_text()
    log = command.log.read_text()
    assert log.count("_file: the key was refused; the file has another one now") == 1
    assert not any(word in log for word in (OLD, NEW))


def test_receiver(sender_to: SenderTo, tmp_path: Path) -> None:
    """The shared key and the password: the first try after their files were replaced is refused, the next succeeds."""
    files = [tmp_path / "shared_key", tmp_path / "password"]
    for file in files:
        file.write_text(OLD)
    key, password = map(Secret.from_file, files)
    with SimulatedReceiver(shared_key=OLD, users={"u": OLD}) as receiver:
        sender = sender_to(receiver, shared_key=key, username="u", password=password)
        sender.deliver(some_chunk("a"), NEVER)
        port = receiver.port
    for file in files:
        file.write_text(NEW)
    with SimulatedReceiver(port=port, shared_key=NEW, users={"u": NEW}) as receiver:
        while True:
            try:
                sender.deliver(some_chunk("b"), NEVER)
            except ReceiverDown as error:
                assert error.stage == "handshake", error  # noqa: PT017 - it is raised once or twice
            else:
                break
        assert receiver.ids == {"b": 1}
