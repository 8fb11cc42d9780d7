"""The files that commands write: readable by their owner only, and never behind a symbolic link."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import Command

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import now_ms


@pytest.fixture
def settings(command: Command, receiver: SimulatedReceiver) -> Iterator[list[str]]:
    """The options of a run with a few events, and a directory for its state."""
    command.state.parent.mkdir()
    with SimulatedApi(EventSource(start_ms=now_ms() - 60_000)) as api:
        yield command.settings(api, receiver, jumpcloud__start="1h", geoip__city=None, geoip__asn=None)


@pytest.mark.parametrize("mask", [0, 0o277])
def test_modes(command: Command, settings: list[str], mask: int) -> None:
    """Only the owner can use what `init`, `run` and `dead-letters` write, with any umask."""
    umask = os.umask(mask)
    try:
        for arguments in [
            ("init", command.state.with_name("jumpcloud.yaml")),
            ("init", command.state.with_name("jumpcloud.yaml"), "--force"),
            ("run", *settings, "--once"),
            ("dead-letters", "drop", *settings, "--all"),
        ]:
            done = command(*arguments)
            assert done.returncode == 0, done.stderr
    finally:
        os.umask(umask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in command.state.parent.iterdir()}
    assert {"jumpcloud.yaml", "state.db", "state.db.lock", "state.db.dead-letters.lock"} <= modes.keys()
    assert modes == dict.fromkeys(modes, 0o600)


def test_pipes(command: Command, settings: list[str]) -> None:
    """A pipe in place of the state or its lock does not hang a command: one line."""
    trials = [
        ("state.db", ("run", *settings, "--once")),
        ("state.db", ("status", *settings)),
        ("state.db", ("dead-letters", "drop", *settings, "--all")),
        ("state.db.lock", ("run", *settings, "--once")),
    ]
    for name, arguments in trials:
        pipe = command.state.with_name(name)
        os.mkfifo(pipe)
        done = command(*arguments)
        pipe.unlink()
        (line,) = done.stderr.decode().splitlines()
        assert done.returncode == 2, line
        assert "not a regular file" in line
        for left in command.state.parent.iterdir():
            left.unlink()


def test_links(command: Command, settings: list[str], tmp_path: Path) -> None:
    """A link at a path to write to is refused in one line; what it leads to is neither created nor changed."""
    target = tmp_path / "target"
    trials = [
        ("jumpcloud.yaml", ("init", command.state.with_name("jumpcloud.yaml"))),
        ("state.db.lock", ("run", *settings, "--once")),
        ("state.db", ("run", *settings, "--once")),
        ("", ("run", *settings, "--once")),  # without a link, for the next
        ("state.db.dead-letters.lock", ("dead-letters", "drop", *settings, "--all")),
    ]
    for name, arguments in trials:
        link = command.state.with_name(name or "other")
        link.symlink_to(target)
        done = command(*arguments)
        link.unlink()
        assert not target.exists()
        if name:
            (line,) = done.stderr.decode().splitlines()
            assert done.returncode == 2, line
            assert str(command.state.parent) in line
    command.state.rename(target)
    command.state.symlink_to(target)
    before = target.stat().st_mtime_ns
    done = command("dead-letters", "drop", *settings, "--all")
    assert (done.returncode, target.stat().st_mtime_ns) == (2, before), done.stderr
    assert b"symbolic link" in done.stderr
