"""`@timestamp` of a record."""

from __future__ import annotations

from typing import Any

from in_jumpcloud.insights.event import RawEvent
from in_jumpcloud.timestamps import rfc3339


def timestamp(event: RawEvent, data: dict[str, Any], created: str, problems: list[str]) -> str:
    """`@timestamp`: the event's time in UTC with exactly three fraction digits, as most events have it, or `created`.

    `data` is the event; a timestamp that cannot be read is appended to `problems`.
    """
    text = event.timestamp
    if text is None or event.time_ns is None:
        if "timestamp" in data:
            value = data["timestamp"]
            problems.append(f"timestamp: {value!r:.60} is not an RFC 3339 time; used the time of collection")
        return created
    if text[-1] == "Z" and text[10] == "T" and text[19] in ".Z":
        return text if len(text) == 24 else f"{text[:19]}.{text[20:-1]:0<3.3}Z"  # noqa: PLR2004
    return rfc3339(event.time_ns // 1_000_000)
