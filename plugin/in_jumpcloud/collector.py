"""One stream: window → pages → delivery; and, now and then, what came late."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from in_jumpcloud.backoff import backoff_delay
from in_jumpcloud.config.schema import Config
from in_jumpcloud.counters import Counters
from in_jumpcloud.errors import (
    ConfigError,
    CountsUnavailable,
    CursorLost,
    InJumpCloudError,
    NotLicensed,
    PageTooLarge,
    Retryable,
    StateUnavailable,
    Stopped,
)
from in_jumpcloud.insights.api import DirectoryInsights, Scope
from in_jumpcloud.insights.pages import Page, Pager
from in_jumpcloud.insights.window import Position, Window, plan_window
from in_jumpcloud.pipeline import Pipeline, PipelineResources
from in_jumpcloud.reconciler import CountMismatches, spans
from in_jumpcloud.timestamps import MINUTE_MS, rfc3339

log = logging.getLogger(__name__)

REJECTED_DELAY = 300.0
"""Seconds until JumpCloud is asked again what it refused: neither a fast retry nor a stop for good."""
_PRUNE_EVERY_MS = 600_000
_WITHOUT_COUNTS_EVERY_MS = 6 * 3_600_000
_DAY_MS = 86_400_000
_LICENSED_DAYS = (90, 30, 15, 7, 1)
"""How far back JumpCloud's plans reach."""


class Stream(NamedTuple):
    """Whose events: `name` is how the state and the log call it, `scope` how JumpCloud does."""

    name: str
    scope: Scope


