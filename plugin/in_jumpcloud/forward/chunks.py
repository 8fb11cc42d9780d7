"""Group packed entries into chunks of a limited size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar


class PackedEntry(Protocol):
    """An entry in MessagePack, with its tag."""

    @property
    def tag(self) -> str:
        """The tag of the message that carries the entry."""

    @property
    def packed(self) -> bytes:
        """The entry in MessagePack."""


Entry = TypeVar("Entry", bound=PackedEntry)


def batch(entries: Iterable[Entry], chunk_bytes: int) -> Iterator[tuple[list[Entry], bool]]:
    """Yield `(entries, is_last)` per chunk: one tag, at most `chunk_bytes` bytes; a larger entry is a chunk by itself.

    Entries of the same tag keep their order.
    """
    open_chunks: dict[str, list[Entry]] = {}
    sizes: dict[str, int] = {}
    for entry in entries:
        tag, size = entry.tag, len(entry.packed)
        chunk_size = sizes.get(tag, 0)
        if chunk_size and chunk_size + size > chunk_bytes:
            yield open_chunks.pop(tag), False
            chunk_size = 0
        open_chunks.setdefault(tag, []).append(entry)
        sizes[tag] = chunk_size + size
    for number, chunk in enumerate(open_chunks.values(), 1):
        yield chunk, number == len(open_chunks)
