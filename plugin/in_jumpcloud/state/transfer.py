"""The state as lines of JSON: how it moves from one database to another, whatever their kinds.

The first line says what follows, the last one how many lines there were, and their digest. Numbers of streams and units
are those of one database, so lines name the stream, and the backfill.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from in_jumpcloud.errors import Fatal
from in_jumpcloud.insights.event import DIGEST_BYTES
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state.database import Database, Transaction
from in_jumpcloud.state.dead_letters import storable
from in_jumpcloud.state.ledger import Ledger, Part
from in_jumpcloud.state.transfer_lines import (
    FORMAT,
    TABLES,
    BackfillLine,
    DeadLetterLine,
    End,
    Header,
    KeysLine,
    Row,
    StreamLine,
    decode,
    decode_header,
    encode,
    wrong,
)
from in_jumpcloud.text import printable

_ADVICE = "nothing was imported"


class Loaded(NamedTuple):
    """How many there were of each."""

    streams: int
    ids: int
    backfills: int
    dead_letters: int


def lines(database: Database, ledger: Ledger) -> Iterator[bytes]:
    """All of a state, as it is when the first line is taken. Other processes cannot write until the last one is.

    Raises:
        Fatal: it has what no other state can hold.
        StateUnavailable, StateCorrupt: it cannot be read.
    """
    count, digest = 0, sha256()
    with database.snapshot():
        for count, line in enumerate(_lines(database, ledger), 1):  # noqa: B007 - the last one is used
            text = encode(line) + b"\n"
            digest.update(text)
            yield text
    yield encode(End(lines=count, sha256=digest.hexdigest())) + b"\n"


def _lines(database: Database, ledger: Ledger) -> Iterator[msgspec.Struct]:
    parts = ledger.parts()
    part = next(parts, None)  # if that fails, nothing was printed
    yield Header(FORMAT, database.agent_id)
    for kind, table in TABLES:
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
        yield KeysLine(stream=stream, backfill=backfill, minute=minute, read_ms=read_ms, digests=b"".join(digests))
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
        Fatal: it is not empty; a line is not of an export, was changed, or is missing.
        StateUnavailable, StateCorrupt: it cannot be written.
    """
    with database.transaction() as transaction:
        for _, table in TABLES:
            if transaction.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone():  # noqa: S608 - our own
                raise Fatal(f"{database.where}: has data of its own", advice="import into a new state")
        return _Import(transaction, ledger).run(given)


class _Import:
    """One import, in a transaction."""

    def __init__(self, transaction: Transaction, ledger: Ledger) -> None:
        self._transaction = transaction
        self._ledger = ledger
        self._numbers: dict[tuple[str, int | None], int] = {}
        self._counts: dict[type, int] = dict.fromkeys((StreamLine, BackfillLine, DeadLetterLine), 0)
        self._ids = 0

    def run(self, given: Iterable[bytes]) -> Loaded:
        """Read all lines."""
        count, is_over, digest = 0, False, sha256()
        for count, text in enumerate(given, 1):
            if is_over:
                raise _wrong(count, "follows the end")
            try:
                if count == 1:
                    self._begin(decode_header(text))
                else:
                    is_over = self._take(decode(text), count, digest.hexdigest())
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                if count == 1:
                    raise Fatal("standard input is not what `state export` prints", advice=_ADVICE) from None
                raise _wrong(count, f"is not what `state export` prints: {printable(str(error))}") from None
            digest.update(text)
        if not is_over:
            raise Fatal(f"standard input is cut: it ends after line {count}", advice=_ADVICE)
        return Loaded(self._counts[StreamLine], self._ids, self._counts[BackfillLine], self._counts[DeadLetterLine])

    def _begin(self, header: Header) -> None:
        if header.format > FORMAT:
            raise Fatal(
                f"standard input has format {header.format}, newer than format {FORMAT} of this program",
                advice=f"upgrade in-jumpcloud; {_ADVICE}",
            )
        self._transaction.execute("UPDATE identity SET agent_id = ?", (header.agent_id,))

    def _take(self, line: Row | KeysLine | End, count: int, digest: str) -> bool:
        """Take a line; `digest` is that of the lines before it. Returns whether it is the last."""
        if fault := wrong(line):
            raise _wrong(count, f"is not what `state export` prints: {printable(fault)}")
        if isinstance(line, End):
            if line.lines != count - 1:
                raise _wrong(count, f"says that there are {line.lines} lines before it: some are missing")
            if line.sha256 != digest:
                raise _wrong(count, "has the digest of other lines: one before it was changed")
            return True
        if isinstance(line, KeysLine):
            self._take_keys(line, count)
            return False
        self._counts[type(line)] += 1
        number = line.number if isinstance(line, BackfillLine) else None
        name = line.name if isinstance(line, StreamLine) else line.stream
        if not isinstance(line, DeadLetterLine) and (name, number) in self._numbers:
            raise _wrong(count, "was there before")
        self._insert(line)
        if isinstance(line, StreamLine):
            query = "SELECT number FROM stream WHERE name = ?"
            self._numbers[name, None] = self._transaction.execute(query, (name,)).fetchone()[0]
        elif isinstance(line, BackfillLine):
            query = "SELECT unit FROM job WHERE stream = ? AND number = ?"
            self._numbers[name, number] = -self._transaction.execute(query, (name, number)).fetchone()[0]
        return False

    def _insert(self, line: Row) -> None:
        table = next(table for kind, table in TABLES if isinstance(line, kind))
        columns, given = line.__struct_encode_fields__, msgspec.structs.astuple(line)
        values = [encode(value).decode() if isinstance(value, Position) else value for value in given]
        values = [storable(value) if isinstance(value, str) else value for value in values]
        marks = ", ".join("?" for _ in columns)
        self._transaction.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", values)  # noqa: S608 - our own

    def _take_keys(self, line: KeysLine, count: int) -> None:
        number = self._numbers.get((line.stream, line.backfill))
        if number is None:
            raise _wrong(count, "names no stream before it")
        digests = [line.digests[start : start + DIGEST_BYTES] for start in range(0, len(line.digests), DIGEST_BYTES)]
        self._ledger.load(self._transaction, Part(number, line.minute, digests, line.read_ms))
        self._ids += len(digests)


def _wrong(line: int, what: str) -> Fatal:
    return Fatal(f"standard input: line {line} {what}", advice=_ADVICE)
