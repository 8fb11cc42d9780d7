"""From entries to chunks of a bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar


class Packed(Protocol):
    """Whatever holds an entry as it travels."""

    @property
    def packed(self) -> bytes:
        """The entry's bytes."""


Entry = TypeVar("Entry", bound=Packed)


def filled(entries: Iterable[Entry], chunk_bytes: int) -> Iterator[list[Entry]]:
    """Fill chunk after chunk with at most `chunk_bytes` of entries, in order; a larger entry travels alone."""
    chunk: list[Entry] = []
    size = 0
    for entry in entries:
        if chunk and size + len(entry.packed) > chunk_bytes:
            yield chunk
            chunk, size = [], 0
        chunk.append(entry)
        size += len(entry.packed)
    if chunk:
        yield chunk
