"""Guess category and type of an event type that the table of event types lacks (data: event_type_words.csv).

The last verb of an event type says what was done, and the last resource before it to what: `policy_group_created`.
Without a resource there, one after the verb counts, or else the `type` of the event's `resource`. A word between both,
as in `user_sshkey_created`, is a part of the resource: the resource was changed.

A login has its own category. A verb that changes something has a category for an unknown resource. Otherwise there is
no guess. A type that ECS does not allow in the category of the resource is one of `configuration`, as in the table.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources
from typing import NamedTuple

_CONFIGURATION = "configuration"
_INFO = "info"
_PARTS = {"creation", "deletion"}  # of a part of a resource: a change of the resource


class Words(NamedTuple):
    """What a word says of an event type: a category or none, types, and the subject or none."""

    category: str
    types: tuple[str, ...]
    subject: str


class Guess(NamedTuple):
    """As the columns of an event_types.EventType; no categories and types if ECS has none for the resource."""

    categories: tuple[str, ...]
    types: tuple[str, ...]
    subject: str


@cache
def _table() -> dict[str, dict[str, Words]]:
    """The rows by part and word."""
    text = resources.files(__package__).joinpath("event_type_words.csv").read_text(encoding="utf-8")
    table: dict[str, dict[str, Words]] = {}
    for row in csv.DictReader(text.splitlines()):
        words = Words(row["category"], tuple(filter(None, row["type"].split(";"))), row["subject"])
        table.setdefault(row["part"], {}).update(dict.fromkeys(row["words"].split(";"), words))
    return table


def guess(event_type: str, resource_type: str = "") -> Guess | None:
    """What the words of `event_type` and `resource_type`, the type of its `resource`, say; None if they say nothing."""
    words = _split(event_type)
    logins, verbs, nouns = (_table()[part] for part in ("login", "verb", "resource"))
    at = _last(words, {**logins, **verbs})
    if at < 0:
        return None
    if words[at] in logins:
        return _alone(logins[words[at]])
    verb, place = verbs[words[at]], _last(words[:at], nouns)
    if place >= 0:
        is_part = place < at - 1 and not _PARTS.isdisjoint(verb.types)
        return _combined(nouns[words[place]], ("change",) if is_part else verb.types)
    for others in (words[at + 1 :], _split(resource_type)):
        if (place := _last(others, nouns)) >= 0:
            return _combined(nouns[others[place]], verb.types)
    return _alone(verb) if verb.category else None


def _last(words: list[str], known: dict[str, Words]) -> int:
    """The index of the last word that is `known`; -1 if none is."""
    return next((index for index in reversed(range(len(words))) if words[index] in known), -1)


def _alone(words: Words) -> Guess:
    return Guess((words.category,), words.types, words.subject)


def _combined(noun: Words, verb_types: tuple[str, ...]) -> Guess:
    if not noun.category:
        return Guess((), (), noun.subject)
    allowed = _table()["category"]
    types = [each for each in verb_types if each in allowed[noun.category].types and each not in noun.types]
    if types:
        return Guess((noun.category,), (*noun.types, *types), noun.subject)
    types = [each for each in verb_types if each in allowed[_CONFIGURATION].types]
    if types and noun.category != _CONFIGURATION:
        return Guess((noun.category, _CONFIGURATION), (*noun.types, _INFO, *types), noun.subject)
    return Guess((noun.category,), (*noun.types, _INFO), noun.subject)


def _split(text: str) -> list[str]:
    """The words of an event type or of an object's type, in lower case and in the singular."""
    words = text.lower().replace("-", "_").replace(".", "_").split("_")
    return [word if any(word in known for known in _table().values()) else word.removesuffix("s") for word in words]
