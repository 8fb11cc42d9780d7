"""One stream: gives its polls and its late events their turns, and handles what goes wrong in either."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import NamedTuple

import msgspec

from in_jumpcloud.backoff import MAX_DELAY
from in_jumpcloud.catch_up import CatchUp
from in_jumpcloud.config.schema import Config
from in_jumpcloud.counters import Counters, Liveness
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
from in_jumpcloud.reconciler import LateCalls, Reconciler
from in_jumpcloud.record_sender import PipelineResources
from in_jumpcloud.runtime import Runtime
from in_jumpcloud.state.store import StateStore
from in_jumpcloud.timestamps import HOUR_MS, MINUTE_MS, rfc3339, whole_minute, whole_minute_from

log = logging.getLogger(__name__)

_DATE_PRECISION_MS = 2000
"""A date has no fraction, and is a little older than the answer."""
_PRUNE_EVERY_SECONDS = 600.0
MAX_COMPARED_LAG = 3 * 3600.0
"""Seconds that comparisons may be behind the polls, besides http.max_lag."""
_PRUNE_PACE = 24
"""The ledger lets go of at most so many seconds of ids per second of running: a clock that jumps deletes little."""


class Stream(NamedTuple):
    """An organization, a provider, or the organization of the key. `name` identifies it in the state and the log."""

    name: str
    scope: Scope


def first_position(settings: Config, now_ms: int) -> Position:
    """Where a new stream begins: with a whole minute, since counts are compared by minutes."""
    return Position.starting_at(whole_minute(settings.jumpcloud.start.resolve(now_ms)), provisional=True)


class Collector:
    """Collects one stream. One thread at a time calls `step`, again after the delay that it returned."""

    def __init__(
        self,
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
        """The first step reads the position in the state. Positions move by `clock`, waits by `runtime`.

        `ahead_limit` bounds the pages that all streams together request ahead. A receiver that is down for longer
        than `give_up_after` seconds is an error; with None, the stream waits. Backfills of the stream have the same
        `delivery_lock`.
        """
        self.stream = stream
        self.counters = Counters(liveness=Liveness(runtime.monotonic))
        self.timed_out = False
        """Whether the last request timed out: the next may hold a worker for as long."""
        self._api = api
        self._state = resources.state
        self._settings = settings
        self._clock = clock
        self._runtime = runtime
        self._pipeline = Pipeline(
            *(stream.name, resources, settings.forward, self.counters),
            now_ms=clock.now_ms,
            runtime=runtime,
            organization=stream.scope.organization,
            is_own=stream.scope == Scope(),
            give_up_after=give_up_after,
            lock=delivery_lock,
        )
        late_pages = PageCalls(self._late_pager, self._deliver, self._pipeline.leave_out)
        self.reconciler = Reconciler(
            *(stream.name, LateCalls(late_pages, self._count), resources.state, settings, self.counters, runtime)
        )
        ahead = PagesAhead(self._fetch, ahead_limit, runtime=runtime)
        pages = late_pages._replace(pager=partial(Pager, fetch=ahead.page, ask=ahead.ask))
        self.poller = Poller(
            stream.name,
            PollCalls(
                pages,
                ahead,
                self._probe,
                self.reconciler.start_over,
                done=self._prune,
                kept_from=self._kept_from,
            ),
            settings.jumpcloud,
            self.counters,
            first_position(settings, clock.now_ms()),
            clock=clock,
            runtime=runtime,
        )
        self.catch_up = CatchUp(stream.name, self._count_all, runtime.monotonic)
        """How far it has come, while it is behind."""
        self.is_well = False
        """After the last step: it has caught up, nothing fails, and nothing of it needs attention."""
        self.reached_ms = 0
        """After the last step: all events before this moment are delivered, in epoch milliseconds."""
        self._said_caught_up = False
        self._created_at = self._pruned_at = runtime.monotonic()
        self._loaded = self._begun = False
        self._has_origin = False  # on disk, that of `position`
        self._polled_last = False
        self._late_at = float("-inf")  # when late events had their last turn, on the monotonic clock
        self._unexpected = {False: 0, True: 0}  # in a row, of polls and of late turns

    @property
    def name(self) -> str:
        """What the log calls it."""
        return self.stream.name

    @property
    def position(self) -> Position:
        """How far the stream has come."""
        return self.poller.position

    @property
    def error(self) -> InJumpCloudError | None:
        """Why the last poll failed; `reconciler.error` is the same for late events."""
        return self.poller.error

    @property
    def max_silence_seconds(self) -> float:
        """The longest time between two signs of liveness while the stream works or waits as intended."""
        return self._api.max_request_seconds + self._pipeline.max_silence_seconds + MAX_DELAY

    def look_for_parked(self) -> None:
        """A backfill that has ended may have left parked records to this stream. Safe in any thread."""
        self._pipeline.look_for_parked()

    @property
    def caught_up(self) -> bool:
        """Whether nothing is left to do, late events included."""
        return self._begun and self.error is None and self.reconciler.is_idle and self._until_due() > 0

    @property
    def is_behind(self) -> bool:
        """Whether the stream is far from now, as in a backfill."""
        return self._begun and self._clock.now_ms() - self.position.watermark_ms > HOUR_MS

    def step(self, stop: threading.Event) -> float:
        """Do one thing: deliver a page of a poll, or give late events a turn.

        An error is logged and kept in `error`, or in `reconciler.error`. No exception but those below leaves here.

        Returns:
            Seconds until the next step is due.

        Raises:
            StateCorrupt: the process must end.
            Stopped: `stop` was set. The state has the position.
        """
        liveness, delay = self.counters.liveness, 0.0
        self.counters.poll_gap = self._settings.jumpcloud.interval + liveness.begin()
        try:
            delay = self._step(stop)
        finally:
            liveness.idle(delay)
        self._note_caught_up()
        self._note_well()
        return delay

    def _note_well(self) -> None:
        """Keep in two values what monitoring would have to find out of thousands of streams at once."""
        position, late = self.position, self.reconciler
        self.reached_ms = position.reached_ms
        is_fine = self.error is None and late.error is None and not self.counters.needs_attention
        is_compared = late.lag_ms(position) <= MAX_COMPARED_LAG * 1000
        self.is_well = is_fine and is_compared and self.counters.liveness.caught_up_once

    def _note_caught_up(self) -> None:
        """Log it at the start, and after each backlog."""
        if not self.caught_up:
            return
        self.counters.liveness.caught_up_once = True
        if not self._said_caught_up:
            self._said_caught_up = True
            log.info("%s: caught up", self.stream.name)

    def _step(self, stop: threading.Event) -> float:
        is_late = self._is_late_turn()
        self._polled_last = not is_late
        try:
            if is_late:
                self._late_turn(stop)
            elif self.poller.until_due() <= 0:
                self._poll_turn(stop)
            self.timed_out = False
            self._unexpected[is_late] = 0
        except (StateCorrupt, Stopped):
            self._drop_pages()
            raise
        except InJumpCloudError as error:
            self._failed(error, is_late=is_late, is_unexpected=False)
        except Exception as error:
            # A defect must not lose the page, nor end the stream.
            self.counters.unexpected += 1
            self._unexpected[is_late] += 1
            log.exception("%s: unexpected error", self.stream.name)
            failure = Fatal(f"unexpected {type(error).__name__}", advice="see the log")
            self._failed(failure, is_late=is_late, is_unexpected=True)
        self.counters.unexpected_in_a_row = max(self._unexpected.values())
        return self._until_due()

    def _is_late_turn(self) -> bool:
        """Late events have a turn where they are due: every second one of a stream whose polls are always due.

        A backfill gives them such turns every reconcile.every: more would cost it requests, and find little.
        """
        if not self._begun or self.reconciler.until_due(self.position, self._clock.now_ms()) > 0:
            return False
        if self.poller.until_due() > 0:
            return True
        since = self._runtime.monotonic() - self._late_at
        if self.poller.is_backfilling and self.reconciler.is_idle and since < self._settings.reconcile.every:
            return False
        return self._polled_last

    def _until_due(self) -> float:
        until_poll = self.poller.until_due()
        if not self._begun:
            return until_poll
        return min(until_poll, self.reconciler.until_due(self.position, self._clock.now_ms()))

    def _failed(self, error: InJumpCloudError, *, is_late: bool, is_unexpected: bool) -> None:
        """Drop the pages at hand, and set the time of the next try. Late events that fail cost the polls no page."""
        if is_unexpected:
            self._drop_pages()
        self.timed_out = isinstance(error, RequestTimeout)
        level = logging.WARNING if isinstance(error, Retryable | StateUnavailable) else logging.ERROR
        if is_late:
            delay = self.reconciler.failed(error, self.position, self._clock.now_ms())
            log.log(level, "%s: late events: %s; retrying in %.0f s", self.stream.name, error, delay)
            return
        delay = self.poller.failed(error, is_temporary=is_unexpected)
        log.log(level, "%s: %s; retrying in %.0f s", self.stream.name, error, delay)
        self._state.record_error(self.stream.name, str(error), self._clock.now_ms())

    def _drop_pages(self) -> None:
        self.poller.reset()
        self.reconciler.reset()

    def _late_turn(self, stop: threading.Event) -> None:
        self._late_at = self._runtime.monotonic()
        try:
            self.reconciler.step(self.position, self._clock.now_ms(), stop)
        except NotLicensed as error:
            self.reconciler.plan_found(self.poller.find_plan(0, error, stop))

    def _poll_turn(self, stop: threading.Event) -> None:
        if not self._loaded:
            self._load()
        if self.position.provisional:
            self._settle_origin()
        if self._clock.confirmed:
            if not self._begun:
                self._begin()
            recovered = self.poller.step(stop)
            self.reconciler.plan_ms = self.poller.plan.ms
            self._note_progress(stop)
        else:
            self._ask_time(stop)
            recovered = self.poller.succeeded()
        if recovered:
            log.info("%s: recovered", self.stream.name)
            self._state.record_error(self.stream.name, None, self._clock.now_ms())

    def _note_progress(self, stop: threading.Event) -> None:
        if self.is_behind:
            self._said_caught_up = False
            until_ms = self._clock.now_ms() - self._settings.jumpcloud.lag.ms
            self.catch_up.note(self.position.reached_ms, until_ms, self.counters.received, stop)
        else:
            self.catch_up.end()

    def _load(self) -> None:
        """Resume at the position in the state. That of a new stream is stored at once: "now" must not move."""
        position = self._state.position(self.stream.name)
        if position is None:
            self._state.begin({self.stream.name: self.position}, self._settings.jumpcloud.services)
        self.poller.position = position or self.position
        self._loaded = self._has_origin = True

    def _settle_origin(self) -> None:
        """Move the origin of a new stream back if the clock was ahead; for good once JumpCloud has answered."""
        running_ms = round((self._runtime.monotonic() - self._created_at) * 1000) - _DATE_PRECISION_MS
        start_ms = min(self._start_ms(self._clock.now_ms() - running_ms), self.position.origin_ms)
        position = Position.starting_at(start_ms, provisional=not self._clock.confirmed)
        if position == self.position:
            return
        if start_ms == self.position.origin_ms and self._has_origin:
            self._state.advance(self.stream.name, position)
        else:
            # A commit that fails may have taken effect, so the next try must not begin later; or not, so it is written.
            self.poller.position, self._has_origin = msgspec.structs.replace(position, provisional=True), False
            self._state.commit(self.stream.name, [], position)
            self._state.save_services(self.stream.name, dict.fromkeys(self._settings.jumpcloud.services, start_ms))
            self._has_origin = True
        self.poller.position = position
        if not position.provisional:
            log.info("%s: new stream, collecting from %s on", self.stream.name, rfc3339(start_ms))

    def _ask_time(self, stop: threading.Event) -> None:
        """Ask for one event, for the date of the answer: no position moves before JumpCloud has answered."""
        asked_ms = self._clock.probable_ms()
        try:
            self._probe(asked_ms - HOUR_MS, stop)
        except RequestRejected:
            # A moment in the future is refused. The refusal has a date, which is good enough to ask again.
            probable_ms = self._clock.probable_ms()
            if asked_ms - probable_ms < MINUTE_MS:
                raise
            self._probe(probable_ms - HOUR_MS, stop)

    def _start_ms(self, now_ms: int) -> int:
        return first_position(self._settings, now_ms).origin_ms

    def _begin(self) -> None:
        """Load what is known of late events: now the clock can be trusted."""
        self.reconciler.begin(self.position, self._clock.now_ms())
        self._note_services()
        self._begun = True

    def _note_services(self) -> None:
        """Keep from when on each service is polled, and log those that were added."""
        settings, name, position = self._settings.jumpcloud, self.stream.name, self.position
        window = position.window
        next_ms = window.start_ms if window else max(position.origin_ms, position.watermark_ms - settings.overlap.ms)
        before = self._state.services(name)
        since = {each: before.get(each, next_ms if before else position.origin_ms) for each in settings.services}
        if since == before:
            return
        if before:
            for service in sorted(since.keys() - before.keys()):
                log.info("%s: service %s is new, polled from %s on", name, service, rfc3339(next_ms))
            from_ms = whole_minute_from(position.newest_ms)
            self.reconciler.services_changed(from_ms, _kept(set(since), set(before)))
            log.warning(
                "%s: jumpcloud.services has changed; events from before %s that come late are no longer looked for",
                *(name, rfc3339(from_ms)),
            )
        self._state.save_services(name, since)

    def _late_pager(self, window: Window) -> Pager:
        return Pager(window, self._fetch)

    def _fetch(self, window: Window, stop: threading.Event) -> Page:
        return self._api.fetch(window, self.stream.scope, stop, backfill=self.poller.is_backfilling)

    def _probe(self, start_ms: int, stop: threading.Event) -> None:
        services = self._settings.jumpcloud.services
        window = Window(start_ms=start_ms, end_ms=start_ms + 1000, services=services, limit=1)
        self._api.fetch(window, self.stream.scope, stop)

    def _count(self, start_ms: int, end_ms: int, stop: threading.Event) -> Counts:
        services, backfill = self._settings.jumpcloud.services, self.poller.is_backfilling
        return self._api.counts(start_ms, end_ms, services, self.stream.scope, stop, backfill=backfill)

    def _count_all(self, start_ms: int, end_ms: int, stop: threading.Event) -> int:
        return self._api.count(start_ms, end_ms, self._settings.jumpcloud.services, self.stream.scope, stop)

    def _deliver(
        self, page: Page, before: Position, after: Position, span: tuple[int, int], stop: threading.Event
    ) -> Counts:
        self.counters.liveness.touch()
        self.counters.pages += 1
        self.counters.page_bytes += page.size
        return self._pipeline.deliver(page, before, after, stop, span=span)

    def _kept_from(self) -> int:
        return self._state.kept_from_ms(self.stream.name)

    def _prune(self) -> None:
        """Let go of ids that can no longer be compared or read again.

        The wall clock alone deletes nothing: the ledger moves on by at most _PRUNE_PACE times the time that passed.
        """
        passed = self._runtime.monotonic() - self._pruned_at
        if passed < _PRUNE_EVERY_SECONDS:
            return
        self._pruned_at += passed
        kept_ms = max(self._kept_from(), self.position.origin_ms)
        wanted_ms = self.reconciler.oldest_ms(self._clock.now_ms())
        before_ms = min(wanted_ms, kept_ms + round(passed * _PRUNE_PACE * 1000))
        if before_ms <= kept_ms:
            return
        try:
            removed = self._state.prune(self.stream.name, before_ms)
        except StateUnavailable as error:
            log.warning("%s: %s", self.stream.name, error)
        else:
            log.debug("%s: removed %d ids from the ledger", self.stream.name, removed)


def _kept(services: set[str], before: set[str]) -> tuple[str, ...]:
    """The services of both; `all` stands for every other."""
    for one, other in ((services, before), (before, services)):
        if "all" in one:
            return tuple(sorted(other))
    return tuple(sorted(services & before))
