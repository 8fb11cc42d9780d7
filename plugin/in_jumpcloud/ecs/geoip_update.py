"""Downloads MaxMind's databases and replaces the old ones, whole or not at all.

As https://dev.maxmind.com/geoip/updating-databases describes for direct downloads: the account is sent by HTTP basic
authentication, requests are redirected to a signed URL of another host, `Last-Modified` is the release, HEAD does not
count as a download, and `tar.gz.sha256` is the digest of the archive, which has the database in a directory.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import urlsplit

import maxminddb
import requests
from urllib3.exceptions import HTTPError

from in_jumpcloud import __version__
from in_jumpcloud.config.addresses import is_loopback
from in_jumpcloud.ecs.geoip_account import Account
from in_jumpcloud.errors import ConfigError, Fatal, KeyRefused, RequestRejected, Retryable
from in_jumpcloud.insights.deadline import DeadlineAdapter, RequestDeadline
from in_jumpcloud.text import printable
from in_jumpcloud.timestamps import parse_http_date

URL = "https://download.maxmind.com"
_PATH = "/geoip/databases/{edition}/download?suffix={suffix}"
_EDITION = re.compile(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*")
_DIGEST = re.compile(rb"[0-9a-f]{64}")
_TIMEOUT = (10.0, 60.0)  # to connect, and without a byte, in seconds
_MAX_SECONDS = 1800.0
_MAX_ARCHIVE_BYTES, _MAX_DATABASE_BYTES = 2**30, 2**31
"""Ten times the largest database of 2026."""
_PART_BYTES = 262_144
_MODE = 0o644
"""Every user may read it: the plugin is usually not the one that downloads."""


class Update(NamedTuple):
    """The database in `path`, when it was built (epoch seconds), and whether it was replaced."""

    path: Path
    built: int
    replaced: bool


class Downloads:
    """Downloads with one account. `url` is the server; `http:` is for a server on this machine only.

    Raises:
        ConfigError: `url` is not usable.
    """

    def __init__(self, account: Account, url: str = URL) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
            raise ConfigError(f"{url}: must begin with https://")
        self._host, self._is_https = parts.netloc, parts.scheme == "https"
        self._url = url.rstrip("/") + _PATH
        self._account = account
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": f"in_jumpcloud/{__version__}", "Accept-Encoding": "identity"})
        self._session.auth = (account.id, account.license_key.reveal())  # requests sends it to this host only
        self._session.mount("http://", DeadlineAdapter())
        self._session.mount("https://", DeadlineAdapter())

    def close(self) -> None:
        """Close the idle connections."""
        self._session.close()

    def update(self, edition: str) -> Update:
        """Download the database `edition`, such as GeoLite2-City, if the one in the directory is another release.

        Raises:
            ConfigError: there is no such edition, or no such directory.
            KeyRefused, RequestRejected, Retryable, Fatal: it cannot be downloaded or written. Nothing was replaced.
        """
        if not _EDITION.fullmatch(edition):
            raise ConfigError(f"{edition}: is not the name of a database, such as GeoLite2-City")
        path = self._account.directory / f"{edition}.mmdb"
        if not path.parent.is_dir():
            raise ConfigError(f"{path.parent}: no such directory; create it, or name another")
        released = self._released(edition)
        built = _build_time(path, edition)
        with contextlib.suppress(OSError):
            if built is not None and int(path.stat().st_mtime) == released:
                return Update(path, built, replaced=False)
        digest = self._digest(edition)
        try:
            with tempfile.TemporaryFile(dir=path.parent) as archive:
                self._download(edition, digest, archive)
                return Update(path, _replace(path, edition, archive, released), replaced=True)
        except OSError as error:
            raise Fatal(f"{path}: cannot be written: {error.strerror or error}; nothing was replaced") from None

    def _released(self, edition: str) -> int:
        """When the newest release was made, in epoch seconds."""
        with self._request("HEAD", edition, "tar.gz") as response:
            moment = parse_http_date(response.headers.get("Last-Modified"))
        if moment is None:
            raise Retryable(f"{edition}: {self._host} answered without the date of the release")
        return int(moment.timestamp())

    def _digest(self, edition: str) -> str:
        with self._request("GET", edition, "tar.gz.sha256") as response:
            content = next(response.iter_content(1024), b"")
        match = _DIGEST.match(content)
        if not match:
            raise Retryable(f"{edition}: {self._host} answered without a digest")
        return match[0].decode()

    def _download(self, edition: str, digest: str, archive: IO[bytes]) -> None:
        """Write the archive, and compare its digest."""
        actual, size = hashlib.sha256(), 0
        with self._request("GET", edition, "tar.gz") as response:
            for part in response.iter_content(_PART_BYTES):
                size += len(part)
                if size > _MAX_ARCHIVE_BYTES:
                    raise Fatal(f"{edition}: the archive is larger than {_MAX_ARCHIVE_BYTES} bytes")
                actual.update(part)
                archive.write(part)
        if actual.hexdigest() != digest:
            message = f"{edition}: the archive has another digest than {self._host} names; nothing was replaced"
            raise Retryable(message, advice="try again later")

    @contextlib.contextmanager
    def _request(self, method: str, edition: str, suffix: str) -> Iterator[requests.Response]:
        """A successful response."""
        url = self._url.format(edition=edition, suffix=suffix)
        with RequestDeadline(_MAX_SECONDS) as deadline:
            try:
                with self._session.request(
                    method, url, timeout=_TIMEOUT, stream=True, allow_redirects=True
                ) as response:
                    self._check(response, edition)
                    yield response
            # requests raises OSErrors, and lets some of urllib3's through. Those of files are no matter of the network.
            except (requests.RequestException, HTTPError) as error:
                reason = deadline.message if deadline.expired else _cause(error)
                raise Retryable(
                    f"{edition}: no complete answer from {self._host}: {reason}; nothing was replaced"
                ) from None
            if deadline.expired:  # a connection that was shut down looks like one that ended
                raise Retryable(f"{edition}: {self._host}: {deadline.message}; nothing was replaced")

    def _check(self, response: requests.Response, edition: str) -> None:
        """Raise the error for a response that is not successful."""
        if self._is_https and not response.url.startswith("https:"):
            raise RequestRejected(f"{edition}: {self._host} redirects to an address without TLS")
        status = response.status_code
        if status == requests.codes.ok:
            return
        message = f"{edition}: {self._host} answered {status}"
        if status == requests.codes.unauthorized:
            account = printable(self._account.id)
            advice = "see https://www.maxmind.com/en/accounts/current/license-key"
            raise KeyRefused(f"{message}: account ID {account} or its license key is wrong", advice=advice)
        if status in {requests.codes.forbidden, requests.codes.payment_required}:
            raise RequestRejected(f"{message}: this account may not download it; check the terms and the subscription")
        if status == requests.codes.not_found:
            raise ConfigError(f"{message}: there is no such database")
        if status == requests.codes.too_many_requests:
            raise Retryable(f"{message}: the account has downloaded too often today", advice="try again tomorrow")
        raise Retryable(message, advice="try again later")


def _replace(path: Path, edition: str, archive: IO[bytes], released: int) -> int:
    """Put the database in `archive` in the place of `path`, and return when it was built."""
    archive.seek(0)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{edition}.")
    new = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            _extract(edition, archive, file)
            file.flush()
            os.fchmod(file.fileno(), _MODE)
            os.utime(file.fileno(), (released, released))  # the next run compares it
            os.fsync(file.fileno())
        built = _checked(new, edition)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # so that the new name is on disk too
    finally:
        os.close(directory)
    return built


def _extract(edition: str, archive: IO[bytes], target: IO[bytes]) -> None:
    """Write the member `*/EDITION.mmdb` of the archive to `target`. Nothing else is unpacked."""
    try:
        with tarfile.open(fileobj=archive, mode="r:gz") as members:
            for member in members:
                if (
                    member.isfile()
                    and Path(member.name).name == f"{edition}.mmdb"
                    and member.size <= _MAX_DATABASE_BYTES
                ):
                    content = members.extractfile(member)
                    if content:
                        shutil.copyfileobj(content, target, _PART_BYTES)
                        return
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError):
        raise Fatal(f"{edition}: what arrived is not an archive; nothing was replaced") from None
    raise Fatal(f"{edition}: the archive contains no {edition}.mmdb; nothing was replaced")


def _checked(path: Path, edition: str) -> int:
    built = _build_time(path, edition)
    if built is None:
        raise Fatal(f"{edition}: the file in the archive is not a database of this type; nothing was replaced")
    return built


def _build_time(path: Path, edition: str) -> int | None:
    """When the database in `path` was built, in epoch seconds; None if it is not a database of this edition."""
    try:
        with maxminddb.open_database(path) as reader:
            metadata = reader.metadata()
    except Exception:  # noqa: BLE001 - the decoder raises many types for a damaged file
        return None
    return int(metadata.build_epoch) if metadata.database_type == edition else None


def _cause(error: BaseException) -> str:
    """The innermost cause: the others repeat the URL, which is signed."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    while inner := error.__cause__ or error.__context__:
        error = inner
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "the connection was cut" if isinstance(error, HTTPError | ConnectionError) else type(error).__name__
