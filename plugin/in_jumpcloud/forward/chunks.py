"""From entries to chunks of a bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar


class PackedEntry(Protocol):
    """Whatever holds an entry as it travels."""

    @property
    def tag(self) -> str:
        """The tag that it travels under."""

    @property
    def packed(self) -> bytes:
        """The entry's bytes."""


Entry = TypeVar("Entry", bound=PackedEntry)


def batch(entries: Iterable[Entry], chunk_bytes: int) -> Iterator[tuple[list[Entry], bool]]:
    """Fill chunk after chunk, each of one tag, with at most `chunk_bytes` of entries; a larger entry travels alone.

    The entries of a tag keep their order. With each chunk comes whether it is the last.
    """
    open_chunks: dict[str, list[Entry]] = {}
    sizes: dict[str, int] = {}
    for entry in entries:
        tag, size = entry.tag, len(entry.packed)
        before = sizes.get(tag, 0)
        if before and before + size > chunk_bytes:
            yield open_chunks.pop(tag), False
            before = 0
        open_chunks.setdefault(tag, []).append(entry)
        sizes[tag] = before + size
    for number, chunk in enumerate(open_chunks.values(), 1):
        yield chunk, number == len(open_chunks)
