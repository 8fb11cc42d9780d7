"""Trials of delivery while a receiver is killed or paused, or while one of two is down.

By hand, with FLUENT_BIT set or fluent-bit on PATH:

    make trials OPTIONS="kills --events 200000 --times 10"
    make trials OPTIONS="freezes --events 50000 --times 10 --seconds 60"
    make trials OPTIONS="pauses --events 50000 --times 5"
    make trials OPTIONS="failover --seconds 60"

    make trials OPTIONS="full --events 50000 --seconds 600"

`full` needs no Fluent Bit: the simulated receiver behaves like a Fluentd with a full buffer. Without a real Fluent Bit
`failover` uses two simulated receivers, each in its own process.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol, Self

from support.command import COMMAND, Command, wait_until
from support.fluent_bit import BINARY, FluentBit, free_port

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver

ACK_TIMEOUT = 5
"""Seconds."""


@dataclass(frozen=True)
class Figures:
    """The result. `gap` is the longest time in seconds without an ack, `times` counts kills or pauses."""

    events: int
    times: int
    lost: int
    duplicates: int
    seconds: float
    gap: float

    def __str__(self) -> str:
        return (
            f"{self.events} events, {self.times} times, in {self.seconds:.0f} s: lost {self.lost}, "
            f"duplicates {self.duplicates}; longest gap in delivery {self.gap:.1f} s"
        )


def kills(directory: Path, *, events: int, times: int) -> Figures:
    """SIGKILL a real Fluent Bit `times` times while it receives."""
    fluent_bit = FluentBit.shipped(directory / "fluent-bit", "fluent-bit.yaml")
    with _source(events) as (command, api, total), fluent_bit:
        settings = command.settings(api, fluent_bit.port, forward__shared_key="", **_often(events))
        running = _Running(command, total, settings)
        for number in range(1, times + 1):
            running.until(number * total // (times + 1))
            fluent_bit.stop(signal.SIGKILL)
            fluent_bit.start()
        running.end()
        wait_until(lambda: len(fluent_bit.ids()) >= total, 60)
        fluent_bit.stop()
        return running.figures(fluent_bit.ids(), times)


def freezes(directory: Path, *, events: int, times: int, seconds: float) -> Figures:
    """SIGSTOP a real Fluent Bit `times` times for `seconds` while it receives, much longer than forward.ack_timeout."""
    fluent_bit = FluentBit.shipped(directory / "fluent-bit", "fluent-bit.yaml")
    with _source(events) as (command, api, total), fluent_bit:
        settings = command.settings(api, fluent_bit.port, forward__shared_key="", **_often(events))
        running = _Running(command, total, [*settings, "-o", f"forward.ack_timeout={ACK_TIMEOUT}s"])
        for number in range(1, times + 1):
            running.until(number * total // (times + 1))
            fluent_bit.signal(signal.SIGSTOP)
            time.sleep(seconds)
            fluent_bit.signal(signal.SIGCONT)
        running.end()
        wait_until(lambda: len(fluent_bit.ids()) >= total, 60)
        fluent_bit.stop()
        return running.figures(fluent_bit.ids(), times)


def pauses(directory: Path, *, events: int, times: int) -> Figures:
    """Let a real Fluent Bit pause at mem_buf_limit and resume `times` times, by an output that is down for a while."""
    # While the output is down, records stay in memory, until the input pauses.
    with _Store() as store, _source(events) as (command, api, total):
        fluent_bit = FluentBit.with_input(
            directory / "fluent-bit",
            {"storage.type": "memory", "mem_buf_limit": "2M", "empty_shared_key": True},
            service={"scheduler.base": 1, "scheduler.cap": 1},
            output={
                "name": "http",
                "match": "*",
                "host": "127.0.0.1",
                "port": store.port,
                "format": "json_lines",
                "json_date_key": False,
            },
        )
        with fluent_bit:
            settings = command.settings(api, fluent_bit.port, forward__shared_key="", **_often(events))
            running = _Running(command, total, settings)
            for number in range(1, times + 1):
                running.until(number * total // (times + 2))
                store.up = False
                wait_until(lambda number=number: fluent_bit.log_count("[input] pausing") >= number, 60)  # type: ignore[misc]
                store.up = True
                wait_until(lambda number=number: fluent_bit.log_count("resume (mem buf overlimit") >= number, 60)  # type: ignore[misc]
            running.end()
            wait_until(lambda: len(store.ids) >= total, 60)
        return running.figures(store.ids, fluent_bit.log_count("resume (mem buf overlimit"))


def full(_: Path, *, events: int, seconds: float) -> Figures:
    """Behave like a full Fluentd for `seconds`: in the first half every record is refused, in the second half most."""
    with _source(events) as (command, api, total), SimulatedReceiver(keep=False) as receiver:
        running = _Running(command, total, command.settings(api, receiver, **_often(events)), once=False)
        running.until(total // 4)
        for one_in in (None, 7):
            receiver.faults.full(one_in)
            time.sleep(seconds / 2)  # the length is the point
        receiver.faults.clear()
        running.end(600)
        letters = command.dead_letters()
        if letters:
            raise SystemExit(f"{len(letters)} dead letters")
        return running.figures(receiver.ids, receiver.refused)


def failover(directory: Path, *, seconds: float, dice: random.Random) -> Figures:
    """Kill and restart one of two receivers, chosen at random, every second."""
    with ExitStack() as stack:
        each = [stack.enter_context(_receiver(directory / name)) for name in ("first", "second")]
        rate = 1000
        command, api, total = stack.enter_context(_source(round(seconds * rate)))
        servers = [{"host": "127.0.0.1", "port": receiver.port} for receiver in each]
        settings = {
            "forward__servers": servers,
            "forward__shared_key": "" if BINARY else None,
            "forward__ack_timeout": f"{ACK_TIMEOUT}s",
            "jumpcloud__page_limit": rate // 10,
            "jumpcloud__requests_per_second": 10,
        }
        running = _Running(command, total, command.settings(api, each[0].port, **_often(total), **settings))
        times = 0
        while not running.ended:
            time.sleep(1)  # the pace of the trial
            victim = dice.choice(each)
            victim.stop(signal.SIGKILL)
            victim.start()
            times += 1
        running.end()
        ids: Counter[str] = Counter()
        for receiver in each:
            wait_until(receiver.flushed, 60)
            receiver.stop()
            ids += receiver.ids()
        return running.figures(ids, times)


def _often(events: int) -> dict[str, object]:
    return {"jumpcloud__start": "2d", "forward__chunk_bytes": 100_000 if events < 100_000 else 1_000_000}


@contextmanager
def _source(events: int) -> Iterator[tuple[Command, SimulatedApi, int]]:
    """Events of the last day, a directory for the plugin, and how many events there are."""
    now_ms = time.time_ns() // 1_000_000
    source = EventSource(seed=3, start_ms=now_ms - 86_400_000, end_ms=now_ms - 60_000, per_minute=events / 1439)
    with tempfile.TemporaryDirectory(prefix="in-jumpcloud-trial-") as directory, SimulatedApi(source) as api:
        yield Command(Path(directory)), api, source.count(0, now_ms, now_ms=now_ms)


class _Running:
    """The running plugin; reads twenty times a second how many events are acknowledged."""

    def __init__(self, command: Command, total: int, settings: list[str], *, once: bool = True) -> None:
        self._command = command
        self._total = total
        self._acknowledged = 0
        self._gap = 0.0
        self._started_at = time.monotonic()
        self._once = once
        self._process = command.start("run", *(["--once"] if once else []), *settings)
        self._watcher = threading.Thread(target=self._watch_acks, daemon=True)
        self._watcher.start()

    @property
    def ended(self) -> bool:
        """Whether the plugin has exited."""
        return self._process.poll() is not None

    def until(self, count: int, timeout: float = 300) -> None:
        """Wait until `count` events are acknowledged."""
        wait_until(lambda: self._acknowledged >= count or self.ended, timeout)

    def end(self, timeout: float = 600) -> None:
        """Wait until the plugin has exited; without `--once`, until it has delivered everything, and stop it."""
        if not self._once:
            self.until(self._total, timeout)
            self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(timeout)
        self._watcher.join(10)
        if code:
            raise SystemExit(f"the plugin exited with {code}: {self._command.log.read_text()[-2000:]}")

    def figures(self, ids: Counter[str], times: int) -> Figures:
        """The result; `ids` are those that came out of the receivers."""
        lost, duplicates = self._total - len(ids), sum(ids.values()) - len(ids)
        return Figures(self._total, times, lost, duplicates, time.monotonic() - self._started_at, self._gap)

    def _watch_acks(self) -> None:
        wait_until(self._command.state.exists)
        last = None
        while not self.ended:
            self._acknowledged = self._command.acknowledged()
            now = time.monotonic()
            if last is None or self._acknowledged != last[0]:
                self._gap = max(self._gap, now - last[1] if last and last[0] else 0)
                last = (self._acknowledged, now)
            time.sleep(0.05)


class _Receiver(Protocol):
    """A receiver to kill and restart."""

    port: int

    def start(self) -> Self: ...

    def stop(self, how: signal.Signals = ...) -> None: ...

    def flushed(self) -> bool: ...

    def ids(self) -> Counter[str]: ...


class _RealReceiver(FluentBit):
    def flushed(self) -> bool:
        """Whether nothing has come out of it for a second; what it has survives a kill."""
        size = self.output.stat().st_size
        time.sleep(1)
        return self.output.stat().st_size == size


class _SimulatedProcess:
    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.port = free_port()
        self._output = directory / "records"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [COMMAND, "simulate", "receiver", "--port", str(self.port)], stdout=output, stderr=subprocess.PIPE
            )
        assert self._process.stderr is not None
        assert self._process.stderr.readline().startswith(b"receiving")
        return self

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(20)
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._process = None

    def flushed(self) -> bool:
        """It writes before it acknowledges."""
        return True

    def ids(self) -> Counter[str]:
        lines = self._output.read_bytes().splitlines(keepends=True)
        return Counter(json.loads(line)["event"]["id"] for line in lines if line.endswith(b"}\n"))


@contextmanager
def _receiver(directory: Path) -> Iterator[_Receiver]:
    receiver: _RealReceiver | _SimulatedProcess
    receiver = _RealReceiver.shipped(directory, "fluent-bit.yaml") if BINARY else _SimulatedProcess(directory)
    try:
        yield receiver.start()
    finally:
        receiver.stop(signal.SIGKILL)


class _Store:
    """The target of Fluent Bit's http output: keeps the ids, or answers 503 while it is not `up`."""

    def __init__(self) -> None:
        self.up = True
        self.ids: Counter[str] = Counter()
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                up = store.up
                if up:
                    store.ids.update(json.loads(line)["event"]["id"] for line in body.splitlines())
                self.send_response(200 if up else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def main() -> None:
    """Run one trial and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", choices=["kills", "freezes", "pauses", "failover", "full"])
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    if BINARY is None and options.trial not in {"failover", "full"}:
        parser.error("no real Fluent Bit: set FLUENT_BIT, or put fluent-bit on PATH")
    with tempfile.TemporaryDirectory(prefix="in-jumpcloud-trial-") as directory:
        if options.trial == "failover":
            figures = failover(Path(directory), seconds=options.seconds, dice=random.Random(options.seed))
        elif options.trial == "full":
            figures = full(Path(directory), events=options.events, seconds=options.seconds)
        elif options.trial == "freezes":
            figures = freezes(Path(directory), events=options.events, times=options.times, seconds=options.seconds)
        else:
            trial = kills if options.trial == "kills" else pauses
            figures = trial(Path(directory), events=options.events, times=options.times)
    print(figures)  # noqa: T201 - the result
    raise SystemExit(1 if figures.lost else 0)


if __name__ == "__main__":
    main()
