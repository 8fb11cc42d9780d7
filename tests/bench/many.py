"""Many organizations in one process: the start, the memory, `/metrics`, and what each surface says of the interval.

    make bench-many                                         10,000 organizations; about four minutes
    make bench-many OPTIONS='--organizations 2000 --seconds 60'

The API answers after 0.2 s, and no events arrive. Once with the rate limit lifted, when every target must be met, and
once with that of the default, when the log, `check`, `status`, `/status.json` and `/metrics` must say which interval is
kept. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.processes import HERE, Failed, Helper, cpu_seconds, environment, started, write_events

LATENCY = 0.2
TARGETS = {"first_poll": 5.0, "metrics_mb": 1.0, "metrics_seconds": 0.1, "rss_mib": 150.0}
"""At most so much at 10,000 organizations: seconds, MB (10^6 bytes), seconds, MiB. Times are those of a quiet machine;
where it is busy, the processor time of each shows what it would be."""
_PATIENCE_SECONDS = 300.0
_SCRAPES = 9


class Figures(NamedTuple):
    """One process. `healthy` and `first_poll` are seconds from the start; `interval` is between two polls of a stream.

    `metrics_seconds` is the median of some scrapes, `cpu_percent` of a core. `…_cpu` is the processor time of the same.
    """

    organizations: int
    healthy: float
    first_poll: float
    first_poll_cpu: float
    metrics_mb: float
    metrics_seconds: float
    metrics_cpu: float
    status_mb: float
    rss_mib: float
    interval: float
    cpu_percent: float

    @property
    def missed(self) -> list[str]:
        """The targets that it misses."""
        return [
            f"{name}: {getattr(self, name):.3g}, at most {most:g}"
            for name, most in TARGETS.items()
            if getattr(self, name) > most
        ]


class Running(NamedTuple):
    """A running plugin."""

    process: subprocess.Popen[bytes]
    log: Path
    api: Helper
    config: Path
    began: float

    def url(self, path: str) -> str | None:
        """The URL of a page; None until it is served."""
        found = re.search(r"status page at (http://[^/]+)/", self.log.read_text())
        return found and f"{found[1]}{path}"

    def get(self, path: str) -> bytes | None:
        """A page; None until it is served."""
        url = self.url(path)
        with contextlib.suppress(OSError):
            if url:
                with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own server
                    return bytes(answer.read())
        return None

    def wait(self, what: str, condition: Callable[[], object]) -> float:
        """Wait for something; the seconds since the start."""
        while not condition():
            if self.process.poll() is not None or time.monotonic() - self.began > _PATIENCE_SECONDS:
                raise Failed(f"{what}: {self.log.read_text()[-2000:]}")
            time.sleep(0.01)
        return time.monotonic() - self.began

    def rss_mib(self) -> float:
        """Its memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@contextlib.contextmanager
def running(organizations: int, directory: Path, per_second: float) -> Iterator[Running]:
    """The plugin with so many organizations, from its start on."""
    events = write_events(directory, 0)
    with Helper("api", events, "--latency", LATENCY) as api, Helper("receiver") as receiver:
        config, log = directory / "jumpcloud.json", directory / "log"
        settings = {
            "jumpcloud": {
                "url": f"http://127.0.0.1:{api.port}",
                "organizations": [f"5f{number:022x}" for number in range(organizations)],
                "start": "1h",
                "requests_per_second": per_second,
            },
            "forward": {"servers": [{"host": "127.0.0.1", "port": receiver.port}]},
            "state": {"path": str(directory / "state.db")},
            "http": {"listen": "127.0.0.1:0"},
        }
        config.write_text(json.dumps(settings))
        with log.open("wb") as file:
            began = time.monotonic()
            process = started([HERE.command, "run", "-c", config], file)
            try:
                yield Running(process, log, api, config, began)
            finally:
                process.terminate()
                process.wait()


