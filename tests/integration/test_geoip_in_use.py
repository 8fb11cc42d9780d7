"""Lookups in databases that are replaced while in use, and the cache."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import maxminddb
import pytest
from support.command import Command
from support.geoip import ASN, CITY, Clock, build, city, named

from in_jumpcloud.ecs.geoip import GeoIPLookup, GeoResult
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import now_ms
from in_jumpcloud.troubles import Troubles

NETWORK = "192.0.2.0/24"
EXAMPLE = "Example Broadband Ltd"


@pytest.fixture
def clock() -> Clock:
    """A clock that the test moves."""
    return Clock()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What lookups log, from INFO up."""
    caplog.set_level(logging.INFO, logger="in_jumpcloud")
    return caplog


def levels(log: pytest.LogCaptureFixture) -> list[str]:
    """The levels of all messages so far."""
    return [record.levelname for record in log.records]


def swap(path: Path, content: bytes) -> None:
    """Replace `path` by a file with `content`, by rename."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


SPOILED: dict[str, Callable[[Path], None]] = {
    "no such file": lambda path: path.unlink(),
    "not a MaxMind database": lambda path: swap(path, CITY.read_bytes()[:-60]),
    "has type 'in_jumpcloud-Demo-ASN'": lambda path: swap(path, ASN.read_bytes()),
}
"""For each reason in a warning, a way to spoil a database in use."""


class TestReplacement:
    """Files that change while in use."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """A database in which 192.0.2.1 is in Old."""
        return build(tmp_path / "c.mmdb", {NETWORK: named("Old")})

    @pytest.fixture
    def geoip(self, path: Path, clock: Clock) -> GeoIPLookup:
        """Lookups in it, checked every 5 seconds, with its result cached."""
        geoip = GeoIPLookup(path, ASN, check_every=5.0, clock=clock)
        assert city(geoip, "192.0.2.1") == "Old"
        return geoip

    def test_replaced(self, geoip: GeoIPLookup, path: Path, clock: Clock, log: pytest.LogCaptureFixture) -> None:
        """A replacement is used after at most check_every seconds, for cached addresses too, with one INFO."""
        build(path, {NETWORK: named("New")})
        clock.now += 4.9
        assert city(geoip, "192.0.2.1") == "Old"
        clock.now += 0.1
        assert city(geoip, "192.0.2.1") == "New"
        clock.now += 5
        assert city(geoip, "192.0.2.1") == "New"
        assert levels(log) == ["INFO"]
        assert f"geoip.city: {path} was replaced" in log.messages[0]
        assert geoip.statistics()[1:] == (2, 2)  # of both caches

    def test_both_replaced(self, path: Path, tmp_path: Path, clock: Clock) -> None:
        """The second database is checked too, alone and together with the first."""
        asn = build(tmp_path / "a.mmdb", {NETWORK: {"autonomous_system_number": 1}}, "ASN")
        geoip = GeoIPLookup(path, asn, clock=clock)
        assert geoip.lookup("192.0.2.1") == GeoResult({"city_name": "Old"}, {"number": 1})
        build(asn, {NETWORK: {"autonomous_system_number": 2}}, "ASN")
        clock.now += 5
        assert geoip.lookup("192.0.2.1") == GeoResult({"city_name": "Old"}, {"number": 2})
        build(path, {NETWORK: named("New")})
        build(asn, {NETWORK: {"autonomous_system_number": 3}}, "ASN")
        clock.now += 5
        assert geoip.lookup("192.0.2.1") == GeoResult({"city_name": "New"}, {"number": 3})
        types = {info.setting: info.type for info in geoip.statistics().databases}
        assert types == {"geoip.city": "Test-City", "geoip.asn": "ASN"}

    def test_unchanged(self, geoip: GeoIPLookup, path: Path, clock: Clock, log: pytest.LogCaptureFixture) -> None:
        """An unchanged file is not reopened, and its results stay cached; one of the same size and time is noticed."""
        before = geoip.lookup("192.0.2.1")
        clock.now += 100
        assert geoip.lookup("192.0.2.1") is before
        assert not log.records

        old = path.stat()
        new = build(path.with_name("other.mmdb"), {NETWORK: named("New")})
        os.utime(new, ns=(old.st_atime_ns, old.st_mtime_ns))
        assert new.stat().st_size == old.st_size
        new.replace(path)
        clock.now += 5
        assert city(geoip, "192.0.2.1") == "New"

    def test_spoiled(self, geoip: GeoIPLookup, path: Path, clock: Clock, log: pytest.LogCaptureFixture) -> None:
        """An unusable replacement logs one warning; the old database is used until a usable file comes."""
        for reason, spoil in SPOILED.items():
            spoil(path)
            for last in range(1, 4):
                clock.now += 5
                assert city(geoip, f"192.0.2.{last}") == "Old"
            assert levels(log) == ["WARNING"]
            assert f"geoip.city: {path} has changed: {reason}" in log.messages[0]
            assert "the open database stays in use" in log.messages[0]
            log.clear()
        build(path, {NETWORK: named("New")})
        clock.now += 5
        assert city(geoip, "192.0.2.1") == "New"
        assert levels(log) == ["INFO"]

    def test_back_again(self, geoip: GeoIPLookup, path: Path, clock: Clock, log: pytest.LogCaptureFixture) -> None:
        """A file that comes back unchanged is not reopened; its next absence logs a warning again."""
        aside = path.with_suffix(".aside")
        for moves in (1, 2):
            path.rename(aside)
            clock.now += 5
            assert city(geoip, "192.0.2.1") == "Old"
            aside.rename(path)
            clock.now += 5
            assert city(geoip, "192.0.2.1") == "Old"
            assert levels(log) == ["WARNING"] * moves

    def test_readable_later(
        self,
        geoip: GeoIPLookup,
        path: Path,
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
        log: pytest.LogCaptureFixture,
    ) -> None:
        """A replacement is used once its permissions are corrected, which changes neither time nor size."""
        build(path, {NETWORK: named("New")})

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        with monkeypatch.context() as patch:
            patch.setattr(maxminddb, "open_database", refuse)
            clock.now += 5
            assert city(geoip, "192.0.2.1") == "Old"
        clock.now += 5
        assert city(geoip, "192.0.2.1") == "New"
        assert levels(log) == ["WARNING", "INFO"]

    def test_late_result(self, path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        """A result of the old database that arrives after the replacement is not cached."""

        class SlowReader:
            """A reader during whose first read the file is replaced."""

            def __init__(self, path: Path) -> None:
                self._reader = open_database(path)
                self.metadata = self._reader.metadata

            def get(self, address: Any) -> object:
                """Read, and let another thread's lookup find the replacement."""
                record = self._reader.get(address)
                monkeypatch.undo()
                build(path, {NETWORK: named("New")})
                clock.now += 5
                assert city(geoip, "192.0.2.77") == "New"
                return record

        open_database = maxminddb.open_database
        monkeypatch.setattr(maxminddb, "open_database", SlowReader)
        geoip = GeoIPLookup(path, None, clock=clock)
        assert city(geoip, "192.0.2.1") == "Old"
        assert city(geoip, "192.0.2.1") == "New"


