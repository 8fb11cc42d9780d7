"""Tags by service and organization."""

from __future__ import annotations

import time
from collections import Counter

from support.command import Command

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import rfc3339


def test_each_record_has_the_tag_of_its_event(command: Command) -> None:
    """Service and organization are filled in, every event arrives once, and a second run sends nothing."""
    now_ms = time.time_ns() // 1_000_000
    sources = {
        name: EventSource(
            seed=seed, start_ms=now_ms - 7_200_000, end_ms=now_ms - 60_000, per_minute=20, organization=name
        )
        for seed, name in enumerate(("first", "second"))
    }
    total = sum(source.count(0, now_ms, now_ms=now_ms) for source in sources.values())
    with SimulatedApi(sources) as api, SimulatedReceiver() as receiver:
        settings = command.settings(
            api,
            receiver,
            jumpcloud__organizations=list(sources),
            forward__tag="jc.{organization}.{service}",
            forward__compress="gzip",
            forward__chunk_bytes=50_000,
            ecs__preserve_duplicate_custom_fields=True,
        )
        done = command("run", "--once", *settings)
        assert done.returncode == 0, done.stderr
        again = command("run", "--once", *settings)
        assert again.returncode == 0, again.stderr
        assert len(receiver.ids) == sum(receiver.ids.values()) == total

        tags: Counter[str] = Counter()
        for each in receiver.records:
            event = each.record["jumpcloud"]["event"]
            assert each.tag == f"jc.{event['organization']}.{event['service']}"
            tags[each.tag] += 1
        assert {tag.split(".")[1] for tag in tags} == set(sources)
        assert len(tags) > 10
        assert receiver.refused == 0


def test_many_services(command: Command) -> None:
    """Events that name ever new services make no more than 256 tags and one; each arrives once."""
    now_ms = time.time_ns() // 1_000_000
    source = EventSource(start_ms=now_ms - 3_600_000, end_ms=now_ms - 3_600_000)
    for number in range(600):
        moment = now_ms - 3_500_000 + number
        source.add({"id": f"e-{number}", "timestamp": rfc3339(moment), "service": f"s{number}"}, timestamp_ms=moment)
    with SimulatedApi(source) as api, SimulatedReceiver() as receiver:
        done = command("run", "--once", *command.settings(api, receiver, forward__tag="jc.{service}"))
        assert done.returncode == 0, done.stderr
        tags = Counter(each.tag for each in receiver.records)
        assert len(receiver.ids) == sum(receiver.ids.values()) == 600
    assert len(tags) == 257
    assert tags["jc.other"] == 600 - 256
    assert done.stderr.count(b"make more than 256 tags; further ones are jc.other") == 1
