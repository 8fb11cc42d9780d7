"""Taking values out of an event, whatever it holds in their place."""

from __future__ import annotations

from typing import Any

Names = tuple[tuple[str, str], ...]
"""Pairs of names: in an event, and in a record."""


def first_object(value: Any) -> dict[str, Any]:
    """`value` where it is an object; the first object where it is a list of them; else an empty one."""
    if type(value) is list:
        value = next((each for each in value if type(each) is dict), None)
    return value if type(value) is dict else {}


def get_str(data: dict[str, Any], name: str) -> str:
    """What `data` says under `name`; empty where that is no text."""
    value = data.get(name)
    return value if type(value) is str else ""


def copy_fields(source: dict[str, Any], names: Names, target: dict[str, Any]) -> dict[str, Any]:
    """`target`, with what `source` holds under the first of each pair put under the second."""
    for name, new_name in names:
        if name in source:
            target[new_name] = source[name]
    return target


def distinct(*values: Any) -> list[str]:
    """The texts among `values`, each once, in order."""
    found: list[str] = []
    for value in values:
        if type(value) is str and value not in found:
            found.append(value)
    return found


def association_ends(data: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two objects that an event associates or separates; empty ones where it names none."""
    connection = first_object(first_object(data.get("association")).get("connection"))
    return first_object(connection.get("from")), first_object(connection.get("to"))