class TestMissing:
    """A database that cannot be used at start, where that is a trouble and no error."""

    def test_retried(self, tmp_path: Path, clock: Clock, log: pytest.LogCaptureFixture) -> None:
        """Events have no fields meanwhile. Each cause is one line, also without lookups; so is the end."""
        path, troubles = tmp_path / "c.mmdb", Troubles(now_ms)
        geoip = GeoIPLookup(path, ASN, clock=clock, troubles=troubles)
        assert geoip.lookup("81.2.69.144") == GeoResult(None, {"number": 64496, "organization": {"name": EXAMPLE}})
        path.write_bytes(CITY.read_bytes()[:-60])
        for _ in range(10):
            clock.now += 5
            geoip.retry_missing()
        (trouble,) = troubles.current()
        assert trouble.what == f"geoip.city: {path}: not a MaxMind database, or truncated"
        assert levels(log) == ["WARNING", "WARNING"]
        swap(path, CITY.read_bytes())
        clock.now += 5
        geoip.retry_missing()
        assert city(geoip, "81.2.69.144") == "London"
        assert levels(log)[2:] == ["INFO", "INFO"]
        assert not troubles.current()

    def test_pauses_grow(self, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        """A damaged file that does not change is copied and opened less and less often, at least every five minutes."""
        path = tmp_path / "c.mmdb"
        path.write_bytes(CITY.read_bytes()[:-60])
        opened: list[float] = []
        open_database = maxminddb.open_database

        def counted(copy: str) -> object:
            opened.append(clock.now)
            return open_database(copy)

        monkeypatch.setattr(maxminddb, "open_database", counted)
        geoip = GeoIPLookup(path, None, clock=clock, troubles=Troubles(now_ms))
        for _ in range(720):
            clock.now += 5
            geoip.retry_missing()
        pauses = [round(later - earlier) for earlier, later in pairwise(opened)]
        assert pauses[:7] == [5, 10, 20, 40, 80, 160, 300]
        assert set(pauses[7:]) == {300}

    @pytest.mark.parametrize("copies", [None, "missing"])
    def test_leaves_nothing(self, tmp_path: Path, copies: str | None) -> None:
        """The private copy has no name, so nothing remains; without its directory that for temporary files is used."""
        directory = tmp_path / (copies or "")
        geoip = GeoIPLookup(CITY, None, copies=directory)
        assert city(geoip, "81.2.69.144") == "London"
        assert list(tmp_path.iterdir()) == []

    def test_full_disk(self, tmp_path: Path) -> None:
        """A database of which there is no space for a copy cannot be used; it says so."""
        full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))"
        program = f"{full}; from pathlib import Path; from in_jumpcloud.ecs.geoip import GeoIPLookup"
        program += f"; GeoIPLookup(Path({str(CITY)!r}), None, copies=Path({str(tmp_path)!r}))"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60)  # noqa: S603
        assert re.search(rb"geoip\.city: \S+: cannot be copied to \S+ \(File too large\)", done.stderr)


