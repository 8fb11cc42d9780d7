"""A cheap Directory Insights API in a separate process: it serves slices of a file of events.

Under `/empty` it has no events, to measure the cost of a poll. `GET` returns the number of requests.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
from collections import Counter
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bench.events import EventFile

_MINUTE_MS = 60_000


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        start_ms, end_ms = _ms(query["start_time"]), _ms(query["end_time"])
        if self.path.startswith("/empty"):
            start_ms = end_ms = 0
        self.server.requests += 1
        if self.path.endswith("/interval"):
            self._write(self.server.histogram(start_ms, end_ms))
            return
        events, limit = self.server.events, query["limit"]
        cursor = query.get("search_after")
        begin = int(cursor[1]) if cursor else events.first(start_ms)
        end = max(begin, min(begin + limit, events.first(end_ms)))
        self._write(
            events.page(begin, end),
            {
                "X-Result-Count": str(end - begin),
                "X-Limit": str(limit),
                "X-Search_after": json.dumps([events.times_ms[end - 1] if end else 0, str(end)]),
            },
        )

    def do_GET(self) -> None:
        self._write(str(self.server.requests).encode())

    def _write(self, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client stops reading a page that is too large
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, events: EventFile) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.events = events
        self.requests = 0
        self._minutes = Counter(time_ms // _MINUTE_MS for time_ms in events.times_ms)

    def histogram(self, start_ms: int, end_ms: int) -> bytes:
        """The counts of the minutes in [start_ms, end_ms), in the API's format."""
        minutes = range(start_ms // _MINUTE_MS, -(-end_ms // _MINUTE_MS))
        buckets = [
            {"key": minute * _MINUTE_MS, "doc_count": self._minutes[minute]}
            for minute in minutes
            if minute in self._minutes
        ]
        return json.dumps({"buckets": buckets}).encode()


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def main() -> None:
    """Serve until standard input ends; the first line of standard output is the port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    server = _Server(EventFile(parser.parse_args().path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)  # noqa: T201 - the parent process reads this
    sys.stdin.read()


if __name__ == "__main__":
    main()
