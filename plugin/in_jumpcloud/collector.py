"""One stream: polls window by window, delivers page by page, and reads late events again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from in_jumpcloud.backoff import MAX_DELAY, backoff_delay
from in_jumpcloud.config.schema import Config
from in_jumpcloud.counters import Counters
from in_jumpcloud.errors import (
    CursorLost,
    InJumpCloudError,
    NotLicensed,
    PageTooLarge,
    Retryable,
    StateCorrupt,
    StateUnavailable,
    Stopped,
)
from in_jumpcloud.insights.api import DirectoryInsights, Scope
from in_jumpcloud.insights.pages import Page, Pager
from in_jumpcloud.insights.window import Position, Window, plan_window
from in_jumpcloud.pipeline import Pipeline, PipelineResources
from in_jumpcloud.reconciler import Counts, Reconciler
from in_jumpcloud.timestamps import DAY_MS, MINUTE_MS, remaining_ms, rfc3339

log = logging.getLogger(__name__)

REJECTED_DELAY = 300.0
"""Seconds until a request that JumpCloud rejected is repeated."""
_PRUNE_EVERY_MS = 10 * MINUTE_MS
_LICENSED_DAYS = (90, 30, 15, 7, 1)
"""How far back the plans of JumpCloud reach, in days."""


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
        prefetch: threading.Semaphore,
        give_up_after: float | None = None,
        now_ms: Callable[[], int],
    ) -> None:
        """Resume at the position in the state. `now_ms` is the clock, in epoch milliseconds.

        `prefetch` bounds the pages that all streams together fetch in advance. A receiver that is down for longer
        than `give_up_after` seconds is an error; with None, the stream waits.

        Raises:
            StateUnavailable, StateCorrupt: the position cannot be read, or that of a new stream cannot be written.
        """
        self.stream = stream
        self.counters = Counters()
        self.caught_up = False
        """Whether the last step left nothing to do, late events included."""
        self.error: InJumpCloudError | None = None
        """Why the last step failed."""
        self.failures = 0
        """Steps in a row that failed, without those for which JumpCloud named the delay."""
        self._api = api
        self._resources = resources
        self._settings = settings
        self._prefetch = prefetch
        self._now_ms = now_ms
        self._pipeline = Pipeline(
            *(stream.name, resources, settings.forward, self.counters),
            now_ms=now_ms,
            organization=stream.scope.organization,
            give_up_after=give_up_after,
        )
        self._limit = settings.jumpcloud.page_limit
        self.position = resources.state.position(stream.name) or self._start()
        """How far the stream has come."""
        self._pager: Pager | None = None
        self._next_poll_ms = 0
        self._reconciler = Reconciler(stream.name, self._count, resources.state, settings)
        self._reread_pager: Pager | None = None
        self._pruned_ms = 0

    @property
    def max_silence_seconds(self) -> float:
        """The longest time between two signs of liveness while the stream works or waits as intended."""
        return self._api.max_request_seconds + self._pipeline.max_silence_seconds + MAX_DELAY

    def step(self, stop: threading.Event) -> float:
        """Deliver at most one page.

        An error is logged and kept in `error`.

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
        try:
            try:
                self._advance(stop)
            except NotLicensed as error:
                self._start_later(error, stop)
        except (StateCorrupt, Stopped):
            raise
        except InJumpCloudError as error:
            return self._prepare_retry(error)
        if self.error:
            log.info("%s: recovered", self.stream.name)
            self._resources.state.record_error(self.stream.name, None, self._now_ms())
        self.error = None
        self.failures = 0
        now_ms = self._now_ms()
        wait_ms = min(self._until_poll_ms(now_ms), self._reconciler.until_due_ms(now_ms))
        self.caught_up = not (self.position.window or self._reconciler.window) and wait_ms > 0
        return wait_ms / 1000 if self.caught_up else 0.0

    def _until_poll_ms(self, now_ms: int) -> int:
        return remaining_ms(self._next_poll_ms, now_ms, self._settings.jumpcloud.interval.ms)

    def _start(self) -> Position:
        start_ms = self._settings.jumpcloud.start.resolve(self._now_ms())
        log.info("%s: new stream, collecting from %s on", self.stream.name, rfc3339(start_ms))
        position = Position.starting_at(start_ms)
        # Committed at once: a start of "now" must not move while the first request fails.
        self._resources.state.commit(self.stream.name, [], position)
        return position

    def _prepare_retry(self, error: InJumpCloudError) -> float:
        """Reset what `error` left unfinished; returns the seconds until the next try."""
        self._resources.state.record_error(self.stream.name, str(error), self._now_ms())
        delay = error.after if isinstance(error, Retryable) else None
        self.error = error
        self.failures += delay is None
        self.caught_up = False
        self._pager = self._reread_pager = None
        if isinstance(error, PageTooLarge):
            self._limit = max(1, self._limit // 4)
        if isinstance(error, CursorLost | PageTooLarge):
            self._restart_window()
        temporary = isinstance(error, Retryable | StateUnavailable)
        if delay is None:
            delay = backoff_delay(self.failures) if temporary else REJECTED_DELAY
        if not temporary:
            self._reconciler.abandon()
        level = logging.WARNING if temporary else logging.ERROR
        log.log(level, "%s: %s; retrying in %.0f s", self.stream.name, error, delay)
        return delay

    def _restart_window(self) -> None:
        """Page the window from its start again. The ledger prevents duplicates."""
        self._reconciler.set_limit(self._limit)
        window = self.position.window
        if window:
            window = msgspec.structs.replace(window, limit=min(window.limit, self._limit), cursor=None)
            self.position = self.position.with_window(window)

    def _advance(self, stop: threading.Event) -> None:
        """Do one thing: deliver a page of a poll, else a page that is read again, else compare the counts."""
        if self._pager is None and (self.position.window or not self._until_poll_ms(self._now_ms())):
            self._pager = self._poll()
        if self._pager:
            self._deliver_page(self._pager, stop)
        elif self._reconciler.window:
            if self._reread_pager is None:
                self._reread_pager = Pager(self._reconciler.window, self._fetch, self._prefetch)
            self._deliver_page_again(self._reread_pager, stop)
        elif not self._reconciler.until_due_ms(self._now_ms()):
            self._reconciler.compare(self.position, self._now_ms(), self._limit, stop)

    def _poll(self) -> Pager | None:
        """A pager for the unfinished window, or else for the next one, which is frozen from now on."""
        settings, now_ms = self._settings.jumpcloud, self._now_ms()
        window = plan_window(
            self.position,
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
        self.position = self.position.with_window(window)
        return Pager(window, self._fetch, self._prefetch)

    def _fetch(self, window: Window, stop: threading.Event) -> Page:
        return self._api.fetch(window, self.stream.scope, stop)

    def _count(self, start_ms: int, end_ms: int, stop: threading.Event) -> Counts:
        return self._api.counts(start_ms, end_ms, self._settings.jumpcloud.services, self.stream.scope, stop)

    def _deliver_page(self, pager: Pager, stop: threading.Event) -> None:
        page, before, window = self._next_page(pager, stop), self.position, pager.window
        following = pager.next_window(page)
        after = before.with_window(following) if following else before.past(window)
        self._pipeline.deliver(page, before, after, stop, span=window.span)
        pager.advance(page)
        self.position = after
        self._adapt_limit(page, window)
        if pager.done:
            self._pager = None
            self._prune()

    def _deliver_page_again(self, pager: Pager, stop: threading.Event) -> None:
        page = self._next_page(pager, stop)
        self._pipeline.deliver(page, self.position, self.position, stop, span=pager.window.span)
        pager.advance(page)
        if pager.done:
            self._reread_pager = None
            self._reconciler.window_done()

    def _next_page(self, pager: Pager, stop: threading.Event) -> Page:
        page = pager.page(stop)
        self.counters.liveness.touch()
        self.counters.pages += 1
        self.counters.page_bytes += page.size
        return page

    def _start_later(self, refusal: NotLicensed, stop: threading.Event) -> None:
        """Move the position to where the plan begins, if it does not reach back to the window. Log the gap.

        Raises:
            NotLicensed: no later start helps: Directory Insights is not enabled.
        """
        now_ms, window, services = self._now_ms(), self.position.window, self._settings.jumpcloud.services
        requested_ms = window.start_ms if window else self.position.watermark_ms
        for days in _LICENSED_DAYS:
            start_ms = now_ms - days * DAY_MS + MINUTE_MS
            if start_ms <= requested_ms:
                continue
            self.counters.liveness.touch()
            probe = Window(start_ms=start_ms, end_ms=start_ms + 1000, services=services, limit=1)
            try:
                self._fetch(probe, stop)
            except NotLicensed:
                continue
            log.warning(
                "%s: %s. Collecting from %s on, which the plan allows; older events, from %s on, are not available",
                *(self.stream.name, refusal, rfc3339(start_ms), rfc3339(requested_ms)),
            )
            self._pager = None
            self.position = Position.starting_at(start_ms)
            return
        raise refusal

    def _adapt_limit(self, page: Page, window: Window) -> None:
        """Request fewer events a page after a page that was too large, and more after a full page that was small."""
        settings = self._settings.jumpcloud
        if page.size > settings.page_bytes:
            self._limit = max(1, window.limit * settings.page_bytes // page.size)
        elif page.cursor is not None and page.size < settings.page_bytes // 4:  # the last page may be small anyway
            self._limit = min(settings.page_limit, max(self._limit, window.limit * 2))

    def _prune(self) -> None:
        now_ms = self._now_ms()
        if now_ms - self._pruned_ms < _PRUNE_EVERY_MS:
            return
        self._pruned_ms = now_ms
        next_start_ms = self.position.watermark_ms - self._settings.jumpcloud.overlap.ms
        oldest_ms = min(now_ms - self._settings.ledger.keep.ms, next_start_ms)
        try:
            removed = self._resources.state.prune(self.stream.name, oldest_ms)
        except StateUnavailable as error:
            log.warning("%s: %s", self.stream.name, error)
        else:
            log.debug("%s: removed %d ids from the ledger", self.stream.name, removed)
