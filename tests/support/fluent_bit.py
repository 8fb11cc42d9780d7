"""A real Fluent Bit for tests: the binary that FLUENT_BIT names, or the one on PATH; without it they are skipped."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import pytest
from support.command import ROOT, wait_until

BINARY = os.environ.get("FLUENT_BIT") or shutil.which("fluent-bit")

needs_fluent_bit = pytest.mark.skipif(
    BINARY is None, reason="no real Fluent Bit: set FLUENT_BIT, or put fluent-bit on PATH"
)


class FluentBit:
    """A real Fluent Bit on a free port that prints what it receives; its files are in `directory`."""

    def __init__(self, directory: Path, configuration: str, *, suffix: str = ".yaml") -> None:
        """Use this configuration; in it 24224 becomes the port, and `state/` becomes `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.directory = directory
        self.output = directory / "records"
        self.log = directory / "log"
        self.settings = directory / f"fluent-bit{suffix}"
        self.settings.write_text(configuration.replace("24224", str(self.port)).replace("state/", f"{directory}/"))
        self._process: subprocess.Popen[bytes] | None = None
        unix = [line.split()[-1] for line in self.settings.read_text().splitlines() if "unix_path" in line.lower()]
        self._unix = unix[0].strip("\"',{}") if unix else None

    @classmethod
    def shipped(cls, directory: Path, name: str) -> Self:
        """One with a configuration from conf/, such as `fluent-bit.yaml`."""
        path = ROOT / "conf" / name
        return cls(directory, path.read_text(), suffix=path.suffix)

    @classmethod
    def with_input(
        cls,
        directory: Path,
        settings: Mapping[str, Any],
        *,
        service: Mapping[str, Any] | None = None,
        output: Mapping[str, Any] | None = None,
    ) -> Self:
        """One whose forward input has these settings and an address; `service` and `output` replace the defaults."""
        listen = {} if "unix_path" in settings else {"listen": "127.0.0.1", "port": 24224}
        printing = {"name": "stdout", "match": "*", "format": "json_lines", "json_date_key": False}
        document = {
            "service": {"flush": 0.2, "grace": 5, "log_level": "info", "storage.path": "state/storage"}
            | dict(service or {}),
            "pipeline": {
                "inputs": [{"name": "forward", **listen, "storage.type": "filesystem"} | dict(settings)],
                "outputs": [dict(output or printing) | {"retry_limit": "no_limits"}],
            },
        }
        return cls(directory, json.dumps(document, indent=1))

    def start(self) -> Self:
        """Start it, and wait until it listens."""
        assert BINARY is not None
        with self.output.open("ab") as output, self.log.open("ab") as log:
            self._process = subprocess.Popen([BINARY, "-c", self.settings], stdout=output, stderr=log)  # noqa: S603
        wait_until(self._listens)
        return self

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop it: SIGTERM lets it flush, SIGKILL does not."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.send_signal(signal.SIGCONT)
            self._process.wait(40)
            self._process = None

    def signal(self, how: signal.Signals) -> None:
        """Send it a signal; after SIGSTOP, wait until it has stopped."""
        assert self._process is not None
        self._process.send_signal(how)
        if how is signal.SIGSTOP:
            os.waitpid(self._process.pid, os.WUNTRACED)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop(signal.SIGKILL)

    def records(self) -> Iterable[dict[str, Any]]:
        """The records that came out of it so far."""
        for line in self.output.read_bytes().splitlines(keepends=True):
            if line.startswith(b"{") and line.endswith(b"\n"):
                # A kill cuts a line off, and the next start continues on that line.
                yield json.loads(line[max(0, line.rfind(b'{"@timestamp"')) :])

    def ids(self) -> Counter[str]:
        """How often each event.id came out of it."""
        return Counter(record["event"]["id"] for record in self.records())

    def log_count(self, text: str) -> int:
        """How often its log has this text."""
        return self.log.read_text(errors="replace").count(text)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"it exited: {self.log.read_text(errors='replace')[-2000:]}"
        if self._unix:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
                connection.connect(self._unix)
                return True
            return False
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
