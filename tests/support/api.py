"""A client for the tests of the simulated API, and its day of events."""

from __future__ import annotations

import json
from typing import Any, Self

import requests

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.timestamps import MINUTE_MS

START = 1_767_225_600_000  # 2026-01-01T00:00:00Z
NOW = START + 24 * 60 * MINUTE_MS
WINDOW = {"service": ["all"], "start_time": "2026-01-01T00:00:00Z", "end_time": "2026-01-01T01:00:00Z"}
HOUR_END = START + 60 * MINUTE_MS


class Client:
    """A requests session for one API, with the required headers."""

    def __init__(self, api: SimulatedApi) -> None:
        self.api = api
        self.session = requests.Session()
        self.session.headers.update({"x-api-key": "simulated-key", "Content-Type": "application/json"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.session.close()

    def post(
        self, path: str = "events", *, headers: dict[str, str | None] | None = None, **body: Any
    ) -> requests.Response:
        """Query the first hour, changed by `body`. The value None removes a key."""
        query = {key: value for key, value in {**WINDOW, **body}.items() if value is not None}
        return self.send(json.dumps(query).encode(), path, headers)

    def send(self, data: bytes, path: str = "events", headers: dict[str, Any] | None = None) -> requests.Response:
        """Post these bytes."""
        url = f"{self.api.url}/insights/directory/v1/{path}"
        return self.session.post(url, data=data, headers=headers, timeout=10, allow_redirects=False)

    def pages(self, **body: Any) -> list[list[dict[str, Any]]]:
        """All pages."""
        pages: list[list[dict[str, Any]]] = []
        while True:
            answer = self.post(**body)
            assert answer.status_code == 200, answer.text
            pages.append(answer.json())
            assert answer.headers["X-Result-Count"] == str(len(pages[-1]))
            if answer.headers["X-Result-Count"] != answer.headers["X-Limit"]:
                return pages
            body["search_after"] = json.loads(answer.headers["X-Search_after"])


def ids(events: list[dict[str, Any]]) -> list[str]:
    """The ids of the events."""
    return [event["id"] for event in events]
