"""The account with which databases are downloaded, from where MaxMind's own program geoipupdate reads it.

The environment comes first, then the file, usually /etc/GeoIP.conf. Both are described in
https://github.com/maxmind/geoipupdate/blob/main/doc/GeoIP.conf.md and .../doc/docker.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from in_jumpcloud.config.types import Secret, fits_a_header
from in_jumpcloud.errors import ConfigError
from in_jumpcloud.file_access import read_limited

DEFAULT_FILE = Path("/etc/GeoIP.conf")
DEFAULT_DIRECTORY = Path("/var/lib/GeoIP")
DEFAULT_EDITIONS = ("GeoLite2-City", "GeoLite2-ASN")
_MAX_FILE_BYTES = 65_536
_NAMES = {  # of the file → of the environment
    "AccountID": "GEOIPUPDATE_ACCOUNT_ID",
    "LicenseKey": "GEOIPUPDATE_LICENSE_KEY",
    "EditionIDs": "GEOIPUPDATE_EDITION_IDS",
    "DatabaseDirectory": "GEOIPUPDATE_DB_DIR",
}
_SECRETS = ("AccountID", "LicenseKey")
"""In the environment, a file can hold these: its variable ends with _FILE."""


class Account(NamedTuple):
    """Who downloads which databases, and where to."""

    id: str
    license_key: Secret
    editions: tuple[str, ...]
    directory: Path


def read_account(file: Path | None, environ: Mapping[str, str]) -> Account:
    """The account in the environment and in `file`; None is the one that the environment names, or /etc/GeoIP.conf.

    Raises:
        ConfigError: there is no account, a file cannot be read, or the environment gives a value twice.
    """
    chosen = file or (Path(environ["GEOIPUPDATE_CONF_FILE"]) if environ.get("GEOIPUPDATE_CONF_FILE") else None)
    values: dict[str, str] = {}
    if chosen or DEFAULT_FILE.exists():
        values = _read_file(chosen or DEFAULT_FILE)
    for name, variable in _NAMES.items():
        if value := _from_environment(name, variable, environ):
            values[name] = value
    for name in _SECRETS:
        if not values.get(name):
            advice = f"set {_NAMES[name]} or {_NAMES[name]}_FILE, or {name} in {DEFAULT_FILE}; see geoip/README.md"
            raise ConfigError(f"no {name} of a MaxMind account", advice=advice)
        if not fits_a_header(values[name]):
            raise ConfigError(f"{name} of the MaxMind account contains whitespace or an invalid character")
    return Account(
        values["AccountID"],
        Secret(values["LicenseKey"]),
        tuple(values.get("EditionIDs", "").split()) or DEFAULT_EDITIONS,
        Path(values.get("DatabaseDirectory") or DEFAULT_DIRECTORY),
    )


def _from_environment(name: str, variable: str, environ: Mapping[str, str]) -> str | None:
    value, file = environ.get(variable), environ.get(f"{variable}_FILE") if name in _SECRETS else None
    if value and file:
        raise ConfigError(f"{variable} and {variable}_FILE are both set; unset one of them")
    return _read(Path(file), f"{variable}_FILE").strip() if file else value


def _read_file(path: Path) -> dict[str, str]:
    """The values of lines such as `AccountID 123456`; other names are geoipupdate's own."""
    values = {}
    for line in _read(path, "account file").splitlines():
        name, _, value = line.partition("#")[0].strip().partition(" ")
        if name in _NAMES:
            values[name] = value.strip()
    return values


def _read(path: Path, what: str) -> str:
    try:
        return read_limited(path, _MAX_FILE_BYTES).decode()
    except OSError as error:
        raise ConfigError(f"{what}: {path}: cannot be read: {error.strerror}") from None
    except UnicodeError:
        raise ConfigError(f"{what}: {path}: is not text") from None
