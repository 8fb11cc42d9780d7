"""Encode an event as a record of a forward message."""

from __future__ import annotations

from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.ecs.record import Record
from in_jumpcloud.forward import wire
from in_jumpcloud.insights.event import RawEvent


class RecordEncoder:
    """Maps and packs events. Thread-safe."""

    def __init__(self, mapper: Mapper) -> None:
        self._mapper = mapper

    def encode(self, event: RawEvent, received_ns: int) -> tuple[bytes, Record]:
        """The record of an event, packed and not, whose page was received at `received_ns`. As Mapper.map."""
        record = self._mapper.map(event, received_ns)
        return wire.pack_entry(record.time_ns, record.body), record
