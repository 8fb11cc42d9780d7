"""Look-ups of addresses in real database files: made here by mmdb_writer, and the demo ones."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import maxminddb
import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from in_jumpcloud.ecs.geo import Address, GeoIP
from in_jumpcloud.errors import ConfigError

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Callable

GEOIP = Path(__file__).resolve().parents[2] / "geoip"
CITY, ASN = GEOIP / "demo-city.mmdb", GEOIP / "demo-asn.mmdb"
NOTHING = Address(None, None)
LONDON = {
    "city_name": "London",
    "continent_name": "Europe",
    "country_iso_code": "GB",
    "country_name": "United Kingdom",
    "location": {"lat": 51.5142, "lon": -0.0931},
    "region_iso_code": "GB-ENG",
    "region_name": "England",
}


def build(path: Path, records: dict[str, Any], kind: str = "Test-City", *, version: int = 6) -> Path:
    """Write a database of network → record to `path`, by rename as geoipupdate does."""
    writer = MMDBWriter(ip_version=version, database_type=kind, ipv4_compatible=version == 6)
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    new = path.with_suffix(".new")
    writer.to_db_file(str(new))
    return new.replace(path)


def named(name: str) -> dict[str, Any]:
    """A record that holds nothing but a city's name."""
    return {"city": {"names": {"en": name}}}


def city(geoip: GeoIP, text: str) -> str | None:
    """The city of an address that must be valid; None where nothing is known."""
    found = geoip.lookup(text)
    assert found is not None
    return found.geo["city_name"] if found.geo else None


class Clock:
    """A clock that moves when told to."""

    now = 100.0

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock of the test's own."""
    return Clock()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the room logs, from INFO up."""
    caplog.set_level(logging.INFO, logger="in_jumpcloud.geoip")
    return caplog


@pytest.fixture(scope="module")
def anywhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that knows every address, local ones too."""
    # The writer takes a network into one that is there already, so IPv4, which lies at ::/96, comes last.
    records = {"8000::/1": named("Six"), "::/1": named("Six"), "0.0.0.0/1": named("Four"), "128.0.0.0/1": named("Four")}
    return build(tmp_path_factory.mktemp("any") / "any.mmdb", records)


