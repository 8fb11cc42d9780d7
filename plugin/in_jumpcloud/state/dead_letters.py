"""Events that the receiver refuses: dead letters, and suspects that are sent once more before they become one.

They are rows of the state's database, so they are written in the transaction that commits their ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from in_jumpcloud.errors import DeadLettersFull
from in_jumpcloud.insights.event import EventKey
from in_jumpcloud.state.database import Database, Transaction
from in_jumpcloud.text import redact
from in_jumpcloud.timestamps import rfc3339

Condition = Literal["dead", "suspect"]
_ROW_BYTES = 200
"""What a row takes on disk besides the event, about."""
_SIZE = "SELECT count(*), coalesce(sum(bytes), 0) FROM dead_letter"
_DEAD_BYTES = "SELECT coalesce(sum(bytes), 0) FROM dead_letter WHERE state = 'dead'"
_COLUMNS = "number, state, stream, minute, digest, id, reason, time_ms, tag, event"


class Refused(NamedTuple):
    """An event that the receiver refused, to be stored.

    `event` is its JSON, byte for byte; `time_ms` is when it was refused, in epoch milliseconds. `tag` is the one that
    its record was sent with. The stored text of `id` and `reason` is valid Unicode: what is not is escaped.
    """

    key: EventKey
    id: str
    reason: str
    time_ms: int
    tag: str
    event: bytes

    @property
    def size(self) -> int:
        """The bytes that count towards dead_letter.max_bytes."""
        return len(self.event) + len(self.reason) + _ROW_BYTES


class DeadLetter(NamedTuple):
    """A stored event. `number` identifies it; `state` is "dead", or "suspect": it will be sent once more."""

    number: int
    state: Condition
    stream: str
    refused: Refused

    def line(self) -> bytes:
        """One line of JSON in ASCII. Bytes of the event that are not UTF-8 become lone surrogates."""
        refused = self.refused
        fields = {
            "time": rfc3339(refused.time_ms),
            "stream": self.stream,
            "id": refused.id,
            "reason": refused.reason,
            "event": refused.event.decode(errors="surrogateescape"),
        }
        return json.dumps(fields).encode() + b"\n"


class DeadLetters:
    """The dead letters and suspects in a state. `max_bytes` limits how many bytes they may take together.

    `count` and `bytes` are those of the last commit or `refresh`; to read them waits for nothing.
    """

    def __init__(self, database: Database, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.count = self.bytes = 0
        self._database = database
        self.refresh()

    def refresh(self) -> None:
        """Count again: another process may have removed some.

        Raises:
            StateUnavailable, StateCorrupt: the state cannot be read.
        """
        self.count, self.bytes = map(int, self._database.read(_SIZE)[0])

    def refresh_if_idle(self) -> None:
        """Count again, unless that would wait for a commit under way or the state cannot be read."""
        rows = self._database.read_if_idle(_SIZE)
        if rows:
            self.count, self.bytes = map(int, rows[0])

    def add(self, transaction: Transaction, stream: str, state: Condition, letters: Sequence[Refused]) -> None:
        """Add `letters` in a transaction.

        Raises:
            DeadLettersFull: they would take more than `max_bytes`.
        """
        if not letters:
            return
        self._require_space(transaction, sum(letter.size for letter in letters))
        insert(transaction, stream, state, letters)

    def _require_space(self, transaction: Transaction, size: int) -> None:
        """Suspects take no space: no command can drop them."""
        used = transaction.execute(_DEAD_BYTES).fetchone()[0]
        if used + size > self.max_bytes:
            raise DeadLettersFull(
                f"{self._database.where}: no space for another dead letter: {used} bytes are used, and "
                f"dead_letter.max_bytes is {self.max_bytes}",
                advice="see `in-jumpcloud dead-letters list`, then replay or drop them",
            )

    def suspects(self, stream: str) -> list[DeadLetter]:
        """The suspects of `stream`, oldest first."""
        return list(self.letters(state="suspect", stream=stream))

    def letters(self, state: Condition = "dead", *, stream: str | None = None) -> Iterator[DeadLetter]:
        """The dead letters, or the suspects, oldest first; one at a time is in memory."""
        after = 0
        while True:
            rows = self._database.read(
                f"SELECT {_COLUMNS} FROM dead_letter WHERE number > ?1 AND state = ?2 "  # noqa: S608 - our own
                "AND (CAST(?3 AS TEXT) IS NULL OR stream = ?3) ORDER BY number LIMIT 1",
                (after, state, stream),
            )
            if not rows:
                return
            letter = _letter(rows[0])
            yield letter
            after = letter.number

    def remove(self, number: int) -> bool:
        """Remove one; False if another process has removed it. It is gone from the disk when this returns."""
        with self._database.transaction() as transaction:
            return bool(transaction.execute("DELETE FROM dead_letter WHERE number = ?", (number,)).rowcount)

    def settle(self, letter: DeadLetter, refusal: str | None, *, now_ms: int) -> None:
        """A suspect was sent once more: with `refusal` None it was acknowledged, else it becomes a dead letter.

        The totals of its stream count it now. It does nothing if the suspect was settled before.

        Raises:
            DeadLettersFull: there is no space for another dead letter.
        """
        column = "acknowledged" if refusal is None else "dead_lettered"
        with self._database.transaction(letter.stream) as transaction:
            changed = self.settle_in(transaction, letter, refusal, stream=letter.stream, now_ms=now_ms)
            transaction.execute(
                f"UPDATE stream SET {column} = {column} + ?, updated_ms = ? WHERE name = ?",  # noqa: S608 - our own
                (changed, now_ms, letter.stream),
            )
        self.refresh()

    def settle_in(
        self, transaction: Transaction, letter: DeadLetter, refusal: str | None, *, stream: str, now_ms: int
    ) -> int:
        """The same in a transaction, without totals. A dead letter is one of `stream`. Returns how many it settled."""
        if refusal is None:
            change = "DELETE FROM dead_letter WHERE number = ? AND state = 'suspect'"
            return transaction.execute(change, (letter.number,)).rowcount
        self._require_space(transaction, letter.refused.size)
        change = (
            "UPDATE dead_letter SET state = 'dead', reason = ?, time_ms = ?, stream = ? "
            "WHERE number = ? AND state = 'suspect'"
        )
        return transaction.execute(change, (storable(refusal), now_ms, stream, letter.number)).rowcount


def insert(transaction: Transaction, stream: str, state: Condition, letters: Sequence[Refused]) -> None:
    """Insert `letters`, whatever space they take. One that is stored already, with the same time, is left out."""
    transaction.executemany(
        "INSERT INTO dead_letter (stream, state, minute, digest, id, reason, time_ms, tag, bytes, event) "
        "SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10 WHERE NOT EXISTS "
        "(SELECT 1 FROM dead_letter WHERE stream = ?1 AND digest = ?4 AND time_ms = ?7)",
        [
            (
                *(stream, state, each.key.minute, each.key.digest, storable(each.id), storable(each.reason)),
                *(each.time_ms, storable(each.tag), each.size, each.event),
            )
            for each in letters
        ],
    )


def storable(text: str) -> str:
    """Databases store valid Unicode only, some no NUL. An error may quote text from outside, and a secret in it."""
    return redact(text).encode(errors="backslashreplace").decode().replace("\0", "\\x00")


def replay(letters: DeadLetters, chosen: Sequence[int], deliver: Callable[[DeadLetter], bool]) -> int:
    """Call `deliver` with each of the `chosen` dead letters, and remove those for which it returns True.

    What was delivered is removed before the next one is sent, so a replay that is killed delivers at most one twice.

    Returns:
        How many it returned False for.
    """
    wanted = set(chosen)
    kept = 0
    for letter in letters.letters():
        if letter.number in wanted:
            if deliver(letter):
                letters.remove(letter.number)
            else:
                kept += 1
    return kept


def _letter(row: tuple[Any, ...]) -> DeadLetter:
    number, state, stream, minute, digest, event_id, reason, time_ms, tag, event = row
    return DeadLetter(
        number, state, stream, Refused(EventKey(minute, digest), event_id, reason, time_ms, tag, bytes(event))
    )
