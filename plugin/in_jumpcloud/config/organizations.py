"""The file of jumpcloud.organizations_file: one organization ID a line."""

from __future__ import annotations

from pathlib import Path

from in_jumpcloud.config.types import fits_a_header
from in_jumpcloud.errors import ConfigError, Problem, may_pass
from in_jumpcloud.file_access import NOT_A_FILE, read_limited

_MAX_BYTES = 4 * 1024**2
_SETTING = "jumpcloud.organizations_file"


def read_organizations(path: Path) -> list[str]:
    """The IDs in the file, in its order. What follows a `#` is a comment.

    Raises:
        ConfigError: it cannot be read, has a line that is no ID, an ID twice, or none. It may pass.
    """
    try:
        lines = read_limited(path, _MAX_BYTES).decode().splitlines()
    except (OSError, UnicodeError) as error:
        reason = str(error.strerror if isinstance(error, OSError) else "not text")
        passes = not isinstance(error, OSError) or (may_pass(error) and error.errno not in NOT_A_FILE)
        raise ConfigError(Problem(_SETTING, f"{path}: cannot be read: {reason}", may_pass=passes)) from None
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        each = line.partition("#")[0].strip()
        if each and not fits_a_header(each):
            raise _problem(f"{path}:{number}: {each!r:.60} is not a valid ID")
        if each in found:
            raise _problem(f"{path}:{number}: duplicate ID {each!r}, which is in line {found[each]} too")
        if each:
            found[each] = number
    if not found:
        raise _problem(f"{path}: there is no ID in it")
    return list(found)


def _problem(text: str) -> ConfigError:
    return ConfigError(Problem(_SETTING, text, may_pass=True))
