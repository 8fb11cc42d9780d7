"""This process as a member of a group: it renews, takes streams up to its share, and gives back what is more.

Streams of a member that lives are never taken. A turn a second, on a thread of its own, so that neither a page nor the
upkeep of the ledger delays it. Every member computes the same shares from the same rows; there is no leader.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping

from in_jumpcloud import __version__
from in_jumpcloud.config.schema import MembersSettings
from in_jumpcloud.counters import plural
from in_jumpcloud.errors import StateCorrupt, StateUnavailable
from in_jumpcloud.state.group import GroupView, Host, Member, OwnStatus
from in_jumpcloud.state.postgresql import ownership
from in_jumpcloud.state.postgresql.database import PostgresDatabase
from in_jumpcloud.state.postgresql.observation import Observation
from in_jumpcloud.state.postgresql.share import shares
from in_jumpcloud.state.postgresql.turns import Turns

log = logging.getLogger(__name__)

_TURN_SECONDS = 1.0
"""The longest time between two turns; a third of the lease, if that is less."""
_COUNT_EVERY = 10
"""Every so many turns the streams are counted, if each has a member: with 10,000 of them that takes 10 ms."""
_AWAY = 0.75
"""A member that was away for more than this share of its lease judges none for a lease: probably the server was."""
_SOON_SECONDS = 0.1
"""How soon a turn follows where something is to be given back, and after the end of the lease of another member."""


def boottime() -> float:
    """Seconds of a clock that is never set, and that runs also while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))  # the first one is Linux's


class _NoHost:
    """Of a command, which runs no streams."""

    def changed(self) -> None:
        """Nothing."""

    def corrupt(self, error: StateCorrupt) -> None:
        """The command finds that out too."""

    def running(self) -> Collection[str]:
        """None."""
        return ()

    def is_able(self) -> bool:
        """It takes what there is."""
        return True

    def pause(self, seconds: float) -> None:
        """Nothing."""


