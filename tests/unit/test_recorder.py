"""The recorder: an entry is what the mapper makes of its event, however much of it was made before."""

from __future__ import annotations

import itertools
import json
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import msgpack
import pytest
from ecs_hostile import DOCUMENTED
from ecs_hostile import events as hostile_events
from geo_support import build, city, named
from hypothesis import given, settings
from hypothesis import strategies as st

from in_jumpcloud import config, recorder
from in_jumpcloud.ecs.geo import GeoIP
from in_jumpcloud.ecs.mapper import Mapper, Record
from in_jumpcloud.insights.event import Event, read
from in_jumpcloud.recorder import CARRIED, Recorder
from in_jumpcloud.simulator.events import EventSource

GEOIP = Path(__file__).resolve().parents[2] / "geoip"
GEO = GeoIP(GEOIP / "demo-city.mmdb", GEOIP / "demo-asn.mmdb", extended=True)
NO_GEO = GeoIP(None, None)
SIMULATED = [item.raw for item in EventSource(start_ms=0, end_ms=600_000).between(0, 600_000, now_ms=600_000)]
RECEIVED_NS = 1_698_303_449_823_000_000
SECOND = 10**9


class CountingMapper(Mapper):
    """Counts what it is asked for."""

    asked = 0

    def map(self, event: Event, received_ns: int) -> Record:
        """As the mapper does."""
        self.asked += 1
        return super().map(event, received_ns)


class Pair:
    """A recorder, and its mapper to compare it with."""

    def __init__(self, geo: GeoIP = NO_GEO, *, room: int = 2**24, **ecs: Any) -> None:
        self.mapper = CountingMapper(config.Ecs(**ecs), geo, agent_id="a", ephemeral_id="b")
        self.recorder = Recorder(self.mapper, geo, room=room)

    def check(self, raw: bytes, received_ns: int = RECEIVED_NS) -> bool:
        """Whether the recorder asked the mapper; its entry has to be the mapper's record, and the traits its own."""
        event, before = read(raw), self.mapper.asked
        packed, traits = self.recorder.entry(event, received_ns)
        asked = self.mapper.asked > before
        record = Mapper.map(self.mapper, event, received_ns)
        time, body = msgpack.unpackb(packed, strict_map_key=False)
        assert body == record.body, raw
        assert divmod(record.time_ns, SECOND) == tuple(int.from_bytes(part) for part in (time.data[:4], time.data[4:]))
        assert (traits.service, traits.organization) == (record.service, record.organization)
        assert (traits.looked_up, traits.faulty) == (record.looked_up, "error" in record.body)
        return asked


def other(raw: bytes, number: int) -> bytes:
    """The same event once more: another id and another time."""
    event = json.loads(raw)
    event["id"] = f"{number:024x}"
    event["timestamp"] = f"2026-11-{1 + number % 28:02d}T10:11:12.{number % 1000:03d}Z"
    return json.dumps(event).encode()


OPTIONS = {
    "profile": ("elastic", "extended"),
    "preserve_original_event": (False, True),
    "preserve_duplicate_custom_fields": (False, True),
    "hash_original": (False, True),
}
SETTINGS = [dict(zip(OPTIONS, values, strict=True)) for values in itertools.product(*OPTIONS.values())]


@pytest.mark.parametrize("ecs", SETTINGS, ids=lambda ecs: "-".join(map(str, ecs.values())))
def test_every_kind_of_event(ecs: dict[str, Any]) -> None:
    """An event of any service is recorded as it is mapped: the first of its kind, and those that follow, unmapped."""
    pair = Pair(GEO, **ecs)
    raws = [*SIMULATED, *(json.dumps(event).encode() for event in DOCUMENTED)]
    for number, raw in enumerate(raws):
        pair.check(raw)
        pair.check(other(raw, 2 * number))
    again = [pair.check(other(raw, 2 * number + 1), RECEIVED_NS + number * SECOND) for number, raw in enumerate(raws)]
    assert again.count(True) < len(raws) / 10


def test_hostile_events() -> None:
    """So is whatever else a server could send, also when it sends it again and again."""
    pair = Pair(GEO, preserve_duplicate_custom_fields=True)
    for raw in hostile_events(3000, seed=7):
        for once_more in (raw, raw, raw.replace(b'"id"', b'"id" '), raw.replace(b"0", b"1", 1)):
            pair.check(once_more)


# Values that are equal to one another, stand elsewhere in the event too, or are spelled in more than one way.
VALUES = st.sampled_from(
    [
        *(
            '"a"',
            '"b"',
            '"\\u0061"',
            '"a b"',
            '"\\"a\\""',
            '"\\\\"',
            '"é"',
            '"\\u00e9"',
            '"\\ud800"',
            '"\\u0000"',
            '""',
        ),
        *("null", "0", "1", "true", "1.5", "[]", '["a"]', "{}", '{"id":"a"}', '"2026-01-02T15:04:05.678Z"'),
    ]
)
TIMES = st.sampled_from(
    [
        *('"2026-01-02T15:04:05.678Z"', '"2026-01-02T15:04:05.679Z"', '"2026-01-02T15:04:05Z"', '"a"', "null", "5"),
        *('"2026-01-02T15:04:05.678123Z"', '"2026-01-02T16:04:05.678+01:00"', '"2026-01-02T15:04:05.67\\u0038Z"'),
    ]
)
NAMES = st.sampled_from(["id", "timestamp", "x", "resource", "initiated_by", "username", *CARRIED])
SHARED = Pair(preserve_duplicate_custom_fields=True), Pair(profile="elastic")


