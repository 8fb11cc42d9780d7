"""Read values of an event, whatever their types."""

from __future__ import annotations

from typing import Any

Names = tuple[tuple[str, str], ...]
"""Pairs of a name in an event and the name in a record."""


def first_object(value: Any) -> dict[str, Any]:
    """`value` if it is an object, the first object in it if it is a list, otherwise an empty object."""
    if type(value) is list:
        value = next((each for each in value if type(each) is dict), None)
    return value if type(value) is dict else {}


def first_naming(value: Any, names: Names) -> dict[str, Any]:
    """As first_object; of a list, the first object that has one of `names`, if there is one."""
    if type(value) is dict:
        return value
    if type(value) is list:
        for each in value:
            if type(each) is dict and any(name in each for name, _ in names):
                return each
    return first_object(value)


def get_str(data: dict[str, Any], name: str) -> str:
    """The text under `name`; empty if there is none or it is not text."""
    value = data.get(name)
    return value if type(value) is str else ""


def copy_fields(source: dict[str, Any], names: Names, target: dict[str, Any]) -> dict[str, Any]:
    """Copy the values that `source` has to `target`, under their new names; returns `target`."""
    for name, new_name in names:
        if name in source:
            target[new_name] = source[name]
    return target


def copy_texts(source: dict[str, Any], names: Names, target: dict[str, Any]) -> dict[str, Any]:
    """As copy_fields, but only text, as the types of `source` are not declared."""
    for name, new_name in names:
        if type(value := source.get(name)) is str:
            target[new_name] = value
    return target


def distinct(*values: Any) -> list[str]:
    """The texts among `values`, without duplicates, in order."""
    texts: list[str] = []
    for value in values:
        if type(value) is str and value not in texts:
            texts.append(value)
    return texts


def association_ends(data: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two objects that the event's association connects; empty objects if it names none."""
    connection = first_object(first_object(data.get("association")).get("connection"))
    return first_object(connection.get("from")), first_object(connection.get("to"))
