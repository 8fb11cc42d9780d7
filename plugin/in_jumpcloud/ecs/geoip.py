"""Geography and autonomous system of IP addresses, as ECS fields, from local MaxMind databases.

Database files may be replaced while the process runs; a replacement is noticed within seconds.
"""

from __future__ import annotations

import functools
import ipaddress
import math
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from in_jumpcloud.config.schema import Config
from in_jumpcloud.ecs.geoip_database import TYPES, Database, DatabaseFile, DatabaseInfo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from in_jumpcloud.troubles import Troubles

_MAX_TEXT_LENGTH = 45  # characters: an IPv4-mapped IPv6 address, written in full

# Not ipaddress.is_private: it includes the documentation networks, which the demo databases contain.
_LOCAL = {
    version: tuple((int(network[0]), int(network[-1])) for network in map(ipaddress.ip_network, networks))
    for version, networks in {
        4: ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "0.0.0.0/32"),
        6: ("fc00::/7", "fe80::/10", "::1/128", "::/128"),
    }.items()
}


class GeoResult(NamedTuple):
    """ECS fields of one IP address. All callers share the dicts: do not change them.

    `geo`: any of `city_name`, `continent_name`, `country_iso_code`, `country_name`, `location` (`lat` and `lon`, float
    degrees), `region_iso_code` (`GB-ENG`), `region_name`; never empty.
    `as_`: `number` (int), `organization` (`name`), either or both.
    """

    geo: dict[str, Any] | None
    as_: dict[str, Any] | None


class GeoIPStatistics(NamedTuple):
    """The databases in use, and how many lookups the cache answered (`hits`) and the databases (`misses`)."""

    databases: tuple[DatabaseInfo, ...]
    hits: int
    misses: int


_NOTHING = GeoResult(None, None)