class Membership:
    """The member and its thread: see Group."""

    def __init__(
        self,
        database: PostgresDatabase,
        settings: MembersSettings,
        *,
        take: Callable[[Iterable[ownership.Claimed]], None],
        drop: Callable[[Collection[str]], None],
        flush: Callable[[Collection[str]], None],
    ) -> None:
        """`take` and `drop` say which streams this process owns; `flush` writes the notes of streams."""
        self._view = GroupView()
        self._database = database
        self._lease = float(settings.lease)
        self._name = settings.name or f"process {os.getpid()} on {os.uname().nodename}"
        self._address = settings.address
        self._take, self._drop, self._flush = take, drop, flush
        self._host: Host = _NoHost()
        self._settings = self._key = ""
        self._surplus: frozenset[str] = frozenset()  # what is to be given back
        self._hold = 0.0  # seconds that are to be written
        self._lease_ends = self._judges_at = 0.0
        self._until_count = 0  # turns
        self._is_short = True  # it had less than its share
        self._turning = threading.Lock()
        self._thread: int | None = None  # that has a turn
        self._alone = self._is_stopped = False
        self._takes = True
        self._observation = Observation(database.where)
        seconds = min(_TURN_SECONDS, self._lease / 3)
        database.limit_apart(self._lease / 3)
        self._turns = Turns("state-member", self._turn, seconds, first=seconds)

    @property
    def id(self) -> str:
        """As Group.id."""
        return str(self._database.member)

    @property
    def view(self) -> GroupView:
        """As Group.view."""
        return self._view

    @property
    def owned(self) -> Mapping[str, int]:
        """As Group.owned."""
        return {name: token for name, token in self._database.tokens.copy().items() if name not in self._surplus}

    @property
    def share(self) -> float:
        """As Group.share."""
        return min(1.0, len(self._database.tokens) / self._view.streams) if self._view.streams else 1.0

    @property
    def trouble(self) -> StateUnavailable | None:
        """Why the last turn failed; None if it did not."""
        return self._turns.trouble

    def status(self) -> OwnStatus:
        """As Group.status."""
        seen = self._observation
        return OwnStatus(
            renewed=max(0.0, boottime() - (self._lease_ends - self._lease)),
            lease=self._lease,
            trouble=self.trouble,
            taken=seen.taken.copy(),
            refused=seen.refused,
            unowned_for=seen.unowned_for,
            differences=seen.differences,
        )

    def note_refused(self) -> None:
        """A commit was refused: another member has the stream."""
        self._observation.refuse()

    def start(self, *, alone: bool) -> None:
        """Join the group, and start the thread. `alone`: as in `ownership.join`.

        Raises:
            StateUnavailable, StateCorrupt: the server cannot be used now, or another process is in the way.
        """
        self._alone = alone
        self._join()
        others = [each for each in ownership.members(self._database) if each.id != self.id]
        if not alone and others and all(each.silent > each.lease for each in others):
            self._judges_at = boottime() + self._lease  # probably the server was away, and they will be back
        self._turn()
        self._turns.start()

    def stop(self) -> None:
        """Stop the thread, after its statement under way. It takes nothing more."""
        self._is_stopped = True
        self._turns.stop()

    def follow(self, host: Host, *, settings: str, key: str) -> None:
        """As Group.follow."""
        self._settings, self._key, self._host = settings, key, host

    @property
    def lists(self) -> bool:
        """As Group.lists. All members find the same one."""
        able = {each.id: each.able for each in self._view.members}
        others = [each for each in self._view.members if each.settings == self._settings and each.id != self.id]
        this = (not able.get(self.id, True), self.id)
        return all(this < (not each.able, each.id) for each in others)

    def wanted(self) -> list[str]:
        """As Group.wanted."""
        return ownership.wanted(self._database)

    def want(self, streams: Collection[str]) -> None:
        """As Group.want. What this process can have of them it has at once."""
        if left := ownership.want(self._database, streams):
            log.info("%s: no member names %s any more", self._database.where, plural(left, "stream"))
        self.look()

    def look(self) -> None:
        """Take at once what is new: there may be more streams."""
        self._until_count = 0
        if self._thread == threading.get_ident():  # a commit that was owed is written in a turn
            self._turns.hurry()
        else:
            self._turn()
            if self._surplus:
                self._turns.hurry()

    def take_no_more(self) -> None:
        """As Group.take_no_more."""
        self._takes = False

    def hold(self, seconds: float) -> None:
        """As Group.hold."""
        self._hold = max(self._hold, seconds)
        self._turns.hurry()

    def require_lease(self) -> None:
        """Check that others cannot have taken the streams, by the clock of this machine.

        Raises:
            StateUnavailable: they can.
        """
        if boottime() >= self._lease_ends:
            raise self.trouble or StateUnavailable(
                f"{self._database.where}: this process has not renewed its membership for {self._lease:g} s, so others "
                "may have its streams; it sends nothing until it knows"
            )

    def _join(self) -> None:
        able = self._host.is_able()
        member = Member("", self._name, __version__, self._address, 0, 0, self._lease, able, 0, self._settings)
        began = boottime()
        ownership.join(self._database, member, alone=self._alone)
        self._lease_ends = began + self._lease

    def _turn(self) -> float | None:
        """Have a turn. Returns the seconds until the next one, if it is to be soon."""
        with self._turning, self._database.apart():
            before, host, self._thread = (self.owned, self.lists), self._host, threading.get_ident()
            try:
                silent = self._renew()
                if self._is_stopped:
                    return None
                self._look(is_due=bool(silent))
                self._share_limit(host)
                self._compare(host)
                share = shares({each.id: each.able for each in self._view.members}, self._view.streams).get(self.id, 0)
                self._claim(host, share, {each.id: each for each in silent})
                self._observation.look(self._view, self.id)
                self._give_back(host, share)
                return self._until_next()
            except StateCorrupt as error:
                host.corrupt(error)
                raise
            finally:
                self._thread = None
                if (self.owned, self.lists) != before:
                    host.changed()

    def _renew(self) -> list[ownership.Silent]:
        """Show that it lives. Returns the members that do not."""
        began = boottime()
        able, held = self._host.is_able(), len(self._database.tokens)
        last = self._lease_ends - self._lease
        gap = ownership.renew(self._database, able=able, held=held, settings=self._settings)
        shortest = min([self._lease, *(each.lease for each in self._view.members)])
        if gap is None:
            if self._is_stopped:
                return []
            self._begin_again()
        elif max(gap, began - last) > _AWAY * shortest:
            self._judges_at = began + self._lease
        self._lease_ends = began + self._lease
        return ownership.judge(self._database) if began >= self._judges_at else []

    def _begin_again(self) -> None:
        """The others have judged this member: what it had is theirs."""
        lost = list(self._database.tokens)
        if lost:
            log.warning(
                "%s: this process was silent for longer than its lease; the others take its %s",
                *(self._database.where, plural(len(lost), "stream")),
            )
        self._lose(lost)
        self._database.member = uuid.uuid4()
        self._join()
        self._judges_at = boottime() + self._lease
        self._until_count = 0

    def _lose(self, streams: Collection[str]) -> None:
        self._drop(streams)
        self._surplus = self._surplus.difference(streams)

    def _look(self, *, is_due: bool) -> None:
        members = ownership.members(self._database)
        total, unowned = self._view.streams, self._view.unowned
        self._until_count -= 1
        if is_due or self._is_short or unowned or self._until_count < 0 or len(members) != len(self._view.members):
            total, unowned = ownership.count(self._database)
            self._until_count = _COUNT_EVERY
        self._view = GroupView(members, total, unowned)

    def _share_limit(self, host: Host) -> None:
        """Tell the others of a pause that JumpCloud asks for, and learn of theirs."""
        seconds = self._hold
        if seconds and self._key:
            ownership.hold(self._database, self._key, seconds)
        self._hold = 0.0 if self._hold == seconds else self._hold
        left = ownership.held_for(self._database, self._key) if self._key else 0.0
        if left > 0:
            host.pause(left)

    def _compare(self, host: Host) -> None:
        """What is mine against what I run, both ways: an answer may have been lost, a failover may have undone one."""
        tokens = dict(self._database.tokens)
        if ownership.owns(self._database, tokens):
            return
        found = {each.name: each for each in ownership.mine(self._database)}
        lost = [name for name, token in tokens.items() if name not in found or found[name].token != token]
        if lost:
            self._lose(lost)
            log.info("%s: %s moved to others, or left", self._database.where, plural(len(lost), "stream"))
        running = host.running()
        new = [each for name, each in found.items() if name not in self._database.tokens and name not in running]
        self._take(new)
        self._observation.take(new, {}, is_found=True)

    def _claim(self, host: Host, share: int, silent: dict[str, ownership.Silent]) -> None:
        missing = share - len(self._database.tokens)
        self._is_short = missing > 0
        if missing <= 0 or not self._view.unowned or not self._takes:
            return
        claimed = ownership.claim(self._database, missing, but=host.running())
        self._take(claimed)
        self._observation.take(claimed, silent)
        self._view = self._view._replace(unowned=max(0, self._view.unowned - len(claimed)))

    def _give_back(self, host: Host, share: int) -> None:
        """Stop what is more than the share, and give it back once nothing of it runs: between two acks."""
        tokens = self._database.tokens
        surplus = max(0, len(tokens) - share)
        if not surplus:
            self._surplus = frozenset()
            return
        running = host.running()
        kept = self._surplus & tokens.keys()
        others = sorted(tokens.keys() - kept, key=lambda name: (name in running, name))
        self._surplus = frozenset([*sorted(kept), *others][:surplus])
        free = sorted((self._surplus & kept).difference(running))  # what is new in it may begin a step at any moment
        if free:
            self._flush(free)
            ownership.release(self._database, free)
            self._drop(free)
            self._surplus = self._surplus.difference(free)
            log.info("%s: gave back %s for the other members", self._database.where, plural(len(free), "stream"))

    def _until_next(self) -> float | None:
        if self._surplus:
            return _SOON_SECONDS
        left = [each.lease - each.silent for each in self._view.members if each.id != self.id]
        return max(0.0, min(left)) + _SOON_SECONDS if left and boottime() >= self._judges_at else None
