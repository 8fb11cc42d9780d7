"""The sdist and the wheel work anywhere: installed into an empty environment, in an empty directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import KEY, ROOT

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS, now_ms


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment with the wheel that is built from the sdist, and nothing else but its dependencies."""
    dist, environment = tmp_path / "dist", tmp_path / "environment"
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, ROOT)
    assert [path.suffix for path in sorted(dist.iterdir())] == [".whl", ".gz"]
    _run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    _run(sys.executable, "-m", "pip", "--python", python, "install", *dist.glob("*.whl"))
    return environment


def _run(*command: object) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(600)
def test_the_wheel_works_in_an_empty_directory(environment: Path, tmp_path: Path) -> None:
    """Every command that a new user tries first, with no file but those that it writes, and no other environment."""
    folder = tmp_path / "empty"
    folder.mkdir()
    environ = {"HOME": str(folder), "PATH": f"{environment / 'bin'}:{os.defpath}", "JUMPCLOUD_API_KEY": KEY}

    def run(*arguments: object, stdin: str = "") -> str:
        done = subprocess.run(  # noqa: S603 - our own command
            [environment / "bin" / "in-jumpcloud", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=folder,
            env=environ,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "different ids" in run("demo").splitlines()[-1]
    event = '{"id": "1", "event_type": "user_login_attempt", "client_ip": "81.2.69.144"}'
    record = json.loads(run("map", stdin=event))
    assert record["client"]["geo"]["city_name"] == "London"
    assert list(folder.iterdir()) == []

    end_ms = now_ms() - MINUTE_MS
    source = EventSource(start_ms=end_ms - 60 * MINUTE_MS, end_ms=end_ms, per_minute=5)
    with SimulatedApi(source) as api, SimulatedReceiver() as receiver:
        run("init", "jumpcloud.yaml", "--server", f"127.0.0.1:{receiver.port}")
        options = ("-c", "jumpcloud.yaml", "-o", f"jumpcloud.url={api.url}", "-o", "http.listen=null")
        assert "FAILED" not in run("check", *options)
        run("run", *options, "--once")
        assert sum(receiver.ids.values()) == len(receiver.ids) == source.count(0, end_ms, now_ms=end_ms)
