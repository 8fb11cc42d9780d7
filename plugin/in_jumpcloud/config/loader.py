"""From a file, the environment and `-o` to a checked configuration; all problems are reported at once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from in_jumpcloud.config.reader import SectionReader, parse_yaml, set_value
from in_jumpcloud.config.schema import Config
from in_jumpcloud.config.validation import validate
from in_jumpcloud.errors import ConfigError

_OF_A_CONNECTION = ("jumpcloud.", "forward.", "state.", "dead_letter.")
_OF_A_KEY = ("jumpcloud.api_key", "jumpcloud.client_")


def load_config(
    path: Path | None,
    overrides: Sequence[str] = (),
    *,
    offline: bool = False,
    needs_key: bool = True,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Read `path` (None: the defaults), put `overrides` (`KEY=VALUE`, dotted keys) over it, and check the whole.

    `offline` leaves out what only a connection needs: the key and the receiver. Without `needs_key` only the key is.

    Raises:
        ConfigError: one line for each thing that is wrong.
    """
    where = str(path) if path else "the settings"
    reader = SectionReader(environ)
    document = parse_yaml(path)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"-o {override}: expected KEY=VALUE, such as -o jumpcloud.interval=1m")
        set_value(document, key.split("."), value)
    config = reader.section(Config, document, "")
    # Where something is wrong, defaults stand in for it: nothing more can be said of that section.
    wrong = {_section(problem) for problem in reader.problems}
    contradictions = [each for each in validate(config, offline=offline) if _section(each) not in wrong]
    problems = [*reader.problems, *contradictions]
    if offline:  # a variable for the key may well be unset here
        problems = [line for line in problems if not line.startswith(_OF_A_CONNECTION)]
    elif not needs_key:
        problems = [line for line in problems if not line.startswith(_OF_A_KEY)]
    if problems:
        raise ConfigError("\n".join(f"{where}: {problem}" for problem in problems))
    return config


def _section(problem: str) -> str:
    return re.split(r"[.:]", problem, maxsplit=1)[0]
