"""The group of this process at one moment, as plain values, and what health says of it.

What other members say of themselves comes from the database: it is shown as any text from outside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from in_jumpcloud.counters import plural
from in_jumpcloud.state.group import Group, Member
from in_jumpcloud.text import format_duration, shown, shown_in_one

ABLE, UNABLE, SILENT, UNKNOWN = "able", "not able", "silent", "unknown"
_LINK = re.compile(r"https?://(?:[\w.-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?(?:/[\w./~%?&=#+-]*)?", re.ASCII | re.IGNORECASE)
"""An address that can be a link: a plain URL, without a user, whose host is what it seems to be."""
_UNOWNED_LEASES = 2
"""For so many leases streams may have no member: after the death of one, the others take them within one."""
_SEE = "see its log, or `in-jumpcloud check` on its machine"


class MemberStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A member. `state` is ABLE, UNABLE, SILENT, for longer than its lease, or UNKNOWN; durations are in seconds.

    `link` is its address if that can be a link. `settings` is a digest. `this`: it is the process that is asked.
    """

    id: str
    name: str
    version: str
    address: str | None
    link: str | None
    state: str
    streams: int
    uptime: float
    silent: float
    lease: float
    settings: str
    this: bool


class GroupStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The group as the process last saw it, `renewed` seconds ago, when it last showed that it lives.

    Once that is longer than its lease, the state of no member is known. `streams` are all, `unowned` those without a
    member, `held` those of this process; `share` is its part, of 1, of the limit of requests. `trouble` is why it has
    not renewed since then. The rest is as in OwnStatus.
    """

    members: tuple[MemberStatus, ...]
    streams: int
    unowned: int
    held: int
    share: float
    renewed: float
    lease: float
    trouble: str | None = None
    taken: Mapping[str, int] = {}
    refused: int = 0
    unowned_for: float = 0.0
    differences: str = ""

    @property
    def is_known(self) -> bool:
        """Whether the group is still as it was seen, as far as that can be known."""
        return self.renewed <= self.lease

    @property
    def own(self) -> MemberStatus | None:
        """This process; None if the others took it for dead a moment ago."""
        return next((each for each in self.members if each.this), None)

    @property
    def others(self) -> list[MemberStatus]:
        """The other members."""
        return [each for each in self.members if not each.this]


def take_group(group: Group) -> GroupStatus:
    """The group now. It does not wait."""
    view, status, held = group.view, group.status(), len(group.owned)
    own = group.id
    members = [
        take_member(
            each._replace(silent=each.silent + status.renewed, uptime=each.uptime + status.renewed),
            streams=held if each.id == own else each.held,
            this=each.id == own,
        )
        for each in view.members
    ]
    if status.renewed > status.lease:
        members = [msgspec.structs.replace(each, state=UNKNOWN) for each in members]
    return GroupStatus(
        members=in_order(members),
        streams=view.streams,
        unowned=view.unowned,
        held=held,
        share=group.share,
        renewed=status.renewed,
        lease=status.lease,
        trouble=shown_in_one(status.trouble) if status.trouble else None,
        taken=status.taken,
        refused=status.refused,
        unowned_for=status.unowned_for,
        differences=shown(status.differences),
    )


def take_member(member: Member, *, streams: int, this: bool) -> MemberStatus:
    """A member with so many streams."""
    address = shown(member.address) if member.address else None
    is_link = address == member.address and _LINK.fullmatch(address or "")
    return MemberStatus(
        id=shown(member.id),
        name=shown(member.name),
        version=shown(member.version),
        address=address,
        link=address if is_link else None,
        state=SILENT if member.silent > member.lease else ABLE if member.able else UNABLE,
        streams=streams,
        uptime=member.uptime,
        silent=max(0.0, member.silent),
        lease=member.lease,
        settings=shown(member.settings),
        this=this,
    )


def in_order(members: Iterable[MemberStatus]) -> tuple[MemberStatus, ...]:
    """By name."""
    return tuple(sorted(members, key=lambda each: (each.name, each.id)))


def member_json(member: MemberStatus) -> dict[str, Any]:
    """A member as in /status.json."""
    return {
        "id": member.id,
        "name": member.name,
        "this": member.this,
        "state": member.state,
        "version": member.version,
        "address": member.address,
        "link": member.link,
        "streams": member.streams,
        "uptime_seconds": round(member.uptime, 1),
        "silent_seconds": round(member.silent, 1),
        "lease_seconds": member.lease,
        "settings": member.settings,
    }


def group_json(group: GroupStatus) -> dict[str, Any]:
    """The group as in /status.json."""
    return {
        "members": [member_json(each) for each in group.members],
        "streams": group.streams,
        "unowned": group.unowned,
        "held": group.held,
        "share": round(group.share, 4),
        "renewed_seconds": round(group.renewed, 1),
        "lease_seconds": group.lease,
        "trouble": group.trouble,
        "taken": group.taken,
        "refused_commits": group.refused,
    }


def no_lease(group: GroupStatus) -> Iterator[tuple[str, str]]:
    """The others may have its streams, so it sends nothing."""
    if not group.is_known:
        cause = f": {group.trouble}" if group.trouble else ""
        yield (
            (
                f"this member has not renewed for {format_duration(group.renewed)}, longer than its lease of "
                f"{format_duration(group.lease)}: the others may have its streams, and it sends nothing{cause}"
            ),
            "",
        )


def unable(group: GroupStatus) -> Iterator[tuple[str, str]]:
    """It cannot work. If no member can, they all keep what they have, and each stream has its own reason."""
    own = group.own
    if own and own.state == UNABLE and any(each.state == ABLE for each in group.others):
        yield (
            "this member does not reach JumpCloud or a receiver, for 30 s or longer; the others have its streams",
            "`in-jumpcloud check` names the cause",
        )


def others_unable(group: GroupStatus) -> Iterator[tuple[str, str]]:
    """Other members cannot work."""
    is_any_able = any(each.state == ABLE for each in group.members)
    rest = "the others have its streams" if is_any_able else "nor does any other, so each keeps its streams"
    for each in group.others:
        if each.state == UNABLE:
            where = f"see {each.link}" if each.link else _SEE
            yield f"member {each.name} does not reach JumpCloud or a receiver; {rest}", where


def unowned(group: GroupStatus) -> Iterator[tuple[str, str]]:
    """Streams that no member takes."""
    if group.unowned and group.unowned_for > _UNOWNED_LEASES * group.lease:
        text = f"{plural(group.unowned, 'stream')} had no member for {format_duration(group.unowned_for)}"
        yield text, "see the logs of the members"


def differences(group: GroupStatus) -> Iterator[tuple[str, str]]:
    """Members with other settings or versions."""
    if group.differences:
        yield group.differences, "give all members the same settings and version, or events may be missing"
