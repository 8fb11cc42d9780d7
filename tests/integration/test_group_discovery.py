"""Organizations that are discovered by a group: one member lists them for all."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from support.command import wait_until
from support.streams import running_in, stream_settings

from in_jumpcloud import app
from in_jumpcloud.config.schema import Config, DiscoverSettings, MembersSettings, StateSettings
from in_jumpcloud.config.types import Duration, Start
from in_jumpcloud.errors import Retryable
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS, now_ms

pytestmark = pytest.mark.timeout(90)
EVERY = 1.0


def sources(first: int, end: int) -> dict[str, EventSource]:
    """Organizations without events."""
    start_ms = now_ms() - 60 * MINUTE_MS
    return {
        name: EventSource(start_ms=start_ms, per_minute=0, organization=name)
        for name in (f"o{number:05}" for number in range(first, end))
    }


def listing(api: SimulatedApi, receiver: SimulatedReceiver, directory: Path, state: StateSettings) -> Config:
    """Settings of members that have the organizations listed every second."""
    settings = stream_settings(
        *(api, receiver, directory),
        jumpcloud__organizations="all",
        jumpcloud__discover=DiscoverSettings(every=Duration(EVERY)),
        jumpcloud__interval=Duration(0.5),
        jumpcloud__start=Start("1h"),
    )
    return msgspec.structs.replace(settings, state=state, members=MembersSettings(lease=Duration(5)))


@contextmanager
def member(settings: Config) -> Iterator[app.App]:
    """A member of the group."""
    with app.open_app(settings) as plugin, running_in(plugin):
        yield plugin


def run_by(members: Collection[app.App]) -> list[str]:
    """The organizations that have a stream in one of these, sorted."""
    return sorted(each.stream.scope.organization or "" for plugin in members for each in plugin.collectors)


def test_one_member_lists_for_all(
    receiver: SimulatedReceiver, tmp_path: Path, state_url: StateSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """Who joins or leaves does so for all. When that member leaves, the other lists; an empty list changes nothing."""
    caplog.set_level("INFO")
    with SimulatedApi(sources(0, 20)) as api, ExitStack() as stack:
        settings = listing(api, receiver, tmp_path, state_url)
        ends = [ExitStack() for _ in range(2)]
        members = [stack.enter_context(each).enter_context(member(settings)) for each in ends]
        everybody = list(api.sources)
        wait_until(lambda: run_by(members) == everybody)
        wait_until(lambda: sum(each.discovery is not None for each in members) == 1)

        api.sources.update(sources(20, 30))
        wait_until(lambda: run_by(members) == list(api.sources))
        wait_until(lambda: {each.headers.get("x-org-id") for each in list(api.requests)} >= set(api.sources))
        del api.sources["o00000"]
        wait_until(lambda: run_by(members) == list(api.sources))
        held = dict(api.sources)

        api.sources.clear()
        (lister,) = [number for number, each in enumerate(members) if each.discovery]
        ends.pop(lister).close()
        members.pop(lister)
        wait_until(lambda: any(each.discovery and each.discovery.error for each in members))
        wait_until(lambda: run_by(members) == list(held))

        # A list that lacks most of them is not believed either: the one before it was of another member.
        api.sources.update(dict(list(held.items())[:2]))
        wait_until(lambda: "27 that are polled are not in it" in caplog.text)
        assert run_by(members) == list(held)
        api.sources.update(held)
        wait_until(lambda: all(not each.discovery or not each.discovery.error for each in members))
        assert run_by(members) == list(held)
    assert "Traceback" not in caplog.text


def test_names_for_all(tmp_path: Path, state_url: StateSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The records of every member have the names that one has listed, what they change to, and that when it is gone."""
    start_ms = now_ms() - 2 * MINUTE_MS
    everybody = {name: EventSource(start_ms=start_ms, per_minute=60, organization=name) for name in sources(0, 6)}

    def names() -> dict[str, str | None]:
        """The name in the last record of each."""
        found = [each.record["organization"] for each in list(receiver.records)]
        return {each["id"]: each.get("name") for each in found}

    def refused(*_: object) -> dict[str, str]:
        raise Retryable("no list now")

    with SimulatedApi(everybody) as api, SimulatedReceiver() as receiver, ExitStack() as stack:
        settings = listing(api, receiver, tmp_path, state_url)
        ends = [ExitStack() for _ in range(2)]
        members = [stack.enter_context(each).enter_context(member(settings)) for each in ends]
        wait_until(lambda: [len(each.collectors) for each in members] == [3, 3])
        wait_until(lambda: len(receiver.ids) > 6 * 100)
        assert all("name" in each.record["organization"] for each in receiver.records)
        assert names() == {each: f"Organization {each}" for each in everybody}
        api.names = {each: f"The new {each}" for each in everybody}
        wait_until(lambda: names() == api.names)

        (lister,) = [number for number, each in enumerate(members) if each.discovery]
        other = members[1 - lister]
        monkeypatch.setattr(other.resources.api, "organizations", refused)
        ends[lister].close()
        wait_until(lambda: other.discovery is not None and other.discovery.error is not None)
        wait_until(lambda: len(other.collectors) == len(everybody))
        count = len(receiver.records)
        wait_until(lambda: {each.record["organization"]["id"] for each in receiver.records[count:]} == {*everybody})
        assert all("name" in each.record["organization"] for each in receiver.records)
        assert names() == api.names


