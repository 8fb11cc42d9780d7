"""The same-record script: `requests`, the plugin's mapper and `fluent-logger`. It has neither acks nor a ledger.

One request after the other. Each record is sent as soon as it is mapped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests
from bench.mapping import mapper
from fluent.sender import FluentSender

from in_jumpcloud.insights.event import parse_event
from in_jumpcloud.insights.pages import split_page


def pages(url: str, key: str, ca: Path, limit: int) -> Iterator[bytes]:
    """The answers with every event of the last 15 days."""
    session = requests.Session()
    session.headers.update({"x-api-key": key, "Accept": "application/json"})
    now = datetime.now(UTC)
    query: dict[str, Any] = {
        "service": ["all"],
        "start_time": (now - timedelta(days=15)).isoformat(),
        "end_time": now.isoformat(),
        "limit": limit,
        "sort": "ASC",
    }
    while True:
        response = session.post(f"{url}/insights/directory/v1/events", json=query, verify=str(ca), timeout=60)
        response.raise_for_status()
        yield response.content
        if int(response.headers["X-Result-Count"]) < limit:
            return
        query["search_after"] = json.loads(response.headers["X-Search_after"])


def main() -> None:
    """Send every event."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--ca", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--limit", type=int, default=1000)
    arguments = parser.parse_args()
    ecs = mapper()
    sender = FluentSender("jumpcloud.events", host="127.0.0.1", port=arguments.port, nanosecond_precision=True)
    for page in pages(arguments.url, arguments.key, arguments.ca, arguments.limit):
        received_ns = time.time_ns()
        for raw in split_page(page):
            record = ecs.map(parse_event(raw), received_ns)
            if not sender.emit_with_time(None, record.time_ns / 1e9, record.body):
                sys.exit(f"not sent: {sender.last_error}")
    sender.close()


if __name__ == "__main__":
    main()
