"""The lines of an exported state, and what must be true of each.

Types say most of it. `wrong` says what they cannot: text that holds JSON, and numbers that belong together.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from in_jumpcloud.insights.event import DIGEST_BYTES
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state.dead_letters import Condition
from in_jumpcloud.state.jobs import JobCondition
from in_jumpcloud.timestamps import MAX_MS, MINUTE_MS

FORMAT = 1
_Any = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Number = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=MAX_MS)]
_Minute = Annotated[int, msgspec.Meta(ge=0, le=MAX_MS // MINUTE_MS)]
_Name = Annotated[str, msgspec.Meta(min_length=1)]
_Digest = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]


class Header(msgspec.Struct, tag_field="kind", tag="in-jumpcloud state"):
    """`format` is FORMAT."""

    format: int
    agent_id: str = ""


class Line(msgspec.Struct, tag_field="kind", forbid_unknown_fields=True, kw_only=True):
    """The fields of a row are the columns of its table."""


class StreamLine(Line, tag="stream"):
    """A row of the table `stream`."""

    name: _Name
    position: Position
    acknowledged: _Count
    late: _Count
    dead_lettered: _Count
    error: str | None
    error_ms: _Time | None
    updated_ms: _Time | None
    kept_from_ms: _Time | None
    reconciliation: str | None
    organization: str | None
    services: str | None


class BackfillLine(Line, tag="backfill"):
    """A row of the table `job`."""

    number: _Number
    stream: _Name
    since_ms: _Time
    until_ms: _Time
    services: str
    again: bool
    created_ms: _Time
    condition: JobCondition
    position: Position
    expected: _Count | None
    read: _Count
    acknowledged: _Count
    dead_lettered: _Count
    error: str | None
    error_ms: _Time | None
    updated_ms: _Time


class DeadLetterLine(Line, tag="dead letter"):
    """A row of the table `dead_letter`."""

    stream: _Name
    state: Condition
    minute: _Any
    digest: _Digest
    id: str
    reason: str
    time_ms: _Time
    tag: str
    size: _Count = msgspec.field(name="bytes")
    event: bytes


class KeysLine(Line, tag="ledger"):
    """A part of the ledger, of a stream or of an open unit of a backfill. `digests` one after the other."""

    stream: _Name
    backfill: _Number | None
    minute: _Minute | None
    read_ms: _Time
    digests: bytes


class End(Line, tag="end"):
    """`lines`: how many there were before, `sha256`: of their bytes, in hexadecimal."""

    lines: int
    sha256: str


Row = StreamLine | BackfillLine | DeadLetterLine
TABLES: tuple[tuple[type[Row], str], ...] = (
    (StreamLine, "stream"),
    (BackfillLine, "job"),
    (DeadLetterLine, "dead_letter"),
)
encode = msgspec.json.Encoder().encode
decode_header = msgspec.json.Decoder(Header).decode
decode = msgspec.json.Decoder(StreamLine | BackfillLine | DeadLetterLine | KeysLine | End).decode


def wrong(line: Line) -> str | None:
    """What is wrong in a line; None if nothing is."""
    match line:
        case StreamLine():
            return (
                _wrong_position(line.position)
                or _wrong_json("reconciliation", line.reconciliation, dict)
                or _wrong_json("services", line.services, dict[str, _Time])
            )
        case BackfillLine():
            is_span = line.since_ms < line.until_ms
            return (
                (None if is_span else "`until_ms` is not after `since_ms`")
                or _wrong_position(line.position)
                or _wrong_json("services", line.services, tuple[str, ...])
            )
        case DeadLetterLine():
            return "`bytes` is less than the length of `event`" if line.size < len(line.event) else None
        case KeysLine():
            return "`digests` ends in the middle of a key" if len(line.digests) % DIGEST_BYTES else None
    return None


def _wrong_json(column: str, text: str | None, kind: object) -> str | None:
    try:
        if text is not None:
            msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        return f"`{column}` does not hold what in-jumpcloud writes: {error}"
    return None


def _wrong_position(position: Position) -> str | None:
    window = position.window
    times = {"origin_ms": position.origin_ms, "watermark_ms": position.watermark_ms}
    if window:
        times |= {"window.start_ms": window.start_ms, "window.end_ms": window.end_ms}
    for name, time_ms in times.items():
        if not 0 <= time_ms <= MAX_MS:
            return f"`position.{name}` is not a time in milliseconds since 1970 (got {time_ms})"
    if window is None:
        return None
    if window.start_ms >= window.end_ms or window.limit < 1:
        return "`position.window` is not a query"
    return _wrong_json("position.window.cursor", window.cursor, list)
