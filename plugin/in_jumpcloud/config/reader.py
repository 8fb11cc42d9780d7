"""From YAML, the environment and `-o` to the sections of a configuration; all that is wrong is gathered."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import msgspec
import yaml

from in_jumpcloud.config.types import Duration, Secret, Size, Start
from in_jumpcloud.errors import ConfigError


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mapping in the file."""


def parse_yaml(path: Path | None) -> dict[str, Any]:
    """The document in a file; ConfigError where it is none."""
    if path is None:
        return {}
    try:
        document = yaml.load(path.read_bytes(), _OneKeyOnce)  # noqa: S506 - a subclass of SafeLoader
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{place}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as a number of too many digits
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected sections such as `jumpcloud:`, got {_kind(document)}")
    return document


class _OneKeyOnce(yaml.SafeLoader):
    """YAML lets a later key silently win over an earlier one; a person would want to know.

    Dates stay text: whether one exists is checked where it is read, with its path.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _as_text(_: yaml.SafeLoader, node: yaml.Node) -> str:
    return str(node.value)


_OneKeyOnce.add_constructor("tag:yaml.org,2002:timestamp", _as_text)


def set_value(document: dict[str, Any], keys: list[str], value: str) -> None:
    """Lay a YAML value over what `document` has under these keys."""
    for key in keys[:-1]:
        inner = document.get(key)
        if not isinstance(inner, dict):
            inner = document[key] = {}
        document = inner
    try:
        document[keys[-1]] = yaml.load(value, _OneKeyOnce)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError):  # the value is not shown: it may be a secret
        raise ConfigError(f"-o {'.'.join(keys)}: expected a YAML value; put quotes around text") from None


S = TypeVar("S", bound=Section)


class SectionReader:
    """Turns plain values into sections, and gathers what is wrong with them."""

    _VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._environ = environ

    def section(self, kind: type[S], data: Any, path: str) -> S:
        """`data` as a section; defaults stand in for what is wrong, which goes to `problems`."""
        if data is None:
            data = {}
        if not isinstance(data, dict):
            self.problems.append(f"{path}: expected a mapping, got {_kind(data)}")
            return kind()
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        secrets = {f"{name}_file": name for name, field in fields.items() if Secret in get_args(field.type)}
        values: dict[str, Any] = {}
        for key, value in data.items():
            at = f"{path}.{key}" if path else str(key)
            if value is None and (key in secrets or key in secrets.values()):
                continue
            if key in secrets:
                if data.get(secrets[key]) is not None:
                    self.problems.append(f"{at}: {secrets[key]} is given too; keep one of the two")
                else:
                    self._store(values, secrets[key], at, self._secret_file, value)
            elif key not in fields:
                near = difflib.get_close_matches(str(key), [*fields, *secrets], n=1)
                self.problems.append(f"{at}: unknown key" + (f"; did you mean {near[0]}?" if near else ""))
            else:
                self._store(values, key, at, self._convert, value, fields[key].type)
        return kind(**values)

    def _store(self, values: dict[str, Any], name: str, at: str, convert: Any, *arguments: Any) -> None:
        try:
            values[name] = convert(at, *arguments)
        except ValueError as error:  # msgspec.ValidationError is one
            self.problems.append(f"{at}: {_plain(str(error))}")

    def _convert(self, at: str, value: Any, kind: Any) -> Any:
        if isinstance(kind, type) and issubclass(kind, Section):
            return self.section(kind, value, at)
        item = get_args(kind)[0] if get_origin(kind) is tuple else None
        if isinstance(item, type) and issubclass(item, Section):
            if not isinstance(value, list):
                raise ValueError(f"expected a list, got {_kind(value)}")  # noqa: TRY004 - one kind of error for all
            return tuple(self.section(item, each, f"{at}[{index}]") for index, each in enumerate(value))
        substituted = self._substitute(value)
        # What comes from the environment is always text, also where a number is meant.
        return msgspec.convert(substituted, kind, strict=substituted == value, dec_hook=_read_unit)

    def _substitute(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._substitute(each) for each in value]
        return self._VARIABLE.sub(self._variable, value) if isinstance(value, str) else value

    def _variable(self, match: re.Match[str]) -> str:
        name, default = match.groups()
        value = self._environ.get(name) or default
        if value is None:
            raise ValueError(f"the environment variable {name} is not set, or is empty")
        return value

    def _secret_file(self, at: str, value: Any) -> Secret:
        file = self._convert(at, value, Path)
        try:
            return Secret(file.read_text().strip())
        except (OSError, UnicodeError) as error:
            raise ValueError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'not text'}") from None


def _read_unit(kind: type, value: Any) -> Any:
    if kind in (Duration, Size):
        return kind.parse(value)
    if kind is Start:
        return Start(value)
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {_kind(value)}; put it in quotes")  # noqa: TRY004 - msgspec wants this one
    if not value and kind is not Secret:  # one may be: a receiver's empty shared key
        raise ValueError("is empty")
    return kind(value)


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _plain(message: str) -> str:
    message = re.sub(r" - at \$(\S+)", r" (at \1)", message.replace("`", ""))
    if message.startswith("Expected str, got int"):
        message += "; put it in quotes"
    return message[:1].lower() + message[1:]
