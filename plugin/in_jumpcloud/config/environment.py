"""Settings from environment variables: IN_JUMPCLOUD_ and the key, with two underscores in place of each dot."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import msgspec
import yaml

from in_jumpcloud.config.document import AsGiven, Setting, load_yaml
from in_jumpcloud.config.locations import CONFIG_VARIABLE
from in_jumpcloud.config.schema import Config, Section, split_type
from in_jumpcloud.config.types import secret_kind
from in_jumpcloud.errors import Problem
from in_jumpcloud.text import printable

_PREFIX = "IN_JUMPCLOUD_"
_OF_KUBERNETES = re.compile(
    r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)", re.ASCII
)
"""The variables of a service that is called in-jumpcloud or begins so, as Kubernetes sets them in each pod; see
https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables."""
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
    name that begins as ours and is none is a mistake, unless Kubernetes makes it.
    """
    settings, problems = [], []
    for name in sorted(environ):
        key = _keys().get(name)
        if key is None:
            if name.startswith(_PREFIX.rstrip("_")) and name != CONFIG_VARIABLE and not _OF_KUBERNETES.fullmatch(name):
                problems.append(Problem("", f"names no setting{_nearest(name)}", printable(name)))
            continue
        try:
            settings.append(Setting(key.path, _value(key, environ[name]), name))
        except (yaml.YAMLError, ValueError, RecursionError):  # the value is not shown: it may be a secret
            problems.append(Problem(key.path, "expected YAML, such as [one, two] or {key: value}", name))
    return settings, problems


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
    inner = next((each for each in _keys() if each.startswith(f"{name}__")), None)
    if inner:
        return f", but a section; a setting in it is {inner}"
    # Without what all have in common: that is no likeness. One underscore too few or too many is the usual mistake.
    names = {_words(each): each for each in (*_keys(), CONFIG_VARIABLE)}
    near = difflib.get_close_matches(_words(name.upper()), names, n=1)
    return f"; did you mean {names[near[0]]}?" if near else "; `in-jumpcloud config show` lists the settings"


def _words(name: str) -> str:
    return " ".join(name.removeprefix(_PREFIX.rstrip("_")).replace("_", " ").split())


@functools.cache
def _keys() -> dict[str, _Key]:
    """Every key, by the name of its variable."""
    return {variable_name(key.path): key for key in _walk(Config, "")}


def _walk(kind: type[Section], prefix: str) -> Iterator[_Key]:
    for field in msgspec.structs.fields(kind):
        path = f"{prefix}{field.name}"
        inner = _inner_type(field.type)
        is_section = isinstance(inner, type) and issubclass(inner, Section)
        if prefix or not is_section:
            yield _Key(path, is_section or get_origin(inner) in (tuple, dict))
        if is_section:
            yield from _walk(inner, f"{path}.")
        elif secret_kind(field.type):
            yield _Key(f"{path}_file", is_yaml=False)


def _inner_type(kind: Any) -> Any:
    """The type without its limits and its words."""
    kind, _ = split_type(kind)
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind
