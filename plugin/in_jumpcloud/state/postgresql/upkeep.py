"""What a process does for its state next to the deliveries, on a thread of its own.

It counts what monitoring shows, and looks after the days of the ledger. So no page, and not the main thread, ever waits
for the server.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from in_jumpcloud.errors import StateUnavailable
from in_jumpcloud.state.dead_letters import DeadLetters
from in_jumpcloud.state.postgresql.database import PostgresDatabase
from in_jumpcloud.state.postgresql.days import keep_days
from in_jumpcloud.state.postgresql.turns import Turns
from in_jumpcloud.timestamps import DAY_MS

log = logging.getLogger(__name__)

_FIRST_SECONDS = 3.0
_COUNT_SECONDS = 30.0
_DAYS_SECONDS = 3600.0
SIZE = (
    "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_catalog.pg_class c "
    "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ? AND c.relkind = 'r'"
)


def size(database: PostgresDatabase) -> int:
    """The bytes of all tables and their indexes."""
    return int(database.read(SIZE, (database.schema,))[0][0])


class Upkeep:
    """The thread."""

    def __init__(self, database: PostgresDatabase, dead_letters: DeadLetters, now_ms: Callable[[], int]) -> None:
        self.keep_ms = 16 * DAY_MS
        """How far back the ledger is asked for events."""
        self.bytes = 0
        self._database = database
        self._dead_letters = dead_letters
        self._now_ms = now_ms
        self._days_at = time.monotonic()
        self._turns = Turns("state-upkeep", self._look_after, _COUNT_SECONDS, first=_FIRST_SECONDS)

    @property
    def trouble(self) -> StateUnavailable | None:
        """Why the last turn failed; None if it did not."""
        return self._turns.trouble

    def start(self) -> None:
        """Start the thread.

        Raises:
            StateUnavailable: the system has no more threads.
        """
        self._turns.start()

    def stop(self) -> None:
        """Stop the thread, after its statement under way."""
        self._turns.stop()

    def _look_after(self) -> None:
        self._dead_letters.refresh()
        self.bytes = size(self._database)
        now = time.monotonic()
        if now >= self._days_at:
            earlier_ms = min(self._now_ms(), self._database.now_ms())  # a clock that is ahead drops nothing
            dropped = keep_days(self._database, earlier_ms, self.keep_ms // DAY_MS)
            self._days_at = now + _DAYS_SECONDS
            if dropped:
                log.info("%s: dropped %d days of the ledger", self._database.where, len(dropped))
