"""Where an address is and whose network it belongs to, in the shape of ECS, from local MaxMind databases.

The files may be replaced while the process runs: they are looked at every few seconds and opened anew.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import ipaddress
import logging
import math
import stat
import threading
import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import maxminddb

from in_jumpcloud.config.schema import Config
from in_jumpcloud.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


logger = logging.getLogger("in_jumpcloud.geoip")

_Signature: TypeAlias = "tuple[int, int, int] | None"  # inode, time of change in ns, size in bytes

# What the type in a database's metadata has to contain. Case matters: IPinfo's types, of another shape, are lower case.
_TYPES = {"geoip.city": ("City", "Country", "Enterprise"), "geoip.asn": ("ASN", "ISP")}

_LONGEST = 45  # characters, of an IPv4-mapped IPv6 address written out in full
_COMPLAIN_EVERY = 60.0  # seconds, about a damaged database
_IPV4 = 4

# Not ipaddress.is_private: it also covers the documentation networks, which the demo databases are made of.
_LOCAL = {
    version: tuple((int(network[0]), int(network[-1])) for network in map(ipaddress.ip_network, networks))
    for version, networks in {
        4: ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "0.0.0.0/32"),
        6: ("fc00::/7", "fe80::/10", "::1/128", "::/128"),
    }.items()
}


class GeoResult(NamedTuple):
    """What is known about one IP address. The dicts are shared by every caller: they must not be changed.

    `geo`: any of `city_name`, `continent_name`, `country_iso_code`, `country_name`, `location` (`lat` and `lon`, float
    degrees), `region_iso_code` (`GB-ENG`), `region_name`; never empty.
    `as_`: `number` (int), `organization` (`name`), either or both.
    """

    geo: dict[str, Any] | None
    as_: dict[str, Any] | None


_NOTHING = GeoResult(None, None)


class GeoIPLookup:
    """Looks IP addresses up in a City (or Country, Enterprise) and an ASN (or ISP) database; None turns one off.

    At most `cache` answers are kept. Every `check_every` seconds at most, a look-up first sees whether a file was
    replaced; a replacement that cannot be used is warned about, and the database opened before stays in use.
    `extended` adds `continent_code`, `postal_code` and `timezone` to `geo`. One object serves several threads.

    Raises:
        ConfigError: a database is missing, unreadable, broken or of the wrong type.
    """

    def __init__(
        self,
        city: Path | None,
        asn: Path | None,
        *,
        cache: int = 10_000,
        check_every: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        extended: bool = False,
    ) -> None:
        self._city = _File("geoip.city", city, clock) if city else None
        self._asn = _File("geoip.asn", asn, clock) if asn else None
        self._extended = extended
        self._clock, self._check_every = clock, check_every
        self._check_at = clock() + check_every
        # Two generations instead of a list of least recent use: a hit is one dict access, and what was asked for
        # lately survives when room has to be made.
        self._young: dict[str, GeoResult | None] = {}
        self._old: dict[str, GeoResult | None] = {}
        self._half = cache // 2
        self._epoch = 0  # counts replaced databases, so that an answer from the one before is not kept
        self.hits = self.misses = 0
        """Look-ups that the cache answered, and those that the databases had to."""
        self._storing = threading.Lock()
        self._checking = threading.Lock()

    def lookup(self, text: str) -> GeoResult | None:
        """What the databases say about `text`; None: it is no IP address (nor is one with a scope id). Never raises.

        Private, loopback, link-local and unspecified addresses are not looked up; IPv4-mapped ones are as IPv4.
        """
        if self._clock() >= self._check_at:
            self._check()
        try:
            answer = self._young[text]
        except (KeyError, TypeError):
            return self._miss(text)
        self.hits += 1
        return answer

    def databases(self) -> list[tuple[str, str, int]]:
        """Of each database in use: its setting, its type, and when it was built, in epoch seconds."""
        opened = [("geoip.city", self._city), ("geoip.asn", self._asn)]
        return [(name, *file.about()) for name, file in opened if file]

    def close(self) -> None:
        """Let the databases go; further look-ups find nothing. A file is unmapped once no thread reads it."""
        self._city = self._asn = None
        self._forget()

    def _miss(self, text: object) -> GeoResult | None:
        """The answer from the older half of the cache, else from the databases; kept in the younger half."""
        if not isinstance(text, str) or len(text) > _LONGEST or "%" in text:
            return None  # not kept: whatever a field holds must not fill the memory. A "%" begins a scope id
        epoch, old = self._epoch, self._old
        known = text in old
        answer = old[text] if known else self._ask(text)
        self.hits += known
        self.misses += not known
        with self._storing:
            if epoch == self._epoch and self._half:
                if len(self._young) >= self._half:
                    self._old, self._young = self._young, {}
                self._young[text] = answer
        return answer

    def _ask(self, text: str) -> GeoResult | None:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return None
        if isinstance(address, ipaddress.IPv6Address):
            address = address.ipv4_mapped or address
        number = int(address)
        if any(first <= number <= last for first, last in _LOCAL[address.version]):
            return _NOTHING
        city, asn = self._city, self._asn
        geo = _geo(city.get(address), extended=self._extended) if city else None
        as_ = _as(asn.get(address)) if asn else None
        return GeoResult(geo, as_) if geo or as_ else _NOTHING

    def _check(self) -> None:
        if not self._checking.acquire(blocking=False):
            return  # another thread is at it; meanwhile the old database answers
        try:
            self._check_at = self._clock() + self._check_every
            replaced = [file.refresh() for file in (self._city, self._asn) if file]
            if any(replaced):
                self._forget()
        finally:
            self._checking.release()

    def _forget(self) -> None:
        with self._storing:
            self._young, self._old = {}, {}
            self._epoch += 1  # last: who reads the new count must see the emptied halves


def open_databases(settings: Config) -> GeoIPLookup:
    """The databases that the settings name, for the profile that they name.

    Raises:
        ConfigError: a database cannot be used.
    """
    extended = settings.ecs.profile == "extended"
    return GeoIPLookup(settings.geoip.city, settings.geoip.asn, cache=settings.geoip.cache, extended=extended)


class _Opened(NamedTuple):
    """One state of a file, exchanged as a whole so that no thread sees half of a replacement."""

    reader: maxminddb.Reader
    signature: _Signature
    type: str
    ipv6: bool


class _File:
    """One database file: the reader in use, and whether the file is still the one that reader opened."""

    def __init__(self, setting: str, path: Path, clock: Callable[[], float]) -> None:
        self._setting, self._path, self._clock = setting, path, clock
        self._refused: _Signature | Literal[""] = ""  # what was warned about last, and is still there
        self._complain_at = -math.inf
        if isinstance(opened := self._open(_signature(path)), str):
            cure = f"see geoip/README.md for how to get one, or set {setting} to null to turn these look-ups off"
            raise ConfigError(f"{setting}: {path}: {opened}; {cure}")
        self._opened = opened
        _warn_where_slow()

    def get(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> object:
        """The record of the network that holds `address`, or None. A damaged database is warned about, not raised."""
        opened = self._opened
        if isinstance(address, ipaddress.IPv6Address) and not opened.ipv6:
            return None
        try:
            return opened.reader.get(address)
        except Exception as error:  # noqa: BLE001  damage shows as any of many exceptions, and no event may hang on it
            now = self._clock()
            if now >= self._complain_at:
                self._complain_at = now + _COMPLAIN_EVERY
                cure = "what could not be read is left out of the events; replace the file, see geoip/README.md"
                logger.warning("%s: %s is damaged (%r): %s", self._setting, self._path, error, cure)
            return None

    def about(self) -> tuple[str, int]:
        """Its type, and when it was built, in epoch seconds."""
        return self._opened.type, self._opened.reader.metadata().build_epoch

    def refresh(self) -> bool:
        """Open the file anew where it was replaced; true: answers may differ from now on. Never raises."""
        signature = _signature(self._path)
        if signature == self._opened.signature:
            self._refused = ""
            return False
        opened = self._open(signature)
        if isinstance(opened, str):
            # Tried again at each check, because a change of permissions does not show in the signature.
            if signature != self._refused:
                self._refused = signature
                cure = "the database opened before stays in use; put a sound one there, see geoip/README.md"
                logger.warning("%s: %s has changed, but %s: %s", self._setting, self._path, opened, cure)
            return False
        self._opened, self._refused = opened, ""
        logger.info("%s: %s was replaced and is in use (%s)", self._setting, self._path, opened.type)
        return True

    def _open(self, signature: _Signature) -> _Opened | str:
        """The database, or why there is none: a clause that follows the path."""
        if signature is None:
            return "there is no such file"
        try:
            reader = maxminddb.open_database(self._path)
            metadata = reader.metadata()
            kind, ipv6 = str(metadata.database_type), metadata.ip_version != _IPV4
        except OSError as error:
            return f"it cannot be read ({error.strerror or error})"
        except Exception:  # noqa: BLE001  a broken file can make the decoder fail in any way
            return "it is not a MaxMind database, or it is cut off"
        if not any(name in kind for name in _TYPES[self._setting]):
            return f"it is a database of type {kind!r}, and one of type {' or '.join(_TYPES[self._setting])} is needed"
        return _Opened(reader, signature, kind, ipv6)


def _signature(path: Path) -> _Signature:
    """What tells one state of a file from the next; None: there is no file, or none that can be reached."""
    with contextlib.suppress(OSError):
        seen = path.stat()
        return (seen.st_ino, seen.st_mtime_ns, seen.st_size) if stat.S_ISREG(seen.st_mode) else None
    return None


@functools.cache
def _warn_where_slow() -> None:
    """One line per process where look-ups run without the C extension."""
    try:
        importlib.import_module("maxminddb.extension")
    except ImportError:
        cure = "install a maxminddb wheel built for this platform, or libmaxminddb first and maxminddb again"
        logger.warning("maxminddb lacks its C extension here, look-ups are many times slower: %s", cure)


def _geo(record: object, *, extended: bool) -> dict[str, Any] | None:
    """A City, Country or Enterprise record as ECS geo fields; None where it holds none of them."""
    country = _text(record, "country", "iso_code")
    subdivisions = _walk(record, "subdivisions")
    region = subdivisions[-1] if isinstance(subdivisions, list) and subdivisions else None
    region_code = _text(region, "iso_code")
    fields = {
        "city_name": _text(record, "city", "names", "en"),
        "continent_name": _text(record, "continent", "names", "en"),
        "country_iso_code": country,
        "country_name": _text(record, "country", "names", "en"),
        "location": _location(_walk(record, "location")),
        "region_iso_code": f"{country}-{region_code}" if country and region_code else None,
        "region_name": _text(region, "names", "en"),
    }
    if extended:
        fields["continent_code"] = _text(record, "continent", "code")
        fields["postal_code"] = _text(record, "postal", "code")
        fields["timezone"] = _text(record, "location", "time_zone")
    return {name: value for name, value in fields.items() if value is not None} or None


def _as(record: object) -> dict[str, Any] | None:
    """An ASN or ISP record as ECS fields; None where it holds neither number nor name."""
    number, name = _walk(record, "autonomous_system_number"), _text(record, "autonomous_system_organization")
    found: dict[str, Any] = {"number": number} if type(number) is int and number >> 32 == 0 else {}
    if name:
        found["organization"] = {"name": name}
    return found or None


def _location(value: object) -> dict[str, float] | None:
    """`{"lat", "lon"}` in degrees. A point off the globe is left out: a store would refuse the whole event for it."""
    lat, lon = _walk(value, "latitude"), _walk(value, "longitude")
    if not isinstance(lat, int | float) or not isinstance(lon, int | float) or bool in {type(lat), type(lon)}:
        return None
    return {"lat": float(lat), "lon": float(lon)} if abs(lat) <= 90 and abs(lon) <= 180 else None  # noqa: PLR2004


def _text(value: object, *path: str) -> str | None:
    found = _walk(value, *path)
    return found if isinstance(found, str) and found else None


def _walk(value: object, *path: str) -> object:
    """What lies at `path` inside nested dicts; None where there is no such place."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value
