"""The tag of a record: `forward.tag`, with {service} and {organization} filled in."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

MAX_TAG_BYTES = 1024
"""Bytes of a tag as it is configured; Fluent Bit cuts one of more than 65,531."""
_LONGEST_PART = 128
_PLACES = ("service", "organization")


class TagTemplate:
    """A tag, or a pattern for one. `varies` tells that records may have different tags, of at most `most_bytes`."""

    def __init__(self, pattern: str) -> None:
        """Read `pattern`; ValueError where no tag can come of it."""
        literal = pattern
        for name in _PLACES:
            literal = literal.replace(f"{{{name}}}", "x")
        if "{" in literal or "}" in literal:
            raise ValueError("the placeholders are {service} and {organization}")
        if not literal.isprintable() or re.search(r"\s", literal):
            raise ValueError("holds a blank or a control character, which no tag has")
        if len(pattern.encode()) > MAX_TAG_BYTES:
            raise ValueError(f"is longer than {MAX_TAG_BYTES} bytes")
        self._pattern = pattern
        self.varies = literal != pattern
        self.most_bytes = len(pattern.encode()) + (len(_PLACES) * _LONGEST_PART if self.varies else 0)
        self._of = lru_cache(maxsize=1024)(self._filled)

    def of(self, service: Any, organization: Any) -> str:
        """The tag of an event of this service and organization, whatever they are."""
        if not self.varies:
            return self._pattern
        return self._of(_part(service), _part(organization))

    def _filled(self, service: str, organization: str) -> str:
        return self._pattern.replace("{service}", service).replace("{organization}", organization)


def _part(value: Any) -> str:
    """`value` as one part of a tag: a dot would make two of it, an odd letter one that nothing matches."""
    if type(value) is not str or not value:
        return "unknown"
    return re.sub(r"[^A-Za-z0-9_-]+", "_", value[:_LONGEST_PART])
