"""Loads the configuration: reads, checks, and reports every problem at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from in_jumpcloud.config.document import Document
from in_jumpcloud.config.reader import SectionReader
from in_jumpcloud.config.schema import Config
from in_jumpcloud.config.validation import validate
from in_jumpcloud.errors import ConfigError

_SECTIONS = set(Config.__struct_fields__)
_ONLINE_SECTIONS = {"jumpcloud", "forward", "state", "dead_letter"}
_KEYS_OF_THE_ACCOUNT = {
    *("jumpcloud.api_key", "jumpcloud.api_key_file"),
    *("jumpcloud.client_id", "jumpcloud.client_secret", "jumpcloud.client_secret_file"),
}


def load_config(
    path: Path | None,
    overrides: Sequence[str] = (),
    *,
    offline: bool = False,
    only_api: bool = False,
    needs_key: bool = True,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Read the file at `path` (None: the defaults), apply `overrides` (`KEY=VALUE` with dotted keys), and check it all.

    `offline` ignores problems with what only a running plugin uses: API, receivers, state, dead letters. `only_api`
    ignores problems with every section but that of the API.
    Without `needs_key` only problems with the key or the service account are ignored.

    Raises:
        ConfigError: with a problem for each thing that is wrong.
    """
    document = Document(path, overrides)
    reader = SectionReader(environ)
    config = reader.section(Config, document.values, "")
    # In a section with a problem, defaults replace what is wrong: comparing those would mislead.
    misread = {problem.section for problem in reader.problems}
    problems = [*reader.problems, *(problem for problem in validate(config) if problem.section not in misread)]
    if offline:
        problems = [problem for problem in problems if problem.section not in _ONLINE_SECTIONS]
    elif only_api:
        problems = [problem for problem in problems if problem.section not in _SECTIONS - {"jumpcloud"}]
    elif not needs_key:
        problems = [problem for problem in problems if problem.path not in _KEYS_OF_THE_ACCOUNT]
    if problems:
        error = ConfigError(*(problem._replace(location=document.location(problem.path)) for problem in problems))
        error.settings = config
        raise error
    return config
