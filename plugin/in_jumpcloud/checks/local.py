"""Checks of this machine: access to secrets, the GeoIP databases, the state, the dead letters."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from in_jumpcloud.checks.result import CONFIGURATION, OTHER, CheckResult, failed, ok, warning
from in_jumpcloud.config.document import Document
from in_jumpcloud.config.schema import Config, GeoIPSettings, StateSettings, settings_of
from in_jumpcloud.config.types import Secret, SecretUrl
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.geoip_database import OLD_ADVICE
from in_jumpcloud.ecs.geoip_search import DIRECTORIES, find_database
from in_jumpcloud.errors import ConfigError, StateCorrupt, StateMissing, StateOutdated, StateUnavailable
from in_jumpcloud.state.database import Holder
from in_jumpcloud.state.opening import open_readonly

MIN_FREE_BYTES = 200 * 1024**2
"""The size of a state with five million ids."""
_TRIAL_BYTES = 64 * 1024
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_secrets(path: Path | None, settings: Config) -> Iterator[CheckResult]:
    """Check that other users cannot read the files that hold secrets; `path` is the configuration file, if any."""
    secrets = list(_secrets(settings))
    files = {secret.file: name for name, secret in secrets if secret.file}
    values = Document(path).values
    own = [name for name, secret in secrets if not secret.file and _is_literal(values, name)]
    if path and own:
        files[path] = own[0]
    if settings.forward.tls.key_file:
        files[settings.forward.tls.key_file.path] = "forward.tls.key_file"
    for file, name in files.items():
        mode = file.stat().st_mode
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            message = f"{file}: holds {name}, and other users can read it (mode {stat.S_IMODE(mode):04o})"
            yield warning("secrets", message, f"chmod o-rwx {file}")
        else:
            yield ok("secrets", f"{file}: not accessible to other users")
    if not files:
        yield ok("secrets", "no file holds a secret")


def _secrets(settings: Config) -> Iterator[tuple[str, Secret]]:
    """Every secret that is set, with its dotted key."""
    for key, value in settings_of(settings):
        if isinstance(value, Secret) and not (isinstance(value, SecretUrl) and not value.has_password):
            yield key, value


def _is_literal(values: Mapping[str, Any], name: str) -> bool:
    """Whether the configuration file has the value itself, and not only a reference to the environment."""
    section, _, key = name.partition(".")
    value = (values.get(section) or {}).get(key)
    return isinstance(value, str) and value != "" and "${" not in value


def check_databases(
    settings: GeoIPSettings, *, now: float | None = None, directories: Sequence[Path] = DIRECTORIES
) -> Iterator[CheckResult]:
    """Check that the GeoIP databases can be used and are not old. `now` is in epoch seconds.

    `directories` are those that may have a real one.
    """
    now = time.time() if now is None else now
    for name, path in (("city", settings.city), ("asn", settings.asn)):
        if path is None:
            yield ok("database", f"geoip.{name}: off")
            continue
        try:
            lookup = GeoIPLookup(path if name == "city" else None, path if name == "asn" else None)
        except ConfigError as error:
            yield failed("database", error)
            continue
        (database,) = lookup.statistics().databases
        lookup.close()
        message = f"geoip.{name}: {path}: {database}"
        if database.is_demo:
            real = find_database(f"geoip.{name}", directories)
            advice = f"set geoip.{name} to {real}" if real else "see geoip/README.md for a real one"
            yield warning("database", f"{message}: it contains test addresses only", advice)
        elif database.is_old(now):
            yield warning("database", f"{message}: {database.days_old(now)} days old", OLD_ADVICE)
        else:
            yield ok("database", f"{message}: {database.days_old(now)} days old")


def check_state(settings: StateSettings, *, min_free_bytes: int = MIN_FREE_BYTES) -> Iterator[CheckResult]:
    """Check that the state is sound and can be written, and whether a process uses it."""
    path = settings.path
    try:
        with open_readonly(settings) as state:
            streams = len(state.streams())
            message = f"streams: {streams}, {_used_by(state.holder)}"
    except StateMissing as error:
        message = f"no state yet; {error.advice}"
    except StateOutdated as error:
        message = f"{error.message}; {error.advice}"
    except (ConfigError, StateCorrupt, StateUnavailable) as error:
        yield failed("state", error)
        return
    except OSError as error:
        message = f"state.path: {path}: cannot be read: {error.strerror}"
        yield failed("state", message, f"give {_user()} access, or set another path", CONFIGURATION)
        return
    yield from _check_writable("state", "state.path", path, message, min_free_bytes)


def check_dead_letters(settings: Config) -> Iterator[CheckResult]:
    """Check whether there are dead letters. A state that cannot be read is the matter of `check_state`."""
    try:
        with open_readonly(settings.state) as state:
            letters = state.dead_letters
    except StateMissing:
        yield ok("dead letters", "none")
        return
    except (ConfigError, StateCorrupt, StateUnavailable):
        return
    if letters.count:
        message = f"{letters.count} dead letters, {letters.bytes} of at most {settings.dead_letter.max_bytes} bytes"
        yield warning("dead letters", message, "see `in-jumpcloud dead-letters list`, then replay or drop them")
    else:
        yield ok("dead letters", "none")


def _check_writable(check: str, setting: str, path: Path, message: str, min_free_bytes: int) -> Iterator[CheckResult]:
    """Check that this user can write to `path`, with an unnamed file in its directory."""
    directory = next(each for each in (path.parent, *path.absolute().parents) if _exists(each))
    try:
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with tempfile.TemporaryFile(dir=directory, buffering=0) as trial:
            if trial.write(bytes(_TRIAL_BYTES)) < _TRIAL_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301 - the next write would raise it
            os.fsync(trial.fileno())
        free = shutil.disk_usage(directory).free
    except OSError as error:
        full = error.errno in _DISK_FULL
        advice = f"let {_user()} write to {directory}, or set another path"
        if full:
            advice = f"free space on the disk of {directory}"
        code = OTHER if full else CONFIGURATION
        yield failed(check, f"{setting}: {path}: cannot be written: {error.strerror}", advice, code)
        return
    if free < min_free_bytes:
        text = f"{path}: only {free // 1024**2} MiB free on its disk"
        yield warning(check, text, f"free space on the disk of {directory}")
    if message:
        yield ok(check, f"{path}: {message}; writable by {_user()}, {free // 1024**2} MiB free")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a parent directory is not accessible
        return False


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"


def _used_by(holder: Holder | None) -> str:
    if holder is None:
        return "not in use"
    return f"in use by {holder}: {'a command is moving it' if holder.is_alone else 'the plugin is running'}"