@settings(max_examples=600, deadline=None)
@given(VALUES, TIMES, st.lists(st.tuples(NAMES, VALUES | TIMES), max_size=4), st.booleans(), st.integers(0, 1))
def test_values_that_meet(event_id: str, time: str, more: list[tuple[str, str]], first: bool, pair: int) -> None:
    """Where the same values stand in other places, or are missing, an entry is still that of its own event."""
    own = [("id", event_id), ("timestamp", time), ("service", '"sso"'), ("organization", '"o"')]
    members = [*own, *more] if first else [*more, *own]
    SHARED[pair].check(("{" + ",".join(f'"{name}":{value}' for name, value in members) + "}").encode())


def test_exchanged_values() -> None:
    """Events that differ only in what stands where of the values that are also particulars are not taken for alike."""
    pair = Pair()
    event = {"event_type": "ldap_bind", "system_timestamp": "T", "connection_id": "U", "service": "ldap"}
    for number, (name, base) in enumerate([("T", "U"), ("U", "T"), ("T", "U")]):
        assert pair.check(other(json.dumps(event | {"username": name, "base": base}).encode(), number)) == (number < 2)


def test_carried() -> None:
    """What merely differs from event to event does not keep an event from being known, and arrives."""
    pair = Pair()
    for number, name in enumerate(CARRIED):
        for value in ("one", "two", "", None, 3):
            raw = json.dumps({"service": "ldap", "organization": "o", name: value, "id": "", "timestamp": ""}).encode()
            pair.check(other(raw, number))
    known = {"service": "ldap", "organization": "o", "event_type": "ldap_bind", **dict.fromkeys(CARRIED, "first")}
    assert pair.check(other(json.dumps(known).encode(), 1))
    assert not pair.check(other(json.dumps(known | dict.fromkeys(CARRIED, "second")).encode(), 2))


def test_catalogue_lacks_it() -> None:
    """Events of a type that the catalogue lacks are counted, each of them."""
    pair = Pair()
    for number in range(3):
        assert pair.check(other(b'{"service":"sso","organization":"o","event_type":"brand_new"}', number))
    assert pair.mapper.unknown_types["brand_new"] == 6  # the test maps each once more


def test_replaced_database(tmp_path: Path) -> None:
    """Once a database is replaced, what was known is mapped anew."""
    path = build(tmp_path / "city.mmdb", {"81.2.69.0/24": named("Old Town")})
    geo = GeoIP(path, None, check_every=0)
    pair = Pair(geo)
    raw = b'{"service":"sso","organization":"o","event_type":"sso_auth","client_ip":"81.2.69.144"}'
    assert [pair.check(other(raw, number)) for number in range(3)] == [True, False, False]
    build(path, {"81.2.69.0/24": named("New Town, which is larger")})
    assert [pair.check(other(raw, number)) for number in range(3)] == [True, False, False]
    assert city(geo, "81.2.69.144") == "New Town, which is larger"


def _person(number: int) -> bytes:
    event = {"service": "sso", "organization": "o", "event_type": "sso_auth", "username": str(number)}
    return other(json.dumps(event).encode(), number)


def test_bounded() -> None:
    """However many events there are, what is remembered stays within its room, and is what was asked for last."""
    pair = Pair(room=2**18)
    pair.check(_person(0))
    tracemalloc.start()
    try:
        for number in range(4000):
            pair.recorder.entry(read(_person(number)), RECEIVED_NS)
            assert not pair.check(_person(0))  # asked for again and again
        taken = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, recorder.__file__)])
    finally:
        tracemalloc.stop()
    assert sum(each.size for each in taken.statistics("filename")) < 2**19
    assert pair.check(_person(1))
    assert not pair.check(_person(3999))


def test_where_nothing_recurs() -> None:
    """Where hardly an event is like another, not all are looked up; once they are alike, that is noticed."""
    pair = Pair()
    assert all(pair.check(_person(number)) for number in range(3000))
    assert [pair.check(_person(0)) for _ in range(8)].count(True) == 7
    for _ in range(4000):
        pair.recorder.entry(read(_person(0)), RECEIVED_NS)
    assert not any(pair.check(_person(0)) for _ in range(8))


def test_threads() -> None:
    """Several threads may share one, also while it makes room."""
    pair = Pair(room=2**17)
    raws = [_person(number % 150) for number in range(600)]
    wanted = {raw: Mapper.map(pair.mapper, read(raw), RECEIVED_NS).body for raw in raws}
    wrong: list[bytes] = []

    def work(begin: int) -> None:
        for raw in raws[begin:] + raws[:begin]:
            packed, _ = pair.recorder.entry(read(raw), RECEIVED_NS)
            if msgpack.unpackb(packed)[1] != wanted[raw]:
                wrong.append(raw)

    threads = [threading.Thread(target=work, args=(begin,)) for begin in range(0, 600, 150)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong
