"""A real Fluent Bit: as the plugin's receiver, and alone with tail, Lua and geoip2 as another baseline."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from bench.processes import ROOT, Failed

BINARY = os.environ.get("FLUENT_BIT") or shutil.which("fluent-bit")
CITY = ROOT / "geoip" / "demo-city.mmdb"
_START_SECONDS = 30.0

# The plain script's mapping. geoip2 reads and writes only top-level keys, so address and place are there.
_LUA = """
function to_ecs(tag, timestamp, event)
  local actor = event.initiated_by or {}
  local record = {
    ["@timestamp"] = event.timestamp, ecs = {version = "8.11.0"},
    event = {id = event.id, action = event.event_type, module = event.service, dataset = "jumpcloud.events",
             outcome = event.success and "success" or "failure"},
    source = {user = {id = actor.id, email = actor.email, name = actor.username}},
    jumpcloud = {event = event}, tags = {"forwarded"}, client_ip = event.client_ip, message = event.message
  }
  if event.username then record.user = {name = event.username} end
  if type(event.useragent) == "table" then
    record.user_agent = {name = event.useragent.name, version = event.useragent.version}
  end
  return 1, timestamp, record
end
"""
_GEO = (
    "city_name client_ip %{city.names.en}",
    "country_name client_ip %{country.names.en}",
    "country_iso_code client_ip %{country.iso_code}",
    "lat client_ip %{location.latitude}",
    "lon client_ip %{location.longitude}",
)


def unavailable() -> str | None:
    """Why Fluent Bit cannot take part; None if it can."""
    if BINARY is None:
        return "no Fluent Bit: set FLUENT_BIT, or put fluent-bit on PATH"
    listed = subprocess.run([BINARY, "--help"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    missing = [name for name in ("lua", "geoip2") if f"  {name} " not in listed]
    return f"{BINARY} lacks {' and '.join(missing)}" if missing else None


class Receiver:
    """A Fluent Bit that stores chunks of the plugin in files, as conf/fluent-bit.yaml does, and drops them."""

    def __init__(self, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        forward = {
            "name": "forward",
            "listen": "127.0.0.1",
            "port": self.port,
            "buffer_max_size": "8M",
            "storage.type": "filesystem",
        }
        path = _written(directory, {"storage.path": str(directory / "storage")}, forward, [], {"name": "null"})
        with (directory / "log").open("wb") as log:
            self._process = subprocess.Popen([str(BINARY), "-c", path], stdout=log, stderr=log)  # noqa: S603
        self.pid = self._process.pid
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.02)  # there is no notification when it listens
            else:
                return
        raise Failed(f"Fluent Bit does not listen after {_START_SECONDS:g} s")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def tail(directory: Path, lines: Path, *, keep: bool = False) -> list[object]:
    """The command that reads a file with one event a line, maps each event and looks up its address.

    With `keep` it writes the records to the file `kept`, to check that all are there.
    """
    output = {"name": "file", "path": str(directory), "file": "kept", "format": "plain"} if keep else {"name": "null"}
    (directory / "map.lua").write_text(_LUA)
    (directory / "parsers.conf").write_text("[PARSER]\n    Name json\n    Format json\n")
    source = {
        "name": "tail",
        "path": str(lines),
        "parser": "json",
        "read_from_head": True,
        "exit_on_eof": True,
        "buffer_chunk_size": "1M",
        "buffer_max_size": "8M",
    }
    filters: list[dict[str, Any]] = [
        {"name": "lua", "match": "*", "script": str(directory / "map.lua"), "call": "to_ecs"},
        {"name": "geoip2", "match": "*", "database": str(CITY), "lookup_key": "client_ip", "record": list(_GEO)},
    ]
    service = {"parsers_file": str(directory / "parsers.conf"), "http_server": False}
    return [BINARY, "-c", _written(directory, service, source, filters, output)]


def _written(
    directory: Path,
    service: dict[str, Any],
    source: dict[str, Any],
    filters: list[dict[str, Any]],
    output: dict[str, Any],
) -> Path:
    document = {
        "service": {"flush": 0.2, "grace": 5, "log_level": "info", **service},
        "pipeline": {"inputs": [source], "filters": filters, "outputs": [{**output, "match": "*"}]},
    }
    path = directory / "fluent-bit.yaml"
    path.write_text(json.dumps(document, indent=1))
    return path
