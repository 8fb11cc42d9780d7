"""One stream: window → pages → records → chunks → ack → commit."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from in_jumpcloud import config
from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.errors import (
    CursorLost,
    InJumpCloudError,
    PageTooLarge,
    ReceiverDown,
    StateFull,
    Stopped,
    TryAgain,
)
from in_jumpcloud.forward.chunks import Parcel, parcels
from in_jumpcloud.forward.sender import AckSender
from in_jumpcloud.forward.wire import EntryPacker
from in_jumpcloud.insights.api import DirectoryInsights
from in_jumpcloud.insights.event import Event, Key, read
from in_jumpcloud.insights.page import Page
from in_jumpcloud.insights.window import Position, Window, plan, rfc3339
from in_jumpcloud.retry import pause
from in_jumpcloud.state import State
from in_jumpcloud.watch.counters import Counters

log = logging.getLogger(__name__)

AFTER_A_REFUSAL = 300.0
"""Seconds until JumpCloud is asked again what it refused: neither a fast retry nor a stop for good."""
_BATCH = 200
"""Events that are decoded at a time, so that a page of large ones is never held decoded as a whole."""
_PRUNE_EVERY_MS = 600_000


class Stream(NamedTuple):
    """An organization; None is the key's own. `name` is how the state and the log call it."""

    name: str
    organization: str | None


class Rooms(NamedTuple):
    """What all streams share."""

    api: DirectoryInsights
    mapper: Mapper
    sender: AckSender
    state: State


