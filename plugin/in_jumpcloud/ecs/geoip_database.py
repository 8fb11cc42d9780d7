"""One MaxMind database: the file that may be damaged, cut or replaced at any moment, and what is open from it."""

from __future__ import annotations

import contextlib
import functools
import importlib
import ipaddress
import logging
import math
import shutil
import stat
import tempfile
from typing import IO, TYPE_CHECKING, NamedTuple, TypeAlias

import maxminddb

from in_jumpcloud.errors import ConfigError, Problem
from in_jumpcloud.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from in_jumpcloud.troubles import Troubles

logger = logging.getLogger(__name__)

IPAddress: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
_Signature: TypeAlias = "tuple[int, int, int] | None"  # inode, modification time in ns, size in bytes

# A database's type contains one of these. Case matters: IPinfo's types are lower case, and its records differ.
TYPES = {"geoip.city": ("City", "Country", "Enterprise"), "geoip.asn": ("ASN", "ISP")}

_DAMAGE_WARNING_SECONDS = 60.0
_MIN_RETRY_SECONDS, _MAX_RETRY_SECONDS = 5.0, 300.0
"""The pause until an unchanged file that could not be used is tried again; each one is twice as long."""
_DAY_SECONDS, _MAX_AGE_DAYS = 86_400, 30
"""MaxMind's terms: an old database is removed within 30 days of a newer one, and there are two a week."""
OLD_ADVICE = "update it, for example weekly with `in-jumpcloud geoip update`"
_COPY_BYTES = 1024 * 1024
_IPV4 = 4


class DatabaseInfo(NamedTuple):
    """A database in use: the setting that names it, its type, and when it was built, in epoch seconds."""

    setting: str
    type: str
    built: int

    @property
    def is_demo(self) -> bool:
        """Whether it contains test addresses only."""
        return "Demo" in self.type

    def days_old(self, now: float) -> int:
        """Its age at `now`, in epoch seconds."""
        return int(now - self.built) // _DAY_SECONDS

    def is_old(self, now: float) -> bool:
        """Whether there have been newer releases for a month at `now`, in epoch seconds."""
        return not self.is_demo and self.days_old(now) > _MAX_AGE_DAYS

    def __str__(self) -> str:
        """Its type and date."""
        return f"{self.type} of {rfc3339(self.built * 1000)[:10]}"


class _Unusable(Exception):
    """A file cannot be used as a database; the text says why, and follows the path."""


class Database:
    """An open database.

    Raises:
        _Unusable: it cannot be opened, or has the wrong type.
    """

    def __init__(self, setting: str, path: Path, clock: Callable[[], float], copies: Path | None) -> None:
        self._setting, self._path, self._clock = setting, path, clock
        self._warn_at = -math.inf
        self.signature = _signature(path)  # before the file is opened: a replacement in between is noticed later
        if self.signature is None:
            raise _Unusable("no such file")
        try:
            with _private_copy(path, copies) as copy:
                self._reader = maxminddb.open_database(copy)
            metadata = self._reader.metadata()
            self.type, self.built = str(metadata.database_type), metadata.build_epoch
            self._ipv6 = metadata.ip_version != _IPV4
        except _Unusable:
            raise
        except OSError as error:
            raise _Unusable(f"cannot be read ({error.strerror or error})") from None
        except Exception:  # noqa: BLE001 - the decoder raises many types for a damaged file
            raise _Unusable("not a MaxMind database, or truncated") from None
        if not any(name in self.type for name in TYPES[setting]):
            raise _Unusable(f"has type {self.type!r}; expected one of {', '.join(TYPES[setting])}")

    def get(self, address: IPAddress) -> object:
        """The record of the network that contains `address`, or None. Logs a warning if the database is damaged."""
        if isinstance(address, ipaddress.IPv6Address) and not self._ipv6:
            return None
        try:
            return self._reader.get(address)
        except Exception as error:  # noqa: BLE001 - the reader raises many types; events are delivered without geo
            now = self._clock()
            if now >= self._warn_at:
                self._warn_at = now + _DAMAGE_WARNING_SECONDS
                logger.warning(
                    "%s: %s is damaged (%r); events miss the fields that cannot be read; "
                    "replace the file, see geoip/README.md",
                    self._setting,
                    self._path,
                    error,
                )
            return None


