"""Commands where the organizations are listed by JumpCloud: `run` once and dry, `audit`, `fetch`, `backfill`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import Command
from support.postgres import state_options

from in_jumpcloud.config.schema import StateSettings
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS, now_ms, rfc3339

EMPTY = "JumpCloud's list is empty"


def sources(*names: str) -> dict[str, EventSource]:
    """Organizations with events of the last two hours, of several services."""
    end_ms = now_ms() - MINUTE_MS
    return {
        name: EventSource(seed=seed, start_ms=end_ms - 120 * MINUTE_MS, end_ms=end_ms, per_minute=3, organization=name)
        for seed, name in enumerate(names)
    }


def settings_of(command: Command, api: SimulatedApi, receiver: SimulatedReceiver, **more: object) -> list[str]:
    """Three hours of all organizations; `b` has one service and a tag of its own."""
    overrides = {"b": {"services": ["sso"], "tag": "special"}}
    wanted = {"jumpcloud__organizations": "all", "jumpcloud__overrides": overrides, "jumpcloud__start": "3h"}
    return command.settings(api, receiver, **wanted | more)


@pytest.mark.timeout(180)
def test_one_that_has_left(tmp_path: Path) -> None:
    """Every command takes those that are listed now, with what is different for each: not those that have left."""
    command = Command(tmp_path)
    with SimulatedApi(sources("a", "b", "c")) as api, SimulatedReceiver() as receiver:
        settings = settings_of(command, api, receiver)
        dry = command("run", "--dry-run", "--json", *settings)
        assert dry.returncode == 0, dry.stderr
        assert not receiver.records
        assert command("run", "--once", *settings).returncode == 0
        kinds = {(each.record["organization"]["id"], each.tag) for each in receiver.records}
        assert kinds == {("a", "jumpcloud.events"), ("b", "special"), ("c", "jumpcloud.events")}
        of_b = [each for each in receiver.records if each.record["organization"]["id"] == "b"]

        del api.sources["c"]
        api.requests.clear()
        audit = command("audit", *settings, "--json")
        assert audit.returncode == 0, audit.stderr
        assert [each["name"] for each in json.loads(audit.stdout)["streams"]] == ["organization a", "organization b"]

        fetched = command("fetch", *settings, "--since", "4h")
        assert fetched.returncode == 0, fetched.stderr
        lines = [json.loads(line) for line in fetched.stdout.splitlines()]
        assert sum(each["organization"] == "b" for each in lines) == len(of_b)
        assert {each["service"] for each in lines if each["organization"] == "b"} == {"sso"}

        before = len(receiver.records)
        again = command("backfill", *settings, "--since", "4h", "--again")
        assert again.returncode == 0, again.stderr
        assert len(receiver.records) == before + len(lines)

        wrong = command("fetch", *settings, "--since", "1h", "--stream", "c")
        assert wrong.returncode == 2
        assert b"there is no stream 'c'; those of the configuration are: organization a, organization b" in wrong.stderr
        assert "c" not in {each.headers.get("x-org-id") for each in api.requests}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("place", ["file", "server"])
def test_names(tmp_path: Path, place: str, request: pytest.FixtureRequest) -> None:
    """Whatever sends a record gives its organization the name that `run` has listed."""
    command, served = Command(tmp_path), sources("a", "b")
    large = {
        "id": "large",
        "organization": "a",
        "timestamp": rfc3339(now_ms() - 2 * MINUTE_MS),
        "message": "x" * 99_999,
    }
    served["a"].add(large, timestamp_ms=now_ms() - 2 * MINUTE_MS)
    more: dict[str, object] = {}
    if place == "server":
        state: StateSettings = request.getfixturevalue("state_url")
        assert state.url
        more = state_options(state.url.reveal(), state.schema)
    with SimulatedApi(served) as api, SimulatedReceiver() as receiver:
        api.names = {"a": "Alpha GmbH"}
        settings = settings_of(command, api, receiver, jumpcloud__overrides={}, **more)
        done = command(
            "run", "--once", *settings, "-o", "forward.message_max_bytes=50000", "-o", "forward.chunk_bytes=25000"
        )
        assert done.returncode == 1, done.stderr
        of_run = len(receiver.records)
        replayed = command("dead-letters", "replay", *settings, JUMPCLOUD_API_KEY="")
        assert replayed.returncode == 0, replayed.stderr
        assert receiver.records[-1].record["event"]["id"] == "large"
        again = command("backfill", *settings, "--since", "4h", "--again")
        assert again.returncode == 0, again.stderr
        assert len(receiver.records) == 2 * (of_run + 1)
        names = {
            (each.record["organization"]["id"], each.record["organization"].get("name")) for each in receiver.records
        }
        assert names == {("a", "Alpha GmbH"), ("b", "Organization b")}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("provider", [None, "p"])
def test_none(tmp_path: Path, provider: str | None) -> None:
    """A key, or a provider, without organizations is one line and an exit code, in every command."""
    command = Command(tmp_path)
    served = {f"provider:{provider}": EventSource(start_ms=0, end_ms=1)} if provider else {}
    with SimulatedApi(served) as api, SimulatedReceiver() as receiver:
        settings = settings_of(command, api, receiver, jumpcloud__provider_id=provider, jumpcloud__overrides={})
        for arguments in (["run", "--once"], ["fetch", "--since", "1h"], ["check"]):
            done = command(arguments[0], *settings, *arguments[1:])
            assert done.returncode == 1, done
            said = done.stdout + done.stderr
            assert f"{EMPTY}; check jumpcloud.provider_id and what the key has access to".encode() in said
            assert b"Traceback" not in said
        without_key = command("backfill", *settings, "--since", "1h", JUMPCLOUD_API_KEY="")
        assert without_key.returncode == 2
        if not provider:  # it has a stream of its own
            assert b"no organization is known yet" in without_key.stderr