class Collector:
    """Drives one stream. `step` is called by one thread at a time, again and again, after the seconds it returned."""

    def __init__(
        self,
        stream: Stream,
        rooms: Rooms,
        settings: config.Config,
        *,
        patience: float | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """`patience`: seconds after which a receiver that is down is an error; None: never."""
        self.stream = stream
        self.counters = Counters()
        self.caught_up = False
        self.error: InJumpCloudError | None = None
        self.failures = 0
        self._rooms = rooms
        self._settings = settings
        self._patience = patience
        self._now_ms = now_ms
        self._limit = settings.jumpcloud.page_limit
        self._reaches_now = False
        self._cursors: set[str] = set()
        self._ahead: concurrent.futures.Future[Page] | None = None
        self._pruned_ms = 0
        self._position = rooms.state.position(stream.name) or self._begin()

    @property
    def position(self) -> Position:
        """How far the stream has come."""
        return self._position

    def step(self, stop: threading.Event) -> float:
        """Deliver one page, if there is one; the seconds until the next step is due.

        What goes wrong is told in the log and kept in `error`.

        Raises:
            Stopped: `stop` was set; nothing is lost, the state has the position.
        """
        began = time.monotonic()
        try:
            self.caught_up = self._advance(stop)
        except Stopped:
            raise
        except InJumpCloudError as error:
            return self._after(error)
        if self.error:
            log.info("%s: goes on", self.stream.name)
        self.error = None
        self.failures = 0
        if not self.caught_up:
            return 0
        return max(0.0, self._settings.jumpcloud.interval - (time.monotonic() - began))

    def _begin(self) -> Position:
        start_ms = self._settings.jumpcloud.start.resolve(self._now_ms())
        log.info("%s: a new stream; begins at %s", self.stream.name, rfc3339(start_ms))
        return Position.beginning(start_ms)

    def _after(self, error: InJumpCloudError) -> float:
        """Get ready for the next try after `error`; the seconds until it is due."""
        self.error = error
        self.failures += 1
        self._ahead = None
        window = self._position.window
        if window and isinstance(error, CursorLost | PageTooLarge):
            if isinstance(error, PageTooLarge):
                self._limit = max(1, window.limit // 4)
                window = msgspec.structs.replace(window, limit=self._limit)
            self._cursors.clear()
            self._position = self._position.under_way(window.after(None))
        if isinstance(error, TryAgain):
            delay = pause(self.failures) if error.after is None else error.after + pause(1)
        else:
            delay = AFTER_A_REFUSAL
        level = logging.WARNING if isinstance(error, TryAgain) else logging.ERROR
        log.log(level, "%s: %s; next try in %.0f s", self.stream.name, error, delay)
        return delay

    def _advance(self, stop: threading.Event) -> bool:
        """Deliver one page; whether the stream has now come as far as it can."""
        window = self._window()
        if window is None:
            return True
        page = self._page(window, stop)
        if page.cursor in self._cursors:
            raise CursorLost(f"JumpCloud gave the cursor {page.cursor} again: its pages lead round in a circle")
        if page.cursor is not None:
            self._ahead = _in_background(self._fetch, window.after(page.cursor), stop)
            reached = self._position.under_way(window.after(page.cursor))
        else:
            reached = self._position.finished(window)
        self._deliver(page, reached, stop)
        self._bound_pages(page, window)
        if page.cursor is not None:
            self._cursors.add(page.cursor)
            return False
        self._cursors.clear()
        self._prune()
        return self._reaches_now

    def _window(self) -> Window | None:
        """The window under way, or else the next one, which is frozen from here on."""
        settings = self._settings.jumpcloud
        now_ms = self._now_ms()
        window = plan(
            self._position,
            now_ms,
            services=settings.services,
            limit=self._limit,
            length_ms=settings.window.ms,
            overlap_ms=settings.overlap.ms,
            lag_ms=settings.lag.ms,
        )
        if window is not None and window is not self._position.window:
            self._reaches_now = window.end_ms == now_ms - settings.lag.ms
            self._position = self._position.under_way(window)
        return window

    def _fetch(self, window: Window, stop: threading.Event) -> Page:
        return self._rooms.api.fetch(window, self.stream.organization, stop)

    def _page(self, window: Window, stop: threading.Event) -> Page:
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return self._fetch(window, stop)
        while True:
            try:
                return ahead.result(timeout=0.25)
            except concurrent.futures.TimeoutError:
                if stop.is_set():
                    raise Stopped from None

    def _deliver(self, page: Page, reached: Position, stop: threading.Event) -> None:
        """Deliver what is new in `page`; with its last chunk, `reached` becomes the position."""
        self.counters.pages += 1
        self.counters.page_bytes += page.size
        forward = self._settings.forward
        waiting: Parcel | None = None
        for parcel in parcels(
            forward.tag,
            self._entries(page),
            chunk_bytes=forward.chunk_bytes,
            message_max_bytes=forward.message_max_bytes,
        ):
            if waiting:
                self._send(waiting, stop)
                self._commit(waiting.keys, self._position, stop)
            waiting = parcel
        if waiting:
            self._send(waiting, stop)
        self._commit(waiting.keys if waiting else [], reached, stop)

    def _entries(self, page: Page) -> Iterator[tuple[Key, bytes]]:
        packer = EntryPacker()
        for event in self._new_events(page):
            record = self._rooms.mapper.map(event, page.received_ns)
            self.counters.looked_up += record.looked_up
            self.counters.with_problems += "error" in record.body
            yield event.key, packer.entry(record.time_ns, record.body)

    def _new_events(self, page: Page) -> Iterator[Event]:
        """The events that were not delivered before, each once."""
        seen: set[Key] = set()
        for begin in range(0, len(page.events), _BATCH):
            events = [read(raw) for raw in page.events[begin : begin + _BATCH]]
            self.counters.received += len(events)
            seen |= self._rooms.state.delivered(self.stream.name, [event.key for event in events])
            for event in events:
                self._look_for_strangers(event)
                if event.key in seen:
                    self.counters.duplicates += 1
                else:
                    seen.add(event.key)
                    yield event

    def _look_for_strangers(self, event: Event) -> None:
        asked = self.stream.organization
        if asked is None or event.data is None:
            return
        organization = event.data.get("organization")
        if organization not in (None, "", asked):
            self.counters.foreign += 1
            if self.counters.foreign == 1:
                log.warning(
                    "%s: JumpCloud also sends events of organization %.40s; they are delivered, and counted",
                    self.stream.name,
                    organization,
                )

    def _send(self, parcel: Parcel, stop: threading.Event) -> None:
        """Send the same bytes until they are acknowledged."""
        began = time.monotonic()
        failures = 0
        while True:
            self.counters.sent += parcel.chunk.records
            try:
                self._rooms.sender.deliver(parcel.chunk, stop)
            except ReceiverDown as error:
                if self._patience is not None and time.monotonic() - began > self._patience:
                    raise
                failures += 1
                delay = pause(failures)
                log.warning("%s: %s; the same chunk again in %.0f s", self.stream.name, error, delay)
                if stop.wait(delay):
                    raise Stopped from None
            else:
                if failures:
                    log.info("%s: the receiver acknowledges again", self.stream.name)
                return

    def _commit(self, keys: Sequence[Key], position: Position, stop: threading.Event) -> None:
        """Write down what was acknowledged. While the disk is full, wait with it: a resend would double it."""
        failures = 0
        while True:
            try:
                self._rooms.state.commit(self.stream.name, keys, position)
            except StateFull as error:
                failures += 1
                if self._patience is not None and failures > 3:  # noqa: PLR2004
                    raise
                delay = pause(failures)
                log.error("%s: %s; next try in %.0f s", self.stream.name, error, delay)  # noqa: TRY400
                if stop.wait(delay):
                    raise Stopped from None
            else:
                self._position = position
                self.counters.acknowledged += len(keys)
                return

    def _bound_pages(self, page: Page, window: Window) -> None:
        """Ask the next window for fewer events where pages grew too large, and for more again where they are small."""
        most = self._settings.jumpcloud
        if page.size > most.page_bytes:
            self._limit = max(1, window.limit * most.page_bytes // page.size)
        elif page.size < most.page_bytes // 4:
            self._limit = min(most.page_limit, max(self._limit, window.limit * 2))

    def _prune(self) -> None:
        now_ms = self._now_ms()
        if now_ms - self._pruned_ms < _PRUNE_EVERY_MS:
            return
        self._pruned_ms = now_ms
        next_start_ms = self._position.watermark_ms - self._settings.jumpcloud.overlap.ms
        oldest_ms = min(now_ms - self._settings.ledger.keep.ms, next_start_ms)
        try:
            forgotten = self._rooms.state.prune(self.stream.name, oldest_ms // 60_000)
        except StateFull as error:
            log.warning("%s: %s", self.stream.name, error)
        else:
            log.debug("%s: forgot %d delivered ids", self.stream.name, forgotten)


def _in_background(
    fetch: Callable[[Window, threading.Event], Page], window: Window, stop: threading.Event
) -> concurrent.futures.Future[Page]:
    """A page fetched ahead. The thread is a daemon: a request under way must not hold up the end of the process."""
    future: concurrent.futures.Future[Page] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(fetch(window, stop))
        except BaseException as error:  # noqa: BLE001 - whoever asks for the page gets it
            future.set_exception(error)

    threading.Thread(target=run, name="fetch-ahead", daemon=True).start()
    return future
