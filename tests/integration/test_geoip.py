"""Lookups of addresses in real database files: those of the demo, and files written by the tests."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import maxminddb
import pytest
from support.geoip import ASN, CITY, Clock, build, city, named

from in_jumpcloud.ecs.geoip import GeoIPLookup, GeoResult
from in_jumpcloud.errors import ConfigError

NOTHING = GeoResult(None, None)
LONDON = {
    "city_name": "London",
    "continent_name": "Europe",
    "country_iso_code": "GB",
    "country_name": "United Kingdom",
    "location": {"lat": 51.5142, "lon": -0.0931},
    "region_iso_code": "GB-ENG",
    "region_name": "England",
}
NETWORK = "192.0.2.0/24"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What lookups log, from INFO up."""
    caplog.set_level(logging.INFO, logger="in_jumpcloud")
    return caplog


@pytest.fixture(scope="module")
def anywhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that contains every address, local ones too."""
    # The last record wins, and IPv4 is at ::/96: it comes last.
    records = {"8000::/1": named("Six"), "::/1": named("Six"), "0.0.0.0/1": named("Four"), "128.0.0.0/1": named("Four")}
    return build(tmp_path_factory.mktemp("any") / "any.mmdb", records)


class TestResults:
    """The fields of an address."""

    def test_documented_address(self) -> None:
        """The address of the documented event gets exactly its geo, in the same order; `extended` adds three fields."""
        result = GeoIPLookup(CITY, ASN).lookup("81.2.69.144")
        assert result
        assert json.dumps(result.geo) == json.dumps(LONDON)
        assert result.as_ == {"number": 64496, "organization": {"name": "Example Broadband Ltd"}}
        extended = GeoIPLookup(CITY, None, extended=True).lookup("81.2.69.144")
        assert extended
        more = {"continent_code": "EU", "postal_code": "EC2V", "timezone": "Europe/London"}
        assert json.dumps(extended.geo) == json.dumps(LONDON | more)

    def test_parts(self) -> None:
        """The last subdivision, the narrowest one, is the region. A part that the record does not have is absent."""
        geoip = GeoIPLookup(CITY, None)
        result = geoip.lookup("2.125.160.216")
        assert result
        assert result.geo
        assert (result.geo["region_iso_code"], result.geo["region_name"]) == ("GB-WBK", "West Berkshire")
        country = {"continent_name": "Oceania", "country_iso_code": "NZ", "country_name": "New Zealand"}
        assert geoip.lookup("192.0.2.200") == GeoResult(country, None)
        assert geoip.lookup("192.0.2.230") == GeoResult({"location": {"lat": -48.8767, "lon": -123.3933}}, None)

    def test_types(self, tmp_path: Path) -> None:
        """Country and City databases of every publisher and edition give geo; ISP and ASN give the autonomous system.

        A number or a name alone is enough.
        """
        record = {"continent": {"names": {"en": "Europe"}}, "country": {"iso_code": "SE", "names": {"en": "Sweden"}}}
        geo = {"continent_name": "Europe", "country_iso_code": "SE", "country_name": "Sweden"}
        for kind in ("GeoLite2-Country", "GeoIP2-Enterprise", "DBIP-City-Lite", "GeoIP2-City", "DBIP-Country-Lite"):
            path = build(tmp_path / "c.mmdb", {NETWORK: record}, kind)
            assert GeoIPLookup(path, None).lookup("192.0.2.1") == GeoResult(geo, None), kind
        systems = {"::/32": {"autonomous_system_organization": "X"}, NETWORK: {"autonomous_system_number": 64500}}
        for kind in ("GeoIP2-ISP", "DBIP-ASN-Lite (compat=GeoLite2-ASN)"):
            geoip = GeoIPLookup(None, build(tmp_path / "a.mmdb", systems, kind))
            assert geoip.lookup("192.0.2.1") == GeoResult(None, {"number": 64500}), kind
            assert geoip.lookup("::2") == GeoResult(None, {"organization": {"name": "X"}}), kind

    def test_nothing_known(self) -> None:
        """A valid address that is in no database, or without databases, has no fields; none has after close."""
        assert GeoIPLookup(CITY, ASN).lookup("8.8.8.8") == NOTHING
        geoip = GeoIPLookup(None, None)
        assert (geoip.lookup("81.2.69.144"), geoip.lookup("nonsense")) == (NOTHING, None)
        geoip = GeoIPLookup(CITY, None, check_every=0)
        assert city(geoip, "81.2.69.144") == "London"
        geoip.close()
        assert geoip.lookup("81.2.69.144") == NOTHING
        assert geoip.statistics() == ((), 0, 2)


class TestText:
    """Which text is an address."""

    INVALID: tuple[Any, ...] = (
        *("", "nonsense", "192.0.2", "192.0.2.256", "192.0.02.1", "192.0.2.1 ", "192.0.2.1:443", NETWORK),
        *("[2001:db8::1]", "2001:db8::1%eth0", "fe80::1%1", "2001:db8::g", "\u0661.2.3.4", "\ud800", "1" * 10**6),
        *(None, 0, 3232235777, b"\xc0\x00\x02\x01", ["192.0.2.1"], {}, math.nan),
    )
    LOCAL = (
        *("10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255"),
        *("127.0.0.1", "127.255.255.255", "169.254.0.0", "169.254.255.255", "0.0.0.0", "::", "::1"),  # noqa: S104
        *("fc00::", "fdff:ffff::1", "fe80::", "febf:ffff::1", "::ffff:10.1.2.3", "::ffff:127.0.0.1"),
    )
    NOT_LOCAL = (
        *("9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0"),
        *("128.0.0.0", "169.253.255.255", "169.255.0.0", "0.0.0.1", "192.0.2.1", "100.64.0.1"),
        *("fbff::1", "fe00::1", "fe7f::1", "fec0::1", "2001:db8::1"),
    )

    def test_invalid_and_local(self, anywhere: Path) -> None:
        """Anything but the text of an address gives None, the second time too. Local addresses are not looked up.

        Addresses just outside of the local ranges, and documentation networks, are.
        """
        geoip = GeoIPLookup(anywhere, None)
        assert [value for value in self.INVALID * 2 if geoip.lookup(value) is not None] == []
        assert [text for text in self.LOCAL if geoip.lookup(text) != NOTHING] == []
        assert [text for text in self.NOT_LOCAL if city(geoip, text) != ("Six" if ":" in text else "Four")] == []

    def test_spellings(self, anywhere: Path) -> None:
        """An address is found however it is written; an IPv4-mapped IPv6 address is looked up as IPv4."""
        geoip = GeoIPLookup(CITY, None)
        mapped = ("::ffff:81.2.69.144", "::FFFF:5102:4590", f"{'0000:' * 5}ffff:81.2.69.144")
        assert {city(geoip, text) for text in mapped} == {"London"}
        assert city(geoip, "2001:db8:4000::1") == city(geoip, "2001:0DB8:4000:0000:0000:0000:0000:0001") == "Tokyo"
        longest = f"{'0000:' * 5}ffff:198.168.100.100"
        assert len(longest) == 45
        assert city(GeoIPLookup(anywhere, None), longest) == "Four"

    def test_ipv4_only(self, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
        """In an IPv4 database IPv6 is not found, without a warning, and IPv4-mapped is."""
        geoip = GeoIPLookup(build(tmp_path / "4.mmdb", {NETWORK: named("Four")}, version=4), None)
        assert geoip.lookup("2001:db8::1") == NOTHING
        assert city(geoip, "192.0.2.1") == city(geoip, "::ffff:192.0.2.1") == "Four"
        assert not log.records


class TestOddRecords:
    """Databases with unexpected contents."""

    CITY_RECORDS = (
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
    )

    def test_unusable(self, tmp_path: Path) -> None:
        """Values of unexpected types, and points outside the globe, are left out; nothing is raised."""
        for record in self.CITY_RECORDS:
            geoip = GeoIPLookup(build(tmp_path / "c.mmdb", {NETWORK: record}), None, extended=True)
            assert geoip.lookup("192.0.2.1") == NOTHING, record
        for number in ("64500", True, 64500.5, 2**32, -1):
            system = {"autonomous_system_number": number, "autonomous_system_organization": ["X"]}
            geoip = GeoIPLookup(None, build(tmp_path / "a.mmdb", {NETWORK: system}, "ASN"))
            assert geoip.lookup("192.0.2.1") == NOTHING, number

    def test_usable_part(self, tmp_path: Path) -> None:
        """Odd parts do not affect the others: a region without a country has a name but no code."""
        region = named("Oslo") | {"country": "Norway", "subdivisions": [{"iso_code": "03", "names": {"en": "Oslo"}}]}
        poles = {"location": {"latitude": -90, "longitude": 180}}
        path = build(tmp_path / "odd.mmdb", {"192.0.2.1/32": region, "192.0.2.2/32": poles})
        geoip = GeoIPLookup(path, None)
        assert geoip.lookup("192.0.2.1") == GeoResult({"city_name": "Oslo", "region_name": "Oslo"}, None)
        whole_degrees = "GeoResult(geo={'location': {'lat': -90.0, 'lon': 180.0}}, as_=None)"
        assert repr(geoip.lookup("192.0.2.2")) == whole_degrees

    def test_damaged(self, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
        """A database that is damaged inside finds nothing, and logs one warning a minute."""
        path = build(tmp_path / "c.mmdb", {NETWORK: named("Somewhere long enough")})
        whole = path.read_bytes()
        start, end = whole.index(b"\0" * 16) + 16, whole.rindex(b"\xab\xcd\xefMaxMind.com")
        path.write_bytes(whole[:start] + b"\xff" * (end - start) + whole[end:])
        clock = Clock()
        geoip = GeoIPLookup(path, None, clock=clock)
        assert [geoip.lookup(f"192.0.2.{last}") for last in range(3)] == [NOTHING] * 3
        assert [record.levelname for record in log.records] == ["WARNING"]
        assert f"geoip.city: {path} is damaged" in log.messages[0]
        clock.now += 61
        assert geoip.lookup("192.0.2.9") == NOTHING
        assert len(log.records) == 2


class TestStart:
    """Databases that cannot be opened at start."""

    @staticmethod
    def refusal(city: Path | None, asn: Path | None) -> str:
        """The message of the ConfigError: one line, with the setting, the path and advice."""
        with pytest.raises(ConfigError) as caught:
            GeoIPLookup(city, asn)
        message = str(caught.value)
        setting = "geoip.city" if city else "geoip.asn"
        assert message.startswith(f"{setting}: {city or asn}: ")
        assert "\n" not in message
        assert "geoip/README.md" in message
        assert f"set {setting} to null" in message
        return message

    def test_unusable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A missing or truncated file (even at its last bytes), a directory, another file or type, or no permission."""
        for path in (tmp_path / "none.mmdb", tmp_path):
            assert "no such file" in self.refusal(path, None)
            assert "no such file" in self.refusal(None, path)

        whole = CITY.read_bytes()
        path = tmp_path / "page.mmdb"
        lengths = (0, 100, len(whole) // 2, int(0.99 * len(whole)))
        for content in [*(whole[:length] for length in lengths), b"<html>Too many requests</html>"]:
            path.write_bytes(content)
            assert "not a MaxMind database, or truncated" in self.refusal(path, None)

        for kind in ("GeoLite2-ASN", "GeoIP2-Anonymous-IP", "ipinfo generic_country_free.mmdb"):
            message = self.refusal(build(tmp_path / "x.mmdb", {NETWORK: named("X")}, kind), None)
            assert f"has type {kind!r}; expected one of City, Country, Enterprise" in message
        assert "'in_jumpcloud-Demo-City'; expected one of ASN, ISP" in self.refusal(None, CITY)

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(maxminddb, "open_database", refuse)
        assert "cannot be read (Permission denied)" in self.refusal(CITY, None)


SCRIPT = """
import logging, pathlib, sys
if sys.argv[2] == "hidden":
    sys.modules["maxminddb.extension"] = None
from in_jumpcloud.ecs.geoip import GeoIPLookup
logging.basicConfig(format="%(levelname)s %(message)s")
for _ in range(2):
    print(GeoIPLookup(pathlib.Path(sys.argv[1]), None).lookup("81.2.69.144").geo["city_name"])
"""


@pytest.mark.parametrize("extension", ["hidden", "present"])
def test_c_extension(extension: str) -> None:
    """Without the C extension of maxminddb lookups work, and one warning per process says that they are slow."""
    if extension == "present":
        pytest.importorskip("maxminddb.extension", exc_type=ImportError)
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", SCRIPT, str(CITY), extension],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["London", "London"]
    assert done.stderr.count("WARNING maxminddb has no C extension") == (extension == "hidden")