class TestCache:
    """What is cached."""

    def test_hits(self) -> None:
        """A repeated lookup, of valid text or not, is answered by the cache, which text too long does not enter."""
        geoip = GeoIPLookup(CITY, None)
        for text in ("81.2.69.144", "nonsense", "10.0.0.1"):
            assert geoip.lookup(text) is geoip.lookup(text)
        assert geoip.lookup("9" * 46) is None
        assert geoip.statistics()[1:] == (3, 3)

    def test_bound(self) -> None:
        """At most `cache` results are kept, those used last, and results stay right."""
        for cache, hits in ((0, 0), (1, 0), (10, 255)):
            geoip = GeoIPLookup(CITY, None, cache=cache)
            for number in range(256):
                geoip.lookup(f"198.18.0.{number}")
                assert city(geoip, "81.2.69.144") == "London"
            assert geoip.statistics().hits == hits
            for number in reversed(range(256)):
                geoip.lookup(f"198.18.0.{number}")
            assert geoip.statistics().hits == (hits + cache - 1 if hits else 0)

    def test_threads(self, tmp_path: Path) -> None:
        """Threads get right results while files are replaced and the cache overflows."""
        path = build(tmp_path / "c.mmdb", {NETWORK: named("Old")})
        geoip = GeoIPLookup(path, None, cache=20, check_every=0)
        wrong: list[object] = []
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                for last in range(60):
                    try:
                        result = city(geoip, f"192.0.2.{last}")
                    except BaseException as error:  # noqa: BLE001 - any error fails the test
                        result = repr(error)
                    if result not in {"Old", "New"}:
                        wrong.append(result)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for turn in range(15):
            build(path, {NETWORK: named("Old" if turn % 2 else "New")})
        build(path, {NETWORK: named("New")})
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert {city(geoip, f"192.0.2.{last}") for last in range(60)} == {"New"}


def test_the_age_of_a_database_is_logged(command: Command, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """Once, at the start: with a warning and advice if it is older than a month."""
    now = time.time()
    city = build(tmp_path / "city.mmdb", {NETWORK: named("Old")}, "GeoLite2-City", built=now - 40 * 86_400)
    asn = build(tmp_path / "asn.mmdb", {NETWORK: named("New")}, "GeoLite2-ASN", built=now - 20 * 86_400)
    with SimulatedApi(EventSource(start_ms=0, end_ms=1, per_minute=0)) as api:
        settings = command.settings(api, receiver, geoip__city=str(city), geoip__asn=str(asn))
        process = command.start("run", *settings, "--once")
        assert process.wait(60) == 0
    first, second = (line for line in command.log.read_text().splitlines() if "days old" in line)
    assert re.search(r"warning .*geoip.city: GeoLite2-City of .* is 40 days old; .*`in-jumpcloud geoip update`", first)
    assert re.search(r"info .*geoip.asn: GeoLite2-ASN of .*, 20 days old$", second)
