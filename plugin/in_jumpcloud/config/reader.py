"""Reads the plain values of a document as the settings of `schema`, and collects every problem.

Where a value is wrong its default takes its place, so that reading continues.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

import msgspec

from in_jumpcloud.config.document import AsGiven, Document, describe
from in_jumpcloud.config.schema import REMOVED_KEYS, Section, split_type
from in_jumpcloud.config.types import DatabaseUrl, Duration, NamedFile, ProxyUrl, Secret, Size, Start, secret_kind
from in_jumpcloud.errors import Problem, may_pass
from in_jumpcloud.file_access import NOT_A_FILE
from in_jumpcloud.text import printable

_VARIABLE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?")
"""`${NAME}`, `${NAME:-default}`, `$${` for the text `${`; anything else that begins with `${` is a mistake."""

_UNUSABLE = {"Cc", "Cs"}
"""Control characters, and surrogates, which stand for bytes that are not UTF-8."""

_SHOWN_BITS = 128

S = TypeVar("S", bound=Section)


class SectionReader:
    """Reads sections; `problems` has what is wrong with them, in the order of the document.

    A relative path of the configuration file starts at the file's directory, any other at the working directory.
    """

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        """`environ` has the values that replace `${NAME}`."""
        self.problems: list[Problem] = []
        self.relative: dict[str, Path] = {}
        """The paths that are relative in the file, as they are there."""
        self.replaced: set[str] = set()
        """The names that the document has as `${NAME}`."""
        self._document = document
        self._environ = environ

    def section(self, kind: type[S], data: Any, path: str) -> S:
        """`data` as a section of this kind; `path` is its dotted key, empty for the whole document."""
        if data is None:
            data = {}
        if not isinstance(data, dict):
            self.problems.append(Problem(path, f"expected a mapping, got {describe(data)}"))
            return kind()
        fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
        secrets = {name: each for name, field_type in fields.items() if (each := secret_kind(field_type))}
        files = {f"{name}_file": name for name in secrets}
        values: dict[str, Any] = {}
        for key, value in data.items():
            name = printable(str(key))
            at = f"{path}.{name}" if path else name
            with self._collect_problem(at):
                if value is None and (key in secrets or key in files):
                    continue
                if key in fields:
                    values[key] = self._read(fields[key], value, at)
                elif (kind, key) in REMOVED_KEYS:
                    raise ValueError(REMOVED_KEYS[kind, key])
                elif key not in files:
                    near = difflib.get_close_matches(str(key), [*fields, *files], n=1)
                    raise ValueError("unknown key" + (f"; did you mean {near[0]}?" if near else ""))
                elif data.get(files[key]) is not None:
                    raise ValueError(f"{self._other(at, files[key])} is set too; remove one of the two")
                else:
                    values[files[key]] = self._read_secret(secrets[files[key]], value, at)
        return kind(**values)

    @contextmanager
    def _collect_problem(self, path: str) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            self.problems.append(Problem(path, str(error), may_pass=isinstance(error, _FileError) and error.may_pass))

    def _read(self, kind: Any, value: Any, path: str) -> Any:
        """`value` as a value of this type; ValueError with a text for people where it is not one."""
        if isinstance(kind, type) and issubclass(kind, Section):
            return self.section(kind, value, path)
        kind, words = split_type(kind)
        if value is None and None in words:
            return None
        spelled = [word for word in words if word]
        if not spelled:
            return self._read_value(kind, value, path)
        if isinstance(value, str) and (word := self._replace_variables(str, value)) in spelled:
            return str(word)
        try:
            return self._read_value(kind, value, path)
        except ValueError as error:
            raise ValueError(f"{error}; or {' or '.join(spelled)}") from None

    def _read_value(self, kind: Any, value: Any, path: str) -> Any:
        """As `_read`, of a type that has no words."""
        kind, limits = get_args(kind) if get_origin(kind) is Annotated else (kind, msgspec.Meta())
        if limits.extra and (value is None or isinstance(value, str)) and value in limits.extra:
            return limits.extra[value]
        if get_origin(kind) is dict:
            return self._read_map(get_args(kind)[1], value, path)
        if get_origin(kind) is tuple:
            return self._read_list(get_args(kind)[0], limits, value, path)
        value = self._replace_variables(kind, value)
        if get_origin(kind) is Literal:
            return _choice(get_args(kind), value)
        converted = _CONVERTERS[kind](value)
        _check_limits(limits, converted, value)
        if kind in (Path, NamedFile):
            converted = self._absolute(converted, path)
        return NamedFile(converted) if kind is NamedFile else converted

    def _other(self, path: str, name: str) -> str:
        """The key `name` next to that at `path`, with its place if that is another."""
        key = f"{path.rpartition('.')[0]}.{name}"
        same = self._document.origin(key).kind == self._document.origin(path).kind
        return name if same else self._document.location(key)

    def _absolute(self, value: Path, path: str) -> Path:
        if value.is_absolute():
            return value
        if self._document.directory and self._document.origin(path).kind == "file":
            self.relative[path] = value
            return self._document.directory / value
        try:
            return value.absolute()
        except OSError:
            raise ValueError("is relative, but the working directory was removed; give an absolute path") from None

    def _read_list(self, kind: Any, limits: msgspec.Meta, value: Any, path: str) -> tuple[Any, ...]:
        if len(_expect(list, "a list", value)) < (limits.min_length or 0):
            raise ValueError("must not be empty")
        items = []
        for index, item in enumerate(value):
            at = f"{path}[{index}]"
            with self._collect_problem(at):
                items.append(self._read(kind, item, at))
        return tuple(items)

    def _read_map(self, kind: type[Section], value: Any, path: str) -> dict[str, Any]:
        items = {}
        for name, item in _expect(dict, "a mapping", {} if value is None else value).items():
            at = f"{path}.{printable(str(name))}"
            with self._collect_problem(at):
                items[_text(name)] = self.section(kind, item, at)
        return items

    def _replace_variables(self, kind: Any, value: Any) -> Any:
        if isinstance(value, AsGiven):
            return _from_text(kind, value)
        if isinstance(value, str) and _VARIABLE.search(value):
            return _from_text(kind, _Substituted(_VARIABLE.sub(self._variable, value), value))
        return value

    def _variable(self, match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        name, default = match.groups()
        if name is None or "${" in (default or ""):
            raise ValueError("expected ${NAME} or ${NAME:-default}; write $${ for the text ${")
        self.replaced.add(name)
        value = self._environ.get(name) or default
        if value is None:
            raise ValueError(f"the environment variable {name} is not set, or is empty")
        return value

    def _read_secret(self, kind: type[Secret], value: Any, path: str) -> Secret:
        given = _path(self._replace_variables(Path, value))
        file = self._absolute(given, path)
        try:
            return kind.from_file(file)
        except (OSError, UnicodeError) as error:
            reason = str(error.strerror if isinstance(error, OSError) else "not text")
            if os.sep not in str(given):  # a common mistake is the secret in place of its path
                raise _FileError(f"cannot be read: {reason} (name not shown: it may be the secret)", error) from None
            raise _FileError(f"{file}: cannot be read: {reason}", error) from None


class _FileError(ValueError):
    """A file that a setting names cannot be read."""

    def __init__(self, text: str, cause: Exception) -> None:
        super().__init__(text)
        self.may_pass = not isinstance(cause, OSError) or (may_pass(cause) and cause.errno not in NOT_A_FILE)


class _Substituted(str):
    """Text with the values of variables. Its `repr`, which errors show, has their names: a value may be a secret."""

    __slots__ = ("_written",)
    _written: str

    def __new__(cls, text: str, written: str) -> Self:
        new = super().__new__(cls, text)
        new._written = written
        return new

    def __repr__(self) -> str:
        return repr(self._written)


def _from_text(kind: Any, text: str) -> Any:
    """Text from the environment as a value of this type; the text itself if it is not one."""
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    return text


def _choice(choices: tuple[str, ...], value: Any) -> Any:
    if value not in choices:
        raise ValueError(f"must be one of {', '.join(choices)} (got {_short(value)})")
    return str(value)


def _expect(kind: Any, name: str, value: Any) -> Any:
    """`value`, if it is of this type; in Python, but not here, true is a number."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        hint = "; put it in quotes" if kind is str and isinstance(value, int | float) else ""
        raise ValueError(f"expected {name}, got {describe(value)}{hint}")
    return value


