"""Organizations that are discovered: by JumpCloud's list, or from a file, while the plugin is running."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from support.command import wait_until
from support.monitoring import watched
from support.streams import changed, running_in, stream_settings

from in_jumpcloud import app, discovery
from in_jumpcloud.config.schema import Config, DiscoverSettings, EcsSettings, JumpCloudSettings, OverrideSettings
from in_jumpcloud.config.types import Duration, Secret, Start
from in_jumpcloud.discovery import Discovery, Roll
from in_jumpcloud.errors import Fatal, Retryable, StateUnavailable
from in_jumpcloud.insights.api import DirectoryInsights
from in_jumpcloud.insights.auth import create_auth
from in_jumpcloud.insights.http_exchange import HttpResponse
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.runtime import SYSTEM
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.state.jobs import JobSpec
from in_jumpcloud.timestamps import MINUTE_MS, now_ms
from in_jumpcloud.troubles import Troubles

EVERY = 1.0
INTERVAL = 0.5


def source(organization: str, per_minute: float = 0) -> EventSource:
    """Events of the last hour."""
    return EventSource(start_ms=now_ms() - 60 * MINUTE_MS, per_minute=per_minute, organization=organization)


def sources(count: int, first: int = 0) -> dict[str, EventSource]:
    """So many organizations without events."""
    return {name: source(name) for name in (f"o{number:05}" for number in range(first, first + count))}


def settings_of(api: SimulatedApi, receiver: SimulatedReceiver, directory: Path, **changes: Any) -> Config:
    """Settings of a plugin that lists the organizations every second, and polls each twice a second."""
    wanted = {
        "jumpcloud__organizations": "all",
        "jumpcloud__discover": DiscoverSettings(every=Duration(EVERY)),
        "jumpcloud__interval": Duration(INTERVAL),
        "jumpcloud__start": Start("1h"),
        "jumpcloud__workers": 16,
        "reconcile__every": Duration(600),
    }
    return stream_settings(api, receiver, directory, **wanted | changes)


@contextmanager
def running(settings: Config) -> Iterator[app.App]:
    """The running plugin."""
    with app.open_app(settings) as plugin, running_in(plugin):
        yield plugin


def polled(plugin: app.App) -> set[str]:
    """The organizations that have a stream."""
    return {each.stream.scope.organization or "" for each in plugin.collectors}


class Lists:
    """Counts the lists that a plugin requests, from now on."""

    def __init__(self, plugin: app.App, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._list = plugin.resources.api.organizations
        monkeypatch.setattr(plugin.resources.api, "organizations", self._counted)

    def _counted(self, provider: str | None, stop: threading.Event) -> dict[str, str]:
        try:
            return self._list(provider, stop)
        finally:
            self.count += 1

    def wait(self, count: int) -> None:
        """Wait for so many more, and for what follows from them: a list that was under way does not count."""
        wanted = self.count + count + 2
        wait_until(lambda: self.count >= wanted)


def test_names(tmp_path: Path) -> None:
    """Records have the name of their organization as the last list has it, also after a reload of the mapping."""
    everybody = {name: source(name, per_minute=60) for name in ("a", "b", "c")}

    def names(*tags: str) -> dict[str, str | None]:
        """The name in the last record of each that has these tags."""
        found = [each.record for each in list(receiver.records) if each.record["tags"] == list(tags)]
        return {each["organization"]["id"]: each["organization"].get("name") for each in found}

    with SimulatedApi(everybody) as api, SimulatedReceiver() as receiver:
        api.names = {"a": "Alpha GmbH", "c": ""}
        settings = settings_of(api, receiver, tmp_path)
        with running(settings) as plugin:
            wait_until(lambda: names(*settings.ecs.tags) == {"a": "Alpha GmbH", "b": "Organization b", "c": None})
            api.names["b"] = "Beta AG"
            wait_until(lambda: names(*settings.ecs.tags).get("b") == "Beta AG")
            plugin.reload(lambda: msgspec.structs.replace(settings, ecs=EcsSettings(tags=("new",))))
            wait_until(lambda: names("new") == {"a": "Alpha GmbH", "b": "Beta AG", "c": None})


def test_roll() -> None:
    """Who is missing from one list stays; a list that lacks a fifth changes nothing."""
    roll = Roll()
    everybody = [f"o{number}" for number in range(100)]
    assert roll.change(everybody, patience=2) == (everybody, everybody, [])
    assert roll.change(everybody[1:], patience=2) == (everybody, [], [])
    assert roll.change(everybody, patience=2) == (everybody, [], [])
    with pytest.raises(Fatal, match="the list has 79 organizations, and 21 that are polled are not in it"):
        roll.change(everybody[:79], patience=2)
    assert roll.change(everybody[1:], patience=2) == (everybody, [], [])
    assert roll.change([*everybody[1:], "new"], patience=2) == ([*everybody[1:], "new"], ["new"], ["o0"])
    assert roll.change(everybody, patience=2).joined == ["o0"]
    assert roll.change(everybody[:1], patience=1).polled == everybody[:1]
    few = Roll(["a", "b"])
    few.change(["a"], patience=2)
    assert few.change(["a"], patience=2).left == ["b"]
    chosen = Roll(everybody)
    assert chosen.change(everybody[:9], patience=2, excluded=everybody[9:]).polled == everybody[:9]


@pytest.mark.timeout(120)
def test_organizations_join_and_leave(
    receiver: SimulatedReceiver, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """120, then 150, then 15 leave, the list is empty, and is refused then: nothing is given up that was held."""
    caplog.set_level("INFO")
    with (
        SimulatedApi(sources(120)) as api,
        running(settings_of(api, receiver, tmp_path, jumpcloud__interval=Duration(10))) as plugin,
    ):
        wait_until(lambda: len(plugin.collectors) == 120)
        lists, discovery = Lists(plugin, monkeypatch), plugin.discovery
        assert discovery is not None

        # Who is new has a stream within two lists, and is polled at once.
        api.sources.update(sources(30, 120))
        wait_until(lambda: len(plugin.collectors) == 150)
        assert lists.count <= 2
        wait_until(lambda: {each.headers.get("x-org-id") for each in list(api.requests)} >= set(api.sources))

        # Who is missing in two lists in a row leaves; the position stays in the state.
        gone = list(api.sources)[:15]
        before = lists.count
        for name in gone:
            del api.sources[name]
        wait_until(lambda: len(plugin.collectors) == 135)
        assert lists.count >= before + 1
        assert not polled(plugin) & set(gone)
        assert plugin.resources.state.position(f"organization {gone[0]}") is not None

        # An empty list changes nothing.
        held = dict(api.sources)
        api.sources.clear()
        lists.wait(2)
        assert discovery.error is not None
        api.sources.update(held)
        wait_until(lambda: discovery.error is None)
        assert len(plugin.collectors) == 135

        # A refusal is one line, and changes nothing.
        api.faults.always(Fault("status", status=403, path="/api/organizations"))
        lists.wait(3)
        (trouble,) = plugin.resources.troubles.current()
        assert "organizations cannot be listed: the list of organizations: JumpCloud answered 403" in trouble.what
        assert caplog.text.count("the list of organizations: JumpCloud answered 403") == 1
        assert len(plugin.collectors) == 135


@pytest.mark.timeout(60)
def test_the_state_knows_the_organizations(
    receiver: SimulatedReceiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A start without a list polls those of earlier runs. One with a list polls those that are in it."""
    with SimulatedApi(sources(5)) as api:
        with running(settings_of(api, receiver, tmp_path)) as plugin:
            wait_until(lambda: len(plugin.collectors) == 5)
        api.faults.always(Fault("status", status=403, path="/api/organizations"))
        with running(settings_of(api, receiver, tmp_path)) as plugin:
            wait_until(lambda: len(plugin.collectors) == 5)
            assert plugin.resources.troubles.current()
        api.faults.clear()
        del api.sources["o00000"]
        with running(settings_of(api, receiver, tmp_path)) as plugin:
            wait_until(lambda: bool(plugin.collectors))
            assert polled(plugin) == {f"o0000{number}" for number in range(1, 5)}
    assert "Traceback" not in caplog.text


