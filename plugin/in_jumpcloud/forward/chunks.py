"""From entries to chunks of a bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar


class Packed(Protocol):
    """Whatever holds an entry as it travels."""

    @property
    def tag(self) -> str:
        """The tag that it travels under."""

    @property
    def packed(self) -> bytes:
        """The entry's bytes."""


Entry = TypeVar("Entry", bound=Packed)


def filled(entries: Iterable[Entry], chunk_bytes: int) -> Iterator[list[Entry]]:
    """Fill chunk after chunk, each of one tag, with at most `chunk_bytes` of entries; a larger entry travels alone.

    The entries of a tag keep their order.
    """
    open_chunks: dict[str, list[Entry]] = {}
    sizes: dict[str, int] = {}
    for entry in entries:
        size = len(entry.packed)
        chunk = open_chunks.setdefault(entry.tag, [])
        if chunk and sizes[entry.tag] + size > chunk_bytes:
            yield chunk
            chunk = open_chunks[entry.tag] = []
        sizes[entry.tag] = size + (sizes[entry.tag] if chunk else 0)
        chunk.append(entry)
    yield from open_chunks.values()
