"""The simulated API's answers to a query: pages, counts and a histogram by minute, or the reason for a refusal.

It accepts what the plugin sends; every other option of the real API is a 400. A cursor carries a signature of its
query, so that a `search_after` under another query is a 400 too, instead of a silent gap as in the real API.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.templates import templates
from in_jumpcloud.simulator.together import Together
from in_jumpcloud.timestamps import MINUTE_MS, rfc3339, whole_minute

MAX_LIMIT = 10_000
MAX_BUCKETS = 65_536

_PREFIX = 14  # characters of a cursor that come from the document id; the other 6 sign the query
_OTHER_SERVICES = {
    *("all", "alert", "workflows", "aigw", "genai", "di_events"),
    *("pam", "password_vault", "access_certification", "ai_admin", "adbridge_user", "generic_di"),
}
_Time = Annotated[datetime, msgspec.Meta(tz=True)]


@dataclass
class Answer:
    """One HTTP answer. `events` is the number of events in its body; a `cut` one ends in the middle of its body."""

    status: int  # 0: none, the connection is closed
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    events: int = 0
    cut: bool = False
    date_skew: float | None = 0.0  # seconds added to `Date`; None: there is no such header


class Refusal(Exception):
    """The answer is an error, with `content` as its JSON."""

    def __init__(self, status: int, headers: dict[str, str] | None = None, **content: str) -> None:
        super().__init__(status, content)
        self.answer = Answer(status, msgspec.json.encode(content), headers or {})


@dataclass
class _View:
    """The events that a query selects."""

    source: EventSource | Together
    start_ms: int
    end_ms: int
    now_ms: int
    services: frozenset[str] | None

    def count(self, start_ms: int, end_ms: int) -> int:
        """The number of those in [start, end)."""
        start_ms, end_ms = max(start_ms, self.start_ms), min(end_ms, self.end_ms)
        return self.source.count(start_ms, end_ms, now_ms=self.now_ms, services=self.services)


class _Query(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a request. `answer` answers it from the events that it selects."""

    service: Annotated[list[str], msgspec.Meta(min_length=1)]
    start_time: _Time
    end_time: _Time | None = None

    def select(self, source: EventSource | Together, now_ms: int) -> _View:
        known = {*templates().services, *_OTHER_SERVICES}
        if unknown := sorted(set(self.service) - known):
            text = f"Unsupported service: {', '.join(unknown)}; supported: {', '.join(sorted(known))}"
            raise Refusal(400, message=text)
        start = _milliseconds(self.start_time)
        end = now_ms if self.end_time is None else _milliseconds(self.end_time)
        if start > now_ms:
            raise Refusal(400, message=f"Start Time is in the future {rfc3339(start)} > {rfc3339(now_ms)}")
        if start >= end:
            raise Refusal(400, message=f"Start Time not after End Time {rfc3339(start)} > {rfc3339(end)}")
        services = frozenset("alerts" if name == "alert" else name for name in self.service)
        return _View(source, start, end, now_ms, None if "all" in services else services)


class _Count(_Query, frozen=True):
    """The number of events."""

    def answer(self, view: _View) -> Answer:
        return Answer(200, msgspec.json.encode({"count": view.count(view.start_ms, view.end_ms)}))


class _Page(_Query, frozen=True, kw_only=True):
    """One page of events in ascending order, with the cursor of the next page in a header."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = 1000
    sort: Literal["ASC"] = "ASC"
    search_after: list[int | str] = []

    def answer(self, view: _View) -> Answer:
        query = [view.source.organization, msgspec.structs.replace(self, search_after=[])]
        signature = hashlib.blake2b(msgspec.json.encode(query), digest_size=3).hexdigest()
        items = view.source.between(
            view.start_ms,
            view.end_ms,
            now_ms=view.now_ms,
            limit=self.limit,
            services=view.services,
            after=self._after(signature),
        )
        cursor = [items[-1].timestamp_ms, items[-1].doc_id[:_PREFIX] + signature] if items else self.search_after
        headers = {
            "X-Result-Count": str(len(items)),
            "X-Limit": str(self.limit),
            "X-Sort": "ASC",
            "X-Search_after": json.dumps(cursor, separators=(",", ":")),
        }
        return Answer(200, b"[" + b",".join(item.raw for item in items) + b"]", headers, len(items))

    def _after(self, signature: str) -> tuple[int, str] | None:
        """The place that `search_after` names: a millisecond and the beginning of a document id."""
        match self.search_after:
            case []:
                return None
            case [moment, str() as doc_id] if re.fullmatch(r"\d{1,15}", str(moment)) and doc_id[_PREFIX:] == signature:
                return int(moment), doc_id[:_PREFIX]
        raise Refusal(400, message="Invalid search_after: it does not belong to this query")


class _Interval(_Query, frozen=True, kw_only=True):
    """The number of events in each minute, from the first that has events to the last."""

    interval_unit: Literal["m"]
    interval_value: Literal["1"]
    timezone: Literal["UTC"] = "UTC"

    def answer(self, view: _View) -> Answer:
        first = whole_minute(view.start_ms)
        if (view.end_ms - first) // MINUTE_MS > MAX_BUCKETS:
            raise Refusal(400, message="Too many buckets: choose a larger interval")
        counts = {key: view.count(key, key + MINUTE_MS) for key in range(first, view.end_ms, MINUTE_MS)}
        occupied = [key for key, events in counts.items() if events] or [0, -1]
        buckets = [
            {"key": key, "key_as_string": rfc3339(key), "doc_count": counts[key]}
            for key in range(occupied[0], occupied[-1] + 1, MINUTE_MS)
        ]
        return Answer(200, msgspec.json.encode({"buckets": buckets}))


_ENDPOINTS: dict[str, type[_Count | _Page | _Interval]] = {
    "/insights/directory/v1/events": _Page,
    "/insights/directory/v1/events/count": _Count,
    "/insights/directory/v1/events/interval": _Interval,
}
PATHS = set(_ENDPOINTS)


def answer(path: str, body: Any, source: EventSource | Together, now_ms: int) -> Answer:
    """The answer to a request with this JSON for one of PATHS.

    Raises:
        Refusal: the query is wrong.
    """
    try:
        query = msgspec.convert(body, _ENDPOINTS[path])
    except msgspec.ValidationError as error:
        raise Refusal(400, message=f"Invalid query: {error}") from None
    return query.answer(query.select(source, now_ms))


def require_retention(body: Any, now_ms: int, retention_ms: int | None) -> None:
    """Raise Refusal if a query begins before what the plan reaches."""
    start = body.get("start_time") if retention_ms is not None else None
    if isinstance(start, str) and _milliseconds(datetime.fromisoformat(start)) < now_ms - (retention_ms or 0):
        raise Refusal(402, message="not licensed for events that old")


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