class GeoIPLookup:
    """Looks IP addresses up in a City (or Country, Enterprise) and an ASN (or ISP) database; None turns one off.

    At most `cache` results are cached. The files are checked every `check_every` seconds, during a lookup. If a
    replacement cannot be used, a warning is logged and the open database stays in use. With `troubles` a database that
    cannot be used at start is a trouble: its fields are absent until the file can be used. `copies` is the directory
    for private copies of the files, by default that of temporary files. `extended` adds `continent_code`,
    `postal_code` and `timezone` to `geo`. Thread-safe.

    Raises:
        ConfigError: without `troubles`, a database is missing, unreadable, damaged or of the wrong type.
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
        copies: Path | None = None,
        troubles: Troubles | None = None,
    ) -> None:
        paths = {"geoip.city": city, "geoip.asn": asn}
        self._files = {
            setting: DatabaseFile(setting, path, clock, copies, troubles) for setting, path in paths.items() if path
        }
        self._cache, self._extended = cache, extended
        self._clock, self._check_every = clock, check_every
        self._check_at = clock() + check_every
        self._past_hits = self._past_misses = 0  # of the caches before this one
        self._cached_lookup = self._new_cached_lookup()
        self._checking, self._counting = threading.Lock(), threading.Lock()

    def lookup(self, text: str) -> GeoResult | None:
        """The fields of the address `text`; None if it is not an IP address or has a scope id. Never raises.

        Private, loopback, link-local and unspecified addresses are not looked up. IPv4-mapped IPv6 addresses are
        looked up as IPv4.
        """
        if self._clock() >= self._check_at:
            self._check_files()
        if type(text) is not str or len(text) > _MAX_TEXT_LENGTH:  # before the cache: long texts would fill the memory
            return None
        return self._cached_lookup(text)

    def statistics(self) -> GeoIPStatistics:
        """The databases in use, and the lookups so far."""
        open_now = [(setting, file.database) for setting, file in self._files.items()]
        databases = tuple(DatabaseInfo(setting, each.type, each.built) for setting, each in open_now if each)
        with self._counting:
            now = self._cached_lookup.cache_info()
            return GeoIPStatistics(databases, self._past_hits + now.hits, self._past_misses + now.misses)

    def retry_missing(self) -> float:
        """Try again to open a database that could not be used, also while no event needs it.

        Returns:
            Seconds until it is due again; infinite while all are open.
        """
        if all(file.database for file in self._files.values()):
            return math.inf
        if self._clock() >= self._check_at:
            self._check_files()
        return max(0.0, self._check_at - self._clock())

    def close(self) -> None:
        """Release the databases. Later lookups find nothing. A file is unmapped once no thread reads it."""
        with self._checking:
            self._files = {}
            self._renew_cache()

    def _check_files(self) -> None:
        if not self._checking.acquire(blocking=False):
            return  # another thread checks; the open databases answer meanwhile
        try:
            self._check_at = self._clock() + self._check_every
            replaced = [file.reopen_if_replaced() for file in self._files.values()]
            if any(replaced):
                self._renew_cache()
        finally:
            self._checking.release()

    def _new_cached_lookup(self) -> functools._lru_cache_wrapper[GeoResult | None]:
        """A cache bound to the databases open now: a late result of a replaced database stays in the old cache."""
        city, asn = (self._files[setting].database if setting in self._files else None for setting in TYPES)
        return functools.lru_cache(maxsize=self._cache)(functools.partial(_look_up, city, asn, self._extended))

    def _renew_cache(self) -> None:
        with self._counting:
            old, self._cached_lookup = self._cached_lookup, self._new_cached_lookup()
            info = old.cache_info()
            self._past_hits += info.hits
            self._past_misses += info.misses


def open_databases(settings: Config, troubles: Troubles | None = None) -> GeoIPLookup:
    """Open the databases that `settings` name, for the profile that they select.

    Raises:
        ConfigError: without `troubles`, a database cannot be used.
    """
    return GeoIPLookup(
        settings.geoip.city,
        settings.geoip.asn,
        cache=settings.geoip.cache,
        extended=settings.ecs.profile != "elastic",
        copies=settings.state.path.parent,
        troubles=troubles,
    )


def _look_up(city: Database | None, asn: Database | None, extended: bool, text: str) -> GeoResult | None:
    if "%" in text:  # a scope id
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    number = int(address)
    if any(first <= number <= last for first, last in _LOCAL[address.version]):
        return _NOTHING
    geo = _geo_fields(city.get(address), extended=extended) if city else None
    as_ = _as_fields(asn.get(address)) if asn else None
    return GeoResult(geo, as_) if geo or as_ else _NOTHING


def _geo_fields(record: object, *, extended: bool) -> dict[str, Any] | None:
    """A City, Country or Enterprise record as ECS geo fields; None if it has none of them."""
    country = _get_str(record, "country", "iso_code")
    subdivisions = _get(record, "subdivisions")
    region = subdivisions[-1] if isinstance(subdivisions, list) and subdivisions else None
    region_code = _get_str(region, "iso_code")
    fields = {
        "city_name": _get_str(record, "city", "names", "en"),
        "continent_name": _get_str(record, "continent", "names", "en"),
        "country_iso_code": country,
        "country_name": _get_str(record, "country", "names", "en"),
        "location": _location(_get(record, "location")),
        "region_iso_code": f"{country}-{region_code}" if country and region_code else None,
        "region_name": _get_str(region, "names", "en"),
    }
    if extended:
        fields["continent_code"] = _get_str(record, "continent", "code")
        fields["postal_code"] = _get_str(record, "postal", "code")
        fields["timezone"] = _get_str(record, "location", "time_zone")
    return {name: value for name, value in fields.items() if value is not None} or None


def _as_fields(record: object) -> dict[str, Any] | None:
    """An ASN or ISP record as ECS fields; None if it has neither number nor name."""
    number, name = _get(record, "autonomous_system_number"), _get_str(record, "autonomous_system_organization")
    fields: dict[str, Any] = {"number": number} if type(number) is int and number >> 32 == 0 else {}
    if name:
        fields["organization"] = {"name": name}
    return fields or None


def _location(value: object) -> dict[str, float] | None:
    """`{"lat", "lon"}` in degrees; None if out of range, since a store would refuse the whole record."""
    lat, lon = _get(value, "latitude"), _get(value, "longitude")
    if not isinstance(lat, int | float) or not isinstance(lon, int | float) or bool in {type(lat), type(lon)}:
        return None
    return {"lat": float(lat), "lon": float(lon)} if abs(lat) <= 90 and abs(lon) <= 180 else None  # noqa: PLR2004


def _get_str(value: object, *path: str) -> str | None:
    text = _get(value, *path)
    return text if isinstance(text, str) and text else None


def _get(value: object, *path: str) -> object:
    """The value at `path` in nested dicts; None if there is no such path."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value
