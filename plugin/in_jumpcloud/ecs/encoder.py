"""From an event to the entry of a forward message: map, pack, and what the pipeline needs to know of the record."""

from __future__ import annotations

from typing import Any

import msgspec

from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.forward import wire
from in_jumpcloud.insights.event import RawEvent


class RecordInfo(msgspec.Struct, frozen=True, gc=False):
    """What the pipeline needs to know of a record besides its bytes.

    `service` and `organization` are what the event says, of whatever type. `looked_up`: an address in it was found in
    the city database. `faulty`: the event could not be mapped as a whole.
    """

    service: Any
    organization: Any
    looked_up: bool
    faulty: bool


class RecordEncoder:
    """Encodes event after event; several threads may share one."""

    def __init__(self, mapper: Mapper) -> None:
        self._mapper = mapper

    def encode(self, event: RawEvent, received_ns: int) -> tuple[bytes, RecordInfo]:
        """The packed record of an event whose page was received at `received_ns`. Never raises, never drops."""
        record = self._mapper.map(event, received_ns)
        info = RecordInfo(record.service, record.organization, record.looked_up, "error" in record.body)
        return wire.pack_entry(record.time_ns, record.body), info
