"""The state in PostgreSQL, through the installed command: what breaks loses nothing and duplicates nothing."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from support.command import KEY, Command, wait_until
from support.postgres import Server, state_options
from support.proxy import Proxy
from support.state import run_python

from in_jumpcloud.config.schema import StateSettings
from in_jumpcloud.config.types import DatabaseUrl
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.state import opening
from in_jumpcloud.timestamps import MINUTE_MS, now_ms

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def api() -> Iterator[SimulatedApi]:
    """JumpCloud with 3,000 events of the last hour."""
    now = now_ms()
    source = EventSource(start_ms=now - 50 * MINUTE_MS, end_ms=now - MINUTE_MS, per_minute=60)
    with SimulatedApi(source) as api:
        yield api


def _total(api: SimulatedApi) -> int:
    return sum(source.count(0, now_ms(), now_ms=now_ms()) for source in api.sources.values())


def _options(command: Command, api: SimulatedApi, receiver: SimulatedReceiver, state: StateSettings) -> list[str]:
    url = state.url.reveal() if state.url else ""
    return command.settings(api, receiver, jumpcloud__page_limit=100, **state_options(url, state.schema))


def _settled(state: StateSettings) -> tuple[int, int]:
    """How many events are acknowledged, and how many ids the ledger has."""
    with opening.open_readonly(state) as reader:
        return sum(row.acknowledged for row in reader.streams()), reader.ids()


def _each_once(receiver: SimulatedReceiver, total: int) -> bool:
    return sum(receiver.ids.values()) == len(receiver.ids) == total


@pytest.mark.parametrize("way", ["file to server", "server to file"])
def test_a_state_moves_in_the_midst_of_a_window(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, state_url: StateSettings, way: str
) -> None:
    """From a file to a server, and back: it resumes at the same position, and nothing is lost or duplicated."""
    both = [command.settings(api, receiver, jumpcloud__page_limit=100), _options(command, api, receiver, state_url)]
    old, new = both if way == "file to server" else reversed(both)
    process = command.start("run", "--once", *old)
    assert receiver.wait_for(500, timeout=60), command.log.read_text()
    api.faults.always(Fault("delay", seconds=5))
    held = command("state", "export", *old)
    assert (held.returncode, held.stdout) == (1, b"")
    (line,) = held.stderr.decode().splitlines()
    assert f"in use by process {process.pid} on " in line
    process.terminate()
    process.wait(60)
    api.faults.clear()
    assert 500 <= len(receiver.ids) < _total(api)

    exported = command("state", "export", *old)
    imported = command("state", "import", *new, stdin=exported.stdout)

    assert (exported.returncode, exported.stderr) == (0, b"")
    assert (imported.returncode, imported.stderr) == (0, b"")
    again = command("state", "export", *new)
    assert sorted(again.stdout.splitlines()) == sorted(exported.stdout.splitlines())
    (stream,) = [line for line in map(json.loads, exported.stdout.splitlines()) if line["kind"] == "stream"]
    assert stream["position"]["window"]["cursor"]
    done = command("run", "--once", *new)
    assert done.returncode == 0, done.stderr
    assert _each_once(receiver, _total(api))


def test_a_server_that_is_killed(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, server: Server
) -> None:
    """Whenever its main process ends, the workers hold what was acknowledged, and commit it when it is back."""
    state = StateSettings(url=DatabaseUrl(server.url))
    process = command.start("run", "--once", *_options(command, api, receiver, state))
    for count in (300, 1200, 2000):
        assert receiver.wait_for(count, timeout=90), command.log.read_text()
        server.kill()
        if count == 1200:
            wait_until(lambda: "retrying in" in command.log.read_text())
        server.start()
    assert process.wait(150) == 0, command.log.read_text()
    assert _each_once(receiver, _total(api))
    assert _settled(state) == (_total(api), _total(api))
    assert "Traceback" not in command.log.read_text()


def test_a_server_that_is_frozen(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, server: Server
) -> None:
    """No statement waits for ever: the log says so meanwhile, and all continues when the server does."""
    state = StateSettings(url=DatabaseUrl(server.url))
    process = command.start("run", "--once", *_options(command, api, receiver, state))
    assert receiver.wait_for(500, timeout=60), command.log.read_text()
    server.signal(signal.SIGSTOP)
    wait_until(lambda: "no answer within 10 s" in command.log.read_text())
    server.signal(signal.SIGCONT)
    assert process.wait(120) == 0, command.log.read_text()
    assert _each_once(receiver, _total(api))
    assert _settled(state) == (_total(api), _total(api))


def test_answers_of_commits_that_are_lost(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, state_url: StateSettings
) -> None:
    """A commit whose answer did not arrive is repeated, and counts once."""
    port = psycopg.conninfo.conninfo_to_dict(state_url.url.reveal() if state_url.url else "")["port"]
    commits, lost = 0, threading.Event()
    with Proxy(int(str(port))) as proxy:

        def to_server(data: bytes) -> bytes:
            nonlocal commits
            if b"WITH held" in data:
                commits += 1
                if commits % 5 == 3:
                    lost.set()
            return data

        def to_client(data: bytes) -> bytes | None:
            if lost.is_set():
                lost.clear()
                return None
            return data

        proxy.to_server, proxy.to_client = to_server, to_client
        url = (state_url.url.reveal() if state_url.url else "").replace(f":{port}/", f":{proxy.port}/")
        through = StateSettings(url=DatabaseUrl(url), schema=state_url.schema)
        done = command("run", "--once", *_options(command, api, receiver, through))
    assert done.returncode == 0, done.stderr
    assert b"server closed the connection" in done.stderr
    assert commits > 30
    assert _each_once(receiver, _total(api))
    assert _settled(state_url) == (_total(api), _total(api))


def test_a_second_process(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, state_url: StateSettings
) -> None:
    """While one process uses the state, the start of another waits and says why, until the first has ended.

    It waits for two minutes, however long the lease of the first is.
    """
    options = _options(command, api, receiver, state_url)
    first = command.start("run", *options, "-o", "members.lease=5m")
    assert receiver.wait_for(_total(api), timeout=60), command.log.read_text()
    second = command.start("run", "--once", *options)
    wait_until(lambda: f"in use by process {first.pid} on " in command.log.read_text())
    status = json.loads(command("status", "--json", *options).stdout)
    assert status["state"]["held_by"].startswith(f"process {first.pid} on ")
    assert status["state"]["path"] == state_url.place
    assert status["streams"][0]["acknowledged"] == _total(api)
    assert b"in use by process" in command("check", *options).stdout
    first.terminate()
    assert first.wait(30) == 0
    assert second.wait(60) == 0, command.log.read_text()
    assert _each_once(receiver, _total(api))


def test_a_process_that_was_taken_for_dead(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, state_url: StateSettings
) -> None:
    """Frozen until another has taken over, it changes nothing, sends nothing more, and says so."""
    options = _options(command, api, receiver, state_url)
    first = command.start("run", *options, "-o", "jumpcloud.interval=1s")
    assert receiver.wait_for(_total(api), timeout=60), command.log.read_text()
    wait_until(lambda: _settled(state_url)[0] == _total(api))
    first.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    done = command("run", "--once", *options)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began > 5, "it did not wait for the lease"
    first.send_signal(signal.SIGCONT)
    wait_until(lambda: "was silent for longer than its lease" in command.log.read_text())
    first.terminate()
    assert first.wait(30) == 0
    assert _each_once(receiver, _total(api))


def test_a_stream_that_was_taken_over(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, state_url: StateSettings, postgres_url: str
) -> None:
    """It runs no more steps, and nothing of it is written: the other owner sends at most one chunk again."""
    options = _options(command, api, receiver, state_url)
    process = command.start("run", "--once", *options)
    assert receiver.wait_for(500, timeout=60), command.log.read_text()
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(
            f'INSERT INTO "{state_url.schema}".member (id, name, version, lease, able, settings_hash) '  # noqa: S608 - our own
            "VALUES (gen_random_uuid(), 'other', '1', interval '1 hour', true, '')"
        )
        admin.execute(
            f'UPDATE "{state_url.schema}".stream SET token = token + 1, '  # noqa: S608 - our own
            f"owner = (SELECT id FROM \"{state_url.schema}\".member WHERE name = 'other')"
        )
    assert process.wait(60) == 1, command.log.read_text()
    assert command.log.read_text().count("this process no longer has stream") >= 1
    assert "Traceback" not in command.log.read_text()
    before = sum(receiver.ids.values())
    acknowledged, ids = _settled(state_url)
    assert acknowledged == ids < _total(api)
    assert 0 <= before - ids <= 100
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f'DELETE FROM "{state_url.schema}".member')  # noqa: S608 - our own
    done = command("run", "--once", *options)
    assert done.returncode == 0, done.stderr
    assert sum(receiver.ids.values()) == _total(api) + before - ids
    assert len(receiver.ids) == _total(api)


def test_backfill_dead_letters_and_a_dry_run(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, state_url: StateSettings
) -> None:
    """The other commands that use the state do so on the server."""
    limits = ["-o", "forward.message_max_bytes=50000", "-o", "forward.chunk_bytes=50000"]
    large = {"id": "large", "timestamp": _moment(), "payload": "x" * 60_000, "service": "sso"}
    next(iter(api.sources.values())).add(large, timestamp_ms=now_ms() - 30 * MINUTE_MS)
    options = [*_options(command, api, receiver, state_url), *limits]
    trial = command("run", "--dry-run", "--json", *options)
    assert json.loads(trial.stdout)["records"] == _total(api) - 1, trial.stderr
    assert len(receiver.ids) == 0
    assert command("run", "--once", *options).returncode == 1
    trial = command("run", "--dry-run", "--json", *options)
    assert json.loads(trial.stdout)["records"] == 0, trial.stderr
    assert b"large" in command("dead-letters", "list", *options).stdout
    again = command("backfill", "--since", "20m", "--until", "10m", "--again", *options)
    assert again.returncode == 0, again.stderr
    assert 500 < sum(receiver.ids.values()) - len(receiver.ids) < 700
    replayed = command("dead-letters", "replay", *_options(command, api, receiver, state_url))
    assert b"dead letters delivered: 1" in replayed.stdout, replayed.stderr
    shown = json.loads(command("state", "show", "--json", *options).stdout)
    assert (shown["dead_letters"], shown["ids"], shown["held_by"]) == (0, _total(api), None)


def _moment() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 1800))


def test_who_stays_on_a_file_imports_no_driver(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver
) -> None:
    """Psycopg is imported only where state.url is set."""
    script = """
        import atexit, json, runpy
        arguments = json.loads(sys.argv[1])
        atexit.register(lambda: print("psycopg" in sys.modules))
        sys.argv = ["in-jumpcloud", *arguments]
        runpy.run_module("in_jumpcloud", run_name="__main__", alter_sys=True)
        """
    options = [*command.settings(api, receiver), "-o", f"jumpcloud.api_key={KEY}"]
    for arguments in (["run", "--once"], ["status"], ["state", "show"], ["check"]):
        printed = run_python(script, json.dumps([*arguments, *options]), check=False)
        assert printed.splitlines()[-1] == "False", (arguments, printed)
