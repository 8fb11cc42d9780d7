"""One stream of a backfill: delivers a span of time next to the stream, which it does not change.

It uses the poller and the pipeline of a stream, with a position and a ledger of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import msgspec

from in_jumpcloud.backoff import MAX_DELAY
from in_jumpcloud.catch_up import REPORT_SECONDS
from in_jumpcloud.collector import Stream
from in_jumpcloud.config.schema import Config
from in_jumpcloud.config.types import Duration
from in_jumpcloud.counters import Counters, Liveness, plural
from in_jumpcloud.delivery_lock import DeliveryLock
from in_jumpcloud.errors import (
    Fatal,
    InJumpCloudError,
    NotLicensed,
    RequestRejected,
    RequestTimeout,
    Retryable,
    StateCorrupt,
    StateUnavailable,
    Stopped,
)
from in_jumpcloud.insights.api import DirectoryInsights, Scope
from in_jumpcloud.insights.clock import EarlierClock
from in_jumpcloud.insights.comparison import Counts
from in_jumpcloud.insights.pages import Page, PageCalls, Pager
from in_jumpcloud.insights.pages_ahead import AheadLimit, PagesAhead
from in_jumpcloud.insights.window import Position, Window
from in_jumpcloud.pipeline import Pipeline
from in_jumpcloud.poller import PollCalls, Poller
from in_jumpcloud.progress import Pace, Progress, share_done
from in_jumpcloud.record_sender import PipelineResources
from in_jumpcloud.runtime import Runtime
from in_jumpcloud.state.jobs import JobCondition, JobRow
from in_jumpcloud.state.store import StateStore
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, rfc3339, whole_minute

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""How often a process looks for new backfills in the state."""
_SETTLE_SECONDS = 60.0


