"""The tag of a record: `forward.tag`, with {service} and {organization} filled in."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

MAX_TAG_BYTES = 1024
"""Bytes of a configured tag. Fluent Bit cuts a tag of more than 65,531 bytes."""
_MAX_PART_BYTES = 128
_PLACEHOLDERS = ("service", "organization")


class TagTemplate:
    """A tag, or a pattern for tags.

    `varies`: whether records can have different tags. `most_bytes`: the length of the longest tag.
    """

    def __init__(self, pattern: str) -> None:
        """Parse `pattern`.

        Raises:
            ValueError: it does not give a valid tag.
        """
        literal = pattern
        for name in _PLACEHOLDERS:
            literal = literal.replace(f"{{{name}}}", "x")
        if "{" in literal or "}" in literal:
            raise ValueError("the placeholders are {service} and {organization}")
        if not literal.isprintable() or re.search(r"\s", literal):
            raise ValueError("contains whitespace or a control character, which a tag cannot have")
        if len(pattern.encode()) > MAX_TAG_BYTES:
            raise ValueError(f"is longer than {MAX_TAG_BYTES} bytes")
        self._pattern = pattern
        self.varies = literal != pattern
        self.most_bytes = len(pattern.encode()) + (len(_PLACEHOLDERS) * _MAX_PART_BYTES if self.varies else 0)
        self._of = lru_cache(maxsize=1024)(self._fill)

    def of(self, service: Any, organization: Any) -> str:
        """The tag of an event. Its service and organization may be of any type."""
        if not self.varies:
            return self._pattern
        return self._of(_part(service), _part(organization))

    def _fill(self, service: str, organization: str) -> str:
        return self._pattern.replace("{service}", service).replace("{organization}", organization)


def _part(value: Any) -> str:
    """`value` as one part of a tag. A dot would split it, and no pattern would match an unusual character."""
    if type(value) is not str or not value:
        return "unknown"
    return re.sub(r"[^A-Za-z0-9_-]+", "_", value[:_MAX_PART_BYTES])
