"""One stream: polls window by window, delivers page by page, and gives late events their turns."""

from __future__ import annotations

import logging
import threading
from typing import NamedTuple

import msgspec

from in_jumpcloud.backoff import MAX_DELAY, backoff_delay
from in_jumpcloud.config.schema import Config
from in_jumpcloud.counters import Counters, Liveness
from in_jumpcloud.errors import (
    CursorLost,
    Fatal,
    InJumpCloudError,
    NotLicensed,
    PageTooLarge,
    RequestRejected,
    RequestTimeout,
    Retryable,
    StateCorrupt,
    StateUnavailable,
    Stopped,
)
from in_jumpcloud.insights.api import DirectoryInsights, Scope
from in_jumpcloud.insights.clock import WARN_SKEW_SECONDS, EarlierClock
from in_jumpcloud.insights.comparison import Counts, Span
from in_jumpcloud.insights.pages import Page, Pager
from in_jumpcloud.insights.window import Position, Window, plan_window
from in_jumpcloud.pipeline import Pipeline, PipelineResources
from in_jumpcloud.reconciler import LateCalls, Reconciler
from in_jumpcloud.runtime import Runtime
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, rfc3339, whole_minute

log = logging.getLogger(__name__)

REJECTED_DELAY = 300.0
"""Seconds until a request that JumpCloud rejected is repeated."""
_PRUNE_EVERY_SECONDS = 600.0
_PRUNE_PACE = 24
"""The ledger lets go of at most so many seconds of ids per second of running: a clock that jumps deletes little."""
_LICENSED_DAYS = (90, 30, 15, 7, 1)
"""How far back the plans of JumpCloud reach, in days."""
_DATE_PRECISION_MS = 2000
_PLAN_MARGIN_MS = MINUTE_MS
"""How far after the beginning of the plan a stream starts: the beginning moves on."""


class Stream(NamedTuple):
    """An organization, a provider, or the organization of the key. `name` identifies it in the state and the log."""

    name: str
    scope: Scope


