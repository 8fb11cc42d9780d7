"""Values with a notation of their own: durations, sizes, start times, secrets, files."""

from __future__ import annotations

import re
import sys
from base64 import b64encode
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, get_args
from urllib.parse import unquote, urlsplit

from in_jumpcloud.file_access import content_digest, read_limited
from in_jumpcloud.text import Hidden

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_MAX_DURATION_SECONDS = 100 * 365 * 86_400
_BYTES = {"": 1, "B": 1, "kB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2, "GB": 1000**3, "GiB": 1024**3}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
DURATION_PATTERN = r"\s*(\d+(\.\d+)?(ms|s|m|h|d|w))+\s*"
SIZE_PATTERN = rf"\s*\d+(\.\d+)?\s*({'|'.join(_BYTES)})\s*"
_MAX_SECRET_BYTES = 65_536
_PASSWORDS = {"password", "sslpassword"}
"""Parameters of the URL of a database."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


class Duration(float):
    """Seconds, written as `30s`, `5m`, `1h30m` or `15d`."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a duration.

        Raises:
            ValueError: `value` is not a duration, or is longer than 100 years.
        """
        text = value.strip() if isinstance(value, str) else ""
        if not text or _DURATION_PART.sub("", text):
            raise ValueError(f"expected a duration such as 30s, 5m or 15d (got {value!r:.40})")
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
        if seconds > _MAX_DURATION_SECONDS:
            raise ValueError(f"expected a duration of at most 100 years (got {value!r:.40})")
        return cls(seconds)

    @property
    def ms(self) -> int:
        """Whole milliseconds."""
        return round(self * 1000)

    def notation(self) -> str:
        """As `parse` reads it."""
        rest, text = self.ms, ""
        for unit in ("d", "h", "m", "s", "ms"):
            count, rest = divmod(rest, round(_SECONDS[unit] * 1000))
            text += f"{count}{unit}" if count else ""
        return text or "0s"


class Size(int):
    """Bytes, written as a plain number, `16MiB` or `64 kB`."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a size.

        Raises:
            ValueError: `value` is not a size, or is more than a machine can address.
        """
        match = None if isinstance(value, bool) else _SIZE.fullmatch(str(value).strip())
        if match is None or match[2] not in _BYTES:
            raise ValueError(f"expected a size in bytes, or with a unit such as 16MiB (got {value!r:.40})")
        size = float(match[1]) * _BYTES[match[2]]
        if size > sys.maxsize:
            raise ValueError(f"expected a size below 8 EiB (got {value!r:.40})")
        return cls(size)

    def notation(self) -> int | str:
        """As `parse` reads it."""
        unit = next((unit for unit in ("GiB", "MiB", "KiB") if self and not self % _BYTES[unit]), None)
        return f"{self // _BYTES[unit]}{unit}" if unit else int(self)


class Start:
    """Where a new stream begins: a duration before now, a date, or `now`."""

    __slots__ = ("_back_ms", "_text", "_time_ms")

    def __init__(self, value: object) -> None:
        """Read a start.

        Raises:
            ValueError: `value` is none of the three.
        """
        self._text = str(value).strip()
        self._back_ms = 0
        self._time_ms: int | None = None
        if self._text == "now":
            return
        try:
            self._back_ms = Duration.parse(self._text).ms
        except ValueError:
            try:
                moment = datetime.fromisoformat(self._text)
            except ValueError:
                raise ValueError(
                    "expected a duration before now (15d), a date (2026-11-01 or 2026-11-01T00:00:00Z) or now "
                    f"(got {value!r:.40})"
                ) from None
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            self._time_ms = round(moment.timestamp() * 1000)

    def resolve(self, now_ms: int) -> int:
        """The start in epoch milliseconds when now is `now_ms`; never before 1970."""
        return max(0, self._time_ms if self._time_ms is not None else now_ms - self._back_ms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Start) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Start({self._text!r})"


class Secret:
    """Text that neither `str` nor `repr` shows; `reveal` returns it. `file` is where it was read from, if anywhere.

    While it lives, no log line, error or page shows it either (`text.redact`).
    """

    __slots__ = ("_hidden", "_text", "file")
    may_be_in_file = True
    """Whether a key with `_file` behind it may name the file that has it."""

    def __init__(self, text: str, *, file: Path | None = None) -> None:
        self._text = text
        self._hidden = Hidden(*self._parts(text))
        self.file = file

    @staticmethod
    def _parts(text: str) -> Iterable[str]:
        """What is secret in it."""
        return (text,)

    def read_again(self) -> Self:
        """The secret that its file has now. This one if that is the same, or cannot be read, or there is no file."""
        if self.file is None:
            return self
        try:
            new = self.from_file(self.file)
        except (OSError, UnicodeError):
            return self
        return self if new == self else new

    @classmethod
    def from_file(cls, file: Path) -> Self:
        """Read a secret from a file, without the whitespace around it.

        Raises:
            OSError, UnicodeError: it cannot be read, or is not text.
        """
        return cls(read_limited(file, _MAX_SECRET_BYTES).decode().strip(), file=file)

    def reveal(self) -> str:
        """The text itself: for the wire, never for a log."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret(...)"


class NamedFile:
    """A file that a setting names, such as a certificate, for whatever takes a path.

    Equal to another with the same path and, when both were made, the same content: so new settings differ from the old
    where the file was replaced.
    """

    __slots__ = ("_digest", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = content_digest(path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamedFile) and (self.path, self._digest) == (other.path, other._digest)

    def __hash__(self) -> int:
        return hash((self.path, self._digest))

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"NamedFile({str(self.path)!r})"


def fits_a_header(text: str) -> bool:
    """Whether an HTTP header can have `text`."""
    return re.fullmatch(r"[\x21-\x7e]+", text) is not None


class SecretUrl(Secret):
    """A URL that may have a password."""

    __slots__ = ()

    @property
    def has_password(self) -> bool:
        """Whether there is a password in it."""
        return bool(self._parts(self._text))


class ProxyUrl(SecretUrl):
    """The URL of a proxy, which may have a user and a password."""

    __slots__ = ()
    may_be_in_file = False

    @staticmethod
    def _parts(text: str) -> Iterable[str]:
        try:
            url = urlsplit(text)
        except ValueError:
            return (text,)
        if url.password is None:
            return ()
        user, password = unquote(url.username or ""), unquote(url.password)
        return url.password, password, b64encode(f"{user}:{password}".encode()).decode()


class DatabaseUrl(SecretUrl):
    """The URL of a database: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS."""

    __slots__ = ()

    @property
    def place(self) -> str:
        """The hosts and the name of the database, as a URL."""
        try:
            url = urlsplit(self._text)
        except ValueError:
            return "postgresql:"
        return f"postgresql://{url.netloc.rpartition('@')[2]}{url.path}"

    @staticmethod
    def _parts(text: str) -> Iterable[str]:
        try:
            url = urlsplit(text)
            given = [each.partition("=") for each in url.query.split("&")]
            found = [url.password or "", *(value for name, _, value in given if name in _PASSWORDS)]
        except ValueError:
            return (text,)
        return [*filter(None, [*found, *map(unquote, found)])]


def secret_kind(field_type: Any) -> type[Secret] | None:
    """The kind of secret that a setting of this type has, if it may be in a file; else None."""
    kinds = (each for each in get_args(field_type) if isinstance(each, type) and issubclass(each, Secret))
    return next((each for each in kinds if each.may_be_in_file), None)
