"""What the rest of this package asks of a database: SQL in transactions.

Parameters are `?1`, or `?` in their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from in_jumpcloud.errors import StateCorrupt


class Holder(NamedTuple):
    """The process that holds a state, by the name it gave itself. `is_alone`: it lets no other process change it.

    Any other holder also delivers the backfills that are added meanwhile.
    """

    name: str
    is_alone: bool = False

    def __str__(self) -> str:
        return self.name


class Space(NamedTuple):
    """The disk of the state, in bytes: what is free, and what one day of events may need."""

    free_bytes: int
    needed_bytes: int

    @property
    def is_low(self) -> bool:
        """Whether the disk may be full within a day."""
        return self.free_bytes < self.needed_bytes


class Rows(Protocol):
    """The result of a statement."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""

    def fetchone(self) -> Any:
        """The next row, None at the end."""

    def fetchall(self) -> list[Any]:
        """The rows that are left."""


class Transaction(Protocol):
    """An open transaction. What its methods raise, `Database.transaction` translates."""

    def execute(self, query: str, parameters: Sequence[Any] = (), /) -> Rows:
        """Execute a statement."""

    def executemany(self, query: str, parameters: Iterable[Sequence[Any]], /) -> Rows:
        """Execute a statement with each of these parameters."""


class Database(Protocol):
    """An open database. Threads may share it. Each method can raise StateUnavailable and StateCorrupt."""

    @property
    def where(self) -> str:
        """Where it is, for people."""

    @property
    def agent_id(self) -> str:
        """The agent id of the records."""

    @property
    def version(self) -> int:
        """The version of its tables when it was opened."""

    @property
    def newest_version(self) -> int:
        """The version of the tables of this program."""

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Held while the notes change, see state/notes.py."""

    def read(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query."""

    def read_if_idle(self, query: str) -> list[Any]:
        """All rows of a query; none if that would wait for others, or if it cannot be read. It does not raise."""

    def transaction(self, stream: str | None = None) -> AbstractContextManager[Transaction]:
        """A transaction: on disk at the end of the body; after an error, nothing was written.

        It is on behalf of a stream, if one is named.
        """

    def snapshot(self) -> AbstractContextManager[object]:
        """All reads in the body, on its thread, return what was there at its beginning."""

    def corrupt(self, what: object) -> StateCorrupt:
        """The error for content that in-jumpcloud does not write."""

    def close(self) -> None:
        """Close it."""
