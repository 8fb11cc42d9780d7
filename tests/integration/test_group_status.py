"""What the pages of a member say of the others, which write what they say of themselves into the database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import psycopg
import pytest
from support.command import KEY, invoke, wait_until
from support.monitoring import PAGES, Watched, catch_up, settings_of, watched
from support.proxy import Proxy
from support.streams import running_in

from in_jumpcloud import member
from in_jumpcloud.config.schema import Config, MembersSettings, StateSettings
from in_jumpcloud.config.types import Duration
from in_jumpcloud.insights.window import Position
from in_jumpcloud.monitoring import health
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.state.opening import open_store
from in_jumpcloud.state.postgresql import observation
from in_jumpcloud.timestamps import MINUTE_MS, now_ms, rfc3339

HOSTILE = f"<img src=x onerror=alert(1)>\x1b[2J\u202e\nforged {KEY}"


@pytest.fixture
def api() -> Iterator[SimulatedApi]:
    """JumpCloud with ten minutes of events."""
    end_ms = now_ms() - MINUTE_MS
    with SimulatedApi(EventSource(start_ms=end_ms - 10 * MINUTE_MS, end_ms=end_ms)) as api:
        yield api


def member_settings(url: str, directory: Path, port: int, state: StateSettings, name: str) -> Config:
    """Settings of a member."""
    settings = settings_of(url, directory, port, jumpcloud__interval=Duration(0.2))
    return msgspec.structs.replace(settings, state=state, members=MembersSettings(name=name, lease=Duration(5)))


@contextmanager
def running(settings: Config) -> Iterator[Watched]:
    """A member that runs, and its pages."""
    with watched(settings) as seen, running_in(seen.plugin):
        yield seen


def warnings(seen: Watched) -> dict[str, str]:
    """The warnings of its page, by code."""
    return {each["code"]: f"{each['text']}; {each['advice']}" for each in seen.get("/status.json").json["warnings"]}


def test_status_of_many_streams(state_url: StateSettings) -> None:
    """It does not ask the server for each stream, and says how many are not shown."""
    assert state_url.url
    url, asked = state_url.url.reveal(), 0
    port = int(str(psycopg.conninfo.conninfo_to_dict(url)["port"]))

    def count(data: bytes) -> bytes:
        nonlocal asked
        asked += 1
        return data

    with open_store(state_url, new_agent_id="") as state:
        state.begin({f"stream {number}": Position.starting_at(5) for number in range(150)}, ["sso"])
    with Proxy(port) as proxy:
        proxy.to_server = count
        through = f"state.url={url.replace(f':{port}/', f':{proxy.port}/')}"
        options = ("-o", through, "-o", f"state.schema={state_url.schema}")
        text = invoke("status", *options).stdout.decode()
        streams = json.loads(invoke("status", "--json", *options).stdout)["streams"]
    assert "\n\n100 of 151 streams: those with an error, and those most behind; --json has all\n\nstream " in text
    assert [each["services_since"] for each in streams if each["position"]] == 150 * [{"sso": rfc3339(5)}]
    assert asked < 150


def test_a_member_that_cannot_reach_a_receiver(
    api: SimulatedApi,
    receiver: SimulatedReceiver,
    tmp_path: Path,
    state_url: StateSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says which, also after the other has its stream, which then delivers each event once."""
    monkeypatch.setattr(member, "_UNABLE_SECONDS", 1.0)
    with running(member_settings(api.url, tmp_path, 1, state_url, "away")) as away:
        wait_until(lambda: "receivers" in away.get("/readyz").body)
        with running(member_settings(api.url, tmp_path, receiver.port, state_url, "other")) as other:
            wait_until(lambda: away.get("/status.json").json["group"]["held"] == 0)
            (line,) = away.get("/readyz").body.splitlines()
            assert line.startswith("receivers: no receiver is up: 127.0.0.1:1, for ")
            wait_until(lambda: "unable" in warnings(other) and other.get("/readyz").body == "ready\n")
            (source,) = api.sources.values()
            wait_until(lambda: len(receiver.ids) == source.count(0, now_ms(), now_ms=now_ms()))
            assert set(receiver.ids.values()) == {1}


