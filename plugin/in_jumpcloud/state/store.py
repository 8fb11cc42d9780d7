"""All that the program asks of the state: what each stream has delivered.

That is its position, the ledger, and its dead letters. A commit writes the keys of one acknowledged chunk and the
position of the stream in one transaction. It is on disk when `commit` returns. What a crash may forget waits for the
next commit, see state/notes.py.

There is a subclass for each kind of database. `state.opening` opens the one of the settings.
"""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from in_jumpcloud.errors import InJumpCloudError
from in_jumpcloud.insights.event import EventKey
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state import transfer
from in_jumpcloud.state.database import Database, Space, Transaction
from in_jumpcloud.state.dead_letter_file import import_file
from in_jumpcloud.state.dead_letters import DeadLetter, Refused, storable
from in_jumpcloud.state.group import Group
from in_jumpcloud.state.jobs import JobRow, JobState, OpenState
from in_jumpcloud.state.ledger import Ledger, Span
from in_jumpcloud.state.notes import Notes
from in_jumpcloud.state.reader import StateReader
from in_jumpcloud.timestamps import rfc3339, whole_minute

log = logging.getLogger(__name__)


class StateStore(StateReader, ABC):
    """The state of the process that writes it. One process at a time holds it; its threads may share it."""

    def __init__(
        self,
        opened: Database,
        ledger: Ledger,
        max_dead_letter_bytes: int,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float],
        *,
        is_new: bool,
    ) -> None:
        """`is_new`: it was just created.

        `now_ms` dates commits for `in-jumpcloud status`, `monotonic` says when notes are written; nothing else depends
        on the clocks.
        """
        super().__init__(opened, ledger, None, max_dead_letter_bytes)
        self.is_new = is_new
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._notes = Notes(monotonic)

    def import_dead_letters(self, path: Path) -> None:
        """Move the dead letters that an earlier version kept in a file at `path` into the state. Never raises."""
        import_file(self._database, path)
        with contextlib.suppress(InJumpCloudError):
            self.dead_letters.refresh()

    @abstractmethod
    def verify(self) -> None:
        """Check that this process still has the state. It does not wait for a commit under way.

        `delivered` and `commit` do this too; call it at least once a minute for streams that are idle.

        Raises:
            StateUnavailable: it has not; nothing is delivered until it has it again.
        """

    @abstractmethod
    def _require_held(self, stream: str, *, to_commit: bool = False) -> None:
        """As `verify`, for a delivery. `to_commit`: what was acknowledged must be known to whoever has the state."""

    group: Group | None = None
    """This process as a member of those that share the state; None: it has the state for itself."""

    def may_send(self, stream: str) -> None:
        """Check, right before something of `stream` is sent, that no other process may send it.

        Raises:
            Fenced: another one has the stream.
            StateUnavailable: another one may have it.
        """

    @abstractmethod
    def space(self) -> Space:
        """What is free on the disk of the state, and what is needed. It does not wait for a commit under way.

        Raises:
            StateUnavailable: it is not known.
        """

    @abstractmethod
    def require_space(self) -> None:
        """Check that the disk will not be full soon.

        Raises:
            StateUnavailable: it may be full within a day.
        """

    @property
    @abstractmethod
    def size(self) -> int:
        """Its bytes on disk. It does not wait."""

    def keep(self, milliseconds: int) -> None:
        """How far back the ledger is asked for events; what is older may go."""

    def discard(self) -> None:
        """Undo that it was just created. `close` is next."""

    def position(self, stream: str) -> Position | None:
        """The position of `stream`; None if the stream is new."""
        if noted := self._notes.of(stream).position:
            return noted
        text = self._column("position", stream)
        return self._position(text) if text is not None else None

    def kept_from_ms(self, stream: str) -> int:
        """As StateReader.kept_from_ms."""
        noted = self._notes.of(stream).kept_from_ms
        return super().kept_from_ms(stream) if noted is None else noted

    def reconciliation(self, stream: str) -> str | None:
        """As StateReader.reconciliation."""
        noted = self._notes.of(stream).reconciliation
        return super().reconciliation(stream) if noted is None else noted

    def delivered(self, stream: str, keys: Sequence[EventKey], ids: Sequence[str] = ()) -> set[EventKey]:
        """Those of `keys` that were delivered, are dead letters or are suspects.

        `ids` are the events' own ids, in the order of `keys`: version 2 of the schema knew events by these.
        """
        self._require_held(stream)
        return self._ledger.delivered(stream, keys, ids)

    def commit(
        self,
        stream: str,
        keys: Collection[EventKey],
        position: Position,
        *,
        span: Span | None = None,
        seen: Collection[EventKey] = (),
        late: int = 0,
        dead_letters: Sequence[Refused] = (),
        suspects: Sequence[Refused] = (),
        organization: str | None = None,
    ) -> None:
        """Add `keys` to the ledger and set `position`, in one transaction: after an error, nothing was written.

        `span` is the window that returned them, `[start, end)` in epoch milliseconds. A key whose minute is not in it
        is kept as long as that window may be read again, not as long as its own date says; None: every minute is.
        `seen` are keys that were delivered before and that this window returned too; those outside the span are kept
        longer. `late` of the keys are late events.

        `dead_letters` and `suspects` are events of `keys` that were not acknowledged. A suspect waits in the state,
        over restarts, until it is sent once more: `parked` returns it, `settle` ends it. `organization` is the one that
        the events name; the first one stays.

        Raises:
            DeadLettersFull: there is no space for them.
        """
        refused = len(dead_letters) + len(suspects)
        values = (stream, msgspec.json.encode(position).decode(), len(keys) - refused, late, len(dead_letters))
        self._require_held(stream, to_commit=True)
        began = self._monotonic()
        with self._writing(stream) as transaction:
            transaction.execute(
                "INSERT INTO stream (name, position, acknowledged, late, dead_lettered, updated_ms, organization) "
                "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (name) DO UPDATE SET position = ?2, "
                "acknowledged = acknowledged + ?3, late = late + ?4, dead_lettered = dead_lettered + ?5, "
                "updated_ms = ?6, organization = coalesce(organization, ?7)",
                (*values, self._now_ms(), organization),
            )
            number = transaction.execute("SELECT number FROM stream WHERE name = ?", (stream,)).fetchone()[0]
            read_ms = span[1] if span else position.watermark_ms
            self._ledger.add(transaction, number, keys, seen, span, read_ms)
            self.dead_letters.add(transaction, stream, "dead", dead_letters)
            self.dead_letters.add(transaction, stream, "suspect", suspects)
        if refused:
            self.dead_letters.refresh()
        if log.isEnabledFor(logging.DEBUG):
            self._log_commit(stream, len(keys), position, self._monotonic() - began)

    def advance(
        self,
        stream: str,
        position: Position,
        *,
        span: Span | None = None,
        seen: Collection[EventKey] = (),
        organization: str | None = None,
    ) -> None:
        """Set the position of `stream`, which has one, where nothing new was delivered. Arguments as of `commit`.

        It is on disk with the next commit of the stream, with the notes of all streams after WRITE_SECONDS, and when
        the state is closed; at once if some of `seen` must be kept longer. Reads of this object know it at once.
        """
        if self._ledger.must_keep(stream, seen, span, span[1] if span else position.watermark_ms):
            self.commit(stream, [], position, span=span, seen=seen, organization=organization)
            return
        self._require_held(stream)
        with self._database.lock:
            self._notes.change(stream, position=position, organization=organization)
        self._write_due_notes(stream)

    def parked(self, stream: str) -> list[DeadLetter]:
        """The suspects of `stream`, oldest first: events that were refused alone and are to be sent once more.

        To park one, pass it to `commit` as a suspect, with its key. It is then known to `delivered` and not counted.
        """
        return self.dead_letters.suspects(stream)

    def settle(self, suspect: DeadLetter, refusal: str | None) -> None:
        """End a suspect. It was acknowledged if `refusal` is None, else it becomes a dead letter for that reason.

        A process that is killed between the ack and this call sends the suspect again: one event, at most twice.
        """
        self._require_held(suspect.stream, to_commit=True)
        self.dead_letters.settle(suspect, refusal, now_ms=self._now_ms())

    def begin(self, positions: Mapping[str, Position], services: Collection[str] = ()) -> set[str]:
        """Store the first position of each stream that has none, in one transaction: its ledger begins with it.

        `services` are those that these streams fetch from there on, as in `save_services`.

        Returns:
            The streams that had a position.
        """
        known = {name for (name,) in self._database.read("SELECT name FROM stream")}
        new = {name: position for name, position in positions.items() if name not in known}
        if new:
            now_ms = self._now_ms()
            rows = [
                (name, msgspec.json.encode(position).decode(), _services(services, position), now_ms)
                for name, position in new.items()
            ]
            with self._database.transaction() as transaction:
                columns = "name, position, services, updated_ms"
                transaction.executemany(f"INSERT OR IGNORE INTO stream ({columns}) VALUES (?, ?, ?, ?)", rows)  # noqa: S608 - our own
        return positions.keys() - new.keys()

    def for_job(self, row: JobRow, *, shares_ledger: bool) -> JobState:
        """What the pipeline of a unit of a backfill uses in place of this; see JobState."""
        checks = self._require_held, self.may_send
        parts = OpenState(self._database, self._ledger, self.dead_letters, *checks, self._now_ms)
        return JobState(parts, row, shares_ledger=shares_ledger)

    def save_reconciliation(self, stream: str, text: str) -> None:
        """Store how far the reconciler has come with `stream`; on disk as what `advance` sets.

        It does nothing for a stream without a position.
        """
        if self.position(stream) is None:
            return
        with self._database.lock:
            self._notes.change(stream, reconciliation=text)
        self._write_due_notes(stream)

    def save_services(self, stream: str, since_ms: dict[str, int]) -> None:
        """Store from when on each service of `stream` is fetched. It does nothing for a stream without a position."""
        with self._writing(stream) as transaction:
            text = msgspec.json.encode(since_ms).decode()
            transaction.execute("UPDATE stream SET services = ?2 WHERE name = ?1", (stream, text))

    def name_organizations(self, names: Mapping[str, str]) -> None:
        """Store the names of organizations, by their IDs; what is known of others stays."""
        known = self.organization_names(names)
        changed = [(each, name) for each, name in names.items() if known.get(each) != name]
        if changed:  # else an idle process would write with each list
            with self._database.transaction() as transaction:
                transaction.executemany("INSERT OR REPLACE INTO organization VALUES (?, ?)", changed)

    def record_error(self, stream: str, error: str | None, now_ms: int) -> None:
        """Store the last error of `stream` for `in-jumpcloud status`; None: the last step succeeded.

        It does nothing for a stream without a position, or if the state cannot be written: the log has the error.
        """
        with contextlib.suppress(InJumpCloudError), self._writing(stream) as transaction:
            transaction.execute(
                "UPDATE stream SET error = CAST(?2 AS TEXT), error_ms = CAST(?3 AS BIGINT) WHERE name = ?1 "
                "AND NOT (error IS NULL AND CAST(?2 AS TEXT) IS NULL)",
                (stream, error and storable(error), None if error is None else now_ms),
            )

    def prune(self, stream: str, before_ms: int) -> int:
        """Remove the ids of all minutes before `before_ms` (epoch milliseconds), and return how many.

        The ids of events outside their window go when all of that window is before it. `kept_from_ms` becomes the
        start of its minute, and never moves backwards.
        """
        before_ms = whole_minute(before_ms)
        if before_ms <= self.kept_from_ms(stream):
            return 0
        if not self._ledger.has_before(stream, before_ms):
            if self.position(stream) is not None:
                with self._database.lock:
                    self._notes.change(stream, kept_from_ms=before_ms)
            return 0
        with self._writing(stream) as transaction:
            removed = self._ledger.prune(transaction, stream, before_ms)
        self._give_back_space()
        return removed

    def load(self, lines: Iterable[bytes]) -> transfer.Loaded:
        """Fill it, if it is empty, with what `export` returned: all or nothing. Returns what there was.

        Raises:
            Fatal: it is not empty; a line is not what `export` returns, or the last is missing.
        """
        return transfer.load(self._database, self._ledger, lines)

    def _log_commit(self, stream: str, ids: int, position: Position, seconds: float) -> None:
        moment = rfc3339(position.watermark_ms)
        log.debug(
            "%s: committed %d ids, position %s, %.0f ms",
            *(stream, ids, moment, 1000 * seconds),
            extra={
                "fields": {
                    "in_jumpcloud.stream": stream,
                    "in_jumpcloud.ids": ids,
                    "in_jumpcloud.position": moment,
                    "event.duration": round(seconds * 1e9),
                }
            },
        )

    def _give_back_space(self) -> None:
        """Return what `prune` has freed to the disk."""

    @contextlib.contextmanager
    def _writing(self, *streams: str) -> Iterator[Transaction]:
        """A transaction that also writes the notes of these streams: what it writes of them is newer."""
        with self._database.lock:
            with self._database.transaction() as transaction:
                self._notes.write(transaction, streams, self._now_ms())
                yield transaction
            self._notes.forget(streams)

    def _write_due_notes(self, stream: str) -> None:
        """Write the notes of all streams in one transaction, if that is due."""
        if self._notes.are_due:
            self._require_held(stream)
            with self._database.lock:
                if self._notes.are_due:  # no other thread has written them meanwhile
                    with self._writing(*self._notes.streams):
                        pass


def _services(services: Collection[str], position: Position) -> str | None:
    return msgspec.json.encode(dict.fromkeys(services, position.origin_ms)).decode() if services else None