class Collector:
    """Collects one stream. One thread at a time calls `step`, again after the delay that it returned."""

    def __init__(
        self,
        stream: Stream,
        api: DirectoryInsights,
        resources: PipelineResources,
        settings: Config,
        *,
        clock: EarlierClock,
        prefetch: threading.Semaphore,
        give_up_after: float | None = None,
        runtime: Runtime,
    ) -> None:
        """The first step reads the position in the state. Positions move by `clock`, waits by `runtime`.

        `prefetch` bounds the pages that all streams together fetch in advance. A receiver that is down for longer
        than `give_up_after` seconds is an error; with None, the stream waits.
        """
        self.stream = stream
        self.counters = Counters(liveness=Liveness(runtime.monotonic))
        self.error: InJumpCloudError | None = None
        """Why the last poll failed."""
        self.error_since = 0.0
        """When polls began to fail, on the monotonic clock."""
        self.failures = 0
        """Failures of the window, without those for which JumpCloud named the delay."""
        self.timed_out = False
        """Whether the last request timed out: the next may hold a worker for as long."""
        self._api = api
        self._resources = resources
        self._settings = settings
        self._prefetch = prefetch
        self._clock = clock
        self._runtime = runtime
        self._pipeline = Pipeline(
            *(stream.name, resources, settings.forward, self.counters),
            now_ms=clock.now_ms,
            runtime=runtime,
            organization=stream.scope.organization,
            give_up_after=give_up_after,
        )
        self._limit = settings.jumpcloud.page_limit
        self._window_ms = settings.jumpcloud.window.ms
        self._created_at = runtime.monotonic()
        self.position = Position.starting_at(self._start_ms(clock.now_ms()), provisional=True)
        """How far the stream has come."""
        self._loaded = False
        self.reconciler = Reconciler(
            stream.name,
            LateCalls(self._count, self._new_pager, self._deliver_late),
            *(resources.state, settings, self.counters, runtime),
        )
        self._begun = False
        self._pager: Pager | None = None
        self._delivered = self._furthest = 0  # pages of the window, now and before its last failure
        self._reached_ms: int | None = None  # the minute of the newest event that the window has delivered
        self._window_is_old = False  # its events have had their time to appear
        self._contiguous_ms: int | None = None  # a watermark behind which nothing can be late by minutes
        self._poll_at = self._retry_at = runtime.monotonic()
        self._polled_at: float | None = None
        self._polled_last = False
        self._pruned_at = runtime.monotonic()

    @property
    def max_silence_seconds(self) -> float:
        """The longest time between two signs of liveness while the stream works or waits as intended."""
        return self._api.max_request_seconds + self._pipeline.max_silence_seconds + MAX_DELAY

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
        liveness.begin()
        try:
            delay = self._step(stop)
        finally:
            liveness.idle(delay)
        liveness.caught_up_once |= self.caught_up
        return delay

    def _step(self, stop: threading.Event) -> float:
        is_late = self._is_late_turn()
        self._polled_last = not is_late
        failure: InJumpCloudError | None = None
        try:
            if is_late:
                self._late_turn(stop)
            elif self._until_poll() <= 0:
                self._poll_turn(stop)
            self.timed_out = False
            self.counters.unexpected_in_a_row = 0
        except (StateCorrupt, Stopped):
            self._drop_pages()
            raise
        except InJumpCloudError as error:
            failure = error
        except Exception as error:
            self.counters.unexpected += 1
            self.counters.unexpected_in_a_row += 1
            log.exception("%s: unexpected error", self.stream.name)
            failure = Fatal(f"{self.stream.name}: unexpected {type(error).__name__}", advice="see the log")
        if failure:
            self._failed(failure, is_late)
        return self._until_due()

    def _is_late_turn(self) -> bool:
        """Late events have a turn where they are due: every second one of a stream whose polls are always due."""
        if not self._begun or self.reconciler.until_due(self.position, self._clock.now_ms()) > 0:
            return False
        return self._polled_last or self._until_poll() > 0

    def _until_due(self) -> float:
        if not self._begun:
            return max(0.0, self._retry_at - self._runtime.monotonic())
        return min(self._until_poll(), self.reconciler.until_due(self.position, self._clock.now_ms()))

    def _until_poll(self) -> float:
        """Seconds until the next page of a poll is due."""
        at = self._retry_at if self._pager or self.position.window else max(self._retry_at, self._poll_at)
        return max(0.0, at - self._runtime.monotonic())

    def _load(self) -> None:
        """Resume at the position in the state. That of a new stream is committed at once: "now" must not move."""
        position = self._resources.state.position(self.stream.name)
        if position is None:
            self._resources.state.commit(self.stream.name, [], self.position)
        self.position = position or self.position
        self._loaded = True

    def _start_ms(self, now_ms: int) -> int:
        """Where the stream begins, if it is new: with a whole minute, since counts are compared by minutes."""
        return whole_minute(self._settings.jumpcloud.start.resolve(now_ms))

    def _begin(self) -> None:
        """Confirm the origin of a new stream, and load what is known of late events: now the clock can be trusted."""
        now_ms = self._clock.now_ms()
        if self.position.provisional:
            # A date has no fraction, and is a little older than the answer.
            running_ms = round((self._runtime.monotonic() - self._created_at) * 1000) - _DATE_PRECISION_MS
            start_ms = self._start_ms(now_ms - running_ms)
            position = Position.starting_at(min(start_ms, self.position.origin_ms))
            self._resources.state.commit(self.stream.name, [], position)
            self.position = position
            log.info("%s: new stream, collecting from %s on", self.stream.name, rfc3339(position.origin_ms))
        self.reconciler.begin(self.position, now_ms)
        self._begun = True

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

    def _probe(self, start_ms: int, stop: threading.Event) -> None:
        services = self._settings.jumpcloud.services
        self._fetch(Window(start_ms=start_ms, end_ms=start_ms + 1000, services=services, limit=1), stop)

    def _failed(self, error: InJumpCloudError, is_late: bool) -> None:
        """Reset what `error` left unfinished, and set the time of the next try."""
        self._drop_pages()
        self.timed_out = isinstance(error, RequestTimeout)
        temporary = isinstance(error, Retryable | StateUnavailable)
        level = logging.WARNING if temporary else logging.ERROR
        if is_late:
            delay = self.reconciler.failed(error, self.position, self._clock.now_ms())
            log.log(level, "%s: late events: %s; retrying in %.0f s", self.stream.name, error, delay)
            return
        now = self._runtime.monotonic()
        if self.error is None:
            self.error_since = now
        self.error = error
        self._furthest = max(self._furthest, self._delivered)
        asked = error.after if isinstance(error, Retryable) else None
        self.failures += asked is None
        if isinstance(error, PageTooLarge):
            self._limit = max(1, self._limit // 4)
        if isinstance(error, CursorLost | PageTooLarge):
            self._restart_window()
        if asked is not None:
            delay = asked
        elif temporary or self.counters.unexpected_in_a_row:
            delay = backoff_delay(self.failures, self._runtime.random)
        else:
            delay = REJECTED_DELAY
        self._retry_at = now + delay
        log.log(level, "%s: %s; retrying in %.0f s", self.stream.name, error, delay)
        self._resources.state.record_error(self.stream.name, str(error), self._clock.now_ms())

    def _drop_pages(self) -> None:
        """Forget the pages at hand: none counts as delivered before its commit."""
        self._pager = None
        self.reconciler.reset()

    def _restart_window(self) -> None:
        """Page the window from its start again. The ledger prevents duplicates."""
        self._delivered = 0
        window = self.position.window
        if window:
            window = msgspec.structs.replace(window, limit=min(window.limit, self._limit), cursor=None)
            self.position = self.position.with_window(window)

    def _late_turn(self, stop: threading.Event) -> None:
        try:
            self.reconciler.step(self.position, self._clock.now_ms(), stop)
        except NotLicensed as error:
            self.reconciler.reset()
            self.reconciler.plan_ms = self._plan_ms(0, error, stop)

    def _poll_turn(self, stop: threading.Event) -> None:
        """Deliver a page of the window at hand, or of the next one."""
        try:
            if not self._loaded:
                self._load()
            if not self._begun:
                if not self._clock.confirmed:
                    self._ask_time(stop)
                    return
                self._begin()
            if self._pager is None:
                self._pager = self._poll()
            if self._pager:
                self._deliver_page(self._pager, stop)
        except NotLicensed as error:
            if not self._begun:
                raise
            self._start_later(error, stop)
        self._polled()

    def _polled(self) -> None:
        """The window has come further than at its last failure, or is done."""
        if self.position.window and self._delivered <= self._furthest:
            return
        self.failures = self._furthest = 0
        if self.error:
            self.error = None
            log.info("%s: recovered", self.stream.name)
            self._resources.state.record_error(self.stream.name, None, self._clock.now_ms())

    def _poll(self) -> Pager | None:
        """A pager for the unfinished window, or else for the next one, which is frozen from now on."""
        settings, now_ms, now = self._settings.jumpcloud, self._clock.now_ms(), self._runtime.monotonic()
        self._correct_position(now_ms)
        overlap_ms = 0 if self._contiguous_ms == self.position.watermark_ms else settings.overlap.ms
        window = plan_window(
            self.position,
            now_ms,
            services=settings.services,
            limit=self._limit,
            length_ms=max(self._window_ms, overlap_ms + MINUTE_MS),
            overlap_ms=overlap_ms,
            lag_ms=settings.lag.ms,
        )
        if window is None or window.end_ms >= now_ms - settings.lag.ms:
            self._poll_at = now + settings.interval
            if self._polled_at is not None:
                self.counters.poll_gap = now - self._polled_at
            self._polled_at = now
        if window is None:
            return None
        if window is not self.position.window:
            self._delivered, self._reached_ms = 0, None
            self.position = self.position.with_window(window)
        self._window_is_old = window.end_ms < now_ms - settings.overlap.ms
        return self._new_pager(window)

    def _correct_position(self, now_ms: int) -> None:
        """Take back a position in the future: a clock that was ahead has moved it there."""
        position = self.position
        newest_ms = max(position.watermark_ms, position.window.end_ms if position.window else 0)
        if newest_ms <= now_ms + WARN_SKEW_SECONDS * 1000:
            return
        log.warning(
            "%s: the position %s is ahead of the clock; polling from %s on, and comparing all of reconcile.reach again",
            *(self.stream.name, rfc3339(newest_ms), rfc3339(now_ms)),
        )
        self.position = position.not_after(now_ms)
        self.reconciler.start_over(now_ms)

    def _new_pager(self, window: Window) -> Pager:
        return Pager(window, self._fetch, self._prefetch, runtime=self._runtime)

    def _fetch(self, window: Window, stop: threading.Event) -> Page:
        return self._api.fetch(window, self.stream.scope, stop)

    def _count(self, start_ms: int, end_ms: int, stop: threading.Event) -> Counts:
        return self._api.counts(start_ms, end_ms, self._settings.jumpcloud.services, self.stream.scope, stop)

    def _deliver_page(self, pager: Pager, stop: threading.Event) -> None:
        page, before, window = self._next_page(pager, stop), self.position, pager.window
        following = pager.next_window(page)
        after = before.with_window(following) if following else before.past(window)
        minutes = self._pipeline.deliver(page, before, after, stop, span=window.span)
        pager.advance(page)
        self.position = after
        self._delivered += 1
        self._reached_ms = max([minute * MINUTE_MS for minute in minutes], default=self._reached_ms)
        self._adapt_limit(page, window)
        if pager.done:
            self._window_done(window)

    def _window_done(self, window: Window) -> None:
        settings = self._settings.jumpcloud
        self._pager = None
        self._contiguous_ms = window.end_ms if self._window_is_old else None
        if self._delivered <= 1:
            self._window_ms = min(settings.window.ms, 2 * self._window_ms)
        self._delivered = 0
        self.counters.liveness.mark_progress()
        self._prune()

    def _deliver_late(self, page: Page, span: Span, stop: threading.Event) -> Counts:
        self._note_page(page)
        return self._pipeline.deliver(page, self.position, self.position, stop, span=(span.start_ms, span.end_ms))

    def _next_page(self, pager: Pager, stop: threading.Event) -> Page:
        page = pager.page(stop)
        self._note_page(page)
        return page

    def _note_page(self, page: Page) -> None:
        self.counters.liveness.touch()
        self.counters.pages += 1
        self.counters.page_bytes += page.size

    def _start_later(self, refusal: NotLicensed, stop: threading.Event) -> None:
        """Move the position to where the plan begins, if it does not reach back to the window. Log the gap.

        The beginning of the plan moves on while old windows are paged, so these are of a page's size from now on.

        Raises:
            NotLicensed: no later start helps: Directory Insights is not enabled.
        """
        self._drop_pages()
        window = self.position.window
        wanted_ms = window.start_ms if window else self.position.watermark_ms
        plan_ms = self._plan_ms(wanted_ms, refusal, stop)
        limit_ms = self._clock.now_ms() - plan_ms + _PLAN_MARGIN_MS
        reached_ms = self._reached_ms or wanted_ms
        if limit_ms > reached_ms:
            log.warning(
                "%s: %s. The plan reaches back to %s: events from %s on are not available",
                *(self.stream.name, refusal, rfc3339(limit_ms), rfc3339(reached_ms)),
            )
            self.counters.unavailable_seconds += (limit_ms - reached_ms) / 1000
        covered_ms = reached_ms - wanted_ms
        self._window_ms = max(MINUTE_MS, min(covered_ms or self._window_ms // 2, self._window_ms // 2))
        self.position = Position.starting_at(max(limit_ms, reached_ms))
        self.reconciler.plan_ms = plan_ms

    def _plan_ms(self, wanted_ms: int, refusal: NotLicensed, stop: threading.Event) -> int:
        """How far back the plan reaches, found by requests for one event; it ends after `wanted_ms`."""
        for days in _LICENSED_DAYS:
            start_ms = self._clock.now_ms() - days * DAY_MS + _PLAN_MARGIN_MS
            if start_ms <= wanted_ms:
                continue
            self.counters.liveness.touch()
            try:
                self._probe(start_ms, stop)
            except NotLicensed:
                continue
            return days * DAY_MS
        raise refusal

    def _adapt_limit(self, page: Page, window: Window) -> None:
        """Request fewer events a page after a page that was too large, and more after a full page that was small."""
        settings = self._settings.jumpcloud
        if page.size > settings.page_bytes:
            self._limit = max(1, window.limit * settings.page_bytes // page.size)
        elif page.cursor is not None and page.size < settings.page_bytes // 4:  # the last page may be small anyway
            self._limit = min(settings.page_limit, max(self._limit, window.limit * 2))

    def _prune(self) -> None:
        """Let go of ids that can no longer be compared or read again.

        The wall clock alone deletes nothing: the ledger moves on by at most _PRUNE_PACE times the time that passed.
        """
        passed = self._runtime.monotonic() - self._pruned_at
        if passed < _PRUNE_EVERY_SECONDS:
            return
        self._pruned_at += passed
        state, name = self._resources.state, self.stream.name
        kept_ms = state.kept_from_ms(name)
        wanted_ms = self.reconciler.oldest_ms(self._clock.now_ms())
        before_ms = min(wanted_ms, kept_ms + round(passed * _PRUNE_PACE * 1000))
        if before_ms <= kept_ms:
            return
        try:
            removed = state.prune(name, before_ms)
        except StateUnavailable as error:
            log.warning("%s: %s", name, error)
        else:
            log.debug("%s: removed %d ids from the ledger", name, removed)
