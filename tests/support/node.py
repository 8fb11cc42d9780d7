"""The official Node implementation of the forward protocol as a receiver; tests of it skip without node and npm."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
from support.command import ROOT

PEER = ROOT / "tests" / "peers" / "node"
NODE = shutil.which("node")
NPM = shutil.which("npm")
HOSTNAME = "receiver.node"
"""Its name in a handshake."""

needs_node = pytest.mark.skipif(NODE is None or NPM is None, reason="no Node: put node and npm on PATH")


class Entry(NamedTuple):
    """One entry that it received; an EventTime is (seconds, nanoseconds)."""

    tag: str
    time: tuple[int, int] | int
    record: dict[str, Any]


def installed(directory: Path) -> Path:
    """Install the packages of the lock file below `directory`, unless they are there; return the folder of modules."""
    names = ("package.json", "package-lock.json")
    content = b"".join((PEER / name).read_bytes() for name in names)
    home = directory / hashlib.sha256(content).hexdigest()[:16]
    if not home.is_dir():
        with tempfile.TemporaryDirectory(dir=directory) as temporary:
            fresh = Path(temporary) / "fresh"
            fresh.mkdir()
            for name in names:
                shutil.copy(PEER / name, fresh)
            _install(fresh)
            with contextlib.suppress(OSError):  # another run may have been faster
                fresh.rename(home)
    return home / "node_modules"


def _install(directory: Path) -> None:
    assert NPM is not None
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-retry-mintimeout=1000")
    try:
        done = subprocess.run(  # noqa: S603 - the packages are pinned by their hashes
            [NPM, "ci", *options], cwd=directory, capture_output=True, text=True, timeout=90, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm could not install the Node receiver within 90 s")
    if done.returncode == 0:
        return
    code, reason = _npm_error(done.stderr)
    assert code not in {"EINTEGRITY", "EUSAGE"}, f"the lock file is wrong: {done.stderr}"
    pytest.skip(f"npm could not install the Node receiver: {reason}")


def _npm_error(output: str) -> tuple[str, str]:
    """The error code, and the line that says what happened."""
    lines = re.findall(r"^npm (?:error|ERR!) (\S.*)", output, re.MULTILINE)
    code = next((line.removeprefix("code ") for line in lines if line.startswith("code ")), "")
    details = ("code ", "syscall ", "errno ", "path ")
    return code, next((line for line in lines if not line.startswith(details)), output.strip())


class NodeReceiver:
    """A receiver on a loopback port, the same at every start; `options` are those of FluentServer."""

    def __init__(self, modules: Path, options: dict[str, Any]) -> None:
        self.port = 0
        self.entries: list[Entry] = []  # complete after `stop`
        self._modules = modules
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def start(self) -> Self:
        """Start it, and wait until it listens."""
        assert NODE is not None
        options = self._options | {"listenOptions": {"host": "127.0.0.1", "port": self.port}}
        self._process = subprocess.Popen(  # noqa: S603 - our own script
            [NODE, PEER / "receiver.js", json.dumps(options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "NODE_PATH": str(self._modules)},
        )
        assert self._process.stdout is not None
        listening = self._process.stdout.readline()
        assert listening, f"it ended with exit code {self._process.wait()}"
        self.port = json.loads(listening)["port"]
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        return self

    def stop(self, how: signal.Signals = signal.SIGTERM) -> list[Entry]:
        """Stop it; return every entry that it received, over all its starts."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(40)
            if self._reader is not None:
                self._reader.join()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = self._reader = None
        return self.entries

    def signal(self, how: signal.Signals) -> None:
        """Send it a signal, such as SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(how)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop(signal.SIGKILL)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            entry = json.loads(line)
            time = entry["time"]
            self.entries.append(Entry(entry["tag"], tuple(time) if isinstance(time, list) else time, entry["record"]))


def security(key: str, users: dict[str, str] | None = None) -> dict[str, Any]:
    """The options of a receiver with a shared key, and with users if any are given."""
    return {
        "security": {
            "serverHostname": HOSTNAME,
            "sharedKey": key,
            "authorize": users is not None,
            "userDict": users or {},
        }
    }