def lifted(organizations: int, directory: Path, seconds: float) -> Figures:
    """The figures without a rate limit."""
    with running(organizations, directory, per_second=2000) as plugin:
        healthy = plugin.wait("no /healthz", lambda: plugin.get("/healthz") is not None)
        first_poll = plugin.wait("no request", lambda: plugin.api.ask(0) > 0)
        first_poll_cpu = cpu_seconds(plugin.process.pid)
        plugin.wait("not every stream was polled", lambda: _is_caught_up(plugin, organizations))
        before, cpu, at = plugin.api.ask(0), cpu_seconds(plugin.process.pid), time.monotonic()
        scrapes = []
        for _ in range(_SCRAPES):
            time.sleep(seconds / _SCRAPES)
            scrapes.append(_timed(plugin))
        took = time.monotonic() - at
        return Figures(
            organizations,
            healthy=healthy,
            first_poll=first_poll,
            first_poll_cpu=first_poll_cpu,
            metrics_mb=max(size for size, *_ in scrapes) / 1e6,
            metrics_seconds=median(seconds for _, seconds, _ in scrapes),
            metrics_cpu=median(cpu for *_, cpu in scrapes),
            status_mb=len(plugin.get("/status.json") or b"") / 1e6,
            rss_mib=plugin.rss_mib(),
            interval=organizations * took / max(1, plugin.api.ask(0) - before),
            cpu_percent=(cpu_seconds(plugin.process.pid) - cpu) / took * 100,
        )


def said(organizations: int, directory: Path) -> dict[str, str]:
    """What each surface says of the interval at the default rate limit."""
    with running(organizations, directory, per_second=5) as plugin:
        plugin.wait("no request", lambda: plugin.api.ask(0) > 0 and plugin.get("/status.json"))
        messages = [json.loads(line)["message"] for line in plugin.log.read_text().splitlines()]
        status = json.loads(plugin.get("/status.json") or b"{}")
        metrics = (plugin.get("/metrics") or b"").decode()
        config = json.loads(plugin.config.read_text())
        config["http"]["listen"] = (plugin.url("") or "").removeprefix("http://")
        plugin.config.write_text(json.dumps(config))
        commands = {name: _output(name, plugin.config) for name in ("status", "check")}
        return {
            "log": next((each for each in messages if "polled every" in each), ""),
            "page": status["polls"]["text"],
            "readyz": next((each["text"] for each in status["not_ready"] if each["code"] == "overload"), ""),
            "metrics": next((line for line in metrics.splitlines() if 'kind="kept"' in line), ""),
            "status": next((line for line in commands["status"].splitlines() if line.startswith("polls")), ""),
            "check": next((line for line in commands["check"].splitlines() if "polled every" in line), ""),
        }


def _output(command: str, config: Path) -> str:
    arguments = [HERE.command, command, "-c", config]
    done = subprocess.run([*map(str, arguments)], env=environment(), capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    return done.stdout + done.stderr


def _is_caught_up(plugin: Running, organizations: int) -> bool:
    time.sleep(0.5)
    states = json.loads(plugin.get("/status.json") or b"{}").get("states", {})
    return bool(states.get("up to date") == organizations)


def _timed(plugin: Running) -> tuple[int, float, float]:
    """The bytes of the metrics, the seconds until they have come, and the processor time of that."""
    began, cpu = time.monotonic(), cpu_seconds(plugin.process.pid)
    size = len(plugin.get("/metrics") or b"")
    return size, time.monotonic() - began, cpu_seconds(plugin.process.pid) - cpu


def main() -> int:
    """Print the figures; 1 if a target is missed, or a surface says nothing."""
    parser = argparse.ArgumentParser(prog="bench.many", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--organizations", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60, help="how long to measure the time between polls")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="in-jumpcloud-many-") as name:
        first, second = Path(name) / "lifted", Path(name) / "default"
        first.mkdir()
        second.mkdir()
        try:
            figures = lifted(arguments.organizations, first, arguments.seconds)
            texts = said(arguments.organizations, second)
        except Failed as error:
            sys.exit(f"bench: {error}")
    for key, value in figures._asdict().items():
        _print(f"{key:16} {value:.3g}" if isinstance(value, float) else f"{key:16} {value}")
    for surface, text in texts.items():
        _print(f"{surface:16} {text}")
    missed = [*figures.missed, *(f"{surface} does not say the interval" for surface, text in texts.items() if not text)]
    for each in missed:
        _print(f"missed: {each}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"lifted": figures._asdict(), "said": texts, "missed": missed}, indent=1))
    return bool(missed)


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the result


if __name__ == "__main__":
    sys.exit(main())