class TestAnswers:
    """What is said about an address."""

    def test_seed(self) -> None:
        """The address of the documented example event gets exactly the geo of that event, key order included."""
        found = GeoIP(CITY, ASN).lookup("81.2.69.144")
        assert found is not None
        assert json.dumps(found.geo) == json.dumps(LONDON)
        assert found.as_ == {"number": 64496, "organization": {"name": "Example Broadband Ltd"}}

    def test_extended(self) -> None:
        """On request geo also has continent code, postal code and time zone, after the documented fields."""
        found = GeoIP(CITY, None, extended=True).lookup("81.2.69.144")
        assert found is not None
        more = {"continent_code": "EU", "postal_code": "EC2V", "timezone": "Europe/London"}
        assert json.dumps(found.geo) == json.dumps(LONDON | more)

    def test_last_subdivision(self) -> None:
        """Of several subdivisions the last, narrowest one is the region."""
        found = GeoIP(CITY, None).lookup("2.125.160.216")
        assert found is not None
        assert found.geo is not None
        assert (found.geo["region_iso_code"], found.geo["region_name"]) == ("GB-WBK", "West Berkshire")

    @pytest.mark.parametrize(
        ("text", "geo"),
        [
            ("192.0.2.200", {"continent_name": "Oceania", "country_iso_code": "NZ", "country_name": "New Zealand"}),
            ("192.0.2.230", {"location": {"lat": -48.8767, "lon": -123.3933}}),
        ],
        ids=["country only", "point only"],
    )
    def test_absent_parts(self, text: str, geo: dict[str, Any]) -> None:
        """What a record does not hold is left out."""
        assert GeoIP(CITY, None).lookup(text) == Address(geo, None)

    def test_country_database(self, tmp_path: Path) -> None:
        """A Country database serves for geo."""
        record = {"continent": {"names": {"en": "Europe"}}, "country": {"iso_code": "SE", "names": {"en": "Sweden"}}}
        path = build(tmp_path / "c.mmdb", {"192.0.2.0/24": record}, "GeoLite2-Country")
        geo = {"continent_name": "Europe", "country_iso_code": "SE", "country_name": "Sweden"}
        assert GeoIP(path, None).lookup("192.0.2.1") == Address(geo, None)

    @pytest.mark.parametrize("kind", ["GeoIP2-Enterprise", "DBIP-City-Lite", "GeoIP2-City"])
    def test_types_for_city(self, tmp_path: Path, kind: str) -> None:
        """City databases of other publishers and editions are taken."""
        path = build(tmp_path / "c.mmdb", {"192.0.2.0/24": named("X")}, kind)
        assert city(GeoIP(path, None), "192.0.2.1") == "X"

    @pytest.mark.parametrize("kind", ["GeoIP2-ISP", "DBIP-ASN-Lite (compat=GeoLite2-ASN)"])
    def test_types_for_asn(self, tmp_path: Path, kind: str) -> None:
        """An ISP database serves for the autonomous system, and so does another publisher's."""
        path = build(tmp_path / "a.mmdb", {"192.0.2.0/24": {"autonomous_system_number": 64500}}, kind)
        assert GeoIP(None, path).lookup("192.0.2.1") == Address(None, {"number": 64500})

    def test_system_name_only(self, tmp_path: Path) -> None:
        """A record without a number still gives the organization."""
        path = build(tmp_path / "a.mmdb", {"192.0.2.0/24": {"autonomous_system_organization": "X"}}, "ASN")
        assert GeoIP(None, path).lookup("192.0.2.1") == Address(None, {"organization": {"name": "X"}})

    def test_unknown_address(self) -> None:
        """An address that no database holds is valid and has nothing."""
        assert GeoIP(CITY, ASN).lookup("8.8.8.8") == NOTHING

    def test_no_databases(self) -> None:
        """With both databases off, validity is still told."""
        geoip = GeoIP(None, None)
        assert geoip.lookup("81.2.69.144") == NOTHING
        assert geoip.lookup("nonsense") is None

    def test_closed(self) -> None:
        """After close nothing is found, not even what was known before, and nothing is raised."""
        geoip = GeoIP(CITY, None, check_every=0)
        assert city(geoip, "81.2.69.144") == "London"
        geoip.close()
        assert geoip.lookup("81.2.69.144") == NOTHING


