"""The polls of one stream: window by window, page by page, up to now.

Each call of `step` delivers at most one page. The position moves after the commit only.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from in_jumpcloud.backoff import backoff_delay
from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.counters import Counters
from in_jumpcloud.errors import (
    CursorLost,
    InJumpCloudError,
    NotLicensed,
    PageTooLarge,
    RequestTimeout,
    Retryable,
    StateUnavailable,
)
from in_jumpcloud.insights.clock import WARN_SKEW_SECONDS, EarlierClock
from in_jumpcloud.insights.event import parse_event
from in_jumpcloud.insights.page_limit import PageLimit
from in_jumpcloud.insights.pages import Page, PageCalls, Pager, behind
from in_jumpcloud.insights.pages_ahead import PagesAhead
from in_jumpcloud.insights.window import Position, Window, WindowLength, plan_ahead, plan_window
from in_jumpcloud.plan_reach import PlanReach
from in_jumpcloud.runtime import Runtime
from in_jumpcloud.timestamps import HOUR_MS, MINUTE_MS, rfc3339

log = logging.getLogger(__name__)

REJECTED_DELAY = 300.0
"""Seconds until a request that JumpCloud rejected is repeated."""
_NEWEST_SECONDS = 5.0
"""How soon, at least, the end of a span is requested that is not over yet, by the clock of JumpCloud."""
_FULL_EVENTS = 100
"""A first page of at least so many events, which fill half of it, shows how dense the events after its first are."""


class PollCalls(NamedTuple):
    """What a poller asks of its stream.

    `ahead` has the pages that are requested before they are needed. `probe` requests one event from a moment on, in
    epoch milliseconds. `start_over` has everything within reach compared again. `done` is called after each completed
    window. `kept_from` returns from when on the ledger has all ids, in epoch milliseconds.
    """

    pages: PageCalls
    ahead: PagesAhead
    probe: Callable[[int, threading.Event], None]
    start_over: Callable[[int], None]
    done: Callable[[], None]
    kept_from: Callable[[], int]


class Poller:
    """Polls one stream. One thread at a time uses it."""

    def __init__(
        self,
        stream: str,
        calls: PollCalls,
        settings: JumpCloudSettings,
        counters: Counters,
        position: Position,
        *,
        clock: EarlierClock,
        runtime: Runtime,
        until_ms: int | None = None,
    ) -> None:
        """`until_ms` is where the last window ends, in epoch milliseconds; None: windows follow the clock."""
        self.position = position
        """How far the stream has come."""
        self.error: InJumpCloudError | None = None
        """Why the last poll failed; None once its window has come further."""
        self.error_since = 0.0
        """When polls began to fail, on the monotonic clock."""
        self.failures = 0
        """Failures of the window, without those for which JumpCloud named the delay."""
        self.is_backfilling = False
        """Whether the window ends so far before now that more windows follow it."""
        self.plan = PlanReach(clock, runtime)
        self._stream = stream
        self._calls = calls
        self._settings = settings
        self._counters = counters
        self._clock = clock
        self._runtime = runtime
        self._until_ms = until_ms
        self._limit = PageLimit(settings.page_limit, settings.page_bytes)
        self._length = WindowLength(settings.window.ms)
        self._pager: Pager | None = None
        self._planned: list[Window] = []  # those after the window, whose first pages are requested
        self._delivered = self._furthest = 0  # pages of the window, now and before its last failure
        self._page_ms: int | None = None  # the minute of the oldest event on the last page of the window
        self._stepped_over = False  # an event too large to hold
        self._stepped_ms: int | None = None  # the minute of the first page behind it
        self._reached_ms: int | None = None  # the minute of the newest event that the window has delivered
        self._window_is_old = False  # its events have had their time to appear
        self._contiguous_ms: int | None = None  # a watermark after which no event can be minutes late
        self._poll_at = self._retry_at = runtime.monotonic()
        self._interval = float(settings.interval)  # longer while there are no new events
        self._mapped = 0  # new events at the last look

    def until_due(self) -> float:
        """Seconds until the next page is due."""
        at = self._retry_at if self._pager or self.position.window else max(self._retry_at, self._poll_at)
        return max(0.0, at - self._runtime.monotonic())

    def step(self, stop: threading.Event) -> bool:
        """Deliver a page of the window at hand, or of the next one.

        Returns:
            Whether the polls have recovered from an error.

        Raises:
            InJumpCloudError: as DirectoryInsights and Pipeline; call `failed` with it.
            Stopped: `stop` was set.
        """
        try:
            if self._pager is None:
                self._pager = self._plan(stop)
            if self._pager:
                self._deliver_page(self._pager, stop)
        except NotLicensed as error:
            self.start_later(error, stop)
        except PageTooLarge as error:
            self._step_over(error, stop)
        return self.succeeded()

    def succeeded(self) -> bool:
        """Note a success, unless the window has not come further than at its last failure."""
        if self.position.window and self._delivered <= self._furthest:
            return False
        self.failures = self._furthest = 0
        recovered, self.error = self.error is not None, None
        return recovered

    def failed(self, error: InJumpCloudError, *, is_temporary: bool) -> float:
        """Reset what `error` left unfinished; returns the seconds until the next try."""
        self.reset()
        now = self._runtime.monotonic()
        if self.error is None:
            self.error_since = now
        self.error = error.kept()
        self._furthest = max(self._furthest, self._delivered)
        asked = error.after if isinstance(error, Retryable) else None
        if isinstance(error, PageTooLarge) and self._limit.too_large():
            asked = 0.0  # it is our limit, so a smaller page needs no pause
        self.failures += asked is None
        if isinstance(error, CursorLost | PageTooLarge) or (
            isinstance(error, RequestTimeout) and self._limit.too_slow()
        ):
            self._restart_window(at_page=not isinstance(error, CursorLost))
        if asked is not None:
            delay = asked
        elif is_temporary or isinstance(error, Retryable | StateUnavailable):
            delay = backoff_delay(self.failures, self._runtime.random)
        else:
            delay = REJECTED_DELAY
        self._retry_at = now + delay
        return delay

    def reset(self) -> None:
        """Drop the pages at hand, and those requested ahead: none counts as delivered before its commit."""
        self._pager = None
        self._planned.clear()
        self._calls.ahead.drop()

    def find_plan(self, wanted_ms: int, refusal: NotLicensed, stop: threading.Event) -> int:
        """As PlanReach.find."""

        def probe(start_ms: int) -> None:
            self._counters.liveness.touch()
            self._calls.probe(start_ms, stop)

        return self.plan.find(wanted_ms, refusal, probe)

    def _restart_window(self, *, at_page: bool) -> None:
        """Page the window from its start again, or from the last page on. The ledger prevents duplicates."""
        self._delivered = 0
        window = self.position.window
        if window:
            start_ms = max(window.start_ms, self._page_ms or 0) if at_page else window.start_ms
            limit = min(window.limit, self._limit.events)
            window = msgspec.structs.replace(window, start_ms=start_ms, limit=limit, cursor=None)
            self.position = self.position.with_window(window)

    def _plan(self, stop: threading.Event) -> Pager | None:
        """A pager for the unfinished window, or else for the next one, which is frozen from now on."""
        settings, now_ms, now = self._settings, self._clock.now_ms(), self._runtime.monotonic()
        if self._is_before_ledger(now_ms):
            self._poll_at = self._retry_at = now + self._pause()
            if now_ms < self.position.watermark_ms:  # the clock is behind; else only jumpcloud.lag is long
                # Only answers can show that JumpCloud's dates, or this machine's clock, are right again.
                self._calls.probe(min(self.position.watermark_ms, self._runtime.now_ms()) - HOUR_MS, stop)
            return None
        self._correct_position(now_ms)
        now_ms = self._up_to(now_ms)
        window = self._next_window(now_ms)
        if window is None or window.end_ms >= now_ms - settings.lag.ms:
            self._poll_at = now + self._pause()
        self.is_backfilling = window is not None and window.end_ms < self._settled_ms(now_ms)
        if window is None:
            return None
        if window is not self.position.window:
            self._delivered, self._reached_ms, self._page_ms = 0, None, None
            self._stepped_over = False
            self.position = self.position.with_window(window)
        return self._calls.pages.pager(window)

    def _pause(self) -> float:
        """Seconds until the next window is requested."""
        if self._until_ms is None:
            return self._next_interval()
        until_over = (self._until_ms - self._settled_ms(self._clock.now_ms())) / 1000
        return min(self._settings.interval, max(_NEWEST_SECONDS, until_over))

    def _next_interval(self) -> float:
        """Seconds to the next poll: twice as long as before without new events, up to jumpcloud.interval_max."""
        is_idle = self._counters.mapped == self._mapped
        longer = min(2 * self._interval, self._settings.longest_interval)
        self._interval = longer if is_idle else float(self._settings.interval)
        self._mapped = self._counters.mapped
        return self._interval

    def _up_to(self, now_ms: int) -> int:
        """The moment that windows follow: now, but no later than the end of the last window needs."""
        return now_ms if self._until_ms is None else min(now_ms, self._until_ms + self._settings.lag.ms)

    def _settled_ms(self, now_ms: int) -> int:
        """The moment before which no poll is repeated: windows that end before it are contiguous."""
        return now_ms - self._settings.lag.ms - self._settings.overlap.ms

    def _next_window(self, now_ms: int) -> Window | None:
        """The unfinished window, the one that was planned to follow the last, or a new one."""
        settings, position = self._settings, self.position
        if self._planned and not position.window:
            window = self._planned.pop(0)
            if window.start_ms == position.watermark_ms and window.end_ms <= self._settled_ms(now_ms):
                return window
            self.reset()
        overlap_ms = 0 if self._contiguous_ms == position.watermark_ms else settings.overlap.ms
        planned = plan_window(
            position,
            now_ms,
            services=settings.services,
            limit=self._limit.events,
            length_ms=max(self._length.ms(self._limit.events), overlap_ms + MINUTE_MS),
            overlap_ms=overlap_ms,
            lag_ms=settings.lag.ms,
        )
        if planned and planned.cursor is None:  # else it was requested earlier
            self._window_is_old = planned.end_ms < now_ms - settings.overlap.ms
        return planned

    def _ask_ahead(self, window: Window, pages: int, *, is_there: bool) -> None:
        """Request the first pages of the `pages` windows after `window`, which is old.

        Before them the page at its cursor is requested, unless it `is_there`. Near now nothing is requested ahead: a
        poll there is repeated, because events still appear.
        """
        if not (self._window_is_old and self._length.is_known):
            return
        limit, until_ms = self._limit.events, self._settled_ms(self._up_to(self._clock.now_ms()))
        while len(self._planned) < pages:
            last = self._planned[-1] if self._planned else window
            following = plan_ahead(last, limit=limit, length_ms=self._length.ms(limit), until_ms=until_ms)
            if following is None or not (
                (is_there or self._calls.ahead.ask(window)) and self._calls.ahead.ask(following)
            ):
                return
            self._planned.append(following)

    def _is_before_ledger(self, now_ms: int) -> bool:
        """Whether the clock is so far behind the position that it would be polled where ids are forgotten already."""
        settings = self._settings
        start_ms = now_ms - settings.lag.ms - settings.overlap.ms
        return start_ms < self.position.watermark_ms - settings.overlap.ms and start_ms < self._calls.kept_from()

    def _correct_position(self, now_ms: int) -> None:
        """Take back a position in the future: a clock that was ahead has moved it there."""
        position = self.position
        if position.newest_ms <= now_ms + WARN_SKEW_SECONDS * 1000:
            return
        log.warning(
            "%s: the position %s is ahead of the clock; polling from %s on, and comparing all of reconcile.reach again",
            *(self._stream, rfc3339(position.newest_ms), rfc3339(now_ms)),
        )
        self._calls.start_over(now_ms)  # first: a stop in between must not leave only the position corrected
        self.position = position.not_after(now_ms)

    def _deliver_page(self, pager: Pager, stop: threading.Event) -> None:
        before, window, ahead = self.position, pager.window, self._settings.pages_ahead
        self._ask_ahead(window, ahead, is_there=False)
        page = pager.page(stop)
        following = pager.next_window(page)
        self._limit.note(page, window)
        self._length.note(len(page.events), _span_ms(page, window, following))
        # The next page is under way while this one is mapped, and so are those ahead of it.
        self._ask_ahead(window, ahead if following else ahead + 1, is_there=True)
        after = before.with_window(following) if following else before.past(window)
        minutes = self._calls.pages.deliver(page, before, after, window.span, stop)
        pager.advance(page)
        self.position = after
        if self._counters.mapped != self._mapped:
            self._poll_at = min(self._poll_at, self._runtime.monotonic() + self._settings.interval)
        self._delivered += 1
        moments = [minute * MINUTE_MS for minute in minutes]
        self._reached_ms = max(moments, default=self._reached_ms)
        self._page_ms = min((ms for ms in moments if window.start_ms <= ms < window.end_ms), default=self._page_ms)
        if pager.done:
            self._pager = None
            self._contiguous_ms = window.end_ms if self._window_is_old else None
            self.plan.reached()
            self._counters.liveness.mark_progress()
            self._calls.done()
        elif self._stepped_over:
            self._widen(window)

    def _step_over(self, error: PageTooLarge, stop: threading.Event) -> None:
        """Continue behind an event that is too large to hold, and report its place.

        Raises:
            PageTooLarge: the page has several events, or no cursor.
        """
        window = self.position.window
        following = behind(window, error) if window else None
        if window is None or following is None:
            raise error
        self.reset()
        after = self.position.with_window(following)
        self._calls.pages.leave_out(window, error, after, stop)
        self.position = after
        self._delivered += 1
        self._stepped_over, self._stepped_ms = True, None

    def _widen(self, window: Window) -> None:
        """Behind an event that was stepped over, and behind its minute, request whole pages again."""
        if self._stepped_ms is None or self._page_ms is None:
            self._stepped_ms = self._page_ms
        elif self._page_ms > self._stepped_ms:
            self.reset()
            self._stepped_over = False
            self._limit.reset()
            window = msgspec.structs.replace(window, start_ms=self._page_ms, limit=self._limit.events, cursor=None)
            self.position = self.position.with_window(window)

    def start_later(self, refusal: NotLicensed, stop: threading.Event) -> None:
        """Move the position to where the plan begins, if it does not reach back to the window. Log the gap.

        The beginning of the plan moves on, and may do so while a window is paged: most windows have one page.

        Raises:
            NotLicensed: no later start helps.
        """
        self.reset()
        window = self.position.window
        wanted_ms = window.start_ms if window else self.position.watermark_ms
        limit_ms = self._clock.now_ms() - self.find_plan(wanted_ms, refusal, stop) + self.plan.margin_ms()
        reached_ms = self._reached_ms or wanted_ms
        if limit_ms > reached_ms:
            log.warning(
                "%s: %s. The plan reaches back to %s: events from %s on are not available",
                *(self._stream, refusal, rfc3339(limit_ms), rfc3339(reached_ms)),
            )
            self._counters.unavailable_seconds += (limit_ms - reached_ms) / 1000
        # The origin stays: if the plan reaches further again, the comparisons find what is skipped now.
        watermark_ms = max(limit_ms, reached_ms)
        self.position = msgspec.structs.replace(self.position, watermark_ms=watermark_ms, window=None)


def _span_ms(page: Page, window: Window, following: Window | None) -> int:
    """The time of the events of a page, in milliseconds. What is before the first event of all says nothing."""
    start_ms, end_ms = window.reached_ms, following.reached_ms if following else window.end_ms
    if window.cursor is None and len(page.events) >= max(_FULL_EVENTS, window.limit // 2):
        first_ns = parse_event(page.events[0]).time_ns or 0
        start_ms = max(start_ms, min(first_ns // 10**6, end_ms))
    return end_ms - start_ms
