"""A model of JumpCloud's API: what is documented about it, and nothing of the program that it tests."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from random import Random
from typing import Any

from simulation.faults import Faults

MINUTE = 60_000
DAY = 86_400_000
KEY = "jca_simulated_key_0123456789abcdef012345"


@dataclass(slots=True)
class Event:
    """An event. Times are epoch milliseconds: its own, and from when on `/events` and the counts have it."""

    uid: str
    at: int
    document: str
    visible: int
    counted: int
    row: str
    hidden_until: int = 0
    """An answer left it out: only a later request for the first page returns it."""


@dataclass(slots=True)
class Answer:
    """A response: `body` is what `json` encodes, or bytes."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


class Organization:
    """The events of one organization, in the order of their times."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[Event] = []
        self.first_pages: dict[int, tuple[int, int]] = {}
        """When the first page of a query with this end was first served; both in epoch milliseconds."""
        self._cursors: dict[str, str] = {}

    def add(self, event: Event) -> None:
        """Add an event."""
        self.events.append(event)
        self.events.sort(key=lambda each: (each.at, each.document))

    def between(self, start: int, end: int) -> list[Event]:
        """The events of `[start, end)`, visible or not."""
        events = self.events
        return events[bisect_left(events, start, key=_at) : bisect_left(events, end, key=_at)]


def _at(event: Event) -> int:
    return event.at


class JumpCloud:
    """The API. Faults change its answers."""

    def __init__(
        self, organizations: list[Organization], faults: Faults, *, origin_ms: int, plan_ms: int, counts: str = "right"
    ) -> None:
        self.organizations = {each.name: each for each in organizations}
        self.requests = 0
        self._faults = faults
        self._origin_ms = origin_ms
        self._plan_ms = plan_ms
        self._count = counts

    def answer(self, path: str, body: bytes, headers: dict[str, str], now: float) -> Answer:
        """Answer a request that arrives `now`, in seconds of the run."""
        self.requests += 1
        now_ms = self._origin_ms + int(now * 1000)
        answer = self._answer(path, json.loads(body), headers, now, now_ms)
        answer.headers.setdefault("X-Request-Id", f"r{self.requests}")
        date = now_ms
        if self._faults.hits("Date is missing", now):
            return answer
        if random := self._faults.hits("Date is wrong once", now):
            date += random.randint(-3 * DAY, 3 * DAY)
        elif random := self._faults.hits("Date is wrong for long", now):
            date += Random(f"{self._origin_ms}").choice((-2 * DAY, -3_600_000, -600_000, 900_000, DAY))
        answer.headers["Date"] = formatdate(date // 1000, usegmt=True)
        return answer

    def _answer(self, path: str, query: dict[str, Any], headers: dict[str, str], now: float, now_ms: int) -> Answer:
        if headers.get("x-api-key") != KEY:
            return _error(401, "Unauthorized")
        if refusal := self._status_fault(now):
            return refusal
        organization = self.organizations.get(headers.get("x-org-id", ""))
        if organization is None:
            return _error(403, "Forbidden")
        start, end = _epoch_ms(query["start_time"]), _epoch_ms(query["end_time"])
        if start > now_ms or start >= end:
            return _error(400, "invalid start_time")
        if start < now_ms - self.plan_ms(now):
            return _error(402, "the license does not cover this")
        if path.endswith("/interval"):
            return self._counts(organization, start, end, now, now_ms)
        if path.endswith("/count"):
            return self._total(organization, start, end, now, now_ms)
        return self._page(organization, query, start, end, now, now_ms)

    def plan_ms(self, now: float) -> int:
        """How far back the API answers."""
        if not self._faults.acts("moving retention", now):
            return self._plan_ms
        self._faults.landmarks["moving retention"] += 1
        return min(self._plan_ms, DAY)

    def _status_fault(self, now: float) -> Answer | None:
        for status in (401, 403, 500):
            if self._faults.hits(str(status), now):
                return _error(status, "a fault")
        if self._faults.hits("502 with HTML", now):
            return Answer(502, b"<html><body>Bad Gateway</body></html>", {"Content-Type": "text/html"})
        if random := self._faults.hits("429", now):
            after = random.choice((None, "0", "-5", "3", "40", "900", "soon", formatdate(0), "1e9"))
            answer = _error(429, "too many requests")
            if after is not None:
                answer.headers["Retry-After"] = after
            return answer
        return None

    def _page(
        self, organization: Organization, query: dict[str, Any], start: int, end: int, now: float, now_ms: int
    ) -> Answer:
        limit, faults = min(int(query.get("limit", 1000)), 10_000), self._faults
        frozen = json.dumps([query["start_time"], query["end_time"], query["service"], query.get("sort"), limit])
        after = query.get("search_after")
        if after is None:
            organization.first_pages.setdefault(end, (now_ms, start))
        elif organization._cursors.get(json.dumps(after)) != frozen or faults.hits("refused cursor", now):
            return _error(400, "invalid search_after")
        position = (int(after[0]), after[1]) if after else (-1, "")
        found = [
            event
            for event in organization.between(start, end)
            if event.visible <= now_ms and (event.at, event.document) > position
        ]
        page = found[:limit]
        if page and faults.hits("page one short", now):
            for event in page[-1:]:
                event.hidden_until = now_ms
            page = page[:-1]  # an early end, without an error
            for event in found[limit:]:
                event.hidden_until = now_ms
        if page and after is not None and faults.hits("empty page in between", now):
            for event in found:
                event.hidden_until = now_ms
            page = []
        if page and after is not None and faults.hits("row comes again instead of the next", now):
            page[0].hidden_until = now_ms
            page[0] = next(event for event in organization.events if (event.at, event.document) == position)
        last = page[-1] if page else None
        cursor = [last.at, last.document] if last else (after or [start, ""])
        if after is not None and faults.hits("repeated cursor", now):
            cursor = after
        organization._cursors[json.dumps(cursor)] = frozen
        rows = [event.row for event in page]
        if len(rows) > 1 and len(rows) < limit and (random := faults.hits("duplicate rows", now)):
            rows.insert(random.randrange(len(rows)), random.choice(rows))
        headers = {
            "X-Result-Count": str(len(rows)),
            "X-Limit": str(limit),
            "X-Sort": "ASC",
            "X-Search_after": json.dumps(cursor),
        }
        return Answer(200, f"[{','.join(rows)}]".encode(), headers)

    def _total(self, organization: Organization, start: int, end: int, now: float, now_ms: int) -> Answer:
        if self._count == "refused" or self._faults.hits("counts are refused", now):
            return _error(404, "no counts")
        count = sum(each.counted <= now_ms for each in organization.between(start, end))
        return Answer(200, json.dumps({"count": count}).encode())

    def _counts(self, organization: Organization, start: int, end: int, now: float, now_ms: int) -> Answer:
        faults = self._faults
        if self._count == "refused" or faults.hits("counts are refused", now):
            return _error(400, "too many buckets")
        if end < now_ms - DAY and faults.hits("counts of old spans are refused", now):
            return _error(500, "a fault")
        events = organization.between(start, end)
        found = Counter(event.at // MINUTE for event in events if event.counted <= now_ms)
        faults.landmarks["counts are ahead"] += any(each.counted <= now_ms < each.visible for each in events)
        faults.landmarks["counts are behind"] += any(each.visible <= now_ms < each.counted for each in events)
        if self._count != "right":
            found = Counter({minute: count // 2 for minute, count in found.items() if self._count == "lower"})
        if random := faults.hits("counts are impossible", now):
            found = _impossible(found, random, start, end)
        buckets = [{"key": minute * MINUTE, "doc_count": count} for minute, count in sorted(found.items()) if count]
        return Answer(200, json.dumps({"buckets": buckets}).encode())


_MIN_MINUTES = 3


def _impossible(counts: Counter[int], random: Random, start: int, end: int) -> Counter[int]:
    kind = random.choice(("zero", "lower", "negative", "shifted", "more"))
    if len(counts) < _MIN_MINUTES and kind in {"zero", "lower", "shifted"}:
        kind = "more"  # those could be true, and what is neither counted nor returned cannot be found
    minutes = sorted(counts)
    if kind == "zero":
        return Counter()
    if kind == "shifted":
        first, last = start // MINUTE, -(-end // MINUTE)
        return Counter({minute + 1: count for minute, count in counts.items() if first <= minute + 1 < last})
    changed = Counter(counts)
    for minute in minutes:
        if random.random() < 0.7:
            changed[minute] = {"lower": counts[minute] // 2, "negative": -1, "more": counts[minute] + 3}[kind]
    return changed


def _error(status: int, message: str) -> Answer:
    return Answer(status, json.dumps({"message": message}).encode())


def _epoch_ms(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)
