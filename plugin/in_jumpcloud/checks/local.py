"""Checks of this machine: who may read the secrets, the databases, the state, the dead letters."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import maxminddb
import msgspec

from in_jumpcloud.checks.result import CONFIGURATION, OTHER, CheckResult, failed, ok, warning
from in_jumpcloud.config.document import Document
from in_jumpcloud.config.reader import SectionReader
from in_jumpcloud.config.schema import Config, DeadLetterSettings, GeoIPSettings, Section, StateSettings
from in_jumpcloud.config.types import Secret
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.errors import ConfigError, Fatal, StateCorrupt, StateMissing, StateUnavailable
from in_jumpcloud.state.dead_letters import DeadLetterFile
from in_jumpcloud.state.store import open_readonly

_OLD = 30 * 86_400
_LITTLE_ROOM = 200 * 1024**2
"""Bytes: the state of five million remembered events."""
_TRIAL = 64 * 1024
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


# Secrets


class _AFile(Section, frozen=True):
    path: Path


def check_secrets(path: Path, overrides: Sequence[str], settings: Config) -> Iterator[CheckResult]:
    """Whether others may read a file that holds a secret."""
    own = [name for name, value in _values(Config, Document(path).values) if _is_secret(name, value)]
    held = {path: own[0]} if own else {}
    for name, value in _values(Config, Document(path, overrides).values):
        if name.endswith("_file") and value:
            held[SectionReader(os.environ).section(_AFile, {"path": value}, name).path] = name
    if settings.forward.tls.key_file:
        held[settings.forward.tls.key_file] = "forward.tls.key_file"
    for file, name in held.items():
        mode = file.stat().st_mode
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            found = (
                f"{file}: holds {name.removesuffix('_file')}, and others may read it (mode {stat.S_IMODE(mode):04o})"
            )
            yield warning("secrets", found, f"chmod o-rwx {file}")
        else:
            yield ok("secrets", f"{file}: not open to others")
    if not held:
        yield ok("secrets", "none in a file")


def _values(kind: type[Section], document: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """What a document gives for secrets, by dotted name: the secret itself, or under `x_file` its file."""
    if not isinstance(document, Mapping):
        return
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, Section):
            yield from _values(field.type, document.get(field.name), f"{at}{field.name}.")
        elif Secret in get_args(field.type):
            for name in (field.name, f"{field.name}_file"):
                yield f"{at}{name}", document.get(name)
        elif field.name == "proxy":
            yield f"{at}proxy", document.get("proxy")


def _is_secret(name: str, value: Any) -> bool:
    """Whether a secret stands there, and not a variable of the environment or a file that has it."""
    if name.endswith("_file") or not isinstance(value, str) or not value or "${" in value:
        return False
    return not name.endswith(".proxy") or urlsplit(value).password is not None


# Databases


def check_databases(settings: GeoIPSettings, *, now: float | None = None) -> Iterator[CheckResult]:
    """Of what type they are, and how old. `now`: seconds since the epoch."""
    now = time.time() if now is None else now
    for name, path in (("city", settings.city), ("asn", settings.asn)):
        if path is None:
            yield ok("database", f"geoip.{name}: off")
            continue
        try:
            GeoIPLookup(path if name == "city" else None, path if name == "asn" else None).close()
        except ConfigError as error:
            yield failed("database", error)
            continue
        with maxminddb.open_database(path) as reader:
            metadata = reader.metadata()
        built = f"{datetime.fromtimestamp(metadata.build_epoch, UTC):%Y-%m-%d}"
        found = f"geoip.{name}: {path}: {metadata.database_type} of {built}"
        if "Demo" in metadata.database_type:
            yield warning("database", f"{found}: it knows test addresses only", "see geoip/README.md for a real one")
        elif now - metadata.build_epoch > _OLD:
            days = int(now - metadata.build_epoch) // 86_400
            yield warning("database", f"{found}: {days} days old", "renew it, such as with geoipupdate every week")
        else:
            yield ok("database", found)


# State


def check_state(settings: StateSettings) -> Iterator[CheckResult]:
    """Whether it is sound, whose it is now, and whether there is room."""
    path, found = settings.path, "not there yet; the first `in-jumpcloud run` makes it"
    try:
        if path.exists():
            with open_readonly(path) as opened:
                streams = len(opened.streams())
            found = f"{streams} streams, " + (
                f"in use by {opened.holder}: the plugin runs" if opened.holder else "not in use"
            )
    except StateMissing as error:
        found = f"empty; {error.advice}"
    except (ConfigError, StateCorrupt, StateUnavailable) as error:
        yield failed("state", error)
        return
    except OSError as error:
        found = f"state.path: {path}: cannot be read: {error.strerror}"
        yield failed("state", found, f"let {_user()} use it, or name another path", CONFIGURATION)
        return
    yield from _kept_at("state", "state.path", path, found)


def check_dead_letters(settings: DeadLetterSettings) -> Iterator[CheckResult]:
    """Whether some wait, and whether there is room for more."""
    file = DeadLetterFile(settings.path, max_bytes=settings.max_bytes)
    try:
        waiting = sum(1 for _ in file.letters())
    except Fatal as error:
        yield failed("dead letters", error)
        return
    if waiting:
        found = f"{settings.path}: {waiting} wait, {file.size()} of at most {settings.max_bytes} bytes"
        yield warning("dead letters", found, "see `in-jumpcloud dead-letter list`, then replay")
    yield from _kept_at("dead letters", "dead_letter.path", settings.path, "none" if not waiting else "")


def _kept_at(what: str, setting: str, path: Path, found: str) -> Iterator[CheckResult]:
    """Whether this user can write there, tried with a file that nobody sees."""
    folder = next(each for each in (path.parent, *path.absolute().parents) if _exists(each))
    try:
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with tempfile.TemporaryFile(dir=folder, buffering=0) as trial:
            if trial.write(bytes(_TRIAL)) < _TRIAL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301 - as the next write would say
            os.fsync(trial.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        full = error.errno in _NO_ROOM
        advice = (
            f"free room on the disk of {folder}" if full else f"let {_user()} write to {folder}, or name another path"
        )
        told = f"{setting}: {path}: cannot be written: {error.strerror}"
        yield failed(what, told, advice, OTHER if full else CONFIGURATION)
        return
    if free < _LITTLE_ROOM:
        yield warning(what, f"{path}: {free // 1024**2} MiB are free on its disk", f"free room on the disk of {folder}")
    if found:
        yield ok(what, f"{path}: {found}; writable for {_user()}, {free // 1024**2} MiB free")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # it is behind a folder that may not be looked into
        return False


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"
