"""The metrics of a member of a group. None has a label with a member: there are as many series in a large group."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from in_jumpcloud.monitoring.group_status import ABLE, SILENT, GroupStatus


def group_metrics(group: GroupStatus) -> Iterable[Metric]:
    """All of them. What the group was like is left out, once that is not known any more."""
    if group.is_known:
        yield from _members(group)
    taken = CounterMetricFamily(
        "in_jumpcloud_group_streams_taken", "Streams that this member took, by how it came to have them", labels=["how"]
    )
    for way, count in group.taken.items():
        taken.add_metric([way], count)
    yield taken
    text = "Commits that were refused since another member has the stream"
    yield CounterMetricFamily("in_jumpcloud_group_refused_commits", text, value=group.refused)
    for name, text, value in (
        ("streams", "Streams of the group", group.streams),
        ("streams_held", "Streams that this member has", group.held),
        ("limit_ratio", "Part of the limit of requests that this member has", group.share),
        ("renewed_seconds", "Seconds since this member last showed that it lives", group.renewed),
        ("lease_seconds", "Seconds after which the others take the streams of a silent member", group.lease),
    ):
        yield GaugeMetricFamily(f"in_jumpcloud_group_{name}", text, value=value)


def _members(group: GroupStatus) -> Iterable[Metric]:
    living = [each for each in group.members if each.state != SILENT]
    able = sum(each.state == ABLE for each in living)
    text = "Members by whether they reach JumpCloud and a receiver"
    members = GaugeMetricFamily("in_jumpcloud_group_members", text, labels=["able"])
    members.add_metric(["yes"], able)
    members.add_metric(["no"], len(living) - able)
    yield members
    text = "Members of which this is not the same as of this one"
    differ = GaugeMetricFamily("in_jumpcloud_group_members_differ", text, labels=["what"])
    own = group.own
    settings = [each for each in group.others if own and each.settings and own.settings not in {"", each.settings}]
    differ.add_metric(["settings"], len(settings))
    differ.add_metric(["version"], sum(own is not None and each.version != own.version for each in group.others))
    yield differ
    text = "Streams of the group that no member has"
    yield GaugeMetricFamily("in_jumpcloud_group_streams_unowned", text, value=group.unowned)
