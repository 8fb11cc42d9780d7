"""Profile `raw` with the installed command: delivery, tags, dead letters, reload, the commands that show records."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator

import pytest
from support.command import ROOT, Command, invoke, wait_until

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS, now_ms, rfc3339


@pytest.fixture
def source() -> EventSource:
    """Events of the last hour, of which one has a text where others have an object."""
    source = EventSource(start_ms=now_ms() - 60 * MINUTE_MS, end_ms=now_ms() - MINUTE_MS, per_minute=5)
    odd = {"id": "odd", "timestamp": rfc3339(now_ms() - 5 * MINUTE_MS), "service": "sso", "system": "text"}
    source.add(odd, timestamp_ms=now_ms() - 5 * MINUTE_MS)
    return source


@pytest.fixture
def api(source: EventSource) -> Iterator[SimulatedApi]:
    """JumpCloud."""
    with SimulatedApi(source) as api:
        yield api


@pytest.fixture
def receiver() -> Iterator[SimulatedReceiver]:
    """A receiver that keeps its records."""
    with SimulatedReceiver() as receiver:
        yield receiver


def test_delivery(command: Command, source: EventSource, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Each event arrives once as it is, with `@timestamp` and `client.geo`; a second run sends nothing."""
    settings = command.settings(api, receiver, ecs__profile="raw", forward__tag="jc.{service}")
    for _ in range(2):
        done = command("run", "--once", *settings)
        assert done.returncode == 0, done.stderr

    sent = {json.loads(item.raw)["id"]: json.loads(item.raw) for item in source.between(0, now_ms(), now_ms=now_ms())}
    assert len(sent) > 200
    assert receiver.ids == dict.fromkeys(sent, 1)
    places = 0
    for tag, _, record in receiver.records:
        event = sent[record["id"]]
        assert tag == f"jc.{event['service']}"
        seconds, _, fraction = event["timestamp"].removesuffix("Z").partition(".")
        assert record.pop("@timestamp") == f"{seconds}.{fraction[:3]:0<3}Z"
        places += "geo" in record.pop("client", {})
        problems = record.pop("in_jumpcloud", None)
        if record["id"] == "odd":
            assert problems == {
                "problems": ['system: "text" is not an object; left out'],
                "original": json.dumps(event, separators=(",", ":")),
            }
            del event["system"]
        else:
            assert problems is None
        assert record == event
    assert places > 100


def test_dead_letters(command: Command, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver) -> None:
    """A record that is too large becomes a dead letter; replayed, it arrives as it is."""
    moment = now_ms() - 10 * MINUTE_MS
    large = {"id": "large", "timestamp": rfc3339(moment), "service": "sso", "message": "x" * 50_000, "empty": None}
    source.add(large, timestamp_ms=moment)
    options = {"ecs__profile": "raw", "ecs__raw_fields": [], "forward__chunk_bytes": 20_000}
    small = command.settings(api, receiver, **options, forward__message_max_bytes=40_000)
    done = command("run", "--once", *small)
    assert done.returncode == 1, done.stderr
    assert command.dead_letters() == ["large"]

    done = command("dead-letters", "replay", *command.settings(api, receiver, **options))
    assert done.returncode == 0, done.stderr
    assert command.dead_letters() == []
    assert receiver.ids["large"] == 1
    assert [each.record for each in receiver.records if each.record["id"] == "large"] == [large]


def test_reload(command: Command, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver) -> None:
    """A reload changes the profile: events before it are ECS, events after it raw, each once."""
    config = command.directory / "jumpcloud.yaml"
    options = command.settings(api, receiver, jumpcloud__interval="1s", jumpcloud__overlap="2m")
    config.write_text((ROOT / "conf" / "jumpcloud.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    options[1] = str(config)
    process = command.start("run", *options)
    total = source.count(0, now_ms(), now_ms=now_ms())
    assert receiver.wait_for(total, timeout=60), command.log.read_text()

    text = config.read_text(encoding="utf-8")
    assert text.count("profile: extended") == 1
    config.write_text(text.replace("profile: extended", "profile: raw"), encoding="utf-8")
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reloaded" in command.log.read_text())
    moment = now_ms() - 1000
    source.add({"id": "after", "timestamp": rfc3339(moment), "service": "sso"}, timestamp_ms=moment)
    assert receiver.wait_for(total + 1, timeout=60), command.log.read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert set(receiver.ids.values()) == {1}
    *before, after = (each.record for each in receiver.records)
    assert all("ecs" in record for record in before)
    assert after == {"id": "after", "timestamp": rfc3339(moment), "service": "sso", "@timestamp": rfc3339(moment)}


def test_commands() -> None:
    """`map`, `fields` and `template` have the profile; the receiver's own command counts its records by their id."""
    done = invoke("map", "-o", "ecs.profile=raw", "-o", "ecs.raw_fields=[]", stdin=b'{"id": "1", "x": null}')
    assert (done.returncode, done.stdout) == (0, b'{"id":"1","x":null}\n')

    rows = {
        row["name"]: row["type"] for row in json.loads(invoke("fields", "--profile", "raw", "--format", "json").stdout)
    }
    assert rows["initiated_by.id"] == rows["@version"] == rows["mfa"] == rows["in_jumpcloud.problems"] == "keyword"
    assert (rows["@timestamp"], rows["client.geo.location"], rows["changes"]) == ("date", "geo_point", "flattened")
    assert [name for name in rows if name.startswith(("jumpcloud.", "event.", "user."))] == []
    for store in ("elasticsearch", "opensearch"):
        properties = json.loads(invoke("template", store, "--profile", "raw").stdout)["template"]["mappings"][
            "properties"
        ]
        assert properties.keys() - {name.partition(".")[0] for name in rows} == {"fluent_bit"}
        assert properties["initiated_by"]["properties"]["id"]["type"] == "keyword"


def test_settings_without_effect() -> None:
    """A setting that profile raw does not use is an error with its name, and so is the other way round."""
    for profile, override in (
        ("raw", "ecs.preserve_original_event=true"),
        ("raw", "ecs.tags=[a]"),
        ("raw", "ecs.namespace=other"),
        ("extended", "ecs.raw_fields=[]"),
    ):
        done = invoke("map", "-o", f"ecs.profile={profile}", "-o", override, stdin=b"")
        assert done.returncode == 2
        name = override.partition("=")[0]
        assert f"{name}: has no effect with ecs.profile: {profile}; remove it" in done.stderr.decode()
    done = invoke("map", "-o", "ecs.profile=raw", "-o", "ecs.raw_fields=[client]", stdin=b"")
    assert "ecs.raw_fields[0]: must be one of @timestamp, client.geo (got 'client')" in done.stderr.decode()


def test_the_page_names_every_reference_to_a_record() -> None:
    """conf/raw.md has, for each output that refers to fields of a record, what to write with profile raw."""
    page = (ROOT / "conf" / "raw.md").read_text(encoding="utf-8")
    references = {
        (file.name, reference)
        for file in (ROOT / "conf" / "outputs").glob("*.yaml")
        for reference in re.findall(r"[^\s,]*\$event\['\w+'\]", file.read_text(encoding="utf-8"))
    }
    assert len(references) >= 5
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    for name, reference in references:
        assert any(name in row and reference in row for row in rows), (name, reference)
