"""The settings as they are given: a file, then the environment, then the `-o` options. Nothing is checked."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from in_jumpcloud.errors import ConfigError, Problem, may_pass
from in_jumpcloud.file_access import NOT_A_FILE, read_limited

_NO_CONFIGURATION = {errno.ENOENT, errno.EACCES, errno.EPERM, *NOT_A_FILE}
"""The file is missing, not for this user, or not a file: there is no configuration to wait with."""
_MAX_BYTES = 4 * 1024**2
_MAX_VALUES = 100_000
"""An alias such as `*name` counts as all the values that it stands for."""


class AsGiven(str):
    """Text of an environment variable: any characters, `${` among them; a number or true as text."""

    __slots__ = ()


class Setting(NamedTuple):
    """A value for a dotted key, and the environment variable that has it."""

    key: str
    value: Any
    variable: str


class Origin(NamedTuple):
    """Where a setting comes from. `name` is the path of the file, the name of the variable, or the key of `-o`."""

    kind: Literal["file", "environment", "option", "default"]
    name: str = ""


class Document:
    """The merged settings, which remembers where each came from."""

    def __init__(self, path: Path | None, overrides: Sequence[str] = (), variables: Sequence[Setting] = ()) -> None:
        """Read the file at `path` (None: no file), then apply `variables`, then `overrides`.

        Each override is `KEY=VALUE` with a dotted key.

        Raises:
            ConfigError: the file cannot be read or is not YAML, or an override does not have that form.
        """
        self.values: dict[str, Any] = {} if path is None else parse_yaml(path)
        self._path = path
        self._origins: dict[str, Origin] = {}
        self._created: dict[str, Origin] = {}  # sections that are there for the sake of a key in them
        for key, value, variable in variables:
            self.set(key, value, Origin("environment", variable))
        for override in overrides:
            key, equals, value = override.partition("=")
            if not equals or not key:
                text = "expected KEY=VALUE, such as -o jumpcloud.interval=1m"
                raise ConfigError(Problem("", text, "-o"))  # not shown: it may have a secret
            self.set(key, _override_value(key, value), Origin("option", key))

    def set(self, key: str, value: Any, origin: Origin) -> None:
        """Set a dotted key, over what it has."""
        *sections, last = key.split(".")
        values = self.values
        for depth, section in enumerate(sections, 1):
            inner = values.get(section)
            if not isinstance(inner, dict):
                inner = values[section] = {}
                self._created[".".join(sections[:depth])] = origin
            values = inner
        values[last] = value
        self._origins = {each: old for each, old in self._origins.items() if not _is_within(each, key)}
        self._origins[key] = origin

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a dotted key without list indices; `default` if it is not set, not even to null."""
        *sections, last = key.split(".")
        values: Any = self.values
        for section in sections:
            values = values.get(section) if isinstance(values, dict) else None
        return values.get(last, default) if isinstance(values, dict) else default

    def origin(self, path: str) -> Origin:
        """Where the setting at `path`, such as `forward.servers[0].port`, comes from."""
        for key in _prefixes(path):
            if key in self._origins:
                return self._origins[key]
        is_set = self._path is not None and self.get(path.partition("[")[0]) is not None
        return Origin("file", str(self._path)) if is_set else Origin("default")

    def location(self, path: str) -> str:
        """What to blame for the setting at `path`, such as `jumpcloud.yaml: log.level` or `-o log.level`."""
        origin = self._created.get(path) or self.origin(path)
        if origin.kind == "environment":
            return origin.name if path in (*self._created, *self._origins) else f"{origin.name}: {path}"
        if origin.kind == "option":
            return f"-o {origin.name if path in self._created else path}"
        return f"{self._path or 'no configuration file'}: {path}"

    @property
    def directory(self) -> Path | None:
        """The directory of the file, absolute; None without one, and for a pipe, which is not in a directory."""
        is_file = self._path is not None and os.path.isfile(self._path)  # noqa: PTH113 - Path.is_file can raise
        return self._path.absolute().parent if self._path and is_file else None


def _override_value(key: str, text: str) -> Any:
    try:
        return load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # the value is not shown: it may be a secret
        raise ConfigError(Problem(key, "expected a YAML value; put text in quotes", f"-o {key}")) from None


def _is_within(path: str, key: str) -> bool:
    return path == key or path.startswith((f"{key}.", f"{key}["))


def _prefixes(path: str) -> Iterator[str]:
    """`path`, then what it is within, from the inside out."""
    yield path
    for end in range(len(path) - 1, 0, -1):
        if path[end] in ".[":
            yield path[:end]


def parse_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        ConfigError: the file cannot be read, is not YAML, has a duplicate key, or holds something else than a mapping.
    """
    try:
        document = load_yaml(read_limited(path, _MAX_BYTES))
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


class _NoDuplicates(yaml.constructor.SafeConstructor):
    """Refuses duplicate keys, of which YAML silently takes the last.

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


_NoDuplicates.add_constructor("tag:yaml.org,2002:timestamp", _text)


class _Loader(_NoDuplicates, yaml.SafeLoader):
    """The loader whose errors are shown."""


class _FastLoader(_NoDuplicates, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # built of C
    """The same over libyaml, where PyYAML has it: 10,000 organizations take a tenth of the time."""


_UNFINISHED = -1


def load_yaml(text: str | bytes) -> Any:
    """The value of a YAML document.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it is not YAML, has a duplicate key, or too many values.
    """
    try:
        return _load(_FastLoader(text))  # type: ignore[call-arg]  # as the base class
    except (yaml.YAMLError, ValueError, RecursionError):
        return _load(_Loader(text))


def _load(loader: Any) -> Any:
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
