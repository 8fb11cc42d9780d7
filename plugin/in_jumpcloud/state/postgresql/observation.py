"""What a member sees of its group over time: since when something is so, what it counts, and what it logs."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping

from in_jumpcloud.counters import plural
from in_jumpcloud.state.group import FOUND, GIVEN_BACK, NEW, TAKEN_OVER, WAYS, GroupView, differences
from in_jumpcloud.state.postgresql.ownership import Claimed, Silent

log = logging.getLogger(__name__)

_DIFFER_SECONDS = 120.0
"""How long members may have different settings: a reload of all takes a while."""


class Observation:
    """One thread calls `look` and `take`; others may read at the same time."""

    def __init__(self, where: str) -> None:
        """`where` names the state."""
        self.taken = dict.fromkeys(WAYS, 0)
        """How many streams this process took, by the way."""
        self.refused = 0
        """How many commits were refused."""
        self.differences = ""
        """How members differ, once that has lasted; empty if they do not."""
        self._where = where
        self._differ_since: float | None = None
        self._unowned_since: float | None = None
        self._counting = threading.Lock()

    @property
    def unowned_for(self) -> float:
        """The seconds for which there have been streams without a member."""
        since = self._unowned_since
        return 0.0 if since is None else time.monotonic() - since

    def look(self, view: GroupView, this: str) -> None:
        """See the group after a turn of the member `this`. Differences are logged once: an upgrade has some too."""
        now, found = time.monotonic(), differences(view.members, this)
        self._unowned_since = (self._unowned_since or now) if view.unowned else None
        self._differ_since = (self._differ_since or now) if found else None
        if self._differ_since is None or now - self._differ_since <= _DIFFER_SECONDS:
            self.differences = ""
            return
        if not self.differences:
            text = "%s: %s; give all members the same settings and version, or events may be missing"
            log.warning(text, self._where, found)
        self.differences = found

    def take(self, claimed: Collection[Claimed], silent: Mapping[str, Silent], *, is_found: bool = False) -> None:
        """Streams were taken; `silent` are members that were taken for dead. `is_found`: they were this process's."""
        formers = Counter(each.former for each in claimed if each.former)
        for each in claimed:
            way = FOUND if is_found else TAKEN_OVER if each.former else NEW if each.token == 1 else GIVEN_BACK
            self.taken[way] += 1
        if free := len(claimed) - formers.total():
            log.info("%s: took %s that no member had", self._where, plural(free, "stream"))
        for former, number in formers.items():
            of = silent.get(former)
            who = f"{of.name}, silent for {of.seconds:.1f} s" if of else "a member that has ended"
            log.warning("%s: took over %s of %s", self._where, plural(number, "stream"), who)

    def refuse(self) -> None:
        """A commit was refused: another member has the stream. Threads may call it."""
        with self._counting:
            self.refused += 1
