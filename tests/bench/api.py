"""A cheap Directory Insights API in a separate process: it serves slices of a file of events.

With `--certificate` it speaks TLS. It compresses its answers for clients that take gzip, and sends a page `--latency`
seconds after the request, and `--latency-of-event` seconds later for each event on it. Under `/empty` it has no events,
to measure the cost of a poll. `GET` returns the number of requests; so does a line on standard input.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import ssl
import sys
import threading
import time
import zlib
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
        if "start_time" not in query:
            self.send_error(400)
            return
        start_ms, end_ms = _ms(query["start_time"]), _ms(query["end_time"])
        if self.path.startswith("/empty"):
            start_ms = end_ms = 0
        self.server.requests += 1
        if self.path.endswith("/interval"):
            self._write(self.server.histogram(start_ms, end_ms))
            return
        events = self.server.events
        if self.path.endswith("/count"):
            self._write(json.dumps({"count": events.first(end_ms) - events.first(start_ms)}).encode())
            return
        limit = query["limit"]
        cursor = query.get("search_after")
        begin = int(cursor[1]) if cursor else events.first(start_ms)
        end = max(begin, min(begin + limit, events.first(end_ms)))
        time.sleep(self.server.latency + (end - begin) * self.server.latency_of_event)
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
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            self.send_header("Content-Encoding", "gzip")
            body = _compressed(body)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client stops reading a page that is too large
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@functools.lru_cache(maxsize=256)
def _compressed(body: bytes) -> bytes:
    """As a gzip member, quickly: the work is that of another process, but on the same machine."""
    compressor = zlib.compressobj(1, wbits=31)
    return compressor.compress(body) + compressor.flush()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, events: EventFile, tls: ssl.SSLContext | None, latency: float, latency_of_event: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.events = events
        self.latency, self.latency_of_event = latency, latency_of_event
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
    parser.add_argument("--certificate", type=Path, help="a PEM file with the certificate and its key")
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--latency-of-event", type=float, default=0.0)
    arguments = parser.parse_args()
    tls = None
    if arguments.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(arguments.certificate)
    server = _Server(EventFile(arguments.path), tls, arguments.latency, arguments.latency_of_event)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)  # noqa: T201 - the parent process reads this
    for _ in sys.stdin:
        print(server.requests, flush=True)  # noqa: T201 - the same


if __name__ == "__main__":
    main()
