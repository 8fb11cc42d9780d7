"""What must hold: while faults act, and after they have ended."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
from simulation.jumpcloud import DAY, MINUTE, Event, Organization
from simulation.plan import HOUR, ORIGIN_MS
from simulation.seams import SimConnection

from in_jumpcloud.app import App
from in_jumpcloud.insights.window import Position
from in_jumpcloud.monitoring.health import not_alive, not_ready
from in_jumpcloud.monitoring.snapshot import take_snapshot

if TYPE_CHECKING:
    from simulation.machine import Process
    from simulation.world import World

POISON = "refuses one record"
MAX_REQUESTS = {"right": 10_000, "refused": 10_000, "zero": 20_000, "lower": 20_000}
"""More than any run needs, by how JumpCloud counts: polls and comparisons at their intervals, and a request for each
event. While counts are too low, what differs is read again about every ten minutes."""
_REQUESTS_OF_A_BACKFILL = 0.01
"""Of each stream of a backfill that cannot go on, in a second: three every five minutes."""
_REQUESTS_FOR_PLAN = 10
"""So many requests of a stream may find out how far back its plan reaches, now and then."""
_PROVING_MINUTES = 5
"""So many minutes that the ledger knows show that counts are wrong; two are enough, but each must be in the ledger."""


class Judge:
    """Compares what the world knows with what the program has done and said."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._letters: set[str] = set()  # the uids of dead letters, and of suspects
        self._parked: set[str] = set()
        self._said: Counter[str] = Counter()  # what could not be had, by the counters of all lives
        self._short_plans = world.faults.episodes("moving retention")
        self._watermarks: dict[str, int] = {}  # in the memory of the process
        self._on_disk: dict[str, int] = {}
        self._first_ms: dict[str, int] = {}
        self._begun_ms: dict[str, int] = {}
        self._moved_at = 0.0

    @property
    def _is_dated(self) -> bool:
        """Whether JumpCloud's dates were right until now."""
        return not any(count for name, count in self._world.landmarks.items() if name.startswith("Date"))

    def note_progress(self) -> None:
        """New events are delivered, or streams begin and have time to move."""
        self._moved_at = self._world.now

    def forget_memory(self) -> None:
        """A life ends: the next one begins with the positions that are on disk."""
        self._watermarks = dict(self._on_disk)

    def note_counters(self, plugin: App) -> None:
        """Keep what a life said, which ends."""
        for collector in plugin.collectors:
            self._said["unavailable"] += bool(collector.counters.unavailable_seconds)
            self._said["given up"] += collector.counters.given_up_minutes

    def committed(self, connection: SimConnection) -> None:
        """A transaction is on disk."""
        for name, text in connection.rows("SELECT name, position FROM stream"):
            position = json.loads(text)
            self._note_beginning(name.removeprefix("organization "), position)
            if position["watermark_ms"] != self._on_disk.get(name):
                self._on_disk[name] = position["watermark_ms"]
                self._moved(connection, name, position)

    def advanced(self, process: Process, name: str, position: Position) -> None:
        """A position has moved past nothing new. It may be on disk only later."""
        moved = msgspec.to_builtins(position)
        self._note_beginning(name.removeprefix("organization "), moved)
        self._moved(process.connections[-1], name, moved)

    def _moved(self, connection: SimConnection, name: str, position: dict[str, Any]) -> None:
        """A position has moved: it must not have passed what was there and is not delivered."""
        watermark = position["watermark_ms"]
        before = self._watermarks.get(name, position["origin_ms"])
        self._watermarks[name] = watermark
        if watermark > self._world.now_ms + 10_000 and self._is_dated and not position["provisional"]:
            self._world.fail(f"{name}: the position is {(watermark - self._world.now_ms) / 1000:.0f} s in the future")
        if watermark > before:
            self._moved_at = self._world.now
            self._check_passed(connection, name, position["origin_ms"], before, watermark)

    def _note_beginning(self, name: str, position: dict[str, Any]) -> None:
        """From when on a stream has promised its events: from the first commit, if the clock was right then.

        If it was wrong, and JumpCloud's dates too, nothing tells the true time. An origin by a clock that was
        ahead promises nothing before it is corrected, which takes a state that can be written.
        """
        self._first_ms.setdefault(name, self._world.now_ms - ORIGIN_MS + self._world.plan.start_ms)
        is_right = abs(self._world.clock.wall_ns() // 1_000_000 - self._world.now_ms) < MINUTE
        is_polled = name in self._world.settings.jumpcloud.organizations
        begun_ms = self._world.now_ms - ORIGIN_MS + self._world.plan.start_ms
        is_trusted = is_right and position["origin_ms"] < begun_ms + MINUTE
        if name in self._begun_ms or not is_polled or (position.get("provisional") and not is_trusted):
            return
        if not is_right and not self._is_dated:
            begun_ms = max(begun_ms, position["origin_ms"])
        self._begun_ms[name] = begun_ms

    def _check_passed(self, connection: SimConnection, name: str, origin: int, before: int, watermark: int) -> None:
        organization = self._world.api.organizations[name.removeprefix("organization ")]
        asked, start = organization.first_pages.get(watermark, (None, 0))
        if not self._is_dated:
            before = max(before, start)  # a clock that is wrong takes the plan for shorter; the gap is compared later
        if asked is None:
            if not self._world.faults.on.keys() & {"moving retention"} and self._world.plan.plan_ms > 8 * DAY:
                self._world.fail(f"{name}: the position is at {watermark}, the end of no window")
            return
        for event in organization.between(max(before, origin), watermark):
            if self._is_out_of_plan(event):
                continue
            if event.visible <= asked and event.hidden_until < asked and not self._has(event):
                self.note_letters(connection)
                if event.uid not in self._letters:
                    self._world.fail(
                        f"{name}: the position passed {event.uid}, which was visible and is not acknowledged"
                    )
                    return

    def _has(self, event: Event) -> bool:
        return any(receiver.kept[event.uid] for receiver in self._world.receivers)

    def note_letters(self, connection: SimConnection) -> None:
        """Note which events are not delivered, but known."""
        letters = connection.rows("SELECT state, event FROM dead_letter")
        self._letters = {json.loads(raw)["uid"] for _, raw in letters}
        self._parked = {json.loads(raw)["uid"] for state, raw in letters if state == "suspect"}

    def check_health(self, process: Process, plugin: App) -> None:
        """Never ready while something is owed and nothing moves."""
        now_ms, settings = self._world.now_ms, self._world.settings
        limit = settings.http.max_lag + settings.jumpcloud.lag + 2 * settings.jumpcloud.interval + 120
        if self._world.now - self._moved_at < limit or self._world.faults.acted(
            "clock", self._world.now - limit - 3600
        ):
            return  # with a wrong clock the lag is wrong too
        for organization in self._world.organizations:
            if organization.name not in settings.jumpcloud.organizations:
                continue
            for event in organization.between(self._start_ms(organization), now_ms - int(limit * 1000)):
                if event.visible < event.at + MINUTE and not self._has(event) and event.uid not in self._letters:
                    if event.visible + limit * 1000 > now_ms or self._is_out_of_plan(event):
                        continue
                    self._world.landmarks["owed for long"] += 1
                    snapshot = take_snapshot(plugin, now_ms=process.runtime.now_ms(), began=process.began)
                    if not not_ready(snapshot) and not not_alive(snapshot):
                        self._world.fail(f"ready, but {event.uid} is owed since {now_ms - event.visible} ms")
                    return

    def check_end(self) -> None:
        """All has recovered: everything that was promised is there, and nothing twice."""
        process = self._world.process
        if process is None or process.app is None:
            self._world.fail("the process does not run")
            return
        plugin = process.app
        self.note_counters(plugin)
        self.note_letters(process.connections[-1])
        self._check_delivered()
        self._check_duplicates()
        for row in plugin.resources.state.jobs.rows(only_open=True):
            self._world.fail(f"{row.name} is still open: {row.error}")
        backfills = self._world.landmarks["backfill"] * len(self._world.organizations)
        most = MAX_REQUESTS[self._world.plan.counts] + backfills * _REQUESTS_OF_A_BACKFILL * self._world.now
        if self._world.api.requests > most:
            self._world.fail(f"{self._world.api.requests} requests")
        settings = self._world.settings.jumpcloud
        search = _REQUESTS_FOR_PLAN * len(plugin.collectors) / settings.requests_per_second
        late = 120 + search + settings.interval * (5 if self._world.plan.is_overloaded else 1)
        for collector in plugin.collectors:
            behind = (self._world.now_ms - collector.position.watermark_ms) / 1000 - settings.lag - settings.interval
            if behind < -120 - settings.interval:
                self._world.fail(f"{collector.stream.name}: the position is in the future")
            if behind > late:
                self._world.fail(f"{collector.stream.name} is {behind:.0f} s behind: {collector.error}")
        snapshot = take_snapshot(plugin, now_ms=process.runtime.now_ms(), began=process.began)
        reasons = not_alive(snapshot) + not_ready(snapshot)
        if reasons and not self._world.plan.is_overloaded and self._world.plan.counts == "right":
            self._world.fail(f"not ready: {reasons[0]}")
        if "undeclared exception" not in self._world.faults.on and any(
            each.counters.unexpected for each in plugin.collectors
        ):
            self._world.fail("an unexpected exception")

    def _promised(self, organization: Organization, event: Event) -> bool:
        start_ms = self._start_ms(organization)
        if event.at < start_ms:
            return False
        is_late = _is_late(event) or not self._is_dated  # with a clock that is ahead, polls may have been too early
        if self._is_out_of_plan(event) and (self._said["unavailable"] or is_late):
            return False
        # Counts that are wrong but possible hide what is late, until they are right again.
        out_of_reach = (
            event.at < ORIGIN_MS + self._world.plan.seconds * 1000 - self._world.settings.reconcile.reach.ms + 2 * HOUR
        )
        if is_late and self._world.plan.counts != "right":
            # All is read again every six hours, if the counts are known to be wrong: enough minutes must be lower.
            end_ms = event.at + 6 * HOUR
            minutes = {each.at // MINUTE for each in organization.between(max(start_ms, event.at - 6 * HOUR), end_ms)}
            late = {each.at // MINUTE for each in organization.events if _is_late(each)}
            if len(minutes - late) < _PROVING_MINUTES:
                return False
            return max(event.visible, event.hidden_until) < event.at + 12 * HOUR and not out_of_reach
        return not (is_late and out_of_reach and self._world.faults.excused("counts"))

    def _is_out_of_plan(self, event: Event) -> bool:
        """Whether the plan did not reach back to the event at some time until now: that was said, then.

        Near its beginning, which moves on, up to half of it is left out, and at most a day.
        """
        now, plan_ms = self._world.now, self._world.plan.plan_ms
        ends = [(now, plan_ms)] + [
            (min(now, end), min(DAY, plan_ms)) for begin, end in self._short_plans if begin < now
        ]
        return any(event.at < ORIGIN_MS + end * 1000 - reach_ms + min(DAY, reach_ms // 2) for end, reach_ms in ends)

    def _start_ms(self, organization: Organization) -> int:
        """From when on events are promised: as long before the first commit as the settings say."""
        return self._begun_ms.get(organization.name, self._first_ms.get(organization.name, self._world.now_ms))

    def _check_delivered(self) -> None:
        for organization in self._world.organizations:
            for event in organization.events:
                if self._promised(organization, event) and not self._has(event) and event.uid not in self._letters:
                    late = (event.visible - event.at) / 1000
                    counted = (event.counted - event.visible) / 1000
                    self._world.fail(
                        f"{event.uid} at {event.at} is lost: {late:.0f} s late, counted {counted:.0f} s after"
                    )
                    return
        if self._parked:
            self._world.fail(f"parked: {sorted(self._parked)}")
        # A receiver that takes some chunks and not others looks as if it refused records.
        by_chance = any("letter" in row.excuses for name, row in self._world.faults.on.items() if name != POISON)
        wrong = self._letters - (self._world.plan.poison if POISON in self._world.faults.on else set())
        if wrong and not by_chance:
            self._world.fail(f"dead letters: {sorted(wrong)[:5]}")

    def _check_duplicates(self) -> None:
        settled: Counter[str] = Counter()
        for receiver in self._world.receivers:
            for delivery in receiver.deliveries:
                if delivery.settled:
                    settled.update(delivery.uids)
                elif not self._world.faults.excused("resend"):
                    self._world.fail(f"{delivery.uids[0]} was sent again without a reason")
                    return
        for uid, count in settled.items():
            if count > 1:
                self._world.fail(f"{uid} was acknowledged and committed {count} times")
                return


def _is_late(event: Event) -> bool:
    """Whether no poll returned it: it became visible too late, or the answer left it out."""
    return bool(event.hidden_until) or event.visible > event.at + MINUTE
