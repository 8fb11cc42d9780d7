"""The group in `in-jumpcloud status`, as the state has it: also on a machine where no member runs."""

from __future__ import annotations

from typing import Any

from in_jumpcloud.counters import plural
from in_jumpcloud.monitoring.group_status import in_order, member_json, take_member
from in_jumpcloud.state.group import GroupReport
from in_jumpcloud.text import format_duration, shown

_DIGEST_CHARS = 8
_DIFFER = {"settings": "settings", "version": "versions"}


def group_facts(report: GroupReport, this: str | None) -> dict[str, Any]:
    """What `--json` has of the group. `this` is the id of the member that runs here, None if none does.

    `differ` has what is not the same for all members.
    """
    held = report.held
    members = [
        take_member(each, streams=held.get(each.id, 0), this=shown(each.id) == this) for each in report.view.members
    ]
    return {
        "members": [member_json(each) for each in in_order(members)],
        "streams": report.view.streams,
        "unowned": report.view.unowned,
        "differ": [what for what in _DIFFER if len({getattr(each, what) for each in members} - {""}) > 1],
    }


def owner_facts(report: GroupReport, stream: str) -> dict[str, Any]:
    """What `--json` has of the member that has a stream."""
    owner = report.owners.get(stream)
    name = next((each.name for each in report.view.members if each.id == owner), None)
    return {"member": name and shown(name), "member_id": owner}


def group_lines(group: dict[str, Any]) -> list[tuple[str, str]]:
    """A line for the group, and one for each member."""
    members, differ = group["members"], group["differ"]
    summary = f"{plural(len(members), 'member')}, {plural(group['streams'], 'stream')}"
    lines = [("group", f"{summary}, {group['unowned'] or 'none'} of them without a living member")]
    for each in members:
        silent = f"last heard of {format_duration(each['silent_seconds'])} ago"
        lease = f", its lease is {format_duration(each['lease_seconds'])}" if each["state"] == "silent" else ""
        parts = [
            each["name"] + (" (here)" if each["this"] else ""),
            each["state"],
            plural(each["streams"], "stream"),
            f"up for {format_duration(each['uptime_seconds'])}",
            silent + lease,
            f"version {each['version']}",
            *([f"settings {each['settings'][:_DIGEST_CHARS] or 'unknown'}"] if "settings" in differ else []),
            *([each["address"]] if each["address"] else []),
        ]
        lines.append(("member", ", ".join(parts)))
    if differ:
        what = " and ".join(_DIFFER[each] for each in differ)
        lines.append(("warning", f"differences: members have different {what}; give all members the same"))
    return lines