def test_names_that_cannot_be_shared(
    tmp_path: Path, state_url: StateSettings, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """That is said once, and holds up nothing. A reload that no longer lists organizations ends their names."""
    everybody = {name: EventSource(start_ms=now_ms(), per_minute=60, organization=name) for name in sources(0, 2)}
    with SimulatedApi(everybody) as api, SimulatedReceiver() as receiver, ExitStack() as stack:
        settings = listing(api, receiver, tmp_path, state_url)
        admin = stack.enter_context(psycopg.connect(postgres_url, autocommit=True))
        plugin = stack.enter_context(member(settings))
        wait_until(lambda: len(plugin.collectors) == 2)
        admin.execute(f'ALTER TABLE "{state_url.schema}".organization RENAME COLUMN name TO gone')
        api.sources.update(sources(2, 5))
        wait_until(lambda: len(plugin.collectors) == 5)
        wait_until(lambda: "organization names stored" in {each.name for each in plugin.resources.troubles.current()})
        assert plugin.resources.organizations["o00004"] == "Organization o00004"
        admin.execute(f'ALTER TABLE "{state_url.schema}".organization RENAME COLUMN gone TO name')
        wait_until(
            lambda: "organization names stored" not in {each.name for each in plugin.resources.troubles.current()}
        )
        assert caplog.text.count("names of the organizations cannot be stored") == 1

        plain = msgspec.structs.replace(settings.jumpcloud, organizations=("o00000",))
        plugin.reload(lambda: msgspec.structs.replace(settings, jumpcloud=plain))
        wait_until(lambda: len(plugin.collectors) == 1)
        assert plugin.resources.organizations == {}


def test_members_with_different_settings(receiver: SimulatedReceiver, tmp_path: Path, state_url: StateSettings) -> None:
    """Whatever one of them names is run, by whichever has it: also the organization of the key, and the provider."""
    everybody = sources(0, 3) | {"provider:p1": EventSource(start_ms=now_ms(), per_minute=0)}
    lists: list[dict[str, Any]] = [
        {"jumpcloud__organizations": tuple(sources(0, 3)), "jumpcloud__provider_id": "p1"},
        {},
    ]
    with SimulatedApi(everybody) as api, ExitStack() as stack:
        both = [
            stream_settings(*(api, receiver, tmp_path), jumpcloud__interval=Duration(0.5), **each) for each in lists
        ]
        group = {"state": state_url, "members": MembersSettings(lease=Duration(5))}
        members = [stack.enter_context(member(msgspec.structs.replace(each, **group))) for each in both]
        names = {"default", "provider p1", *(f"organization {each}" for each in sources(0, 3))}
        wait_until(lambda: {each.name for plugin in members for each in plugin.collectors} == names)
        wait_until(lambda: sorted(len(plugin.collectors) for plugin in members) == [2, 3])
