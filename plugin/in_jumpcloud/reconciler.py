"""Late events of one stream: compares counts with the ledger, and reads again what differs until it is settled.

It has a turn of one request at a time, and its own backoff: an error here never stops the polls.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from in_jumpcloud.config.schema import Config
from in_jumpcloud.counters import Counters, plural
from in_jumpcloud.errors import CountsUnavailable, CursorLost, InJumpCloudError, PageTooLarge, RequestTimeout
from in_jumpcloud.failures import ALL, Failures
from in_jumpcloud.insights.comparison import PAUSES, Comparisons, Counts, Span, is_credible, spans, tiers
from in_jumpcloud.insights.page_limit import PageLimit
from in_jumpcloud.insights.pages import PageCalls, Pager, behind
from in_jumpcloud.insights.window import Position, Window
from in_jumpcloud.runtime import Runtime
from in_jumpcloud.state.store import StateStore
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, rfc3339, whole_minute, whole_minute_from

log = logging.getLogger(__name__)

_REREAD_WITHOUT_COUNTS_MS = 6 * HOUR_MS
_MAX_COUNT_FAILURES = 3
"""Failed requests for counts in a row after which spans are read again without counts."""
_REREADS = -1
"""What fails for itself besides each tier of comparisons: to read spans again."""
_GIVE_UP_COMPARING_SECONDS = 86_400.0
"""Counts that are unavailable for so long do not keep ids in the ledger beyond the reach."""


class LateCalls(NamedTuple):
    """What the reconciler asks of its stream. `counts` returns JumpCloud's counts of `[start_ms, end_ms)`."""

    pages: PageCalls
    counts: Callable[[int, int, threading.Event], Counts]


class _Reread(NamedTuple):
    """A span that is being read again. `rows` counts its events. Without `decides` no counts are compared."""

    span: Span
    services: tuple[str, ...]
    decides: bool
    rows: Counter[int]


