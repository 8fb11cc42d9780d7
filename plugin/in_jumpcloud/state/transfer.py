"""The state as lines of JSON: how it moves from one database to another, whatever their kinds.

The first line says what follows, the last one how many lines there were. Numbers of streams and units are those of one
database, so lines name the stream, and the backfill.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, NamedTuple

import msgspec

from in_jumpcloud.errors import Fatal
from in_jumpcloud.insights.event import DIGEST_BYTES
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state.database import Database, Transaction
from in_jumpcloud.state.ledger import Ledger, Part
from in_jumpcloud.text import printable

FORMAT = 1
_TABLES = ("stream", "job", "dead_letter")
_ADVICE = "nothing was imported"
_Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_encode = msgspec.json.Encoder().encode


class _Header(msgspec.Struct, tag_field="kind", tag="in-jumpcloud state"):
    """`format` is FORMAT."""

    format: int
    agent_id: str = ""


class _Line(msgspec.Struct, tag_field="kind", forbid_unknown_fields=True, kw_only=True):
    """The fields of a row are the columns of its table."""


class _Stream(_Line, tag="stream"):
    name: str
    position: Position
    acknowledged: _Int
    late: _Int
    dead_lettered: _Int
    error: str | None
    error_ms: _Int | None
    updated_ms: _Int | None
    kept_from_ms: _Int | None
    reconciliation: str | None
    organization: str | None
    services: str | None


class _Backfill(_Line, tag="backfill"):
    number: _Int
    stream: str
    since_ms: _Int
    until_ms: _Int
    services: str
    again: bool
    created_ms: _Int
    condition: str
    position: Position
    expected: _Int | None
    read: _Int
    acknowledged: _Int
    dead_lettered: _Int
    error: str | None
    error_ms: _Int | None
    updated_ms: _Int


class _DeadLetter(_Line, tag="dead letter"):
    stream: str
    state: str
    minute: _Int
    digest: bytes
    id: str
    reason: str
    time_ms: _Int
    tag: str
    size: _Int = msgspec.field(name="bytes")
    event: bytes


class _Keys(_Line, tag="ledger"):
    """A part of the ledger, of a stream or of an open unit of a backfill. `digests` one after the other."""

    stream: str
    backfill: _Int | None
    minute: _Int | None
    read_ms: _Int
    digests: bytes


class _End(_Line, tag="end"):
    """`lines`: how many there were before."""

    lines: int


_ROWS = ((_Stream, "stream"), (_Backfill, "job"), (_DeadLetter, "dead_letter"))
_decode = msgspec.json.Decoder(_Stream | _Backfill | _DeadLetter | _Keys | _End).decode
_decode_header = msgspec.json.Decoder(_Header).decode


class Loaded(NamedTuple):
    """How many there were of each."""

    streams: int
    ids: int
    backfills: int
    dead_letters: int


def lines(database: Database, ledger: Ledger) -> Iterator[bytes]:
    """All of a state that no process writes meanwhile.

    Raises:
        Fatal: it has what no other state can hold.
        StateUnavailable, StateCorrupt: it cannot be read.
    """
    count = 0
    for count, line in enumerate(_lines(database, ledger), 1):  # noqa: B007 - the last one is used
        yield _encode(line) + b"\n"
    yield _encode(_End(lines=count)) + b"\n"


def _lines(database: Database, ledger: Ledger) -> Iterator[msgspec.Struct]:
    parts = ledger.parts()
    part = next(parts, None)  # if that fails, nothing was printed
    yield _Header(FORMAT, database.agent_id)
    for kind, table in _ROWS:
        for row in _each(database, table, kind.__struct_encode_fields__):
            values = dict(zip(kind.__struct_fields__, row, strict=True))
            if "position" in values:
                values["position"] = _position(database, values["position"])
            if "again" in values:
                values["again"] = bool(values["again"])
            yield kind(**values)
    names: dict[int, tuple[str, int | None]] = {
        number: (name, None) for number, name in database.read("SELECT number, name FROM stream")
    }
    names |= {-unit: (stream, number) for unit, number, stream in database.read("SELECT unit, number, stream FROM job")}
    while part:
        number, minute, digests, read_ms = part
        stream, backfill = names[number]
        yield _Keys(stream=stream, backfill=backfill, minute=minute, read_ms=read_ms, digests=b"".join(digests))
        part = next(parts, None)


def _each(database: Database, table: str, columns: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """The rows of a table, one at a time in memory: a dead letter may be large."""
    after, key = 0, "unit" if table == "job" else "number"
    query = f"SELECT {key}, {', '.join(columns)} FROM {table} WHERE {key} > ?1 ORDER BY {key} LIMIT 1"  # noqa: S608 - our own
    while rows := database.read(query, (after,)):
        after = rows[0][0]
        yield rows[0][1:]


def _position(database: Database, text: str) -> Position:
    try:
        return msgspec.json.decode(text, type=Position)
    except msgspec.DecodeError as error:
        raise database.corrupt(f"a position is not what in-jumpcloud writes: {error}") from None


def load(database: Database, ledger: Ledger, given: Iterable[bytes]) -> Loaded:
    """Fill an empty state, in one transaction.

    Raises:
        Fatal: it is not empty; a line is not of an export, or the last is missing.
        StateUnavailable, StateCorrupt: it cannot be written.
    """
    with database.transaction() as transaction:
        for table in _TABLES:
            if transaction.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone():  # noqa: S608 - our own
                raise Fatal(f"{database.where}: has data of its own", advice="import into a new state")
        return _Import(transaction, ledger).run(given)


class _Import:
    """One import, in a transaction."""

    def __init__(self, transaction: Transaction, ledger: Ledger) -> None:
        self._transaction = transaction
        self._ledger = ledger
        self._numbers: dict[tuple[str, int | None], int] = {}
        self._counts: dict[type, int] = dict.fromkeys((_Stream, _Backfill, _DeadLetter), 0)
        self._ids = 0

    def run(self, given: Iterable[bytes]) -> Loaded:
        """Read all lines."""
        count, is_over = 0, False
        for count, text in enumerate(given, 1):
            if is_over:
                raise _wrong(count, "follows the end")
            try:
                if count == 1:
                    self._begin(_decode_header(text))
                else:
                    is_over = self._take(_decode(text), count)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                if count == 1:
                    raise Fatal("standard input is not what `state export` prints", advice=_ADVICE) from None
                raise _wrong(count, f"is not what `state export` prints: {printable(str(error))}") from None
        if not is_over:
            raise Fatal(f"standard input is cut: it ends after line {count}", advice=_ADVICE)
        return Loaded(self._counts[_Stream], self._ids, self._counts[_Backfill], self._counts[_DeadLetter])

    def _begin(self, header: _Header) -> None:
        if header.format > FORMAT:
            raise Fatal(
                f"standard input has format {header.format}, newer than format {FORMAT} of this program",
                advice=f"upgrade in-jumpcloud; {_ADVICE}",
            )
        self._transaction.execute("UPDATE identity SET agent_id = ?", (header.agent_id,))

    def _take(self, line: _Stream | _Backfill | _DeadLetter | _Keys | _End, count: int) -> bool:
        """Take a line. Returns whether it is the last."""
        if isinstance(line, _End):
            if line.lines != count - 1:
                raise _wrong(count, f"says that there are {line.lines} lines before it: some are missing")
            return True
        if isinstance(line, _Keys):
            self._take_keys(line, count)
            return False
        self._counts[type(line)] += 1
        number = line.number if isinstance(line, _Backfill) else None
        name = line.name if isinstance(line, _Stream) else line.stream
        if not isinstance(line, _DeadLetter) and (name, number) in self._numbers:
            raise _wrong(count, "was there before")
        self._insert(line)
        if isinstance(line, _Stream):
            query = "SELECT number FROM stream WHERE name = ?"
            self._numbers[name, None] = self._transaction.execute(query, (name,)).fetchone()[0]
        elif isinstance(line, _Backfill):
            query = "SELECT unit FROM job WHERE stream = ? AND number = ?"
            self._numbers[name, number] = -self._transaction.execute(query, (name, number)).fetchone()[0]
        return False

    def _insert(self, line: _Stream | _Backfill | _DeadLetter) -> None:
        table = next(table for kind, table in _ROWS if isinstance(line, kind))
        columns, given = line.__struct_encode_fields__, msgspec.structs.astuple(line)
        values = [_encode(value).decode() if isinstance(value, Position) else value for value in given]
        marks = ", ".join("?" for _ in columns)
        self._transaction.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", values)  # noqa: S608 - our own

    def _take_keys(self, line: _Keys, count: int) -> None:
        number = self._numbers.get((line.stream, line.backfill))
        size = len(line.digests)
        if number is None or size % DIGEST_BYTES:
            raise _wrong(count, "names no stream before it" if number is None else "has half a key")
        digests = [line.digests[start : start + DIGEST_BYTES] for start in range(0, size, DIGEST_BYTES)]
        self._ledger.load(self._transaction, Part(number, line.minute, digests, line.read_ms))
        self._ids += len(digests)


def _wrong(line: int, what: str) -> Fatal:
    return Fatal(f"standard input: line {line} {what}", advice=_ADVICE)