@pytest.mark.timeout(60)
def test_those_of_a_provider(receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """A provider has more than a page of organizations, and its own stream; some are chosen by name or ID."""
    everybody = sources(230) | {"provider:p1": source("p1")}
    with SimulatedApi(everybody) as api:
        settings = settings_of(
            *(api, receiver, tmp_path),
            jumpcloud__provider_id="p1",
            jumpcloud__discover=DiscoverSettings(
                every=Duration(EVERY),
                include=("o001*", "Organization o000*"),
                exclude=("o00000", "Organization o0001*"),
            ),
        )
        with watched(settings) as seen, running_in(seen.plugin):
            wait_until(lambda: len(seen.plugin.collectors) == 200 - 11 + 1)
            assert seen.metrics()["in_jumpcloud_discovered_organizations"] == 189
        skips = [each.path for each in api.requests if "providers" in each.path]
    assert skips.count("/api/v2/providers/p1/organizations") >= 3


@pytest.mark.timeout(90)
def test_a_file_of_organizations(receiver: SimulatedReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams come and go when it changes. A file that cannot be used changes nothing."""
    monkeypatch.setattr("in_jumpcloud.discovery._FILE_SECONDS", 0.2)
    file = tmp_path / "organizations.txt"
    file.write_text("# ours\no00000\no00001  # the second\n\n")
    with SimulatedApi(sources(4)) as api:
        settings = settings_of(
            *(api, receiver, tmp_path),
            jumpcloud__organizations=(),
            jumpcloud__discover=DiscoverSettings(),
            jumpcloud__organizations_file=file,
        )
        with running(settings) as plugin:
            troubles = plugin.resources.troubles
            wait_until(lambda: polled(plugin) == {"o00000", "o00001"})
            file.write_text("o00001\no00002\n")
            wait_until(lambda: polled(plugin) == {"o00001", "o00002"})
            for text, said in (
                ("", "there is no ID in it"),
                ("o00001\no 2\n", "organizations.txt:2: 'o 2' is not a valid ID"),
                ("o00001\no00001\n", "organizations.txt:2: duplicate ID 'o00001', which is in line 1 too"),
            ):
                file.write_text(text)
                wait_until(lambda said=said: any(said in each.what for each in troubles.current()))  # type: ignore[misc]
                assert polled(plugin) == {"o00001", "o00002"}
            file.unlink()
            wait_until(lambda: any("cannot be read" in each.what for each in troubles.current()))
            file.write_text("o00003\n")
            wait_until(lambda: polled(plugin) == {"o00003"} and not troubles.current())


@pytest.mark.timeout(60)
def test_reloads(receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """What stays is not interrupted. A list of other settings is taken as it is: that is what a person wanted."""
    api_sources = {**sources(40), "provider:p1": source("p1")}
    with SimulatedApi(api_sources) as api:
        some = tuple(sources(20))
        settings = settings_of(
            api, receiver, tmp_path, jumpcloud__organizations=some, jumpcloud__discover=DiscoverSettings()
        )
        with running(settings) as plugin:

            def reload(**changes: Any) -> None:
                done = threading.Event()
                wanted = changed(plugin.resources.settings, **changes)
                plugin.reload(lambda: wanted, done.set)
                assert done.wait(20)

            before = {each.name: each for each in plugin.collectors}
            assert len(before) == 20

            every = DiscoverSettings(every=Duration(3600))
            reload(jumpcloud__organizations="all", jumpcloud__discover=every)
            wait_until(lambda: len(plugin.collectors) == 40)
            assert all(each is before.get(each.name, each) for each in plugin.collectors)

            before = {each.name: each for each in plugin.collectors}
            reload(jumpcloud__overrides={"o00003": OverrideSettings(tag="special")})
            after = {each.name: each for each in plugin.collectors}
            assert {name for name in before if before[name] is not after[name]} == {"organization o00003"}

            reload(jumpcloud__discover=DiscoverSettings(every=Duration(3600), exclude=("o0002*", "o0003*")))
            wait_until(lambda: polled(plugin) == set(some))
            assert not plugin.resources.troubles.current()

            reload(jumpcloud__provider_id="p1")
            wait_until(lambda: any("/providers/p1/" in each.path for each in api.requests))
            wait_until(lambda: polled(plugin) == {*some, ""})

            reload(jumpcloud__organizations=("o00005",), jumpcloud__discover=DiscoverSettings())
            wait_until(lambda: polled(plugin) == {"o00005", ""})
            assert plugin.discovery is None


@pytest.mark.timeout(90)
def test_who_comes_back(tmp_path: Path) -> None:
    """It continues where it was, and so does its backfill: no event is lost, and none is sent again."""
    events = {name: source(name, per_minute=20) for name in ("a", "b")}
    with SimulatedApi(events) as api, SimulatedReceiver() as receiver:
        settings = settings_of(api, receiver, tmp_path, jumpcloud__start=Start("10m"), jumpcloud__page_limit=20)
        with running(settings) as plugin:
            jobs = plugin.resources.state.jobs
            wait_until(lambda: len(plugin.collectors) == 2 and all(each.caught_up for each in plugin.collectors))
            api.faults.always(Fault("delay", seconds=0.2, path="/insights/directory/v1/events"))
            now = now_ms()
            spec = JobSpec(now - 55 * MINUTE_MS, now - 15 * MINUTE_MS, ("all",), again=False)
            jobs.create(["organization b"], spec, now)
            wait_until(lambda: jobs.rows()[0].acknowledged > 0)

            held = api.sources.pop("b")
            wait_until(lambda: polled(plugin) == {"a"})
            wait_until(lambda: "list of organizations" in (jobs.rows()[0].error or ""))
            assert not plugin.backfills
            assert jobs.rows()[0].condition == "open"
            api.sources["b"] = held
            api.faults.clear()
            wait_until(lambda: jobs.rows()[0].condition == "done")
            wait_until(lambda: polled(plugin) == {"a", "b"} and all(each.caught_up for each in plugin.collectors))
            position = {each.name: each.position for each in plugin.collectors}["organization b"]
            end_ms = position.watermark_ms
            wanted = held.count(spec.since_ms, spec.until_ms, now_ms=now_ms())
            wanted += held.count(position.origin_ms, end_ms, now_ms=now_ms())
            of_b = [each for each in receiver.records if each.record.get("organization", {}).get("id") == "b"]
    assert set(receiver.ids.values()) == {1}
    assert len(of_b) >= wanted > 800


class Listed:
    """A discovery whose lists are given, and what it has polled."""

    def __init__(self, *lists: dict[str, str] | Exception, **settings: Any) -> None:
        self.polled: list[list[str]] = []
        self.named: Any = None
        self.known: tuple[str, ...] | Exception = ()
        remaining = list(lists)
        self.discovery = Discovery(
            *(JumpCloudSettings(**settings), lambda _: discovery.Listed(self._or_raise(remaining.pop(0)))),
            known=lambda: self._or_raise(self.known),
            name=lambda _: self._or_raise(self.named),
            apply=lambda organizations, _: self.polled.append(organizations),
            troubles=Troubles(now_ms),
            runtime=SYSTEM,
        )

    @staticmethod
    def _or_raise(value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    def step(self) -> float:
        """List them once."""
        return self.discovery.step(threading.Event())


def test_an_unexpected_error_of_what_uses_a_list(caplog: pytest.LogCaptureFixture) -> None:
    """It is an error of the discovery, whose page and readiness show it; the next list is used."""
    listed = Listed({"a": "A"}, {"a": "A"})
    listed.named = ValueError("no such character")
    listed.step()
    assert str(listed.discovery.error) == "unexpected ValueError; see the log"
    assert "no such character" in caplog.text
    listed.named = None
    listed.step()
    assert (listed.polled, listed.discovery.error) == ([["a"]], None)


def test_a_file_that_is_being_written() -> None:
    """What is read of it is used once it is the same twice."""
    both, cut = dict.fromkeys(("a", "b"), ""), {"a": ""}
    listed = Listed(both, cut, both, both, cut, cut, organizations_file=Path("unused"))
    delays = [listed.step() for _ in range(6)]
    assert listed.polled == [["a", "b"], ["a", "b"], ["a"]]
    assert delays == [10, 1, 1, 10, 1, 10]


def test_without_a_first_list() -> None:
    """Those of the state are polled, once it can be read. The first list is taken as it is, however much it lacks."""
    known, failed = tuple(f"o{number}" for number in range(100)), Retryable("no answer")
    listed = Listed(failed, failed, {"o1": "One"}, {}, organizations="all")
    listed.known = StateUnavailable("the disk is full")
    listed.step()
    assert listed.polled == []
    listed.known = known
    listed.step()
    assert listed.polled == [list(known)]
    listed.step()
    assert listed.polled[-1] == ["o1"]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([(["a", "b"], 3), ([], 3)], "JumpCloud lists 2 organizations, but announces 3"),
        ([(["a", "b"], 4), (["a", "b"], 4)], "JumpCloud lists 2 organizations, but announces 4"),
        ([(["a", ""], 2)], "an organization with the ID '', which cannot be one"),
        ([(["a", "b\n"], 2)], "an organization with the ID 'b\\n', which cannot be one"),
        ([(None, 2)], "JumpCloud sent no list of organizations"),
    ],
)
def test_lists_that_are_not_whole(answers: list[tuple[list[str] | None, int]], said: str) -> None:
    """Pages that do not add up, or are none, are no list."""
    remaining = list(answers)

    def exchange(*_: Any) -> HttpResponse:
        ids, total = remaining.pop(0)
        results = None if ids is None else [{"_id": each, "displayName": "x"} for each in ids]
        return HttpResponse(200, "", {}, msgspec.json.encode({"results": results, "totalCount": total}), {})

    settings, limiter = JumpCloudSettings(api_key=Secret("k")), RateLimiter(1000)
    api = DirectoryInsights(settings, create_auth(settings, limiter), limiter, exchange=cast(Any, exchange))
    with pytest.raises(Retryable, match=re.escape(said)):
        api.organizations(None, threading.Event())
    assert not remaining


@pytest.mark.timeout(60)
def test_once(receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """`--once` lists them, catches up with each, and ends."""
    with SimulatedApi({name: source(name, per_minute=1) for name in ("a", "b")}) as api:
        settings = settings_of(api, receiver, tmp_path, jumpcloud__interval=Duration(60))
        with app.open_app(settings, once=True) as plugin:
            assert plugin.run() is None
            assert polled(plugin) == {"a", "b"}
    assert len(receiver.ids) > 100
    assert set(receiver.ids.values()) == {1}


@pytest.mark.timeout(60)
def test_overrides(tmp_path: Path) -> None:
    """One organization has other services, another tag and another start."""
    with (
        SimulatedReceiver() as receiver,
        SimulatedApi({name: source(name, per_minute=20) for name in ("a", "b")}) as api,
    ):
        override = OverrideSettings(services=("sso",), tag="special", start=Start("10m"))
        settings = settings_of(api, receiver, tmp_path, jumpcloud__overrides={"b": override})
        with running(settings) as plugin:
            wait_until(lambda: len(plugin.collectors) == 2 and all(each.caught_up for each in plugin.collectors))
            starts = {each.name: each.position.origin_ms for each in plugin.collectors}
        services = {each.headers["x-org-id"]: each.body["service"] for each in api.requests if "service" in each.body}
    assert services == {"a": ["all"], "b": ["sso"]}
    assert 45 * MINUTE_MS < starts["organization b"] - starts["organization a"] < 55 * MINUTE_MS
    tags = {(each.record["organization"]["id"], each.tag) for each in receiver.records if "organization" in each.record}
    assert tags == {("a", "jumpcloud.events"), ("b", "special")}


@pytest.mark.timeout(60)
def test_idle_organizations_are_polled_less_often(receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """Each poll without new events makes the interval twice as long; the first event makes it short again."""
    with SimulatedApi({name: source(name) for name in ("a", "b")}) as api:
        settings = settings_of(api, receiver, tmp_path, jumpcloud__interval_max=Duration(600))

        def add() -> None:
            event = {"id": f"{time.monotonic()}", "timestamp": "2026-01-01T00:00:00Z", "service": "sso"}
            api.sources["b"].add(event, timestamp_ms=now_ms())

        with running(settings):
            for _ in range(20):
                add()
                time.sleep(0.2)
            paths = [each.headers["x-org-id"] for each in api.requests if each.path.endswith("/events")]
    assert 2 <= paths.count("a") <= 5
    assert paths.count("b") > paths.count("a") + 1