class Backfill:
    """Delivers the span of one unit. One thread at a time calls `step`, again after the delay that it returned."""

    def __init__(
        self,
        row: JobRow,
        stream: Stream,
        api: DirectoryInsights,
        resources: PipelineResources[StateStore],
        settings: Config,
        *,
        clock: EarlierClock,
        ahead_limit: AheadLimit,
        delivery_lock: DeliveryLock,
        give_up_after: float | None = None,
        runtime: Runtime,
    ) -> None:
        """As Collector. The first step reads the row again: another Backfill of the unit may have moved it.

        With `give_up_after`, refused records that are parked at the end are left to the stream.
        """
        self.row = row
        self.name = row.name
        self.stream = stream
        self.counters = Counters(liveness=Liveness(runtime.monotonic))
        self.timed_out = False
        """Whether the last request timed out."""
        self.ended: JobCondition | None = None
        """How it ended; None while it is open."""
        self.refusal: InJumpCloudError | None = None
        """Why it failed."""
        self._api = api
        self._store = resources.state
        self._settings = settings
        self._clock = clock
        self._runtime = runtime
        self._waits_for_parked = give_up_after is None
        polled = settings.jumpcloud.services
        self._state = resources.state.for_job(
            row, shares_ledger="all" in polled or set(row.spec.services) <= set(polled)
        )
        self._pipeline = Pipeline(
            *(row.name, PipelineResources(resources.encoder, resources.receivers, self._state)),
            *(settings.forward, self.counters),
            now_ms=clock.now_ms,
            runtime=runtime,
            organization=stream.scope.organization,
            is_own=stream.scope == Scope(),
            give_up_after=give_up_after,
            lock=delivery_lock,
        )
        ahead = PagesAhead(self._fetch, ahead_limit, runtime=runtime)
        new_pager = partial(Pager, fetch=ahead.page, ask=ahead.ask)
        self.poller = Poller(
            row.name,
            PollCalls(
                PageCalls(new_pager, self._deliver, self._pipeline.leave_out),
                *(ahead, self._probe, lambda _: None),
                done=lambda: None,
                kept_from=lambda: 0,
            ),
            msgspec.structs.replace(
                settings.jumpcloud,
                services=row.spec.services,
                overlap=Duration(0),
            ),
            self.counters,
            row.position,
            clock=clock,
            runtime=runtime,
            until_ms=row.spec.until_ms,
        )
        self._loaded = self._began = self._was_accepted = False
        self._expected = row.expected
        self._pace = Pace()
        self._reported_at = runtime.monotonic()

    @property
    def error(self) -> InJumpCloudError | None:
        """Why it cannot go on now, or why it failed."""
        return self.refusal or self.poller.error

    @property
    def is_behind(self) -> bool:
        """It always gives way to the streams."""
        return True

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        return self._pace.progress(self._runtime.monotonic(), self._expected)

    def step(self, stop: threading.Event) -> float:
        """Do one thing: ask JumpCloud about the span, or deliver a page of it.

        Returns:
            Seconds until the next step is due. None is, once it has `ended`.

        Raises:
            StateCorrupt: the process must end.
            Stopped: `stop` was set. The state has the position.
        """
        return self.counters.liveness.around(lambda: self._step(stop))

    def _step(self, stop: threading.Event) -> float:
        try:
            if not self._is_open():
                self.ended = "cancelled"
                return 0.0
            delay = self._turn(stop)
        except (StateCorrupt, Stopped):
            self.poller.reset()
            raise
        except InJumpCloudError as error:
            return self._failed(error, is_unexpected=False)
        except Exception as error:
            self.counters.unexpected += 1
            self.counters.unexpected_in_a_row += 1
            log.exception("%s: unexpected error", self.name)
            failure = Fatal(f"unexpected {type(error).__name__}", advice="see the log")
            return self._failed(failure, is_unexpected=True)
        self.timed_out = False
        self.counters.unexpected_in_a_row = 0
        return delay

    def _is_open(self) -> bool:
        """Whether the unit is still to be done; reads at the first step how far it has come."""
        if self._loaded:
            return self._store.jobs.is_open(self.row.unit)
        row = next(iter(self._store.jobs.rows(unit=self.row.unit, only_open=True)), None)
        if row is None:
            return False
        self.row, self._expected, self.poller.position, self._state.read = row, row.expected, row.position, row.read
        self._loaded = True
        return True

    def _failed(self, error: InJumpCloudError, *, is_unexpected: bool) -> float:
        self.timed_out = isinstance(error, RequestTimeout)
        level = logging.WARNING if isinstance(error, Retryable | StateUnavailable) else logging.ERROR
        delay = self.poller.failed(error, is_temporary=is_unexpected)
        log.log(level, "%s: %s; retrying in %.0f s", self.name, error, delay)
        with suppress(InJumpCloudError):
            self._store.jobs.record_error(self.row.unit, str(error), self._clock.now_ms())
        return delay

    def _turn(self, stop: threading.Event) -> float:
        if not self._began:
            self._begin(stop)
        elif self._is_read:
            return self._finish(stop)
        else:
            self._note_success(recovered=self.poller.step(stop))
            self._note_progress()
        return 0.0 if self._began and self._is_read else self.poller.until_due()

    @property
    def _is_read(self) -> bool:
        position = self.poller.position
        return position.window is None and position.watermark_ms >= self.row.spec.until_ms

    def _begin(self, stop: threading.Event) -> None:
        """Ask for the beginning of the span until JumpCloud's clock is known. A span that it refuses fails at once."""
        position = self.poller.position
        start_ms = position.window.start_ms if position.window else position.watermark_ms
        if not (self._was_accepted and self._clock.confirmed) and not self._is_read:
            self._ask(start_ms, stop)
            return
        # The ledger of a stream that has not begun yet begins now, where the stream would begin.
        stream_ms = whole_minute(self._settings.jumpcloud.start.resolve(self._clock.now_ms()))
        self._store.begin({self.stream.name: Position.starting_at(stream_ms, provisional=True)})
        self._count(start_ms, stop)
        self._began = True
        self._note_progress()

    def _ask(self, start_ms: int, stop: threading.Event) -> None:
        try:
            self._probe(start_ms, stop)
        except RequestRejected as error:
            if not self.row.read:
                self._refuse(error, stop)
            elif isinstance(error, NotLicensed):  # it was read from earlier on, and the plan has moved on
                self.poller.start_later(error, stop)
            else:
                raise
        else:
            self._was_accepted = True
            self._note_success(recovered=self.poller.succeeded())

    def _refuse(self, error: RequestRejected, stop: threading.Event) -> None:
        since_ms = self.row.spec.since_ms
        refusal = error
        if isinstance(error, NotLicensed):
            with suppress(NotLicensed):  # no later start helps
                plan_ms = self.poller.find_plan(since_ms, error, stop)
                start = rfc3339(self._clock.now_ms() - plan_ms + HOUR_MS)
                refusal = RequestRejected(
                    f"{rfc3339(since_ms)} is before what JumpCloud keeps for {self.stream.name}: its plan reaches back "
                    f"{plan_ms // DAY_MS} days",
                    advice=f"begin at {start} or later",
                )
        self._end("failed", str(refusal))
        self.refusal = refusal.kept()
        log.error("%s: %s", self.name, self.refusal)

    def _count(self, start_ms: int, stop: threading.Event) -> None:
        """Learn how many events there are. Without counts the progress is the share of the time."""
        until_ms = self.row.spec.until_ms
        self._expected = None
        if start_ms < until_ms:
            try:
                left = self._api.count(start_ms, until_ms, self.row.spec.services, self.stream.scope, stop)
            except Stopped:
                raise
            except InJumpCloudError as error:
                log.info("%s: its events are not counted: %s", self.name, error)
            else:
                self._expected = self._state.read + left
        self._store.jobs.expect(self.row.unit, self._expected)

    def _note_success(self, *, recovered: bool) -> None:
        if recovered:
            log.info("%s: recovered", self.name)
            self._store.jobs.record_error(self.row.unit, None, self._clock.now_ms())

    def _note_progress(self) -> None:
        """Log a line a minute."""
        now, spec = self._runtime.monotonic(), self.row.spec
        span, reached_ms = (spec.since_ms, spec.until_ms), self.poller.position.reached_ms
        share = share_done(self._state.read, self._expected, reached_ms, span)
        self._pace.note(now, self._state.read, share)
        if now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            log.info("%s: %s", self.name, self.progress)

    def _finish(self, stop: threading.Event) -> float:
        if self.counters.parked and self._waits_for_parked:
            self._pipeline.idle(stop)
            return _SETTLE_SECONDS
        self._end("done", None)
        counters = self.counters
        log.info(
            "%s: done: %s read, %d duplicates, %d records acknowledged, %s",
            *(self.name, plural(self._state.read, "event"), counters.duplicates, counters.acknowledged),
            plural(counters.dead_lettered, "dead letter"),
        )
        return 0.0

    def _end(self, condition: JobCondition, reason: str | None) -> None:
        self._store.jobs.end(self.row.unit, condition, reason, self._clock.now_ms())
        self.ended = condition

    def _fetch(self, window: Window, stop: threading.Event) -> Page:
        return self._api.fetch(window, self.stream.scope, stop, backfill=True)

    def _probe(self, start_ms: int, stop: threading.Event) -> None:
        window = Window(start_ms=start_ms, end_ms=start_ms + 1000, services=self.row.spec.services, limit=1)
        self._fetch(window, stop)

    def _deliver(
        self, page: Page, before: Position, after: Position, span: tuple[int, int], stop: threading.Event
    ) -> Counts:
        self.counters.liveness.touch()
        self.counters.pages += 1
        self.counters.page_bytes += page.size
        return self._pipeline.deliver(page, before, after, stop, span=span)


class BackfillWatch:
    """Looks for backfills in the state: one that is new is started, one that is no longer open is stopped."""

    name = "backfills"
    timed_out = is_behind = False

    def __init__(self, state: StateStore, update: Callable[[list[JobRow]], None]) -> None:
        """`update` is called with the open units."""
        self.counters = Counters()
        self._state = state
        self._update = update

    def step(self, stop: threading.Event) -> float:  # noqa: ARG002 - it does not wait
        """Look once; returns the seconds until the next look.

        Raises:
            StateCorrupt: the process must end.
        """
        try:
            self._update(self._state.jobs.rows(only_open=True))
        except StateUnavailable:
            return MAX_DELAY
        return LOOK_SECONDS
