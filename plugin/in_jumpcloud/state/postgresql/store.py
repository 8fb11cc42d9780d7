"""The state in PostgreSQL, for the process that owns its streams."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import msgspec

from in_jumpcloud.config.schema import MembersSettings, StateSettings
from in_jumpcloud.errors import Fenced, InJumpCloudError, StateUnavailable
from in_jumpcloud.insights.event import EventKey
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state.database import Space, Transaction
from in_jumpcloud.state.dead_letters import Refused, storable
from in_jumpcloud.state.ledger import Span
from in_jumpcloud.state.notes import WRITE_SECONDS, Note
from in_jumpcloud.state.postgresql import ownership, schema
from in_jumpcloud.state.postgresql.commit import BEGIN, COMMIT, NOTES
from in_jumpcloud.state.postgresql.database import PostgresDatabase
from in_jumpcloud.state.postgresql.ledger import PostgresLedger, array
from in_jumpcloud.state.postgresql.membership import Membership
from in_jumpcloud.state.postgresql.upkeep import Upkeep
from in_jumpcloud.state.reader import MAX_DEAD_LETTER_BYTES
from in_jumpcloud.state.store import StateStore
from in_jumpcloud.state.transfer import Loaded
from in_jumpcloud.timestamps import now_ms

log = logging.getLogger(__name__)

_NAME = """
INSERT INTO organization SELECT * FROM unnest(?::text[], ?::text[]) ON CONFLICT (id) DO UPDATE SET name = excluded.name
WHERE organization.name <> excluded.name RETURNING 1
"""
_NAMES = "SELECT id, name FROM organization WHERE id = ANY(?::text[])"
_TRIES = 2
"""At the end: the first may fail for a connection that was lost long ago."""


class PostgresStore(StateStore):
    """The state at a URL."""

    _database: PostgresDatabase
    _ledger: PostgresLedger
    group: Membership

    def __init__(
        self,
        settings: StateSettings,
        *,
        new_agent_id: str,
        max_dead_letter_bytes: int = MAX_DEAD_LETTER_BYTES,
        now_ms: Callable[[], int] = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
        members: MembersSettings | None = None,
        alone: bool = False,
    ) -> None:
        """Open the state, or create it with `new_agent_id`, and join its group. `alone`: see Holder.

        Raises:
            ConfigError: the settings cannot be used.
            StateUnavailable: the server cannot be used now, or another process uses the state.
            StateCorrupt: it is not ours, or of a newer version.
        """
        with contextlib.ExitStack() as on_failure:
            opened = _opened(settings, new_agent_id)
            on_failure.callback(opened.close)
            ledger = PostgresLedger(opened, now_ms)
            super().__init__(opened, ledger, max_dead_letter_bytes, now_ms, monotonic, is_new=opened.is_new)
            self._owning = threading.Lock()  # held while what is known of a stream begins, changes and ends
            self._positions: dict[str, Position] = {}
            self._written_at: dict[str, float] = {}
            self._tried: dict[str, tuple[bytes, int]] = {}
            """The last commit of a stream, if its answer is not known: its keys and their day."""
            self._upkeep = Upkeep(opened, self.dead_letters, now_ms)
            self.group = Membership(
                opened, members or MembersSettings(), take=self.take, drop=self.give_up, flush=self.flush
            )
            self.group.start(alone=alone)
            on_failure.callback(self.group.stop)
            self._upkeep.start()
            on_failure.pop_all()

    def take(self, streams: Iterable[ownership.Claimed]) -> None:
        """This process owns these streams now."""
        for name, token, position, _ in streams:
            with self._owning:
                self._ledger.forget(name)
                self._notes.forget([name])
                self._positions[name] = position
                self._database.tokens[name] = token

    def give_up(self, streams: Iterable[str]) -> None:
        """This process no longer owns these streams: forget what it knows of them."""
        for name in streams:
            with self._owning:
                self._database.tokens.pop(name, None)
                for known in (self._positions, self._written_at, self._tried):
                    known.pop(name, None)
                self._notes.forget([name])
                self._ledger.forget(name)

    def keep(self, milliseconds: int) -> None:
        """How far back events are asked for."""
        self._upkeep.keep_ms = milliseconds

    def verify(self) -> None:
        """Check that the server answers, and that this process owns the streams. It does not wait.

        Raises:
            StateUnavailable: the last time it did not.
        """
        if trouble := self.group.trouble or self._upkeep.trouble:
            raise trouble

    def _require_held(self, stream: str, *, to_commit: bool = False) -> None:
        """To send what another process has delivered would duplicate it. A commit finds out by itself."""
        if not to_commit:
            self.may_send(stream)

    def may_send(self, stream: str) -> None:
        """As StateStore.may_send."""
        self._database.token(stream)
        self.group.require_lease()

    def space(self) -> Space:
        """Not known. Raises StateUnavailable."""
        raise StateUnavailable(f"{self.where}: the disk of the server is not known")

    def require_space(self) -> None:
        """Not known."""

    @property
    def size(self) -> int:
        """Its bytes on the server, as they were half a minute ago."""
        return self._upkeep.bytes

    def position(self, stream: str) -> Position | None:
        """The position of `stream`; None if the stream is new."""
        return self._notes.of(stream).position or self._positions.get(stream)

    def name_organizations(self, names: Mapping[str, str]) -> None:
        """As StateStore.name_organizations, in one round trip."""
        ids = sorted(names)  # two members at once wait for each other's rows in one order
        self._database.read(_NAME, (ids, [names[each] for each in ids]))

    def organization_names(self, organizations: Collection[str] | None = None) -> dict[str, str]:
        """As StateReader.organization_names. It takes no memory for those of other members."""
        if organizations is None:
            return super().organization_names()
        return dict(self._database.read(_NAMES, (list(organizations),)))

    def begin(self, positions: Mapping[str, Position], services: Collection[str] = ()) -> set[str]:
        """As StateStore.begin. To whom they belong says the group."""
        new = {name: position for name, position in positions.items() if name not in self._positions}
        if not new:
            return set(positions)
        texts = [_json(position) for position in new.values()]
        since = [_json(dict.fromkeys(services, each.origin_ms)) if services else None for each in new.values()]
        inserted = self._database.read(BEGIN, (list(new), texts, since, self._now_ms()))
        if inserted:
            self.group.look()
        return set(positions).difference(name for (name,) in inserted)

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
        """As StateStore.commit. It may be repeated after an error: what was written counts once.

        Raises:
            DeadLettersFull: there is no space for them.
            Fenced: another process owns the stream.
        """
        if stream not in self._positions:
            self.begin({stream: position})
        began, note = self._monotonic(), self._notes.of(stream)
        refused = len(dead_letters) + len(suspects)
        minutes, digests, day = self._ledger.rows(keys, seen, span, span[1] if span else position.watermark_ms)
        if minutes:
            day = self._day_of(stream, digests, day)
        organization = organization or note.organization
        with self._counting_refusals():
            token = self._database.token(stream)
            parameters = (
                *(stream, self._database.member, token, array(minutes), digests, day),
                *(_json(position), len(keys) - refused, late, len(dead_letters), self._now_ms()),
                *(organization and storable(organization), note.reconciliation, note.kept_from_ms),
            )
            self._ledger.note(self._ledger.number(stream), minutes)
            if refused:
                with self._database.transaction() as transaction:
                    rows = transaction.execute(COMMIT, parameters).fetchall()
                    if not rows:
                        raise self._database.fenced(stream)
                    if rows[0][0]:  # else it is repeated
                        self.dead_letters.add(transaction, stream, "dead", dead_letters)
                        self.dead_letters.add(transaction, stream, "suspect", suspects)
                self.dead_letters.refresh()
            elif not self._database.read(COMMIT, parameters):
                raise self._database.fenced(stream)
        self._written(stream, token, note, position)
        if log.isEnabledFor(logging.DEBUG):
            self._log_commit(stream, len(keys), position, self._monotonic() - began)

    @contextlib.contextmanager
    def _counting_refusals(self) -> Iterator[None]:
        try:
            yield
        except Fenced:
            self.group.note_refused()
            raise

    def _day_of(self, stream: str, digests: bytes, day: int) -> int:
        """The partition of a commit, which is there: if it was tried before, that of the first time."""
        before = self._tried.get(stream)
        if before and before[0] == digests:
            day = before[1]
        self._tried[stream] = (digests, day)
        self._ledger.require_day(day)
        return day

    def _written(self, stream: str, token: int, note: Note, position: Position | None = None) -> None:
        """The note, or this position, is on the server. The stream may have been lost meanwhile, and be back."""
        with self._owning:
            if self._database.tokens.get(stream) != token:
                return
            self._positions[stream] = position or note.position or self._positions[stream]
            self._written_at[stream] = self._monotonic()
            self._tried.pop(stream, None)
            self._notes.forget([stream])

    @contextlib.contextmanager
    def _writing(self, *streams: str) -> Iterator[Transaction]:
        """A transaction that also writes the note of the stream: what it writes of it is newer."""
        (stream,) = streams
        note, token = self._notes.of(stream), self._database.token(stream)
        with self._database.transaction(stream) as transaction:
            transaction.execute(NOTES, self._notes_of(streams))
            yield transaction
        self._written(stream, token, note)

    def _write_due_notes(self, stream: str) -> None:
        """Write the note of the stream, if that is due."""
        if self._monotonic() >= self._written_at.setdefault(stream, self._monotonic()) + WRITE_SECONDS:
            with self._writing(stream):
                pass

    def flush(self, streams: Collection[str]) -> None:
        """Write the notes of these streams, of those that this process owns: before they are given back."""
        tokens = self._database.tokens.copy()
        noted = [stream for stream in streams if stream in self._notes.streams and stream in tokens]
        if noted:
            self._database.read(NOTES, self._notes_of(noted))
            for stream in noted:
                self._written(stream, tokens[stream], self._notes.of(stream))

    def _notes_of(self, streams: Collection[str]) -> tuple[object, ...]:
        notes = [self._notes.of(stream) for stream in streams]
        return (
            self._database.member,
            list(streams),
            [self._database.token(stream) for stream in streams],
            [note.position and _json(note.position) for note in notes],
            [note.organization and storable(note.organization) for note in notes],
            [note.reconciliation for note in notes],
            [note.kept_from_ms for note in notes],
            self._now_ms(),
        )

    def load(self, lines: Iterable[bytes]) -> Loaded:
        """As StateStore.load. The lines may be slow to come."""
        with self._database.waiting():
            return super().load(lines)

    def discard(self) -> None:
        """Remove the tables."""
        self._stop()
        self._database.discard()

    def close(self) -> None:
        """Write the notes, give back the streams, and close the connections."""
        self._stop()
        for _ in range(_TRIES):
            with contextlib.suppress(InJumpCloudError):
                self.flush(self._notes.streams)
                ownership.leave(self._database)
                break
        super().close()

    def _stop(self) -> None:
        self.group.stop()
        self._upkeep.stop()


def _opened(settings: StateSettings, new_agent_id: str) -> PostgresDatabase:
    opened = PostgresDatabase(settings)
    opened.open(lambda connection: schema.prepare(connection, settings.schema, opened.where, new_agent_id))
    return opened


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
