"""Settings from environment variables: IN_JUMPCLOUD_ and the key, with two underscores in place of each dot."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import msgspec
import yaml

from in_jumpcloud.config.document import AsGiven, Setting, load_yaml
from in_jumpcloud.config.locations import CONFIG_VARIABLE
from in_jumpcloud.config.schema import Config, Section, split_type
from in_jumpcloud.config.types import Secret
from in_jumpcloud.errors import Problem
from in_jumpcloud.text import printable

_PREFIX = "IN_JUMPCLOUD_"
KEY_VARIABLE = "JUMPCLOUD_API_KEY"
"""The key of the account, if nothing else sets one."""


class _Key(NamedTuple):
    """A dotted key; `is_yaml`: its value is a list or a mapping."""

    path: str
    is_yaml: bool


def variable_name(path: str) -> str:
    """The environment variable of a dotted key."""
    return _PREFIX + path.upper().replace(".", "__")


def read_variables(environ: Mapping[str, str]) -> tuple[list[Setting], list[Problem]]:
    """The settings in `environ`, an outer one before those in it, and what is wrong with them.

    A list or a mapping is YAML. Anything else is used as it is: a secret may have any characters. `null` is null. A
    variable without two underscores that names no key is not ours: Kubernetes makes such as IN_JUMPCLOUD_PORT.
    """
    settings, problems = [], []
    for name in sorted(environ):
        key = _keys().get(name)
        if key is None:
            if name.startswith(_PREFIX) and "__" in name.removeprefix(_PREFIX):
                problems.append(Problem("", f"names no setting{_nearest(name)}", printable(name)))
            continue
        try:
            settings.append(Setting(key.path, _value(key, environ[name]), name))
        except (yaml.YAMLError, ValueError, RecursionError):  # the value is not shown: it may be a secret
            problems.append(Problem(key.path, "expected YAML, such as [one, two] or {key: value}", name))
    return settings, problems


def almost_variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Variables that are not used because one underscore is missing, each with the name that was probably meant."""
    names = {name.replace("__", "_"): name for name in _keys()}
    for name in sorted(environ.keys() - _keys().keys() - {CONFIG_VARIABLE}):
        if meant := names.get(name):
            yield name, meant


def _value(key: _Key, text: str) -> Any:
    if text == "null":
        return None
    if not key.is_yaml:
        return AsGiven(text)
    value = load_yaml(text)
    if value is None:
        raise ValueError("empty")
    return value


def _nearest(name: str) -> str:
    names = [each.removeprefix(_PREFIX) for each in _keys()]  # what all have in common is no likeness
    near = difflib.get_close_matches(name.upper().removeprefix(_PREFIX), names, n=1)
    return f"; did you mean {_PREFIX}{near[0]}?" if near else "; `in-jumpcloud config show` lists the settings"


@functools.cache
def _keys() -> dict[str, _Key]:
    """Every key, by the name of its variable."""
    return {variable_name(key.path): key for key in _walk(Config, "")}


def _walk(kind: type[Section], prefix: str) -> Iterator[_Key]:
    for field in msgspec.structs.fields(kind):
        path = f"{prefix}{field.name}"
        inner = _inner_type(field.type)
        is_section = isinstance(inner, type) and issubclass(inner, Section)
        if prefix or not is_section:  # Kubernetes may make a name without two underscores
            yield _Key(path, is_section or get_origin(inner) is tuple)
        if is_section:
            yield from _walk(inner, f"{path}.")
        elif inner is Secret:
            yield _Key(f"{path}_file", is_yaml=False)


def _inner_type(kind: Any) -> Any:
    """The type without its limits and its words."""
    kind, _ = split_type(kind)
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind
