"""Guess category and type of an event type that the table of event types lacks (data: event_type_words.csv).

The last verb of an event type says what was done, and the last resource before it to what: `policy_group_created`.
Without a resource there, one after the verb counts, or else the `type` of the event's `resource`. What comes or goes
may be no more than a part, and then something was changed, not created or deleted:

- An attribute, as in `admin_mfa_removed`, is a part of the resource before it, or else of its subject.
- A word between resource and verb, as in `user_sshkey_created`, is a part of the resource.
- A person and a group, as in `user_added_to_group`, are a membership. A person directly before a group is not:
  `user_group` is a kind of group.

Words such as `bulk` are skipped.

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
_PEOPLE = {"admin", "user"}
_GROUP = "group"


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


class _Noun(NamedTuple):
    """What is acted on, and the index of its word, which may be one of its attributes."""

    place: int
    words: Words
    is_attribute: bool


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
    words = [word for word in _split(event_type) if word not in _table()["skipped"]]
    logins, verbs = _table()["login"], _table()["verb"]
    at = _last(words, {**logins, **verbs})
    if at < 0:
        return None
    if words[at] in logins:
        return _alone(logins[words[at]])
    verb = verbs[words[at]]
    before = words[:at]
    for part in (before, words[at + 1 :], _split(resource_type)):
        if noun := _noun(part):
            is_part = noun.is_attribute or (part is before and noun.place < at - 1) or _is_membership(words)
            types = ("change",) if is_part and not _PARTS.isdisjoint(verb.types) else verb.types
            return _combined(noun.words, types)
    return _alone(verb) if verb.category else None


def _noun(words: list[str]) -> _Noun | None:
    """The last resource in `words`, or the one that their last attribute belongs to; None if there is neither."""
    nouns, attributes = _table()["resource"], _table()["attribute"]
    place = _last(words, {**nouns, **attributes})
    if place < 0:
        return None
    if words[place] not in attributes:
        return _Noun(place, nouns[words[place]], is_attribute=False)
    attribute = attributes[words[place]]
    owner = nouns[attribute.subject]
    if (before := _last(words[:place], nouns)) >= 0 and nouns[words[before]].category == attribute.category:
        owner = nouns[words[before]]
    types = tuple(dict.fromkeys((*owner.types, *attribute.types)))
    return _Noun(place, owner._replace(types=types), is_attribute=True)


def _is_membership(words: list[str]) -> bool:
    """Whether `words` name a person and a group."""
    nouns = _table()["resource"]
    subjects = [nouns[word].subject if word in nouns else "" for word in words]
    people = [at for at, each in enumerate(subjects) if each in _PEOPLE and subjects[at + 1 : at + 2] != [_GROUP]]
    return bool(people) and _GROUP in subjects


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
