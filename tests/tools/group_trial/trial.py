"""What all scenarios of a group have in common: how it is started, and what every one must show at its end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from support.cluster import Cluster, Failed
from support.member import Member
from support.postgres import Server

_TURN = 1.0
"""A take-over is due so many seconds after the lease."""
_LOOK = 0.2
"""How exactly its time is measured: by looks at the server, of which each takes a moment."""
_DIVIDED_SECONDS = 60.0


class Skipped(Exception):
    """This machine has not what the scenario needs."""


class Trial:
    """One scenario: its size, the marks that it missed, and what it saw."""

    def __init__(
        self,
        directory: Path,
        *,
        streams: int,
        rounds: int,
        slack: float = 0.0,
        seconds: float | None = None,
        events: int | None = None,
    ) -> None:
        """`seconds`: how long the fault, or the trial, lasts. `events`: how many there are. None: as in the marks."""
        self.directory = directory
        self.streams, self.rounds = streams, rounds
        self.slack, self.seconds, self.events = slack, seconds, events
        self.takeovers: list[float] = []
        """The seconds that each take-over took."""
        self.chunks = 0
        """So many chunks may come twice."""
        self.duplicates: int | None = None
        """So many events may come twice; None: their chunks are counted."""
        self.figures: list[str] = []
        self.missed: list[str] = []

    @contextlib.contextmanager
    def group(
        self,
        members: int = 3,
        *,
        server: Server | None = None,
        streams: int | None = None,
        counts_are_exact: bool = True,
        **options: object,
    ) -> Iterator[Cluster]:
        """A group; after the body it looks at what must hold of any. `options`: as those of Cluster."""
        cluster = Cluster(self.directory, streams=streams or self.streams, slack=self.slack, **options)  # type: ignore[arg-type]
        with cluster.running(members, server=server):
            began = time.monotonic()
            yield cluster
            seconds = time.monotonic() - began
            self.divided(cluster)
            wanted, lost, duplicates = cluster.result()
            self.note(f"{self.rounds} rounds in {seconds:.0f} s, {wanted} events")
            self.expect(f"lost {lost}", lost == 0)
            again = cluster.duplicate_chunks
            if self.duplicates is None:
                text, holds = f"{self.chunks} chunks", again <= self.chunks
            else:
                text, holds = f"{self.duplicates} events", duplicates <= self.duplicates
            self.expect(f"duplicates {duplicates} in {again} chunks, at most {text}", holds)
            if self.takeovers:
                self.note(f"taken over in at most {max(self.takeovers):.2f} s")
            for member in cluster.members:
                if "Traceback" in member.log:
                    self.expect(f"a traceback in {member.command.log}", False)
            cluster.stop()
            arrived, counted = len(cluster.receiver.ids), cluster.acknowledged()
            if counts_are_exact:
                self.expect(f"counted {counted} of {arrived}", counted == arrived)

    def note(self, text: str) -> None:
        """A figure."""
        self.figures.append(text)

    def expect(self, text: str, holds: bool) -> None:
        """A figure with a mark."""
        self.figures.append(text)
        if not holds:
            self.missed.append(text)

    def at_most(self, what: str, seen: float, most: float) -> None:
        """A figure that may not be above its mark."""
        self.expect(f"{what} {seen:.2f}, at most {most:g}", seen <= most)

    def taken_over(self, cluster: Cluster, member: Member) -> None:
        """Wait until the others have its streams; that is due soon after the lease."""
        took = cluster.wait("not taken over", lambda: cluster.taken_over(member.name), 60)
        self.takeovers.append(took)
        most = cluster.lease + _TURN + _LOOK + self.slack
        if took > most:
            self.missed.append(f"the streams of {member.name} were taken over after {took:.1f} s, at most {most:g}")

    def divided(self, cluster: Cluster) -> float:
        """Wait until each member has its share. Returns the seconds that took."""
        return cluster.wait("not divided again", cluster.is_balanced, _DIVIDED_SECONDS)

    def result(self, name: str) -> str:
        """All figures in one line.

        Raises:
            Failed: a mark was missed.
        """
        text = f"{name}: {'; '.join(self.figures)}"
        if self.missed:
            raise Failed(f"{text} - missed: {'; '.join(self.missed)}")
        return text
