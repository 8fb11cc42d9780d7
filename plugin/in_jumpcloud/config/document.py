"""The settings as they are given: the YAML of a file, with the `-o` options applied. Nothing is checked here."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from in_jumpcloud.errors import ConfigError, Problem, may_pass
from in_jumpcloud.file_access import NOT_A_FILE, read_limited

_NO_CONFIGURATION = {errno.ENOENT, errno.EACCES, errno.EPERM, *NOT_A_FILE}
"""The file is missing, not for this user, or not a file: there is no configuration to wait with."""
_MAX_BYTES = 4 * 1024**2
_MAX_VALUES = 100_000
"""An alias such as `*name` counts as all the values that it stands for."""


class Document:
    """The merged settings, which remembers where each came from."""

    def __init__(self, path: Path | None, overrides: Sequence[str] = ()) -> None:
        """Read the file at `path` (None: no file) and apply `overrides`, each `KEY=VALUE` with a dotted key.

        Raises:
            ConfigError: the file cannot be read or is not YAML, or an override does not have that form.
        """
        self.values: dict[str, Any] = {} if path is None else parse_yaml(path)
        self._file = str(path) if path else "settings"
        self._created: dict[str, str] = {}
        self._overridden: list[str] = []
        for override in overrides:
            key, equals, value = override.partition("=")
            if not equals or not key:
                text = "expected KEY=VALUE, such as -o jumpcloud.interval=1m"
                raise ConfigError(Problem("", text, "-o"))  # not shown: it may have a secret
            self._override(key, value)

    def location(self, path: str) -> str:
        """What to blame for the setting at `path`, such as `jumpcloud.yaml: log.level` or `-o log.level`."""
        for key in self._overridden:
            if path == key or path.startswith((f"{key}.", f"{key}[")):
                return f"-o {path}"
        if path in self._created:
            return f"-o {self._created[path]}"
        return f"{self._file}: {path}"

    def _override(self, key: str, text: str) -> None:
        try:
            value = _load(text)
        except (yaml.YAMLError, ValueError, RecursionError):  # the value is not shown: it may be a secret
            raise ConfigError(Problem(key, "expected a YAML value; put text in quotes", f"-o {key}")) from None
        *sections, last = key.split(".")
        values = self.values
        for depth, section in enumerate(sections, 1):
            inner = values.get(section)
            if not isinstance(inner, dict):
                inner = values[section] = {}
                self._created[".".join(sections[:depth])] = key
            values = inner
        values[last] = value
        self._overridden.append(key)


def parse_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        ConfigError: the file cannot be read, is not YAML, has a duplicate key, or holds something else than a mapping.
    """
    try:
        document = _load(read_limited(path, _MAX_BYTES))
    except OSError as error:
        passes = may_pass(error) and error.errno not in _NO_CONFIGURATION
        raise ConfigError(Problem("", f"{path}: cannot be read: {error.strerror}", may_pass=passes)) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{place}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as a number with too many digits
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected sections such as `jumpcloud:`, got {describe(document)}")
    return document


def describe(value: Any) -> str:
    """The type of a YAML value, as people name it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "text"
    names = {dict: "a mapping", list: "a list", int: "a number", float: "a decimal number"}
    return names.get(type(value), type(value).__name__)


class _Loader(yaml.SafeLoader):
    """A loader that refuses duplicate keys, of which YAML silently takes the last.

    Dates stay text: the reader of the setting checks them.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise yaml.MarkedYAMLError(problem=f"duplicate key {key.value!r}", problem_mark=key.start_mark)
                keys.add(key.value)
        return super().construct_mapping(node, deep)


def _text(_: yaml.SafeLoader, node: yaml.Node) -> str:
    return str(node.value)


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _text)
_UNFINISHED = -1


def _load(text: str | bytes) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count_values(node: yaml.Node, counts: dict[int, int]) -> int:
    """How many values a node stands for, with those that its aliases repeat. `counts` has those of finished nodes.

    Raises:
        MarkedYAMLError: it contains itself, or too many.
    """
    known = counts.get(id(node))
    if known == _UNFINISHED:
        raise yaml.MarkedYAMLError(problem="a value contains itself", problem_mark=node.start_mark)
    if known is not None or isinstance(node, yaml.ScalarNode):
        return known or 1
    counts[id(node)] = _UNFINISHED
    parts = (part for pair in node.value for part in pair) if isinstance(node, yaml.MappingNode) else node.value
    total = 1
    for part in parts:
        total += _count_values(part, counts)
        if total > _MAX_VALUES:
            text = f"aliases make more than {_MAX_VALUES:,} values of it"
            raise yaml.MarkedYAMLError(problem=text, problem_mark=node.start_mark)
    counts[id(node)] = total
    return total
