"""Look-ups in databases that change while they are in use, and what is remembered of them."""

from __future__ import annotations

import ipaddress
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import maxminddb
import pytest
from support.geoip import ASN, CITY, Clock, build, city, named

from in_jumpcloud.ecs.geoip import GeoIPLookup, GeoResult


@pytest.fixture
def clock() -> Clock:
    """A clock of the test's own."""
    return Clock()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What look-ups log, from INFO up."""
    caplog.set_level(logging.INFO, logger="in_jumpcloud.geoip")
    return caplog


def swap(path: Path, content: bytes) -> None:
    """Put a file with `content` in the place of `path`, by rename."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


SPOILED: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda path: path.unlink(), "there is no such file"),
    "empty": (lambda path: swap(path, b""), "it is not a MaxMind database"),
    "truncated": (lambda path: swap(path, CITY.read_bytes()[:-60]), "it is not a MaxMind database"),
    "wrong type": (lambda path: swap(path, ASN.read_bytes()), "it is a database of type 'in_jumpcloud-Demo-ASN'"),
}
"""A way to spoil a database in use, and what the warning says of it."""


class TestReplacement:
    """Files that change while they are in use."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """A database in which 192.0.2.1 is in Old."""
        return build(tmp_path / "c.mmdb", {"192.0.2.0/24": named("Old")})

    @pytest.fixture
    def geoip(self, path: Path, clock: Clock) -> GeoIPLookup:
        """It is open, looked at every 5 seconds, and its answer is in the cache."""
        geoip = GeoIPLookup(path, ASN, check_every=5.0, clock=clock)
        assert city(geoip, "192.0.2.1") == "Old"
        return geoip

    def test_replaced(self, geoip: GeoIPLookup, path: Path, clock: Clock, log: pytest.LogCaptureFixture) -> None:
        """A file renamed into place answers after at most check_every seconds, cached addresses too, with one INFO."""
        build(path, {"192.0.2.0/24": named("New")})
        clock.now += 4.9
        assert city(geoip, "192.0.2.1") == "Old"
        clock.now += 0.1
        assert city(geoip, "192.0.2.1") == "New"
        clock.now += 5
        assert city(geoip, "192.0.2.1") == "New"
        assert [record.levelname for record in log.records] == ["INFO"]
        assert log.messages == [f"geoip.city: {path} was replaced and is in use (Test-City)"]

    def test_both_replaced(self, path: Path, tmp_path: Path, clock: Clock) -> None:
        """The second database is looked after as well, alone and in the same check as the first."""
        asn = build(tmp_path / "a.mmdb", {"192.0.2.0/24": {"autonomous_system_number": 1}}, "ASN")
        geoip = GeoIPLookup(path, asn, clock=clock)
        assert geoip.lookup("192.0.2.1") == GeoResult({"city_name": "Old"}, {"number": 1})
        build(asn, {"192.0.2.0/24": {"autonomous_system_number": 2}}, "ASN")
        clock.now += 5
        assert geoip.lookup("192.0.2.1") == GeoResult({"city_name": "Old"}, {"number": 2})
        build(path, {"192.0.2.0/24": named("New")})
        build(asn, {"192.0.2.0/24": {"autonomous_system_number": 3}}, "ASN")
        clock.now += 5
        assert geoip.lookup("192.0.2.1") == GeoResult({"city_name": "New"}, {"number": 3})

    def test_same_time_and_size(self, geoip: GeoIPLookup, path: Path, clock: Clock) -> None:
        """A new file is noticed even where it has the size and the time of the old one."""
        old = path.stat()
        new = build(path.with_name("other.mmdb"), {"192.0.2.0/24": named("New")})
        os.utime(new, ns=(old.st_atime_ns, old.st_mtime_ns))
        assert new.stat().st_size == old.st_size
        new.replace(path)
        clock.now += 5
        assert city(geoip, "192.0.2.1") == "New"

    def test_unchanged(self, geoip: GeoIPLookup, clock: Clock, log: pytest.LogCaptureFixture) -> None:
        """An untouched file is not opened again, and its answers stay in the cache."""
        before = geoip.lookup("192.0.2.1")
        clock.now += 100
        assert geoip.lookup("192.0.2.1") is before
        assert not log.records

    @pytest.mark.parametrize("how", SPOILED)
    def test_spoiled(
        self, geoip: GeoIPLookup, path: Path, clock: Clock, log: pytest.LogCaptureFixture, how: str
    ) -> None:
        """A replacement that is of no use is warned about once; the old one answers until a sound one comes."""
        spoil, reason = SPOILED[how]
        spoil(path)
        for last in range(1, 4):
            clock.now += 5
            assert city(geoip, f"192.0.2.{last}") == "Old"
        assert [record.levelname for record in log.records] == ["WARNING"]
        assert f"geoip.city: {path} has changed, but {reason}" in log.messages[0]
        assert "the database opened before stays in use" in log.messages[0]

        build(path, {"192.0.2.0/24": named("New")})
        clock.now += 5
        assert city(geoip, "192.0.2.1") == "New"
        assert [record.levelname for record in log.records] == ["WARNING", "INFO"]

    def test_spoiled_twice(self, geoip: GeoIPLookup, path: Path, clock: Clock, log: pytest.LogCaptureFixture) -> None:
        """Each new state of a broken file is warned about."""
        for size in (1, 2):
            swap(path, b"x" * size)
            clock.now += 5
            assert city(geoip, "192.0.2.1") == "Old"
        assert len(log.records) == 2

    def test_back_again(self, geoip: GeoIPLookup, path: Path, clock: Clock, log: pytest.LogCaptureFixture) -> None:
        """A file that was away and came back as it was is not opened again; its next absence is warned about."""
        aside = path.with_suffix(".aside")
        for moves in (1, 2):
            path.rename(aside)
            clock.now += 5
            assert city(geoip, "192.0.2.1") == "Old"
            aside.rename(path)
            clock.now += 5
            assert city(geoip, "192.0.2.1") == "Old"
            assert [record.levelname for record in log.records] == ["WARNING"] * moves

    def test_readable_later(
        self,
        geoip: GeoIPLookup,
        path: Path,
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
        log: pytest.LogCaptureFixture,
    ) -> None:
        """A new file whose permissions are corrected afterwards, which leaves no trace in stat, is taken up then."""
        build(path, {"192.0.2.0/24": named("New")})

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        with monkeypatch.context() as patch:
            patch.setattr(maxminddb, "open_database", refuse)
            clock.now += 5
            assert city(geoip, "192.0.2.1") == "Old"
        clock.now += 5
        assert city(geoip, "192.0.2.1") == "New"
        assert [record.levelname for record in log.records] == ["WARNING", "INFO"]

    def test_late_answer(self, path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        """An answer from the old database that is ready only after the replacement is not kept."""
        geoip = GeoIPLookup(path, None, clock=clock)
        old = geoip._city
        assert old is not None
        slow = old.get

        def get(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> object:
            record = slow(address)
            monkeypatch.undo()
            build(path, {"192.0.2.0/24": named("New")})
            clock.now += 5
            assert city(geoip, "192.0.2.77") == "New"  # another thread's look-up, which finds the new file
            return record

        monkeypatch.setattr(old, "get", get)
        assert city(geoip, "192.0.2.1") == "Old"
        assert city(geoip, "192.0.2.1") == "New"


class TestCache:
    """What is remembered."""

    @pytest.mark.parametrize("text", ["81.2.69.144", "nonsense", "10.0.0.1"])
    def test_kept(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A second look-up of the same text, be it valid or not, does not parse or read again."""
        geoip = GeoIPLookup(CITY, None)
        first = geoip.lookup(text)
        monkeypatch.setattr(geoip, "_ask", lambda _: pytest.fail("asked again"))
        assert geoip.lookup(text) is first

    @pytest.mark.parametrize("cache", [0, 1, 2, 7, 100])
    def test_bounded(self, cache: int) -> None:
        """Never more than `cache` answers are kept, and answers stay right."""
        geoip = GeoIPLookup(CITY, None, cache=cache)
        for number in range(1_000):
            geoip.lookup(f"198.18.{number >> 8}.{number & 255}")
            assert city(geoip, "81.2.69.144") == "London"
            assert len(geoip._young) + len(geoip._old) <= cache

    def test_popular(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An address that is asked for all the time is not forgotten when many others pass by."""
        geoip = GeoIPLookup(CITY, None, cache=10)
        geoip.lookup("81.2.69.144")
        asked: list[str] = []
        monkeypatch.setattr(geoip, "_ask", asked.append)
        for number in range(256):
            geoip.lookup(f"198.18.0.{number}")
            assert city(geoip, "81.2.69.144") == "London"
        assert len(asked) == 256
        assert "81.2.69.144" not in asked

    def test_huge_text(self) -> None:
        """Text too long for an address is answered but not kept, so that it cannot fill the memory."""
        geoip = GeoIPLookup(CITY, None)
        assert geoip.lookup("9" * 46) is None
        assert not geoip._young

    def test_threads(self, tmp_path: Path) -> None:
        """Several threads get right answers while files are replaced under them and the cache overflows."""
        path = build(tmp_path / "c.mmdb", {"192.0.2.0/24": named("Old")})
        geoip = GeoIPLookup(path, None, cache=20, check_every=0)
        wrong: list[object] = []
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                for last in range(60):
                    try:
                        found = city(geoip, f"192.0.2.{last}")
                    except BaseException as error:  # noqa: BLE001  whatever it is, the test has to see it
                        found = repr(error)
                    if found not in {"Old", "New"}:
                        wrong.append(found)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for turn in range(15):
            build(path, {"192.0.2.0/24": named("Old" if turn % 2 else "New")})
        build(path, {"192.0.2.0/24": named("New")})
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert {city(geoip, f"192.0.2.{last}") for last in range(60)} == {"New"}
        assert len(geoip._young) + len(geoip._old) <= 20
