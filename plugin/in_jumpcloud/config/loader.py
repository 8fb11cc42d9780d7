"""Loads the configuration: reads, checks, and reports every problem at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from in_jumpcloud.config.document import AsGiven, Document, Origin
from in_jumpcloud.config.environment import KEY_VARIABLE, read_variables, variable_name
from in_jumpcloud.config.locations import default_state
from in_jumpcloud.config.reader import SectionReader
from in_jumpcloud.config.schema import DEFAULT_STATE, Config
from in_jumpcloud.config.validation import validate
from in_jumpcloud.errors import ConfigError, Problem

_SECTIONS = set(Config.__struct_fields__)
_ONLINE_SECTIONS = {"jumpcloud", "forward", "state", "dead_letter"}
_KEY, _KEY_FILE = "jumpcloud.api_key", "jumpcloud.api_key_file"
_KEYS_OF_THE_ACCOUNT = {
    *(_KEY, _KEY_FILE),
    *("jumpcloud.client_id", "jumpcloud.client_secret", "jumpcloud.client_secret_file"),
}


def read_document(
    path: Path | None, overrides: Sequence[str], environ: Mapping[str, str]
) -> tuple[Document, list[Problem]]:
    """The settings of all sources as they are given, and what is wrong with the variables of the environment.

    Raises:
        ConfigError: the file or an override cannot be read.
    """
    variables, problems = read_variables(environ)
    document = Document(path, overrides, variables)
    return document, [*problems, *_apply_key_variable(document, environ)]


def load_config(
    path: Path | None,
    overrides: Sequence[str] = (),
    *,
    offline: bool = False,
    only_api: bool = False,
    needs_key: bool = True,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Read the file at `path` (None: no file), apply `environ` and `overrides` (`KEY=VALUE`), and check it all.

    `offline` ignores problems with what only a running plugin uses: API, receivers, state, dead letters. `only_api`
    ignores problems with every section but that of the API.
    Without `needs_key` only problems with the key or the service account are ignored.

    Raises:
        ConfigError: with a problem for each thing that is wrong.
    """
    document, problems = read_document(path, overrides, environ)
    reader = SectionReader(document, environ)
    config = reader.section(Config, document.values, "")
    if config.state.url and document.get("state.path") is not None:
        name = document.location("state.url_file" if config.state.url.file else "state.url")
        problems.append(Problem("state.path", f"{name} is set too; remove one of the two"))
    if config.state.path == DEFAULT_STATE:
        placed = default_state(environ, document.directory).path
        config = msgspec.structs.replace(config, state=msgspec.structs.replace(config.state, path=placed))
        reader.relative["state.path"] = DEFAULT_STATE
    problems = [each for each in problems if each.location not in reader.replaced] + reader.problems
    # In a section with a problem, defaults replace what is wrong: comparing those would mislead.
    misread = {problem.section for problem in problems}
    more = [*validate(config), *_left_behind(config, reader.relative)]
    problems += (problem for problem in more if problem.section not in misread)
    if offline:
        problems = [problem for problem in problems if problem.section not in _ONLINE_SECTIONS]
    elif only_api:
        problems = [problem for problem in problems if problem.section not in _SECTIONS - {"jumpcloud"}]
    elif not needs_key:
        problems = [problem for problem in problems if problem.path not in _KEYS_OF_THE_ACCOUNT]
    if problems:
        where = document.location
        error = ConfigError(*(each._replace(location=each.location or where(each.path)) for each in problems))
        error.settings = config
        raise error
    return config


def _apply_key_variable(document: Document, environ: Mapping[str, str]) -> Iterator[Problem]:
    """Use JUMPCLOUD_API_KEY if nothing sets an account. With another variable for the key it is a contradiction.

    An `api_key` of null says that there is none.
    """
    key = environ.get(KEY_VARIABLE)
    if not key:
        return
    if document.get(_KEY, ...) is ... and all(document.get(each) is None for each in _KEYS_OF_THE_ACCOUNT - {_KEY}):
        document.set(_KEY, AsGiven(key), Origin("environment", KEY_VARIABLE))
    for path in (_KEY, _KEY_FILE):
        origin, value = document.origin(path), document.get(path)
        if origin.kind == "environment" and origin.name != KEY_VARIABLE and value not in (key, None):
            yield Problem(path, f"{KEY_VARIABLE} is set too; unset one of the two", origin.name)


def _left_behind(config: Config, relative: Mapping[str, Path]) -> Iterator[Problem]:
    """A file that is where earlier versions looked for it: relative paths started at the working directory."""
    for key, path in (("state.path", config.state.path), ("dead_letter.path", config.dead_letter.path)):
        former = relative.get(key)
        if path and former and os.path.exists(former) and not os.path.exists(path):  # noqa: PTH110 - Path can raise
            text = f"{path} does not exist, but {former.absolute()} does, where earlier versions looked"
            yield Problem(key, f"{text}; set {key} (or {variable_name(key)}) to it, or move its directory")
