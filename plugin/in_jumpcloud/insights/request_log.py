"""One line of the log at level debug for each request to JumpCloud. It has no header of the request, so no key."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from in_jumpcloud.errors import InJumpCloudError
from in_jumpcloud.insights.http_exchange import HttpResponse

log = logging.getLogger(__name__)


def log_request(
    path: str, query: Mapping[str, Any], organization: str | None, outcome: HttpResponse | InJumpCloudError, ms: float
) -> None:
    """Log one request to `path`, such as "events", which took `ms` milliseconds."""
    if not log.isEnabledFor(logging.DEBUG):
        return
    cursor = msgspec.json.encode(query["search_after"]).decode() if "search_after" in query else None
    fields = {
        "url.path": path,
        "organization.id": organization,
        "in_jumpcloud.query.start_time": query.get("start_time"),
        "in_jumpcloud.query.end_time": query.get("end_time"),
        "in_jumpcloud.query.limit": query.get("limit"),
        "in_jumpcloud.query.search_after": cursor,
        "event.duration": round(ms * 1e6),
    }
    if isinstance(outcome, HttpResponse):
        answer = {
            "http.response.status_code": outcome.status,
            "http.response.body.bytes": len(outcome.body),
            "http.request.id": outcome.headers.get("X-Request-Id"),
            "in_jumpcloud.events": outcome.headers.get("X-Result-Count"),
        }
        result = f"{outcome.status}, {len(outcome.body)} bytes"
        result += f", {answer['in_jumpcloud.events']} events" if answer["in_jumpcloud.events"] else ""
        result += f", request {answer['http.request.id']}" if answer["http.request.id"] else ""
    else:
        answer = {"error.message": str(outcome)}
        result = str(outcome)
    log.debug(
        "request %s%s from %s to %s%s: %s, %.0f ms",
        path,
        f" of organization {organization}" if organization else "",
        query.get("start_time"),
        query.get("end_time"),
        f" after {cursor}" if cursor else "",
        result,
        ms,
        extra={"fields": fields | answer},
    )
