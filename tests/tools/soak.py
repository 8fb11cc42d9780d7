"""A soak: random faults on both sides and kills, and at the end every event has arrived.

By hand:

    make soak OPTIONS="--events 1000000 --faults 2000 --kills 200"

It polls every 100 ms instead of every 30 s, and compares counts every second instead of every 10 minutes, so that a run
of minutes has thousands of polls.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.command import Command

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS as MINUTE

ORGANIZATIONS = ("first", "second", "third", "fourth")
LATE = 0.05
_FAR = 2**43  # milliseconds: when everything is visible
FAULTS_OF_THE_API = (
    Fault("status", status=429, retry_after="1"),
    Fault("status", status=429),
    Fault("status", status=500),
    Fault("status", status=503),
    Fault("delay", seconds=0.2),
    Fault("cut"),
    Fault("bad_json"),
    Fault("wrong_count"),
    Fault("repeat_cursor"),
    Fault("drop"),
)


@dataclass(frozen=True)
class Figures:
    """The result."""

    seed: int
    events: int
    lost: int
    duplicates: int
    kills: int
    lost_acks: int
    faults: int
    largest_chunk: int
    audit: str
    seconds: float

    def __str__(self) -> str:
        return f"""seed {self.seed}: {self.events} events in {self.seconds:.0f} s
{self.faults} faults, {self.kills} kills, {self.lost_acks} lost acks
lost {self.lost}
duplicates {self.duplicates}, allowed {self.bound}: a chunk (up to {self.largest_chunk} records) a kill or lost ack
{self.audit}"""

    @property
    def bound(self) -> int:
        """How many events may have been sent twice."""
        return (self.kills + self.lost_acks) * self.largest_chunk


class Soak:
    """The installed command between simulators with faults."""

    def __init__(self, directory: Path, *, events: int, faults: int, kills: int, seed: int, minutes: float) -> None:
        self.seed = seed
        self._dice = random.Random(seed)
        self._kills, self._faults = kills, faults
        now_ms = time.time_ns() // 1_000_000
        end_ms = now_ms // MINUTE * MINUTE - MINUTE
        self._sources = {
            name: EventSource(
                seed=seed,
                start_ms=end_ms - round(minutes * MINUTE),
                end_ms=end_ms,
                per_minute=events / minutes / len(ORGANIZATIONS),
                organization=name,
                late=LATE,
                late_by_ms=(2000, MINUTE + 20_000),
            )
            for name in ORGANIZATIONS
        }
        self._api = SimulatedApi(self._sources)
        self._receiver = SimulatedReceiver(keep=False, on_records=self._note)
        self._command = Command(directory)
        self._largest = 0
        self._given: Counter[str] = Counter()

    def run(self) -> Figures:
        """Run the soak."""
        began = time.monotonic()
        with self._api, self._receiver:
            total = self._total()
            over = threading.Event()
            disturbing = threading.Thread(target=self._disturb_receiver, args=(over,))
            disturbing.start()
            kills = self._kill_repeatedly(total)
            over.set()
            disturbing.join()
            self._api.faults.clear()
            self._receiver.faults.clear()
            self._finish(total)
            audit = self._command("audit", *self._settings())
        ids = self._receiver.ids
        expected = {item.event_id for source in self._sources.values() for item in source.between(0, _FAR, now_ms=_FAR)}
        return Figures(
            seed=self.seed,
            events=len(expected),
            lost=len(expected - ids.keys()),
            duplicates=sum(ids.values()) - len(ids),
            kills=kills,
            lost_acks=sum(self._given[each] for each in ("drop_ack", "wrong_ack", "reset_before_ack", "pause", "stop")),
            faults=sum(self._api.faults.given.values()) + sum(self._given.values()),
            largest_chunk=self._largest,
            audit=(audit.stdout + audit.stderr).decode().splitlines()[-1] + f" (exit {audit.returncode})",
            seconds=time.monotonic() - began,
        )

    def _note(self, _tag: str, records: list[tuple[int, dict[str, Any]]]) -> None:
        self._largest = max(self._largest, len(records))

    def _total(self) -> int:
        return sum(source.count(0, _FAR, now_ms=_FAR) for source in self._sources.values())

    def _settings(self) -> list[str]:
        return self._command.settings(
            self._api,
            self._receiver,
            jumpcloud__organizations=list(ORGANIZATIONS),
            jumpcloud__start="1h",
            jumpcloud__interval="100ms",
            jumpcloud__overlap="1s",
            jumpcloud__window="1m",
            reconcile__every="1s",
            forward__ack_timeout="3s",
        )

    def _kill_repeatedly(self, total: int) -> int:
        """Kill the plugin at random moments, each time after it has made progress."""
        for fault in FAULTS_OF_THE_API:
            self._api.faults.random(fault, 0.3 / len(FAULTS_OF_THE_API), self.seed)
        kills = 0
        while kills < self._kills or sum(self._api.faults.given.values()) + sum(self._given.values()) < self._faults:
            process = self._command.start("run", *self._settings())
            goal = min(len(self._receiver.ids) + self._dice.randrange(1, 2 * total // self._kills), total)
            self._receiver.wait_until(lambda goal=goal: len(self._receiver.ids) >= goal, 8)  # type: ignore[misc]
            time.sleep(self._dice.uniform(0, 0.3))
            if process.poll() is not None:
                raise AssertionError(self._command.log.read_text()[-2000:])
            process.kill()
            process.wait()
            kills += 1
        return kills

    def _disturb_receiver(self, over: threading.Event) -> None:
        faults = self._receiver.faults
        dice = random.Random(self.seed + 1)
        actions: dict[str, Callable[[], object]] = {
            "drop_ack": faults.drop_ack,
            "wrong_ack": faults.wrong_ack,
            "reset_before_ack": faults.reset_before_ack,
            "close_after_ack": faults.close_after_ack,
            "reset_after_bytes": lambda: faults.reset_after_bytes(dice.randrange(1, 200_000)),
            "stall": lambda: faults.stall(dice.uniform(0, 0.5)),
            "split_acks": lambda: faults.split_acks(dice.random() < 0.5),
            "pause": lambda: self._interrupt(self._receiver.pause, self._receiver.resume, dice.uniform(0, 0.6)),
            "stop": lambda: self._interrupt(self._receiver.stop, self._receiver.start, dice.uniform(0, 0.6)),
        }
        while not over.wait(dice.uniform(0.2, 1.2)):
            name = dice.choice(list(actions))
            actions[name]()
            self._given[name] += 1

    @staticmethod
    def _interrupt(stop: Callable[[], object], start: Callable[[], object], seconds: float) -> None:
        stop()
        time.sleep(seconds)
        start()

    def _finish(self, total: int) -> None:
        """Catch up without faults, again and again until the last late event is visible."""
        deadline = time.monotonic() + 900
        while True:
            done = self._command("run", "--once", *self._settings(), timeout=600)
            if done.returncode:
                raise AssertionError(done.stderr.decode()[-2000:])
            now_ms = time.time_ns() // 1_000_000
            visible = sum(source.count(0, now_ms, now_ms=now_ms) for source in self._sources.values())
            if (visible == total and len(self._receiver.ids) >= total) or time.monotonic() > deadline:
                return
            time.sleep(1)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--faults", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=20, help="the span of the events")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)  # noqa: T201 - the result
    with tempfile.TemporaryDirectory(prefix="in-jumpcloud-soak-") as directory:
        figures = Soak(Path(directory), **vars(arguments)).run()
    print(figures)  # noqa: T201 - the result
    raise SystemExit(figures.lost > 0 or figures.duplicates > figures.bound)


if __name__ == "__main__":
    main()
