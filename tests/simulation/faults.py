"""Every fault that the simulation can make: one table, a row each.

A seed switches about half of the rows off, and draws for the others when they act and how often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from random import Random
from typing import Literal

Excuse = Literal["resend", "unread", "counts", "letter"]
"""What a fault may excuse.

resend: a chunk that the receiver took and whose ack did not lead to a commit is sent again.
counts: what is late, and older than the reach once the counts are right again, is not found.
unread: the position may pass events that this answer left out; a comparison must find them.
letter: an event ends as a dead letter.
"""


@dataclass(frozen=True)
class Row:
    """One fault. In each episode, of `minutes`, it hits the share of its calls that is drawn from `rate`."""

    name: str
    where: str
    rate: tuple[float, float] = (0.02, 0.5)
    episodes: int = 3
    minutes: tuple[float, float] = (5, 300)
    excuses: frozenset[Excuse] = field(default_factory=frozenset)


def _row(name: str, where: str, *excuses: Excuse, **options: object) -> Row:
    return Row(name, where, excuses=frozenset(excuses), **options)  # type: ignore[arg-type]


TABLE = (
    # The clock of the machine: `rate` is not used; an episode is the time for which it is wrong.
    _row("clock steps forward", "clock", minutes=(1, 3000), episodes=2),
    _row("clock steps back", "clock", minutes=(1, 3000), episodes=2),
    _row("clock drifts", "clock", minutes=(60, 6000), episodes=1),
    _row("clock is ahead at first start", "clock", minutes=(1, 600), episodes=1),
    _row("machine is suspended", "clock", minutes=(1, 900), episodes=2),
    _row("Date is missing", "clock", rate=(0.1, 1)),
    _row("Date is wrong once", "clock", rate=(0.01, 0.2)),
    _row("Date is wrong for long", "clock", rate=(1, 1), minutes=(60, 900), episodes=1),
    # JumpCloud.
    _row("401", "api"),
    _row("403", "api"),
    _row("429", "api"),
    _row("500", "api"),
    _row("502 with HTML", "api"),
    _row("hang", "api", rate=(0.1, 1)),
    _row("reset", "api"),
    _row("cut body", "api"),
    _row("broken JSON", "api"),
    _row("slow API", "api", rate=(0.3, 1)),
    _row("page one short", "api", "unread"),
    _row("empty page in between", "api", "unread", rate=(0.05, 0.3)),
    _row("repeated cursor", "api", rate=(0.05, 0.3)),
    _row("refused cursor", "api"),
    _row("duplicate rows", "api"),
    _row("row comes again instead of the next", "api", "unread"),
    _row("counts of old spans are refused", "api", "counts", rate=(1, 1), minutes=(60, 3000)),
    _row("counts are impossible", "api", "counts", rate=(0.1, 1)),
    _row("counts are refused", "api", "counts", rate=(0.5, 1)),
    _row("moving retention", "api", episodes=1),
    # The receiver.
    _row("receiver is down", "receiver", rate=(1, 1)),
    _row("receiver is frozen", "receiver", "resend", rate=(1, 1), minutes=(0.5, 30)),
    _row("ack is late", "receiver", "resend", rate=(0.05, 0.5)),
    _row("ack is lost", "receiver", "resend", "letter", rate=(0.02, 0.4)),
    _row("ack is of another chunk", "receiver", "resend", rate=(0.02, 0.2)),
    _row("ack comes twice", "receiver", "resend"),
    _row("closes after reading", "receiver", "letter", rate=(0.05, 0.5)),
    _row("takes no records", "receiver", rate=(1, 1), minutes=(1, 60)),
    _row("refuses one record", "receiver", "letter", rate=(1, 1), episodes=1),
    _row("restarts and forgets", "receiver", "resend", "letter", rate=(0.05, 0.3)),
    # The machine.
    _row("kill", "machine", "resend", rate=(0.0002, 0.01), episodes=2, minutes=(10, 600)),
    _row("power loss", "machine", "resend", rate=(0.0002, 0.01), episodes=2, minutes=(10, 600)),
    _row("SIGTERM", "machine", "resend", rate=(0.0002, 0.005), episodes=2, minutes=(10, 600)),
    _row("SIGHUP", "machine", "resend", rate=(0.0002, 0.005), episodes=2, minutes=(10, 600)),
    _row("long stop", "machine", "resend", episodes=1, minutes=(120, 4000)),
    _row("disk is full", "disk", "resend", rate=(0.2, 1), minutes=(1, 120)),
    _row("EIO", "disk", "resend", rate=(0.02, 0.5), minutes=(1, 120)),
    _row("read-only", "disk", "resend", rate=(1, 1), minutes=(1, 120)),
    _row("no more threads", "machine", rate=(0.2, 1)),
    _row("no more descriptors", "machine", rate=(0.2, 1), minutes=(1, 120)),
    _row("state file is missing", "disk", "resend", minutes=(1, 30)),
    _row("settings change", "program", "resend"),
    # A person: an episode begins with the command.
    _row("backfill", "commands"),
    # The program.
    _row("undeclared exception", "program", "resend", rate=(0.0005, 0.01), minutes=(10, 600)),
)
_AT_START = 0.2
"""The share of episodes that begin with the run."""
NAMES = tuple(row.name for row in TABLE)


class Faults:
    """The faults of one run."""

    def __init__(self, seed: str, seconds: float, without: Collection[str] = ()) -> None:
        self.landmarks: Counter[str] = Counter()
        self.on: dict[str, Row] = {}
        self.now = 0.0
        self._seconds = seconds
        self._active: frozenset[str] = frozenset()
        self._changes_at = float("-inf")
        self._random: dict[str, Random] = {}
        self._rates: dict[str, float] = {}
        self._episodes: dict[str, list[tuple[float, float]]] = {}
        for row in TABLE:
            random = Random(f"{seed} {row.name}")  # of its own: without a fault, the others stay as they are
            if random.random() < 0.5 or row.name in without:
                continue
            self.on[row.name] = row
            self._random[row.name] = random
            self._rates[row.name] = random.uniform(*row.rate)
            self._episodes[row.name] = episodes = []
            for _ in range(random.randint(1, row.episodes)):
                low, high = row.minutes
                length = 60 * min(low * (high / low) ** random.random(), seconds / 60)
                # The first start has the most to do.
                begin = 0 if random.random() < _AT_START else random.uniform(-length / 2, seconds)
                episodes.append((begin, begin + length))

    def episodes(self, name: str) -> list[tuple[float, float]]:
        """When a fault acts, in seconds of the run."""
        return self._episodes.get(name, [])

    def random(self, name: str) -> Random:
        """The random numbers of a fault."""
        return self._random[name]

    def acts(self, name: str, now: float) -> bool:
        """Whether `now` is in an episode of a fault."""
        if now >= self._changes_at:
            self._update(now)
        return name in self._active

    def hits(self, name: str, now: float) -> Random | None:
        """The random numbers of a fault if it hits this call."""
        if now >= self._changes_at:
            self._update(now)
        if name not in self._active:
            return None
        random = self._random[name]
        if random.random() >= self._rates[name]:
            return None
        self.landmarks[name] += 1
        return random

    def acted(self, where: str, since: float) -> bool:
        """Whether a fault of this kind has acted after `since`."""
        spans = (span for name, each in self._episodes.items() if self.on[name].where == where for span in each)
        return any(begin <= self.now and end > since for begin, end in spans)

    def excused(self, excuse: Excuse) -> bool:
        """Whether a fault of the run may excuse this."""
        return any(excuse in row.excuses for row in self.on.values())

    def stop(self) -> None:
        """No fault acts any more."""
        self._episodes.clear()
        self._changes_at = float("-inf")

    def _update(self, now: float) -> None:
        """Note which faults act from `now` on, and until when that is so."""
        spans = [(name, *span) for name, each in self._episodes.items() for span in each]
        self._active = frozenset(name for name, begin, end in spans if begin <= now < end)
        moments = (moment for _, begin, end in spans for moment in (begin, end) if moment > now)
        self._changes_at = min(moments, default=float("inf"))