class TestText:
    """What counts as an address."""

    @pytest.mark.parametrize(
        "text",
        [
            *("", "nonsense", "192.0.2", "192.0.2.256", "192.0.02.1", "192.0.2.1 ", "192.0.2.1:443", "192.0.2.0/24"),
            *("[2001:db8::1]", "2001:db8::1%eth0", "fe80::1%1", "2001:db8::g", "\u0661.2.3.4", "\ud800", "1" * 10**6),
        ],
    )
    def test_invalid(self, anywhere: Path, text: str) -> None:
        """What is no plain address, one with a scope id included, is told apart: None, the second time too."""
        geoip = GeoIP(anywhere, None)
        assert geoip.lookup(text) is None
        assert geoip.lookup(text) is None

    @pytest.mark.parametrize("value", [None, 0, 3232235777, b"\xc0\x00\x02\x01", ["192.0.2.1"], {}, math.nan])
    def test_not_text(self, anywhere: Path, value: Any) -> None:
        """Other values than text are no addresses, and nothing is raised."""
        assert GeoIP(anywhere, None).lookup(value) is None

    @pytest.mark.parametrize(
        "text",
        [
            *("10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255"),
            *("127.0.0.1", "127.255.255.255", "169.254.0.0", "169.254.255.255", "0.0.0.0", "::", "::1"),  # noqa: S104
            *("fc00::", "fdff:ffff::1", "fe80::", "febf:ffff::1", "::ffff:10.1.2.3", "::ffff:127.0.0.1"),
        ],
    )
    def test_local(self, anywhere: Path, text: str) -> None:
        """Private, loopback, link-local and unspecified addresses are valid but not looked up."""
        assert GeoIP(anywhere, None).lookup(text) == NOTHING

    @pytest.mark.parametrize(
        "text",
        [
            *("9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0"),
            *("128.0.0.0", "169.253.255.255", "169.255.0.0", "0.0.0.1", "192.0.2.1", "100.64.0.1"),
            *("fbff::1", "fe00::1", "fe7f::1", "fec0::1", "2001:db8::1"),
        ],
    )
    def test_not_local(self, anywhere: Path, text: str) -> None:
        """Addresses just outside of those ranges are looked up, and documentation networks too."""
        assert city(GeoIP(anywhere, None), text) == ("Six" if ":" in text else "Four")

    @pytest.mark.parametrize("text", ["::ffff:81.2.69.144", "::FFFF:5102:4590", f"{'0000:' * 5}ffff:81.2.69.144"])
    def test_mapped(self, text: str) -> None:
        """An IPv4-mapped IPv6 address is looked up as IPv4, however it is written."""
        assert city(GeoIP(CITY, None), text) == "London"

    def test_longest(self, anywhere: Path) -> None:
        """The longest text that is an address, 45 characters, is looked up."""
        text = f"{'0000:' * 5}ffff:198.168.100.100"
        assert len(text) == 45
        assert city(GeoIP(anywhere, None), text) == "Four"

    def test_ipv6(self) -> None:
        """IPv6 addresses are found, however they are written."""
        geoip = GeoIP(CITY, None)
        assert city(geoip, "2001:db8:4000::1") == city(geoip, "2001:0DB8:4000:0000:0000:0000:0000:0001") == "Tokyo"

    def test_ipv4_only(self, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
        """In a database of IPv4 alone, IPv6 is a miss without a warning, and IPv4-mapped is found."""
        geoip = GeoIP(build(tmp_path / "4.mmdb", {"192.0.2.0/24": named("Four")}, version=4), None)
        assert geoip.lookup("2001:db8::1") == NOTHING
        assert city(geoip, "192.0.2.1") == city(geoip, "::ffff:192.0.2.1") == "Four"
        assert not log.records


class TestOddRecords:
    """Databases that do not hold what they should."""

    @pytest.mark.parametrize(
        "record",
        [
            "text",
            [1, 2],
            {"city": "London", "country": 7, "continent": [], "location": "here", "subdivisions": {"a": 1}},
            {"city": {"names": "London"}, "country": {"iso_code": 44, "names": {"en": 1}}, "subdivisions": ["ENG"]},
            {"city": {"names": {"de": "Wien"}}, "country": {"iso_code": ""}, "subdivisions": [{"iso_code": "ENG"}]},
            {"location": {"latitude": "51.5", "longitude": "-0.09"}},
            {"location": {"latitude": 51.5}},
            {"location": {"latitude": True, "longitude": 1.5}},
            {"location": {"latitude": math.nan, "longitude": 1.5}},
            {"location": {"latitude": 1.5, "longitude": math.inf}},
            {"location": {"latitude": 90.5, "longitude": 1.5}},
            {"location": {"latitude": 1.5, "longitude": -180.5}},
        ],
    )
    def test_unusable(self, tmp_path: Path, record: Any) -> None:
        """Values of unexpected types, and points that are not on the globe, are left out; nothing is raised."""
        geoip = GeoIP(build(tmp_path / "odd.mmdb", {"192.0.2.0/24": record}), None, extended=True)
        assert geoip.lookup("192.0.2.1") == NOTHING

    def test_sound_part(self, tmp_path: Path) -> None:
        """One odd part does not cost the others; a region without a country has a name but no code."""
        record = named("Oslo") | {"country": "Norway", "subdivisions": [{"iso_code": "03", "names": {"en": "Oslo"}}]}
        geoip = GeoIP(build(tmp_path / "odd.mmdb", {"192.0.2.0/24": record}), None)
        assert geoip.lookup("192.0.2.1") == Address({"city_name": "Oslo", "region_name": "Oslo"}, None)

    def test_whole_degrees(self, tmp_path: Path) -> None:
        """A position given in whole degrees becomes floats, up to the poles and the date line."""
        record = {"location": {"latitude": -90, "longitude": 180}}
        found = GeoIP(build(tmp_path / "odd.mmdb", {"192.0.2.0/24": record}), None).lookup("192.0.2.1")
        assert repr(found) == "Address(geo={'location': {'lat': -90.0, 'lon': 180.0}}, as_=None)"

    @pytest.mark.parametrize("number", ["64500", True, 64500.5, 2**32, -1])
    def test_system(self, tmp_path: Path, number: Any) -> None:
        """What is no AS number is left out."""
        record = {"autonomous_system_number": number, "autonomous_system_organization": ["X"]}
        geoip = GeoIP(None, build(tmp_path / "odd.mmdb", {"192.0.2.0/24": record}, "ASN"))
        assert geoip.lookup("192.0.2.1") == NOTHING

    def test_corrupt(self, tmp_path: Path, clock: Clock, log: pytest.LogCaptureFixture) -> None:
        """A database that is damaged inside gives misses, and one warning a minute that says so."""
        path = build(tmp_path / "c.mmdb", {"192.0.2.0/24": named("Somewhere long enough")})
        whole = path.read_bytes()
        start, end = whole.index(b"\0" * 16) + 16, whole.rindex(b"\xab\xcd\xefMaxMind.com")
        path.write_bytes(whole[:start] + b"\xff" * (end - start) + whole[end:])
        geoip = GeoIP(path, None, clock=clock)
        assert [geoip.lookup(f"192.0.2.{last}") for last in range(3)] == [NOTHING] * 3
        assert [record.levelname for record in log.records] == ["WARNING"]
        assert f"geoip.city: {path} is damaged" in log.messages[0]
        clock.now += 61
        assert geoip.lookup("192.0.2.9") == NOTHING
        assert len(log.records) == 2


class TestConstruction:
    """Databases that cannot be used from the start."""

    @staticmethod
    def refusal(city: Path | None, asn: Path | None) -> str:
        """The message of the ConfigError that this raises, which has to be one line."""
        with pytest.raises(ConfigError) as caught:
            GeoIP(city, asn)
        message = str(caught.value)
        assert "\n" not in message
        assert "geoip/README.md" in message
        return message

    @pytest.mark.parametrize("setting", ["geoip.city", "geoip.asn"])
    def test_missing(self, tmp_path: Path, setting: str) -> None:
        """A missing file is named with its setting, and the message says how to go on without it."""
        path = tmp_path / "none.mmdb"
        message = self.refusal(path, None) if setting == "geoip.city" else self.refusal(None, path)
        assert message.startswith(f"{setting}: {path}: there is no such file; ")
        assert f"set {setting} to null" in message

    def test_directory(self, tmp_path: Path) -> None:
        """A directory is not taken for a database."""
        assert "there is no such file" in self.refusal(tmp_path, None)

    def test_unreadable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file that this process may not read is told apart from a broken one."""
        path = build(tmp_path / "c.mmdb", {"192.0.2.0/24": named("X")})

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(maxminddb, "open_database", refuse)
        assert "it cannot be read (Permission denied)" in self.refusal(path, None)

    @pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
    def test_truncated(self, tmp_path: Path, keep: float) -> None:
        """A file that was cut off, even at its last bytes, is refused."""
        whole = CITY.read_bytes()
        path = tmp_path / "cut.mmdb"
        path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
        assert "it is not a MaxMind database, or it is cut off" in self.refusal(path, None)

    def test_not_a_database(self, tmp_path: Path) -> None:
        """A file of something else is refused."""
        path = tmp_path / "page.mmdb"
        path.write_text("<html>Too many requests</html>")
        assert "it is not a MaxMind database" in self.refusal(None, path)

    @pytest.mark.parametrize("kind", ["GeoLite2-ASN", "GeoIP2-Anonymous-IP", "ipinfo generic_country_free.mmdb"])
    def test_wrong_type_for_city(self, tmp_path: Path, kind: str) -> None:
        """A database of another type than City or Country is refused, with its type and those that would do."""
        message = self.refusal(build(tmp_path / "x.mmdb", {"192.0.2.0/24": named("X")}, kind), None)
        assert f"it is a database of type {kind!r}, and one of type City or Country or Enterprise is needed" in message

    def test_wrong_type_for_asn(self) -> None:
        """A City database does not serve for autonomous systems."""
        message = self.refusal(None, CITY)
        assert "type 'in_jumpcloud-Demo-City', and one of type ASN or ISP is needed" in message


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
    def geoip(self, path: Path, clock: Clock) -> GeoIP:
        """It is open, looked at every 5 seconds, and its answer is in the cache."""
        geoip = GeoIP(path, ASN, check_every=5.0, clock=clock)
        assert city(geoip, "192.0.2.1") == "Old"
        return geoip

    def test_replaced(self, geoip: GeoIP, path: Path, clock: Clock, log: pytest.LogCaptureFixture) -> None:
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
        geoip = GeoIP(path, asn, clock=clock)
        assert geoip.lookup("192.0.2.1") == Address({"city_name": "Old"}, {"number": 1})
        build(asn, {"192.0.2.0/24": {"autonomous_system_number": 2}}, "ASN")
        clock.now += 5
        assert geoip.lookup("192.0.2.1") == Address({"city_name": "Old"}, {"number": 2})
        build(path, {"192.0.2.0/24": named("New")})
        build(asn, {"192.0.2.0/24": {"autonomous_system_number": 3}}, "ASN")
        clock.now += 5
        assert geoip.lookup("192.0.2.1") == Address({"city_name": "New"}, {"number": 3})

    def test_same_time_and_size(self, geoip: GeoIP, path: Path, clock: Clock) -> None:
        """A new file is noticed even where it has the size and the time of the old one."""
        old = path.stat()
        new = build(path.with_name("other.mmdb"), {"192.0.2.0/24": named("New")})
        os.utime(new, ns=(old.st_atime_ns, old.st_mtime_ns))
        assert new.stat().st_size == old.st_size
        new.replace(path)
        clock.now += 5
        assert city(geoip, "192.0.2.1") == "New"

    def test_unchanged(self, geoip: GeoIP, clock: Clock, log: pytest.LogCaptureFixture) -> None:
        """An untouched file is not opened again, and its answers stay in the cache."""
        before = geoip.lookup("192.0.2.1")
        clock.now += 100
        assert geoip.lookup("192.0.2.1") is before
        assert not log.records

    @pytest.mark.parametrize("how", SPOILED)
    def test_spoiled(self, geoip: GeoIP, path: Path, clock: Clock, log: pytest.LogCaptureFixture, how: str) -> None:
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

    def test_spoiled_twice(self, geoip: GeoIP, path: Path, clock: Clock, log: pytest.LogCaptureFixture) -> None:
        """Each new state of a broken file is warned about."""
        for size in (1, 2):
            swap(path, b"x" * size)
            clock.now += 5
            assert city(geoip, "192.0.2.1") == "Old"
        assert len(log.records) == 2

    def test_back_again(self, geoip: GeoIP, path: Path, clock: Clock, log: pytest.LogCaptureFixture) -> None:
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
        self, geoip: GeoIP, path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
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
        geoip = GeoIP(path, None, clock=clock)
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
        geoip = GeoIP(CITY, None)
        first = geoip.lookup(text)
        monkeypatch.setattr(geoip, "_ask", lambda _: pytest.fail("asked again"))
        assert geoip.lookup(text) is first

    @pytest.mark.parametrize("cache", [0, 1, 2, 7, 100])
    def test_bounded(self, cache: int) -> None:
        """Never more than `cache` answers are kept, and answers stay right."""
        geoip = GeoIP(CITY, None, cache=cache)
        for number in range(1_000):
            geoip.lookup(f"198.18.{number >> 8}.{number & 255}")
            assert city(geoip, "81.2.69.144") == "London"
            assert len(geoip._young) + len(geoip._old) <= cache

    def test_popular(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An address that is asked for all the time is not forgotten when many others pass by."""
        geoip = GeoIP(CITY, None, cache=10)
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
        geoip = GeoIP(CITY, None)
        assert geoip.lookup("9" * 46) is None
        assert not geoip._young

    def test_threads(self, tmp_path: Path) -> None:
        """Several threads get right answers while files are replaced under them and the cache overflows."""
        path = build(tmp_path / "c.mmdb", {"192.0.2.0/24": named("Old")})
        geoip = GeoIP(path, None, cache=20, check_every=0)
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


class TestExtension:
    """maxminddb with and without its C half."""

    SCRIPT = """
import logging, pathlib, sys
if sys.argv[2] == "hidden":
    sys.modules["maxminddb.extension"] = None
from in_jumpcloud.ecs.geo import GeoIP
logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
for _ in range(2):
    print(GeoIP(pathlib.Path(sys.argv[1]), None).lookup("81.2.69.144").geo["city_name"])
"""

    @pytest.mark.parametrize("how", ["hidden", "present"])
    def test_warning(self, how: str) -> None:
        """Without the C extension look-ups work and one warning per process says they are slow; with it, none."""
        if how == "present":
            pytest.importorskip("maxminddb.extension", exc_type=ImportError)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", self.SCRIPT, str(CITY), how],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stdout.split() == ["London", "London"]
        warnings = done.stderr.count("WARNING in_jumpcloud.geoip maxminddb lacks its C extension")
        assert warnings == (1 if how == "hidden" else 0)


class TestDemoDatabases:
    """The files in geoip/ and the script that makes them."""

    @staticmethod
    def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the build script that lies in `folder`, with warnings as errors."""
        command = [sys.executable, "-W", "error", str(folder / "build.py"), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603

    @pytest.fixture
    def copy(self, tmp_path: Path) -> Path:
        """A copy of geoip/ that may be changed."""
        return Path(shutil.copytree(GEOIP, tmp_path / "geoip"))

    def test_up_to_date(self) -> None:
        """The databases hold what networks.yaml says."""
        done = self.run(GEOIP, "--check")
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize("broken", [b"", None])
    def test_out_of_date(self, copy: Path, broken: bytes | None) -> None:
        """The check fails where the source has changed, and where a database is broken; it writes nothing."""
        if broken is None:
            source = copy / "networks.yaml"
            source.write_text(source.read_text(encoding="utf-8").replace("Example Broadband", "Other"), "utf-8")
        else:
            (copy / "demo-asn.mmdb").write_bytes(broken)
        before = {path.name: path.read_bytes() for path in copy.iterdir()}
        done = self.run(copy, "--check")
        assert done.returncode == 1
        assert "demo-city.mmdb: up to date" in done.stdout
        assert "demo-asn.mmdb: out of date" in done.stdout
        assert {path.name: path.read_bytes() for path in copy.iterdir()} == before

    def test_same_bytes(self, copy: Path) -> None:
        """Two builds from the same source are the same, byte for byte, and repair what was broken."""
        builds = []
        for _ in range(2):
            (copy / "demo-city.mmdb").write_bytes(b"broken")
            assert self.run(copy).returncode == 0
            builds.append([(copy / name).read_bytes() for name in ("demo-city.mmdb", "demo-asn.mmdb")])
        assert builds[0] == builds[1]
        assert self.run(copy, "--check").returncode == 0

    def test_overlap(self, copy: Path) -> None:
        """Networks that overlap are refused, because the order of lines would decide."""
        with (copy / "networks.yaml").open("a", encoding="utf-8") as source:
            source.write("  192.0.2.5/32: [london, 64496]\n")
        done = self.run(copy)
        assert done.returncode == 1
        assert "192.0.2.5/32 overlaps" in done.stderr

    def test_types_of_values(self) -> None:
        """Coordinates are doubles and radii and AS numbers integers, as readers in other languages insist."""
        with maxminddb.open_database(CITY) as cities, maxminddb.open_database(ASN) as systems:
            points: list[Any] = [record["location"] for _, record in cities if "location" in record]
            numbers: list[Any] = [record["autonomous_system_number"] for _, record in systems]
        assert {type(point[name]) for point in points for name in ("latitude", "longitude")} == {float}
        assert {type(point["accuracy_radius"]) for point in points} == {int}
        assert {type(number) for number in numbers} == {int}
        assert set(numbers) <= set(range(64496, 64512))

    def test_all_found(self) -> None:
        """Every network is found in both databases, and the places are spread over six continents."""
        with maxminddb.open_database(CITY) as reader:
            texts = [str(network[0]) for network, _ in reader]
        geoip = GeoIP(CITY, ASN)
        found = [geoip.lookup(text) for text in texts]
        assert len(found) >= 30
        assert all(address and address.geo and address.as_ for address in found)
        continents = {address.geo.get("continent_name") for address in found if address and address.geo}
        assert continents >= {"Africa", "Asia", "Europe", "North America", "Oceania", "South America"}
