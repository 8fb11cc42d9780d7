"""The shipped configuration in a real Fluentd, which the environment variable FLUENTD names or PATH has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import ROOT, wait_until
from support.fluent_bit import free_port

from in_jumpcloud.config.schema import ForwardSettings, ServerSettings
from in_jumpcloud.config.types import Secret
from in_jumpcloud.errors import ReceiverDown
from in_jumpcloud.forward import wire
from in_jumpcloud.forward.sender import AckSender

BINARY = os.environ.get("FLUENTD") or shutil.which("fluentd")

pytestmark = pytest.mark.skipif(BINARY is None, reason="no real Fluentd: set FLUENTD, or put fluentd on PATH")


class Fluentd:
    """A real Fluentd on a free port, with its files in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.directory = directory
        text = (ROOT / "conf" / "receivers" / "fluentd.conf").read_text()
        # A closed hour is written at once. This one stays open until the end.
        text = text.replace("timekey 1h", "timekey 3650d")
        self._settings = directory / "fluentd.conf"
        self._settings.write_text(text.replace("24224", str(self.port)).replace("state/", f"{directory}/"))
        self._log = directory / "log"
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start Fluentd and wait until it runs."""
        assert BINARY is not None
        self._starts += 1
        environ = os.environ | {"FORWARD_SHARED_KEY": "the key", "FORWARD_PASSWORD": "the password"}
        command = [BINARY, "--no-supervisor", "-c", str(self._settings)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)  # noqa: S603
        wait_until(lambda: self._log.read_text(errors="replace").count("worker is now running") == self._starts)

    def kill(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Stop it: it writes what it has buffered."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)

    def ids(self) -> list[str]:
        """The ids of the records that it wrote."""
        files = (self.directory / "fluentd").glob("records*.log")
        return [json.loads(line)["event"]["id"] for file in files for line in file.read_text().splitlines()]

    def sender(self, password: str = "the password") -> AckSender:  # noqa: S107 - the test's own
        """A sender to this Fluentd."""
        server = ServerSettings(host="127.0.0.1", port=self.port)
        settings = ForwardSettings(shared_key=Secret("the key"), username="jumpcloud", password=Secret(password))
        return AckSender(server, settings)


@pytest.fixture
def fluentd(tmp_path: Path) -> Iterator[Fluentd]:
    """A running Fluentd."""
    fluentd = Fluentd(tmp_path)
    fluentd.start()
    yield fluentd
    fluentd.kill()


def _chunk(*names: str, compress: wire.Compression = "none") -> wire.Chunk:
    entries = b"".join(wire.pack_entry(1_767_225_600_123_456_789, {"event": {"id": name}}) for name in names)
    return wire.build_chunk("jumpcloud.events", entries, len(names), compress=compress)


def test_acknowledged_records_survive_a_kill(fluentd: Fluentd) -> None:
    """Plain and compressed chunks are acknowledged, and written after a kill and a restart; a probe is not written."""
    sender, stop = fluentd.sender(), threading.Event()
    assert sender.probe("jumpcloud.events", stop)
    sender.deliver(_chunk("one", "two"), stop)
    sender.deliver(_chunk("three", compress="gzip"), stop)
    sender.close()
    fluentd.kill()
    fluentd.start()
    fluentd.stop()

    assert sorted(fluentd.ids()) == ["one", "three", "two"]


def test_a_wrong_password_is_refused(fluentd: Fluentd) -> None:
    """The error has Fluentd's reason, and Fluentd writes nothing."""
    sender = fluentd.sender("another")
    with pytest.raises(ReceiverDown, match="username/password mismatch"):
        sender.deliver(_chunk("refused"), threading.Event())
    sender.close()
    fluentd.stop()

    assert fluentd.ids() == []
