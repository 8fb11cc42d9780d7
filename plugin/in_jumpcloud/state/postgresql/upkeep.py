"""What a process does for its state next to the deliveries, on threads of its own.

It counts what monitoring shows, and looks after the days of the ledger. So no page, and not the main thread, ever waits
for the server. Another thread renews the membership: it must not wait for the first one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from in_jumpcloud.errors import InJumpCloudError, StateUnavailable
from in_jumpcloud.state.dead_letters import DeadLetters
from in_jumpcloud.state.postgresql import ownership
from in_jumpcloud.state.postgresql.database import PostgresDatabase
from in_jumpcloud.state.postgresql.days import keep_days
from in_jumpcloud.timestamps import DAY_MS

log = logging.getLogger(__name__)

RENEW_SECONDS = ownership.LEASE_SECONDS / 5
_COUNT_SECONDS = 30.0
_STOP_SECONDS = 2.0
"""How long the end waits for a statement under way: a server that is frozen answers none."""
_DAYS_SECONDS = 3600.0
_SIZE = (
    "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_catalog.pg_class c "
    "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ? AND c.relkind = 'r'"
)


def size(database: PostgresDatabase) -> int:
    """The bytes of all tables and their indexes."""
    return int(database.read(_SIZE, (database.schema,))[0][0])


class Turns:
    """Calls a function again and again, on a thread of its own. `trouble` is why the last call failed."""

    def __init__(self, name: str, turn: Callable[[], None], seconds: float) -> None:
        """`seconds` are between two calls; the first is after RENEW_SECONDS."""
        self.trouble: StateUnavailable | None = None
        self._turn = turn
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread.

        Raises:
            StateUnavailable: the system has no more threads.
        """
        try:
            self._thread.start()
        except RuntimeError as error:
            raise StateUnavailable(f"the thread of the state: {error}") from None

    def stop(self) -> None:
        """Stop the thread, after its statement under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        seconds = RENEW_SECONDS
        while not self._stop.wait(seconds):
            seconds = self._seconds
            try:
                self._turn()
                self.trouble = None
            except StateUnavailable as error:
                self.trouble = error
            except InJumpCloudError as error:  # it does not pass: the streams find that out too
                self.trouble = StateUnavailable(error.message, advice=error.advice)
            except Exception:
                log.exception("unexpected error; continuing")


class Upkeep:
    """The threads."""

    def __init__(self, database: PostgresDatabase, dead_letters: DeadLetters, now_ms: Callable[[], int]) -> None:
        self.keep_ms = 16 * DAY_MS
        """How far back the ledger is asked for events."""
        self.bytes = 0
        self._database = database
        self._dead_letters = dead_letters
        self._now_ms = now_ms
        self._days_at = time.monotonic()
        self._turns = (
            Turns("state-member", self._renew, RENEW_SECONDS),
            Turns("state-upkeep", self._look_after, _COUNT_SECONDS),
        )

    @property
    def trouble(self) -> StateUnavailable | None:
        """Why the last turn of either failed; None if it did not."""
        return next((each.trouble for each in self._turns if each.trouble), None)

    def start(self) -> None:
        """Start the threads.

        Raises:
            StateUnavailable: the system has no more threads.
        """
        for each in self._turns:
            each.start()

    def stop(self) -> None:
        """Stop the threads, after their statements under way."""
        for each in self._turns:
            each.stop()

    def _renew(self) -> None:
        if not ownership.renew(self._database):
            self._database.tokens.clear()
            raise StateUnavailable(
                f"{self._database.where}: another process has taken it over, so this one collects nothing",
                advice="stop one of the two, and start this one again if it is to go on",
            )

    def _look_after(self) -> None:
        self._dead_letters.refresh()
        self.bytes = size(self._database)
        now = time.monotonic()
        if now >= self._days_at:
            dropped = keep_days(self._database, self._now_ms(), self.keep_ms // DAY_MS)
            self._days_at = now + _DAYS_SECONDS
            if dropped:
                log.info("%s: dropped %d days of the ledger", self._database.where, len(dropped))