def _text(value: Any) -> str:
    text: str = _expect(str, "text", value)
    if not text:
        raise ValueError("must not be empty")
    if not text.isprintable() and any(unicodedata.category(character) in _UNUSABLE for character in text):
        raise ValueError("contains a control character, or a byte that is not UTF-8")
    return str(text)


def _path(value: Any) -> Path:
    text = str(_expect(str, "text", value))
    if not text:
        raise ValueError("must not be empty")
    if "\0" in text:
        raise ValueError("contains a NUL character, which a path cannot have")
    return Path(text)


_CONVERTERS: dict[Any, Callable[[Any], Any]] = {
    bool: lambda value: _expect(bool, "true or false", value),
    int: lambda value: _expect(int, "a whole number", value),
    float: lambda value: _expect(int | float, "a number", value),
    str: _text,
    Path: _path,
    NamedFile: _path,
    Secret: lambda value: Secret(str(_expect(str, "text", value))),  # a receiver's shared key may be empty
    ProxyUrl: lambda value: ProxyUrl(_text(value)),
    DatabaseUrl: lambda value: DatabaseUrl(_text(value)),
    Duration: Duration.parse,
    Size: Size.parse,
    Start: Start,
}


def _check_limits(limits: msgspec.Meta, converted: Any, value: Any) -> None:
    if limits.ge is not None and limits.le is not None:
        if not limits.ge <= converted <= limits.le:
            raise ValueError(f"must be between {limits.ge} and {limits.le} (got {_short(value)})")
    elif limits.ge is not None and not converted >= limits.ge:
        raise ValueError(f"must be at least {limits.ge} (got {_short(value)})")
    elif limits.gt is not None and not converted > limits.gt:
        raise ValueError(f"must be greater than {limits.gt} (got {_short(value)})")


def _short(value: Any) -> str:
    is_huge = isinstance(value, int) and value.bit_length() > _SHOWN_BITS  # Python may refuse to make it text
    return "a number that is too large" if is_huge else f"{value!r:.40}"
