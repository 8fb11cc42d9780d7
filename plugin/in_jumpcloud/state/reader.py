"""What is read of the state, also by those that may not change it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple, Self

import msgspec

from in_jumpcloud.insights.window import Position
from in_jumpcloud.state import transfer
from in_jumpcloud.state.database import Database, Holder
from in_jumpcloud.state.dead_letters import DeadLetters
from in_jumpcloud.state.group import GroupReport
from in_jumpcloud.state.jobs import Jobs
from in_jumpcloud.state.ledger import Ledger

MAX_DEAD_LETTER_BYTES = 100 * 1024**2


class StreamRow(NamedTuple):
    """One stream in the state.

    `acknowledged`, `late` and `dead_lettered` count events over all runs. `error` is the last error and `error_ms` its
    time; both are None once a step has succeeded. `updated_ms` is the time of the last commit. Times are epoch
    milliseconds.
    """

    name: str
    position: Position
    acknowledged: int
    late: int
    dead_lettered: int
    error: str | None
    error_ms: int | None
    updated_ms: int | None


class StateReader:
    """An open state, to read. `holder` is the process that held it when it was opened; None if no process did.

    `where` names it for people, `agent_id` is that of the records.
    Every method can raise StateUnavailable (it passes: wait and retry) and StateCorrupt (it does not).
    """

    def __init__(
        self,
        opened: Database,
        ledger: Ledger,
        holder: Holder | None,
        max_dead_letter_bytes: int = MAX_DEAD_LETTER_BYTES,
    ) -> None:
        self.where = opened.where
        self.holder = holder
        self.agent_id = opened.agent_id
        self.version = opened.version
        """The version of the tables when they were opened."""
        self.newest_version = opened.newest_version
        """The version of the tables of this program: to open a StateStore brings them to it."""
        self._database = opened
        self._ledger = ledger
        self.dead_letters = DeadLetters(opened, max_bytes=max_dead_letter_bytes)
        self.jobs = Jobs(opened, ledger)

    def streams(self) -> list[StreamRow]:
        """Every stream that has a position, sorted by name."""
        rows = self._database.read(f"SELECT {', '.join(StreamRow._fields)} FROM stream ORDER BY name")  # noqa: S608 - our own
        return [StreamRow(name, self._position(position), *rest) for name, position, *rest in rows]

    def counts(self, stream: str, start_minute: int, end_minute: int) -> dict[int, int]:
        """The number of ids in the ledger for each minute in `[start_minute, end_minute)`, without empty minutes."""
        return self._ledger.counts(stream, start_minute, end_minute)

    def ids(self) -> int:
        """How many ids the ledger has."""
        return int(self._database.read("SELECT count(*) FROM ledger")[0][0])

    def kept_from_ms(self, stream: str) -> int:
        """The time from which on the ledger has every delivered id; epoch milliseconds, 0 while it has them all."""
        return int(self._column("kept_from_ms", stream) or 0)

    def reconciliation(self, stream: str) -> str | None:
        """What `save_reconciliation` stored; None before the first time."""
        return self._column("reconciliation", stream)

    def organization(self, stream: str) -> str | None:
        """The organization that the events of `stream` name, as `commit` stored it."""
        return self._column("organization", stream)

    def organization_names(self, organizations: Collection[str] | None = None) -> dict[str, str]:
        """The names that `name_organizations` stored of these organizations, or of all, by their IDs."""
        rows = self._database.read("SELECT id, name FROM organization")
        return {each: name for each, name in rows if organizations is None or each in organizations}

    def services(self, stream: str) -> dict[str, int]:
        """From when on each service of `stream` is fetched, as `save_services` stored it; epoch milliseconds."""
        return _read_services(self._column("services", stream))

    def all_services(self) -> dict[str, dict[str, int]]:
        """The same of every stream, by its name."""
        return {name: _read_services(text) for name, text in self._database.read("SELECT name, services FROM stream")}

    def group_report(self) -> GroupReport | None:
        """The processes that share the state, and what each has; None if it cannot be shared."""
        return None

    def export(self) -> Iterator[bytes]:
        """All of it, as lines that `StateStore.load` reads; see state/transfer.py.

        Raises:
            Fatal: it has what no other state can hold.
        """
        return transfer.lines(self._database, self._ledger)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _column(self, name: str, stream: str) -> str | None:
        """A column of `stream`; None for an unknown stream."""
        rows = self._database.read(f"SELECT {name} FROM stream WHERE name = ?", (stream,))  # noqa: S608 - our own
        return rows[0][0] if rows else None

    def _position(self, text: str) -> Position:
        try:
            return msgspec.json.decode(text, type=Position)
        except msgspec.DecodeError as error:
            raise self._database.corrupt(f"a position is not what in-jumpcloud writes: {error}") from None


def _read_services(text: str | None) -> dict[str, int]:
    return msgspec.json.decode(text, type=dict[str, int]) if text else {}