class DatabaseFile:
    """A database file that may be replaced, and the database opened from it: None while there is none that is usable.

    With `troubles` an unusable file is a trouble under the name of the setting, and is tried again.

    Raises:
        ConfigError: without `troubles`, the file cannot be used.
    """

    def __init__(
        self, setting: str, path: Path, clock: Callable[[], float], copies: Path | None, troubles: Troubles | None
    ) -> None:
        self._setting, self._path, self._clock, self._copies, self._troubles = setting, path, clock, copies, troubles
        self._rejected: tuple[_Signature, str] | None = None  # the file that was last found unusable, and why
        self._pause = 0.0
        self._retry_at = -math.inf
        self.database: Database | None = None
        try:
            self._open()
        except _Unusable as error:
            if not troubles:
                advice = f"see geoip/README.md for how to get a database, or set {setting} to null to turn this off"
                raise ConfigError(Problem("", f"{setting}: {path}: {error}", may_pass=True), advice=advice) from None
            self._reject(_signature(path), str(error))
        _warn_without_extension()

    def reopen_if_replaced(self) -> bool:
        """Open the file again if it was replaced; true if another database is now in use. Never raises."""
        signature = _signature(self._path)
        if self.database and signature == self.database.signature:
            self._rejected = None
            return False
        # A change of permissions, or a full disk, does not change the signature.
        if self._rejected and signature == self._rejected[0] and self._clock() < self._retry_at:
            return False
        is_first = self.database is None
        try:
            database = self._open()
        except _Unusable as error:
            self._reject(signature, str(error))
            return False
        self._rejected = None
        verb = "is" if is_first else "was replaced and is"
        logger.info("%s: %s %s in use (%s)", self._setting, self._path, verb, database.type)
        return True

    def _open(self) -> Database:
        self.database = Database(self._setting, self._path, self._clock, self._copies)
        if self._troubles:
            self._troubles.end(self._setting)
        return self.database

    def _reject(self, signature: _Signature, reason: str) -> None:
        is_known = self._rejected == (signature, reason)
        self._pause = min(2 * self._pause, _MAX_RETRY_SECONDS) if is_known else _MIN_RETRY_SECONDS
        self._retry_at = self._clock() + self._pause
        self._rejected = (signature, reason)
        if self.database:
            if not is_known:
                advice = "the open database stays in use; replace the file, see geoip/README.md"
                logger.warning("%s: %s has changed: %s; %s", self._setting, self._path, reason, advice)
        elif self._troubles:
            advice = "events are delivered without its fields until the file can be used, see geoip/README.md"
            self._troubles.begin(self._setting, f"{self._setting}: {self._path}: {reason}", advice)


@contextlib.contextmanager
def _private_copy(path: Path, directory: Path | None) -> Iterator[str]:
    """The path of a copy that has no name on disk, and so is gone once nothing has it open or mapped.

    The library maps the file that it opens. A mapped file that another process cuts or overwrites in place would kill
    this process (SIGBUS). The copy is on disk, in the state's directory where that is possible: its pages leave memory
    when memory is short. A copy in memory (memfd, a tmpfs, the library's MODE_MEMORY) would take 60 MB of a small
    machine for good, and MODE_MEMORY reads without the C extension.
    """
    with path.open("rb") as source, _copy(source, directory) as copy:
        yield f"/dev/fd/{copy.fileno()}"


def _copy(source: IO[bytes], directory: Path | None) -> IO[bytes]:
    """A copy in `directory`; in that for temporary files if that is None, read-only or full."""
    try:
        return _copy_to(directory, source)
    except OSError as error:
        if directory:
            source.seek(0)
            return _copy(source, None)
        raise _Unusable(f"cannot be copied to {tempfile.gettempdir()} ({error.strerror or error})") from None


def _copy_to(directory: Path | None, source: IO[bytes]) -> IO[bytes]:
    with contextlib.ExitStack() as on_failure:
        copy = on_failure.enter_context(tempfile.TemporaryFile(dir=directory))
        shutil.copyfileobj(source, copy, _COPY_BYTES)
        copy.flush()
        on_failure.pop_all()
    return copy


def _signature(path: Path) -> _Signature:
    """Changes whenever the file is replaced; None if there is no regular file, or no access to it."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return (status.st_ino, status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None
    return None


@functools.cache
def _warn_without_extension() -> None:
    """Warn, once per process, if maxminddb has no C extension."""
    try:
        importlib.import_module("maxminddb.extension")
    except ImportError:
        logger.warning(
            "maxminddb has no C extension here, so lookups are many times slower: "
            "install a wheel built for this platform, or install libmaxminddb and then maxminddb again"
        )