def test_a_member_that_cannot_reach_jumpcloud(
    api: SimulatedApi,
    receiver: SimulatedReceiver,
    tmp_path: Path,
    state_url: StateSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not ready and has no stream, the other is ready and warns of it; once it is able both are ready."""
    monkeypatch.setattr(member, "_UNABLE_SECONDS", 1.0)
    with ExitStack() as stack:
        end = stack.enter_context(ExitStack())
        away = end.enter_context(
            running(member_settings("http://127.0.0.1:1", tmp_path, receiver.port, state_url, "away"))
        )
        wait_until(lambda: not away.plugin.resources.state.group.view.members[0].able)  # type: ignore[union-attr]
        assert away.get("/readyz").status == 200  # no other is able, so the streams themselves have the reason
        other = stack.enter_context(running(member_settings(api.url, tmp_path, receiver.port, state_url, "other")))
        wait_until(lambda: away.get("/readyz").status == 503)
        assert away.get("/readyz").body == (
            "unable: this member does not reach JumpCloud or a receiver, for 30 s or longer; the others have its "
            "streams; `in-jumpcloud check` names the cause\n"
        )
        assert away.get("/healthz").body == "alive\n"
        wait_until(lambda: away.get("/status.json").json["group"]["held"] == 0)
        wait_until(lambda: "unable" in warnings(other))
        assert warnings(other)["unable"].startswith(
            "member away does not reach JumpCloud or a receiver; the others have its streams; see its log"
        )
        assert other.get("/readyz").body == "ready\n"
        assert other.metrics()['in_jumpcloud_group_members{able="no"}'] == 1
        assert other.metrics()['in_jumpcloud_warning{reason="unable"}'] == 1
        end.close()
        wait_until(lambda: "unable" not in warnings(other))


def test_what_others_write(
    api: SimulatedApi,
    receiver: SimulatedReceiver,
    tmp_path: Path,
    state_url: StateSettings,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Names, addresses and versions are shown as text from outside; only the URL of a page becomes a link."""
    monkeypatch.setattr(observation, "_DIFFER_SECONDS", 0.0)
    addresses = {
        "javascript:alert(1)": None,
        "http://user@example.com/": None,
        "http://good.example.com\\@bad.example.com/": None,
        "file:///etc/passwd": None,
        " http://example.com": None,
        f"http://example.com/{KEY}": None,
        "https://collector-2.example.com:2021/": "https://collector-2.example.com:2021/",
        "http://[::1]:2021": "http://[::1]:2021",
    }
    with watched(member_settings(api.url, tmp_path, receiver.port, state_url, "this")) as seen:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            for address in addresses:
                connection.execute(
                    f'INSERT INTO "{state_url.schema}".member (id, name, version, address, lease, able, settings_hash) '  # noqa: S608 - our own
                    "VALUES (gen_random_uuid(), %s, %s, %s, interval '1 hour', false, %s)",
                    (HOSTILE, HOSTILE, address, HOSTILE),
                )
        group = seen.plugin.resources.state.group
        assert group
        wait_until(lambda: len(group.view.members) == 1 + len(addresses))
        wait_until(lambda: "differences" in warnings(seen))

        for path in PAGES:
            text = seen.get(path).body
            assert KEY not in text, path
            assert all(line.isprintable() for line in text.splitlines()), path
        members = seen.get("/status.json").json["group"]["members"]
        assert sorted(each["link"] or "" for each in members if not each["this"]) == sorted(
            link or "" for link in addresses.values()
        )
        assert {each["name"] for each in members} == {
            "this",
            r"<img src=x onerror=alert(1)>\x1b[2J\u202e\nforged ***",
        }
        found = warnings(seen)
        codes = [each["code"] for each in seen.get("/status.json").json["warnings"]]
        assert codes.count("unable") == len(addresses)
        assert "onerror=alert(1)>\\x1b[2J\\u202e\\nforged *** has other settings" in found["differences"]
        assert "give all members the same settings and version" in found["differences"]
        assert state_url.url
        options = [f"state.url={state_url.url.reveal()}", f"state.schema={state_url.schema}", "state.path=null"]
        done = invoke("status", *(word for option in options for word in ("-o", option)))
        lines = done.stdout.decode().splitlines()
        assert all(line.isprintable() and KEY not in line for line in lines)
        assert len([line for line in lines if line.startswith("member        <img src=x onerror=alert(1)>")]) == len(
            addresses
        )
        metrics = seen.metrics()
        assert metrics['in_jumpcloud_group_members_differ{what="version"}'] == len(addresses)
        assert metrics['in_jumpcloud_warning{reason="differences"}'] == 1
        assert not [name for name in metrics if "forged" in name]


def test_without_a_group_nothing_is_shown(api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """A process that has its state for itself has no word of a group on any page."""
    with watched(settings_of(api.url, tmp_path, receiver.port)) as seen:
        catch_up(*seen.plugin.collectors)
        assert "group" not in seen.get("/status.json").json
        assert "member" not in json.dumps(seen.get("/status.json").json)
        text = seen.get("/metrics").body
        assert "group" not in text
        assert not [code for code in health.OF_GROUP if f'"{code}"' in text]
