"""The settings in use as a file would have them, each with its origin. Secrets are not shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from in_jumpcloud.config.document import Document, Origin
from in_jumpcloud.config.locations import default_state
from in_jumpcloud.config.schema import Config, Section, settings_of
from in_jumpcloud.config.types import Duration, NamedFile, Secret, SecretUrl, Size, Start

_MASK = "***"


class Effective(NamedTuple):
    """One setting. `value` is JSON; loaded again it gives the same setting, unless it is a secret."""

    key: str
    value: Any
    origin: Origin


def effective_settings(config: Config, document: Document, environ: Mapping[str, str]) -> Iterator[Effective]:
    """Every setting of `config`, read from `document` and `environ`; a secret of a file as the path of that file."""
    for key, value in settings_of(config):
        if isinstance(value, Secret) and value.file:
            yield Effective(f"{key}_file", str(value.file), document.origin(f"{key}_file"))
        else:
            yield Effective(key, notation(value), _origin(key, document, environ))


def _origin(key: str, document: Document, environ: Mapping[str, str]) -> Origin:
    origin = document.origin(key)
    if key == "state.path" and origin.kind == "default":
        variable = default_state(environ, document.directory).variable
        return Origin("environment", variable) if variable else origin
    return origin


def notation(value: Any) -> Any:
    """A setting as a file would have it."""
    match value:
        case Duration():
            return value.notation()
        case Size():
            return value.notation()
        case Start() | Path() | NamedFile():
            return str(value)
        case SecretUrl() if not value.has_password:
            return value.reveal()
        case Secret():
            return _MASK if value.reveal() else ""
        case tuple():
            return [notation(each) for each in value]
        case dict():
            return {name: notation(each) for name, each in value.items()}
        case Section():
            fields = {name: notation(getattr(value, name)) for name in value.__struct_fields__}
            return {name: each for name, each in fields.items() if each is not None}
    return value
