"""From event to entry: mapped and packed; and what recurs, only once.

The same people do the same from the same devices, so most events differ from an earlier one in id, time and little
else. Such an event is neither decoded nor mapped: the earlier one's record, packed, with gaps where the two may differ,
is a stencil for it. What is odd, new, large, or of a type that the catalogue lacks goes the long way, by the mapper.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import msgpack
import msgspec

from in_jumpcloud.ecs.geo import GeoIP
from in_jumpcloud.ecs.mapper import Mapper, Record, digest, original, stamp
from in_jumpcloud.forward import wire
from in_jumpcloud.insights.event import Event, Particulars

_PARTICULARS = Particulars.__struct_fields__
CARRIED = tuple(name for name in _PARTICULARS if name not in {"id", "timestamp"})
"""Particulars that the mapping only carries along, below jumpcloud.event."""

_ROOM = 8 * 1024**2
_LARGEST = 4096  # bytes of an event; a larger one is dear to keep, and not likely to recur
_PAYS = 0.25  # the share of events that has to recur for each to be looked up
_LATELY, _NOW_AND_THEN = 1024, 8  # events
_STENCIL, _ENTRY = 512, 100  # bytes that a stencil takes besides its parts, and a place in a dictionary, about

# Members of a record: those that are the same in every one, those that many have in common, those that stand by
# themselves; and members of `event` that have gaps of their own.
_CONSTANT = ("ecs", "data_stream", "input", "agent", "observer", "tags")
_COMMON, _COMMON_BELOW = ("client", "user_agent"), ("geoip", "useragent", "user_agent", "auth_context")
_APART = frozenset({"@timestamp", "event", "jumpcloud", *_CONSTANT, *_COMMON})
_OWN = frozenset({"created", "id", "original", "hash"})

_pack = wire.pack
_NAMES = {name: _pack(name) for name in ("@timestamp", "event", "jumpcloud", *_OWN, *_PARTICULARS)}
_ID = _NAMES["id"]
_GAPS = tuple(b"\0%d" % number for number, _ in enumerate(_PARTICULARS))


class Traits(msgspec.Struct, frozen=True, gc=False):
    """What has to be known of an event besides its entry.

    `service` and `organization` are what it says, whatever that is. `looked_up`: an address in it was found in the city
    database. `faulty`: it could not be mapped as a whole.
    """

    service: Any
    organization: Any
    looked_up: bool
    faulty: bool


class _Stencil(msgspec.Struct, frozen=True, gc=False):
    """A packed record with gaps.

    In order: `begin`, @timestamp, `above`, `middle`, event.created, event.id, event.original and event.hash where the
    record has them, `rest`, `below`, and the members `carried` of jumpcloud.event.
    """

    traits: Traits
    begin: bytes
    above: tuple[bytes, ...]
    middle: bytes
    original: bool
    hashed: bool
    rest: bytes
    below: tuple[bytes, ...]
    carried: tuple[str, ...]


class Recorder:
    """Makes entries of events. Several threads may share one; what it remembers takes `room` bytes at most, about."""

    def __init__(self, mapper: Mapper, geo: GeoIP, *, room: int = _ROOM) -> None:
        """`geo` is the mapper's: once a database is replaced, all that is remembered is forgotten."""
        self._mapper = mapper
        self._geo = geo
        self._epoch = geo.epoch()
        self._memory = _Memory(room)
        self._created = (-1, b"")

    def entry(self, event: Event, received_ns: int) -> tuple[bytes, Traits]:
        """The entry of an event whose page was received at `received_ns`, and its traits. Never raises, never drops."""
        epoch = self._geo.epoch()
        if epoch != self._epoch:
            self._memory, self._epoch = _Memory(self._memory.room), epoch
        memory = self._memory  # of this epoch, whatever another thread finds meanwhile
        key, particulars = _taken_apart(event) if memory.pays() else (b"", {})
        stencil = memory.get(key) if key else None
        if stencil is None:
            record = self._mapper.map(event, received_ns)
            traits = Traits(record.service, record.organization, record.looked_up, "error" in record.body)
            if not (key and _fits(record, particulars)):
                return wire.packed_entry(record.time_ns, record.body), traits
            stencil = _cut(record, particulars, traits)
            memory.add(key, stencil)
        return self._filled(stencil, event, particulars, received_ns), stencil.traits

    def _filled(self, stencil: _Stencil, event: Event, particulars: Mapping[str, str], received_ns: int) -> bytes:
        assert event.time_ns is not None  # noqa: S101
        created = self._created  # read once: another thread may exchange it
        if created[0] != received_ns:
            created = self._created = (received_ns, _pack(self._mapper.created(received_ns)))
        parts = [
            *(wire.head(event.time_ns), stencil.begin, _pack(stamp(event)), *stencil.above),
            *(stencil.middle, created[1], _ID, _pack(particulars["id"])),
        ]
        if stencil.original:
            parts += (_NAMES["original"], _pack(original(event.raw)))
        if stencil.hashed:
            parts += (_NAMES["hash"], _pack(digest(event.raw)))
        parts += (stencil.rest, *stencil.below)
        for name in stencil.carried:
            parts += (_NAMES[name], _pack(particulars[name]))
        return b"".join(parts)


class _Memory:
    """Stencils by what their events have in common: those that were asked for last, in `room` bytes, about."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._known = 1.0  # the share of events, lately, for which there was a stencil
        self._passed = 0
        self._stencils: OrderedDict[bytes, tuple[_Stencil, int]] = OrderedDict()
        self._size = 0
        self._shared: dict[Any, Any] = {}
        self._shared_size = 0
        self._adding = threading.Lock()

    def pays(self) -> bool:
        """Whether to look an event up: where hardly any recurs, only now and then one."""
        if self._known > _PAYS:
            return True
        self._passed += 1
        return self._passed % _NOW_AND_THEN == 0

    def get(self, key: bytes) -> _Stencil | None:
        """The stencil for events that have this in common."""
        try:
            self._stencils.move_to_end(key)
            found, _ = self._stencils[key]
        except KeyError:
            self._known -= self._known / _LATELY
            return None
        self._known += (1 - self._known) / _LATELY
        return found

    def add(self, key: bytes, stencil: _Stencil) -> None:
        """Keep one; of parts that several have in common, one is kept."""
        with self._adding:
            if key in self._stencils:
                return
            before = self._shared_size
            stencil = msgspec.structs.replace(
                stencil,
                traits=self._once(stencil.traits),
                begin=self._once(stencil.begin),
                above=tuple(map(self._once, stencil.above)),
                middle=self._once(stencil.middle),
                below=tuple(map(self._once, stencil.below)),
            )
            size = _STENCIL + len(stencil.rest) + self._shared_size - before
            self._stencils[key] = stencil, size
            self._size += size
            while self._size > self.room:
                _, (_, size) = self._stencils.popitem(last=False)
                self._size -= size
            if self._shared_size > self.room // 4:
                self._shared.clear()
                self._shared_size = 0

    def _once(self, part: Any) -> Any:
        """The one of all equal parts that is kept."""
        known = self._shared.setdefault(part, part)
        if known is part:
            self._shared_size += sys.getsizeof(part) + _ENTRY
        return known


def _taken_apart(event: Event) -> tuple[bytes, dict[str, str]]:
    """A digest of what an event has in common with its like, empty where it has none; and the particulars it has not.

    Each particular is cut out of the text, in one place. Where its value stands in another place too, that one stays in
    what is common, whichever of the two it is: then the event has no like but such as have the same value there.
    """
    own, text = event.particulars, bytes(event.raw)
    if own is None or len(text) > _LARGEST or b"\0" in text:
        return b"", {}
    particulars: dict[str, str] = {}
    for name, gap, value in zip(_PARTICULARS, _GAPS, msgspec.structs.astuple(own), strict=True):
        if value and type(value) is str:
            before, found, after = text.rpartition(b'"%b"' % value.encode())
            if found:
                text = before + gap + after
                particulars[name] = value
    if "id" not in particulars or "timestamp" not in particulars:
        return b"", {}
    return hashlib.blake2b(text, digest_size=16).digest(), particulars


def _fits(record: Record, particulars: Mapping[str, str]) -> bool:
    """Whether a record is as a stencil takes for granted: it has the particulars as they are, each in its place."""
    if not (record.regular and isinstance(record.service, str | None) and isinstance(record.organization, str | None)):
        return False
    data = record.body["jumpcloud"]["event"] if "jumpcloud" in record.body else {}
    return all(data.get(name) == value for name, value in particulars.items() if name in CARRIED or name in data)


def _cut(record: Record, particulars: Mapping[str, str], traits: Traits) -> _Stencil:
    """The stencil of a record."""
    body = record.body
    about, data = body["event"], body["jumpcloud"]["event"] if "jumpcloud" in body else {}
    constant = _members({name: body[name] for name in _CONSTANT if name in body})
    rest = _members({name: value for name, value in about.items() if name not in _OWN})
    rest += _members({name: value for name, value in body.items() if name not in _APART})
    if data:
        rest += _NAMES["jumpcloud"] + _map_header(1) + _NAMES["event"] + _map_header(len(data))
        rest += _members({name: data[name] for name in data if name not in particulars and name not in _COMMON_BELOW})
    return _Stencil(
        traits,
        begin=_map_header(len(body)) + _NAMES["@timestamp"],
        above=tuple(_members({name: body[name]}) for name in _COMMON if name in body),
        middle=constant + _NAMES["event"] + _map_header(len(about)) + _NAMES["created"],
        original="original" in about,
        hashed="hash" in about,
        rest=rest,
        below=tuple(_members({name: data[name]}) for name in _COMMON_BELOW if name in data),
        carried=tuple(name for name in particulars if name in data),
    )


@functools.cache
def _map_header(size: int) -> bytes:
    header: bytes = msgpack.Packer().pack_map_header(size)
    return header


def _members(mapping: Mapping[str, Any]) -> bytes:
    return _pack(mapping)[len(_map_header(len(mapping))) :]
