"""A group: several processes, its members, that share a state. Each stream is run by one of them at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, Protocol

from in_jumpcloud.errors import StateCorrupt, StateUnavailable

NEW, GIVEN_BACK, TAKEN_OVER, FOUND = WAYS = ("new", "given_back", "taken_over", "found")
"""How a member comes to have a stream: no member has had it, one has given it back, one was taken for dead, or the
member did not know that it is its own, since an answer was lost."""


class Member(NamedTuple):
    """A process of the group. `silent` is how long ago it was last heard of, `uptime` how long it has run; in seconds.

    `able`: it can reach JumpCloud and a receiver. `held`: how many streams it has. `settings` is a digest of the
    settings that all should share, `address` where others reach its status page.
    """

    id: str
    name: str
    version: str
    address: str | None
    uptime: float
    silent: float
    lease: float
    able: bool
    held: int
    settings: str


class GroupView(NamedTuple):
    """The group at the last turn. `streams` are all that are wanted, `unowned` those of them that no member has."""

    members: tuple[Member, ...] = ()
    streams: int = 0
    unowned: int = 0


class GroupReport(NamedTuple):
    """The group as the state has it. `owners` has the id of the member of each stream that is wanted, None without one.

    `unowned` of the view also counts the streams of members that are silent for longer than their lease.
    """

    view: GroupView
    owners: Mapping[str, str | None]

    @property
    def held(self) -> Mapping[str, int]:
        """How many streams each member has, by its id."""
        return Counter(each for each in self.owners.values() if each)


class OwnStatus(NamedTuple):
    """This process as a member of its group. Durations are in seconds.

    `renewed` is how long ago it has shown that it lives, of its `lease`; `trouble` is why it could not since then.
    `taken` counts the streams that it took, by WAYS, `refused` the commits that were refused since another member has
    the stream. For `unowned_for` there have been streams without a member. `differences` says how members differ, if
    they have for longer than an upgrade takes.
    """

    renewed: float
    lease: float
    trouble: StateUnavailable | None
    taken: Mapping[str, int]
    refused: int
    unowned_for: float
    differences: str


def differences(members: Iterable[Member], this: str) -> str:
    """How members differ from the member with the id `this`, for people; empty if they do not.

    A member without `settings` has not said yet.
    """
    by_id = {each.id: each for each in members}
    if (own := by_id.pop(this, None)) is None:
        return ""
    others = sorted(by_id.values(), key=lambda each: each.name)
    settings = [each.name for each in others if each.settings and own.settings not in {"", each.settings}]
    versions = [f"{each.name} is of version {each.version}" for each in others if each.version != own.version]
    found = ", ".join([*(f"{name} has other settings" for name in settings), *versions])
    return f"{found}; this member is of version {own.version}" if versions else found


class Host(Protocol):
    """What a member asks of the process that runs its streams. It is called in any thread, and never waits."""

    def changed(self) -> None:
        """`Group.owned` or `Group.lists` has changed."""

    def corrupt(self, error: StateCorrupt) -> None:
        """The state cannot be used."""

    def running(self) -> Collection[str]:
        """The streams of which something runs, or of which a commit is still to be written."""

    def is_able(self) -> bool:
        """Whether it can reach JumpCloud and a receiver."""

    def pause(self, seconds: float) -> None:
        """Another member says that JumpCloud has asked for a pause."""


class Group(Protocol):
    """This process as a member. Thread-safe."""

    @property
    def id(self) -> str:
        """Which of the members it is: another one after it was taken for dead."""

    @property
    def view(self) -> GroupView:
        """The group at the last turn."""

    @property
    def owned(self) -> Mapping[str, int]:
        """The streams that this process is to run, each with its token: another token means that others had it.

        What it no longer is to run is given back once it has ended.
        """

    @property
    def share(self) -> float:
        """The share of all streams that this process has, of 1: so much of the limit of requests is its own."""

    def status(self) -> OwnStatus:
        """This process as a member. It does not wait."""

    def follow(self, host: Host, *, settings: str, key: str) -> None:
        """Take streams for `host` from now on. `settings` and `key` are digests of the settings and of the API key."""

    @property
    def lists(self) -> bool:
        """Whether this process is the one, of those with the same settings, that asks which organizations there are."""

    def wanted(self) -> Collection[str]:
        """The streams that the group is to run.

        Raises:
            StateUnavailable, StateCorrupt: that cannot be read.
        """

    def want(self, streams: Collection[str]) -> None:
        """The group is to run these streams, besides those that other members name; the state has their positions.

        None: this process leaves it to the others to name them.

        Raises:
            StateUnavailable, StateCorrupt: that cannot be written.
        """

    def take_no_more(self) -> None:
        """This process is about to end: what it took now would move twice."""

    def hold(self, seconds: float) -> None:
        """JumpCloud has asked for a pause: the other members with the key wait too. It returns at once."""