class Reconciler:
    """Finds the late events of one stream. One thread at a time uses it."""

    def __init__(
        self, stream: str, calls: LateCalls, state: StateStore, settings: Config, counters: Counters, runtime: Runtime
    ) -> None:
        self._stream = stream
        self._calls = calls
        self._state = state
        self._settings = settings
        self._counters = counters
        self._runtime = runtime
        self._reach_ms = settings.reconcile.reach.ms
        self._tiers = tiers(settings.reconcile.every.ms, self._reach_ms)
        self._limit = PageLimit(settings.jumpcloud.page_limit, settings.jumpcloud.page_bytes)
        self._comparisons: Comparisons | None = None
        self._due: dict[int, float] = {}  # the next try of each open minute, on the monotonic clock
        self._sweeps: dict[int, Span] = {}  # by tier, what is left of the span that is being compared
        self._rereads: list[_Reread] = []
        self._pager: Pager | None = None
        self._must_count = False  # the first re-read is read to its end; its counts are next
        self._reread_last = False  # since the last comparison
        self._at = ALL  # what the last step did: the tier that it compared, or _REREADS
        self._failures = Failures(runtime)
        self.plan_ms: int | None = None
        """How far back the plan of the organization reaches, in milliseconds; None while it was not exceeded."""

    def begin(self, position: Position, now_ms: int) -> None:
        """Load what the state knows, or begin with a new stream.

        Raises:
            StateUnavailable, StateCorrupt: the state cannot be read.
        """
        text = self._state.reconciliation(self._stream)
        self._comparisons = Comparisons.starting_at(position.origin_ms, now_ms, self._tiers)
        if text:
            try:
                self._comparisons = msgspec.json.decode(text, type=Comparisons)
            except msgspec.DecodeError as error:
                log.warning("%s: the state of late events is damaged (%s); comparing all again", self._stream, error)
        self._comparisons.fit(now_ms, self._tiers)
        self._schedule(list(self._comparisons.open), now_ms)

    def start_over(self, now_ms: int) -> None:
        """Compare the whole reach again: the clock was wrong. Any write of a position that is taken back has it too.

        Raises:
            StateUnavailable: it cannot be written.
        """
        self.reset()
        self._rereads.clear()
        self._sweeps.clear()
        self._known.start_over(now_ms, self._tiers)
        self._save()

    def services_changed(self, from_ms: int, kept: tuple[str, ...]) -> None:
        """Compare from `from_ms` on: the ledger has the events of other services before, so its counts differ.

        What was late until now is found by reading the last day before once more, with the services that were `kept`.
        """
        self._known.comparable_ms = from_ms
        start_ms = max(from_ms - DAY_MS, self._state.kept_from_ms(self._stream))
        if kept and start_ms < from_ms:
            self._rereads.append(_Reread(Span(start_ms, from_ms), kept, decides=False, rows=Counter()))
        self._save()

    def until_due(self, position: Position, now_ms: int) -> float:
        """Seconds until it has something to do; 0 if it has now."""
        now, until_ms = self._runtime.monotonic(), self._until_ms(position)
        if self._known.due_span(until_ms, now_ms, self._tiers, self._pausing()):
            return 0.0
        waits = [max(1.0, ms / 1000) for ms in self._known.until_due_ms(until_ms, now_ms, self._tiers)]
        waits = [max(wait, self._failures.pause(tier)) for tier, wait in enumerate(waits)]
        if self._rereads or self._due:
            next_at = now if self._rereads else min(self._due.values())
            waits.append(max(self._failures.pause(_REREADS), next_at - now, 0.0))
        return min(waits)

    def lag_ms(self, position: Position) -> int:
        """How far the comparisons are behind the polls, in the time of events; of the tier that is most overdue."""
        if self._comparisons is None:
            return 0
        compared_ms = zip(self._comparisons.compared_ms, self._tiers, strict=False)
        overdue_ms = self._until_ms(position) - min(ms + tier.every_ms + tier.newest_ms for ms, tier in compared_ms)
        return max(0, self._tiers[0].every_ms + overdue_ms)

    @property
    def error(self) -> InJumpCloudError | None:
        """Why some comparisons are impossible, for the longest time; None while they work."""
        return self._failures.oldest.error if self._failures.oldest else None

    @property
    def error_since(self) -> float:
        """When that began, on the monotonic clock."""
        return self._failures.oldest.since if self._failures.oldest else 0.0

    @property
    def is_idle(self) -> bool:
        """Whether it is between two pieces of work."""
        return not (self._sweeps or self._rereads)

    def oldest_ms(self, now_ms: int) -> int:
        """The oldest moment whose ids the ledger must keep."""
        return min(now_ms - self._reach_ms - DAY_MS, self._known.oldest_ms(self._tiers))

    def step(self, position: Position, now_ms: int, stop: threading.Event) -> None:
        """Send one request: for counts, or for a page that is read again.

        Raises:
            InJumpCloudError: as DirectoryInsights and Pipeline; call `failed` with it.
            Stopped: `stop` was set.
        """
        self._at = ALL
        floor_ms = self._floor_ms(position, now_ms)
        self._give_up(floor_ms)
        if not self._rereads and not self._failures.pause(_REREADS):
            now, services = self._runtime.monotonic(), self._settings.jumpcloud.services
            minutes = [minute for minute, due in self._due.items() if due <= now]
            self._rereads.extend(_Reread(span, services, decides=True, rows=Counter()) for span in spans(minutes))
        if self._rereads_again(position, now_ms):
            self._at = _REREADS
            if self._must_count:
                self._settle(self._rereads[0], now_ms, stop)
            else:
                self._reread(self._rereads[0], position, stop)
        else:
            self._compare(position, floor_ms, now_ms, stop)

    def _rereads_again(self, position: Position, now_ms: int) -> bool:
        """Whether to read again now. Between two spans a comparison that is due comes first: it is never starved."""
        if not self._rereads or self._failures.pause(_REREADS):
            return False
        is_between = self._pager is None and not self._must_count
        if is_between and self._reread_last:
            self._reread_last = False
            return not self._known.due_span(self._until_ms(position), now_ms, self._tiers, self._pausing())
        self._reread_last = True
        return True

    def failed(self, error: InJumpCloudError, position: Position, now_ms: int) -> float:
        """Reset what `error` left unfinished; returns the seconds until the next try."""
        now, tier = self._runtime.monotonic(), self._at
        is_our_limit = isinstance(error, PageTooLarge) and self._limit.too_large()
        if isinstance(error, RequestTimeout) and tier == _REREADS:
            self._limit.too_slow()
        failure = self._failures.add(tier, error, is_retried_at_once=is_our_limit)
        self.reset()
        if tier == _REREADS and not is_our_limit and self._rereads and not isinstance(error, CursorLost):
            self._put_off(self._rereads.pop(0), now + 2 * failure.delay)
        if isinstance(error, CountsUnavailable) or (tier == 0 and failure.times >= _MAX_COUNT_FAILURES):
            self._reread_without_counts(position, now_ms, error)
        if now - failure.since > _GIVE_UP_COMPARING_SECONDS:
            self._stop_waiting_for(tier, now_ms)
        return failure.delay

    def _put_off(self, failed: _Reread, until: float) -> None:
        """A span that cannot be read must not hold up the comparisons: those have the next turn."""
        if not failed.decides:
            self._rereads.clear()  # they are read in order: `reread_ms` must not pass this one
        for minute in range(failed.span.start_ms // MINUTE_MS, failed.span.end_ms // MINUTE_MS):
            if minute in self._due:
                self._due[minute] = until

    def _stop_waiting_for(self, tier: int, now_ms: int) -> None:
        """What cannot be compared does not keep ids in the ledger beyond the reach and a day."""
        oldest_ms, compared_ms = now_ms - self._reach_ms, self._known.compared_ms
        if tier >= 0:
            compared_ms[tier] = max(compared_ms[tier], oldest_ms - DAY_MS + self._tiers[tier].width_ms)
        self._give_up(oldest_ms)

    def plan_found(self, plan_ms: int) -> None:
        """Leave out what is beyond the plan, which reaches back `plan_ms` milliseconds: a request was refused."""
        self.reset()
        self.plan_ms = plan_ms
        self._rereads.clear()
        self._sweeps.clear()

    def reset(self) -> None:
        """Read the span again from its beginning: an error left its page unfinished."""
        self._pager = None
        self._must_count = False

    @property
    def _known(self) -> Comparisons:
        if self._comparisons is None:
            raise AssertionError("begin was not called")
        return self._comparisons

    def _until_ms(self, position: Position) -> int:
        """The end of what was polled and is not polled again."""
        return whole_minute(position.watermark_ms - self._settings.jumpcloud.overlap.ms)

    def _pausing(self) -> list[int]:
        """The tiers that are not tried now."""
        return [tier for tier in range(len(self._tiers)) if self._failures.pause(tier)]

    def _compare(self, position: Position, floor_ms: int, now_ms: int, stop: threading.Event) -> None:
        """Compare at most a day of the span that is due."""
        due = self._known.due_span(self._until_ms(position), now_ms, self._tiers, self._pausing())
        if due is None:
            return
        self._at = due.tier
        sweep = self._sweeps.get(due.tier, due)
        start_ms = max(sweep.start_ms, floor_ms)
        self._sweeps[due.tier] = sweep = sweep._replace(start_ms=min(start_ms, sweep.end_ms))
        span = sweep._replace(end_ms=min(sweep.end_ms, sweep.start_ms + DAY_MS))
        if span.start_ms < span.end_ms:
            theirs, ours = self._counts(span, stop)
            found = self._known.differ(theirs, ours)
            if found:
                log.info(
                    "%s: counts differ in %s; re-reading %s",
                    *(self._stream, plural(len(found), "minute"), "it" if len(found) == 1 else "them"),
                )
            self._schedule(found, now_ms)
        if span.end_ms >= sweep.end_ms:
            self._known.compared_ms[sweep.tier] = sweep.end_ms
            del self._sweeps[sweep.tier]
            self._save()
        else:
            self._sweeps[sweep.tier] = sweep._replace(start_ms=span.end_ms)  # an error does not repeat what succeeded
        self._succeeded()

    def _counts(self, span: Span, stop: threading.Event) -> tuple[Counts, Counts]:
        """JumpCloud's counts of `span` and those of the ledger.

        Raises:
            CountsUnavailable: they cannot be true.
        """
        theirs = self._calls.counts(span.start_ms, span.end_ms, stop)
        ours = self._state.counts(self._stream, span.start_ms // MINUTE_MS, span.end_ms // MINUTE_MS)
        if not is_credible(theirs, ours):
            raise CountsUnavailable(
                f"JumpCloud counts {sum(theirs.values())} events from {rfc3339(span.start_ms)} to "
                f"{rfc3339(span.end_ms)}, and {sum(ours.values())} were delivered: its counts cannot be used"
            )
        return theirs, ours

    def _reread(self, reread: _Reread, position: Position, stop: threading.Event) -> None:
        """Deliver one page of a span that is read again."""
        if self._pager is None:
            reread.rows.clear()
            start_ms, end_ms, _ = reread.span
            window = Window(start_ms=start_ms, end_ms=end_ms, services=reread.services, limit=self._limit.events)
            self._pager = self._calls.pages.pager(window)
        window = self._pager.window
        try:
            page = self._pager.page(stop)
        except PageTooLarge as error:
            following = behind(window, error)
            if following is None:
                raise
            reread.rows.update(self._calls.pages.leave_out(window, error, position, stop))
            self._pager = self._calls.pages.pager(following)
            return
        reread.rows.update(self._calls.pages.deliver(page, position, position, reread.span[:2], stop))
        self._limit.note(page, window)
        self._pager.advance(page)
        if not self._pager.done:
            return
        self._pager = None
        if reread.decides:
            self._must_count = True
        else:
            self._rereads.pop(0)
            self._known.reread_ms = max(self._known.reread_ms, reread.span.end_ms)
            self._save()
            self._succeeded()

    def _settle(self, reread: _Reread, now_ms: int, stop: threading.Event) -> None:
        """Count a span after it was read again, and decide about its minutes."""
        theirs, ours = self._counts(reread.span, stop)
        self._must_count = False
        self._rereads.pop(0)
        given_up = self._known.settle(reread.span, reread.rows, theirs, ours)
        self._schedule(list(self._known.open), now_ms, only=reread.span)
        self._save()
        self._succeeded()
        self._report(given_up, f"{len(PAUSES) + 1} re-reads returned other events than JumpCloud counts")

    def _reread_without_counts(self, position: Position, now_ms: int, why: InJumpCloudError) -> None:
        """Queue the newest span to be read again as a whole, at most every six hours. What is queued so stays."""
        known, end_ms = self._known, self._until_ms(position)
        from_ms = max(known.reread_ms, known.compared_ms[0])
        self._must_count = False
        self._rereads = [each for each in self._rereads if not each.decides]
        if self._rereads:
            return
        if end_ms - from_ms < _REREAD_WITHOUT_COUNTS_MS:
            return
        reach_ms = whole_minute(now_ms - self._reach_ms)
        start_ms = max(from_ms - DAY_MS, self._floor_ms(position, now_ms), reach_ms)
        log.warning("%s: %s; re-reading all from %s on", self._stream, why, rfc3339(start_ms))
        while start_ms < end_ms:
            span = Span(start_ms, min(end_ms, start_ms + DAY_MS))
            self._rereads.append(_Reread(span, self._settings.jumpcloud.services, decides=False, rows=Counter()))
            start_ms = span.end_ms

    def _floor_ms(self, position: Position, now_ms: int) -> int:
        """The oldest moment that can be compared: the ledger has all ids, and the plan reaches there."""
        floor_ms = max(position.origin_ms, self._state.kept_from_ms(self._stream), self._known.comparable_ms)
        if self.plan_ms is not None:
            floor_ms = max(floor_ms, now_ms - self.plan_ms + HOUR_MS)
        return whole_minute_from(floor_ms)

    def _give_up(self, before_ms: int) -> None:
        """Give up the open minutes before `before_ms`: they cannot be read again."""
        self._report(self._known.forget(before_ms), "they are out of reach")
        self._schedule([], 0)

    def _report(self, given_up: list[int], why: str) -> None:
        if given_up:
            self._counters.given_up_minutes += len(given_up)
            log.warning(
                "%s: counts differ in %s between %s and %s, given up: %s",
                *(self._stream, plural(len(given_up), "minute"), rfc3339(given_up[0] * MINUTE_MS)),
                *(rfc3339((given_up[-1] + 1) * MINUTE_MS), why),
            )

    def _schedule(self, minutes: list[int], now_ms: int, only: Span | None = None) -> None:
        """Set the next try of open minutes, and forget those that are settled."""
        now, known = self._runtime.monotonic(), self._known
        for minute in minutes:
            if only is None or only.start_ms <= minute * MINUTE_MS < only.end_ms:
                self._due[minute] = now + known.pause(minute, now_ms, self._reach_ms)
        self._due = {minute: due for minute, due in self._due.items() if minute in known.open}
        self._counters.open_minutes = len(known.open)

    def _succeeded(self) -> None:
        # With nothing left to read again, what could not be read has settled without it.
        ended = (self._at,) if self._due or self._rereads else (self._at, _REREADS)
        if self._failures.end(*ended):
            log.info("%s: late events can be looked for again", self._stream)

    def _save(self) -> None:
        self._state.save_reconciliation(self._stream, msgspec.json.encode(self._known).decode())
