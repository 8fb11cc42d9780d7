"""Times: which ones a receiver takes, by the mode of the message."""

from __future__ import annotations

from collections.abc import Iterator

import msgpack
from conformance.case import CLOSED, Case, ack, case, ingested, send
from conformance.exchange import Line
from conformance.messages import SECONDS, TIME, entry, event_time, forward, message, packed, payload

TAKEN = ingested("a")
CLOSES = "closed"
POISONS = "acknowledged, lost"

TABLE = (  # a time, and what becomes of it in Message, Forward and PackedForward mode
    ("uint", SECONDS, *[ingested("a", nanoseconds=0)] * 3),
    ("uint_zero", 0, *[ingested("a", seconds=0, nanoseconds=0)] * 3),
    ("uint_beyond_32_bits", 2**40, CLOSES, CLOSES, ingested("a", seconds=2**40, nanoseconds=0)),
    ("event_time", TIME, TAKEN, TAKEN, TAKEN),
    ("event_time_zero", event_time(0, 0), *[ingested("a", seconds=0, nanoseconds=0)] * 3),
    (
        "event_time_last",
        event_time(0xFFFF_FFFD, 999_999_999),
        *[ingested("a", seconds=0xFFFF_FFFD, nanoseconds=999_999_999)] * 3,
    ),
    ("group_start", event_time(0xFFFF_FFFF, 0), None, None, None),
    ("group_end", event_time(0xFFFF_FFFE, 0), None, None, None),
    ("float", SECONDS + 0.5, CLOSES, *[ingested("a", nanoseconds=500_000_000)] * 2),
    ("negative", -1, CLOSES, CLOSES, POISONS),
    ("with_metadata", [TIME, {"m": 1}], CLOSES, TAKEN, TAKEN),
    ("msgpack_timestamp", msgpack.Timestamp(SECONDS, 1), CLOSES, CLOSES, POISONS),
)


def _cases() -> Iterator[Case]:
    for name, time, in_message, in_forward, in_packed in TABLE:
        for mode, build, outcome in (
            ("message", message, in_message),
            ("forward", forward, in_forward),
            ("packed", packed, in_packed),
        ):
            sent = send(build("a", time=time, chunk="c"))
            if outcome == CLOSES:
                yield case(f"time_{name}_in_{mode}", "a time that is refused", sent, CLOSED)
            elif isinstance(outcome, Line):
                yield case(f"time_{name}_in_{mode}", "a time that is taken", sent, ack("c"), outcome)
            elif outcome == POISONS:
                yield case(f"time_{name}_in_{mode}", "acknowledged, and the record is lost", sent, ack("c"))
            else:
                why = "a mark of Fluent Bit's own groups: acknowledged, and it vanishes"
                yield case(f"time_{name}_in_{mode}", why, sent, ack("c"))
    ext8 = entry("a").replace(b"\xd7\x00", b"\xc7\x08\x00", 1)
    yield case("time_event_time_as_ext8", "an EventTime may be ext 8", send(payload(ext8, chunk="c")), ack("c"), TAKEN)


TIMES = tuple(_cases())
