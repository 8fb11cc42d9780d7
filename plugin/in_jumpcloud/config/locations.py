"""Where the configuration file is looked for, and where the state is kept if no setting says so."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from in_jumpcloud.config.schema import DEFAULT_STATE

CONFIG_VARIABLE = "IN_JUMPCLOUD_CONFIG"
CONFIG_FILES = (Path("jumpcloud.yaml"), Path("/etc/in-jumpcloud/jumpcloud.yaml"))
"""In order of preference. The first is in the working directory."""


def find_config_file(environ: Mapping[str, str], files: Sequence[Path] = CONFIG_FILES) -> Path | None:
    """The file to use if the command line names none; None if there is none.

    A file that the environment names, or that exists and is not readable, is returned: reading it says what is wrong.
    """
    if named := environ.get(CONFIG_VARIABLE):
        return Path(named)
    return next((path.absolute() for path in files if _may_exist(path)), None)


def describe_config_file(path: Path | None) -> str:
    """Where the configuration comes from, for people: the file, or where none was found."""
    if path:
        return str(path.absolute())
    return f"the environment alone, no file (none at ./{' or '.join(map(str, CONFIG_FILES))})"


class StateLocation(NamedTuple):
    """A path of the state, and the environment variable that has its directory, if one has."""

    path: Path
    variable: str | None = None


def default_state(environ: Mapping[str, str], directory: Path | None) -> StateLocation:
    """Where the state is if `state.path` is not set. `directory` is that of the configuration file, if there is one.

    systemd gives a service $STATE_DIRECTORY, a list of paths with a colon between them. For $XDG_STATE_HOME see
    https://specifications.freedesktop.org/basedir-spec/latest/: a relative path is ignored.
    """
    if given := environ.get("STATE_DIRECTORY"):
        return StateLocation(Path(given.partition(":")[0]).absolute() / DEFAULT_STATE.name, "STATE_DIRECTORY")
    if directory:
        return StateLocation(directory / DEFAULT_STATE)
    shared = Path(environ.get("XDG_STATE_HOME", ""))
    if shared.is_absolute():
        return StateLocation(shared / "in-jumpcloud" / DEFAULT_STATE.name, "XDG_STATE_HOME")
    home = Path(environ.get("HOME") or os.path.expanduser("~"))  # noqa: PTH111 - Path.home raises if there is none
    return StateLocation(home.absolute() / ".local" / "state" / "in-jumpcloud" / DEFAULT_STATE.name)


def _may_exist(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
