"""A mapped event."""

from __future__ import annotations

from typing import Any

import msgspec


class Record(msgspec.Struct, frozen=True, gc=False):
    """A mapped event: its time in nanoseconds since the epoch, and `body`, whose parts are shared: do not change it.

    `service` and `organization` are the event's values, of any type. `geo_found`: the city database contains one of
    its addresses. `has_problems`: something of the event could not be mapped.
    """

    time_ns: int
    body: dict[str, Any]
    service: Any
    organization: Any
    geo_found: bool
    has_problems: bool
