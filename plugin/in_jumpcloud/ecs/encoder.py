"""Encode an event as an entry of a forward message."""

from __future__ import annotations

from typing import Any

import msgspec

from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.forward import wire
from in_jumpcloud.insights.event import RawEvent


class RecordInfo(msgspec.Struct, frozen=True, gc=False):
    """What the pipeline needs to know of a record in addition to its bytes.

    `service` and `organization` are the event's values, of any type. `geo_found`: the city database contains one of
    its addresses. `has_error`: a part of the event could not be mapped.
    """

    service: Any
    organization: Any
    geo_found: bool
    has_error: bool


class RecordEncoder:
    """Maps and packs events. Thread-safe."""

    def __init__(self, mapper: Mapper) -> None:
        self._mapper = mapper

    def encode(self, event: RawEvent, received_ns: int) -> tuple[bytes, RecordInfo]:
        """The packed record of an event whose page was received at `received_ns`. Never raises, drops no event."""
        record = self._mapper.map(event, received_ns)
        info = RecordInfo(record.service, record.organization, record.geo_found, "error" in record.body)
        return wire.pack_entry(record.time_ns, record.body), info