class Collector:
    """Drives one stream. `step` is called by one thread at a time, again and again, after the seconds it returned."""

    def __init__(
        self,
        stream: Stream,
        api: DirectoryInsights,
        resources: PipelineResources,
        settings: Config,
        *,
        ahead: threading.Semaphore,
        give_up_after: float | None = None,
        now_ms: Callable[[], int],
    ) -> None:
        """Take the stream up where the state has it. `now_ms` is the clock, in epoch milliseconds.

        `ahead` bounds the pages that all streams together fetch ahead. `give_up_after`: seconds after which a receiver
        that is down is an error; None: never.
        """
        self.stream = stream
        self.counters = Counters()
        self.caught_up = False
        """Whether it had come up to now, late events included, at the end of the last step."""
        self.error: InJumpCloudError | None = None
        self.failures = 0
        """Tries in a row that failed, without those that JumpCloud asked to put off."""
        self._api = api
        self._resources = resources
        self._settings = settings
        self._ahead = ahead
        self._now_ms = now_ms
        self._delivery = Pipeline(
            stream.name,
            resources,
            settings.forward,
            self.counters,
            now_ms=now_ms,
            organization=stream.scope.organization,
            give_up_after=give_up_after,
        )
        self._limit = settings.jumpcloud.page_limit
        self._position = resources.state.position(stream.name) or self._begin()
        self._pager: Pager | None = None
        self._next_poll_ms = 0
        self._again: deque[Window] = deque()
        """Spans to read again, because events came late to them."""
        self._pager_again: Pager | None = None
        self._disagreements = CountMismatches()
        self._next_comparison_ms = 0
        self._next_without_counts_ms = 0
        self._pruned_ms = 0

    @property
    def position(self) -> Position:
        """How far the stream has come."""
        return self._position

    def step(self, stop: threading.Event) -> float:
        """Deliver one page, if there is one; the seconds until the next step is due.

        What goes wrong is told in the log and kept in `error`.

        Raises:
            ConfigError: the state is damaged, or a path of the configuration is of no use any more.
            Stopped: `stop` was set; nothing is lost, the state has the position.
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
        try:
            try:
                self._advance(stop)
            except NotLicensed as error:
                self._begin_later(error, stop)
        except (ConfigError, Stopped):
            raise
        except InJumpCloudError as error:
            return self._after(error)
        if self.error:
            log.info("%s: goes on", self.stream.name)
            self._resources.state.record_error(self.stream.name, None, self._now_ms())
        self.error = None
        self.failures = 0
        wait_ms = min(self._until_poll_ms(), self._until_comparison_ms())
        self.caught_up = not (self._position.window or self._again) and wait_ms > 0
        return wait_ms / 1000 if self.caught_up else 0.0

    def _until_poll_ms(self) -> int:
        return _until(self._next_poll_ms, self._now_ms(), self._settings.jumpcloud.interval.ms)

    def _until_comparison_ms(self) -> int:
        return _until(self._next_comparison_ms, self._now_ms(), self._settings.reconcile.every.ms)

    def _begin(self) -> Position:
        start_ms = self._settings.jumpcloud.start.resolve(self._now_ms())
        log.info("%s: a new stream; begins at %s", self.stream.name, rfc3339(start_ms))
        position = Position.starting_at(start_ms)
        # Written down at once: "now" must not move on while the first request fails.
        self._resources.state.commit(self.stream.name, [], position)
        return position

    def _after(self, error: InJumpCloudError) -> float:
        """Get ready for the next try after `error`; the seconds until it is due."""
        if self.error is None or str(self.error) != str(error):
            self._resources.state.record_error(self.stream.name, str(error), self._now_ms())
        self.error = error
        asked_to_wait = isinstance(error, Retryable) and error.after is not None
        self.failures += not asked_to_wait
        self.caught_up = False
        self._pager = self._pager_again = None
        if isinstance(error, PageTooLarge):
            self._limit = max(1, self._limit // 4)
        if isinstance(error, CursorLost | PageTooLarge):
            self._restart_window()
        passing = isinstance(error, Retryable | StateUnavailable)
        if isinstance(error, Retryable) and error.after is not None:
            delay = error.after
        elif passing:
            delay = backoff_delay(self.failures)
        else:
            delay = REJECTED_DELAY
            self._again.clear()
            self._disagreements.forget()
        log.log(
            logging.WARNING if passing else logging.ERROR, "%s: %s; next try in %.0f s", self.stream.name, error, delay
        )
        return delay

    def _restart_window(self) -> None:
        """What was under way begins at its window's start again; the ledger keeps it from being doubled."""
        self._again = deque(msgspec.structs.replace(each, limit=self._limit) for each in self._again)
        window = self._position.window
        if window:
            window = msgspec.structs.replace(window, limit=min(window.limit, self._limit), cursor=None)
            self._position = self._position.with_window(window)

    def _advance(self, stop: threading.Event) -> None:
        """One page: of the window under way, else of the next poll, else of what came late."""
        if self._pager is None and (self._position.window or not self._until_poll_ms()):
            self._pager = self._poll()
        if self._pager:
            self._deliver_page(self._pager, stop)
        elif self._again:
            self._deliver_page_again(stop)
        elif not self._until_comparison_ms():
            self._compare(stop)

    def _poll(self) -> Pager | None:
        """Page the window under way, or else the next one, which is frozen from here on."""
        settings, now_ms = self._settings.jumpcloud, self._now_ms()
        window = plan_window(
            self._position,
            now_ms,
            services=settings.services,
            limit=self._limit,
            length_ms=settings.window.ms,
            overlap_ms=settings.overlap.ms,
            lag_ms=settings.lag.ms,
        )
        if window is None or window.end_ms >= now_ms - settings.lag.ms:
            self._next_poll_ms = now_ms + settings.interval.ms
        if window is None:
            return None
        self._position = self._position.with_window(window)
        return Pager(window, self._fetch, self._ahead)

    def _fetch(self, window: Window, stop: threading.Event) -> Page:
        return self._api.fetch(window, self.stream.scope, stop)

    def _deliver_page(self, pager: Pager, stop: threading.Event) -> None:
        page, before = self._page(pager, stop), self._position
        pager.advance(page)
        after = before.past(pager.window) if pager.done else before.with_window(pager.window)
        self._delivery.deliver(page, before, after, stop)
        self._position = after
        self._bound_pages(page, pager.window)
        if pager.done:
            self._pager = None
            self._prune()

    def _deliver_page_again(self, stop: threading.Event) -> None:
        if self._pager_again is None:
            self._pager_again = Pager(self._again[0], self._fetch, self._ahead)
        page = self._page(self._pager_again, stop)
        self._pager_again.advance(page)
        self._delivery.deliver(page, self._position, self._position, stop)
        if self._pager_again.done:
            self._pager_again = None
            self._again.popleft()

    def _page(self, pager: Pager, stop: threading.Event) -> Page:
        page = pager.page(stop)
        self.counters.liveness.touch()
        self.counters.pages += 1
        self.counters.page_bytes += page.size
        return page

    def _compare(self, stop: threading.Event) -> None:
        """Find the minutes of which JumpCloud by now has other counts than the ledger, and have them read again.

        The newest span is left to the polls, which still go over it; what lies before the stream's beginning is not
        its own.
        """
        now_ms, settings = self._now_ms(), self._settings
        self._next_comparison_ms = now_ms + settings.reconcile.every.ms
        start = -(-max(self._position.origin_ms, now_ms - settings.reconcile.window.ms) // MINUTE_MS)
        end = (self._position.watermark_ms - settings.jumpcloud.overlap.ms) // MINUTE_MS
        if start >= end:
            return
        services = settings.jumpcloud.services
        try:
            theirs = self._api.counts(start * MINUTE_MS, end * MINUTE_MS, services, self.stream.scope, stop)
        except CountsUnavailable as error:
            if now_ms < self._next_without_counts_ms:
                return
            self._next_without_counts_ms = now_ms + _WITHOUT_COUNTS_EVERY_MS
            log.warning("%s: %s; the whole of reconcile.window is read again", self.stream.name, error)
            found = [(start * MINUTE_MS, end * MINUTE_MS)]
        else:
            ours = self._resources.state.counts(self.stream.name, start, end)
            found = spans(self._disagreements.minutes(theirs, ours))
            if found:
                log.info("%s: JumpCloud has other counts than the ledger in %d spans", self.stream.name, len(found))
        self._again.extend(
            Window(start_ms=start_ms, end_ms=end_ms, services=services, limit=self._limit) for start_ms, end_ms in found
        )

    def _begin_later(self, refusal: NotLicensed, stop: threading.Event) -> None:
        """Where the plan reaches back less far than the window, go on where it begins. The gap is told, loudly.

        Raises:
            NotLicensed: no later start helps: Directory Insights is not enabled at all.
        """
        now_ms, asked_ms = self._now_ms(), self._asked_from_ms()
        for days in _LICENSED_DAYS:
            start_ms = now_ms - days * _DAY_MS + MINUTE_MS
            if start_ms <= asked_ms:
                continue
            services = self._settings.jumpcloud.services
            try:
                self._fetch(Window(start_ms=start_ms, end_ms=start_ms + 1000, services=services, limit=1), stop)
            except NotLicensed:
                continue
            log.warning(
                "%s: %s. It is asked from %s on, which the plan allows; what is older than that, from %s on, is not "
                "to be had",
                *(self.stream.name, refusal, rfc3339(start_ms), rfc3339(asked_ms)),
            )
            self._pager = None
            self._position = Position.starting_at(start_ms)
            return
        raise refusal

    def _asked_from_ms(self) -> int:
        window = self._position.window
        return window.start_ms if window else self._position.watermark_ms

    def _bound_pages(self, page: Page, window: Window) -> None:
        """Ask the next window for fewer events where pages were too large, for more again where full ones are small."""
        most = self._settings.jumpcloud
        if page.size > most.page_bytes:
            self._limit = max(1, window.limit * most.page_bytes // page.size)
        elif page.cursor is not None and page.size < most.page_bytes // 4:  # a window's last page tells nothing
            self._limit = min(most.page_limit, max(self._limit, window.limit * 2))

    def _prune(self) -> None:
        now_ms = self._now_ms()
        if now_ms - self._pruned_ms < _PRUNE_EVERY_MS:
            return
        self._pruned_ms = now_ms
        next_start_ms = self._position.watermark_ms - self._settings.jumpcloud.overlap.ms
        oldest_ms = min(now_ms - self._settings.ledger.keep.ms, next_start_ms)
        try:
            forgotten = self._resources.state.prune(self.stream.name, oldest_ms // MINUTE_MS)
        except StateUnavailable as error:
            log.warning("%s: %s", self.stream.name, error)
        else:
            log.debug("%s: forgot %d delivered ids", self.stream.name, forgotten)


def _until(due_ms: int, now_ms: int, every_ms: int) -> int:
    """Milliseconds until what happens every so often is due; 0 also where the clock was set back meanwhile."""
    wait_ms = due_ms - now_ms
    return wait_ms if 0 < wait_ms <= every_ms else 0
