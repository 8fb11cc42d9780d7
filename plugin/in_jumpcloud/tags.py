"""The tag of a record: `forward.tag`, with {service} and {organization} filled in."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

log = logging.getLogger(__name__)

MAX_TAGS = 256
"""Different tags that a stream makes from its events. A receiver keeps buffers, files or metrics for each tag."""
OTHER = "other"
"""The service and the organization in the tag of further events."""
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
        self._made: dict[str, None] = {}  # there is one of this object for each stream, and it is smaller than a set
        self._is_full = False
        self._of = lru_cache(maxsize=1024)(self._bounded) if self.varies else self._bounded

    def of(self, service: Any, organization: Any) -> str:
        """The tag of an event. Its service and organization may be of any type.

        After MAX_TAGS different tags, further ones have OTHER in place of both.
        """
        if not self.varies:
            return self._pattern
        return self._of(_part(service), _part(organization))

    def _bounded(self, service: str, organization: str) -> str:
        tag = self._fill(service, organization)
        if tag in self._made:
            return tag
        if len(self._made) < MAX_TAGS:
            self._made[tag] = None
            return tag
        other = self._fill(OTHER, OTHER)
        if not self._is_full:
            self._is_full = True
            text = "forward.tag: the events of a stream make more than %d tags; further ones are %s"
            log.warning(text, MAX_TAGS, other)
        return other

    def _fill(self, service: str, organization: str) -> str:
        return self._pattern.replace("{service}", service).replace("{organization}", organization)


def _part(value: Any) -> str:
    """`value` as one part of a tag. A dot would split it, and no pattern would match an unusual character."""
    if type(value) is not str or not value:
        return "unknown"
    return re.sub(r"[^A-Za-z0-9_-]+", "_", value[:_MAX_PART_BYTES])
