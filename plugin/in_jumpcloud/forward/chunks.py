"""From entries to chunks of a bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from in_jumpcloud.errors import Failed
from in_jumpcloud.forward import wire
from in_jumpcloud.insights.event import Key


class Parcel(NamedTuple):
    """A chunk, and the keys to commit once it is acknowledged."""

    chunk: wire.Chunk
    keys: list[Key]


def parcels(
    tag: str, entries: Iterable[tuple[Key, bytes]], *, chunk_bytes: int, message_max_bytes: int
) -> Iterator[Parcel]:
    """Fill chunk after chunk with at most `chunk_bytes` of entries; a larger entry travels alone.

    Raises:
        Failed: an entry is larger than `message_max_bytes`.
    """
    keys: list[Key] = []
    parts: list[bytes] = []
    size = 0
    for key, entry in entries:
        if parts and size + len(entry) > chunk_bytes:
            yield Parcel(wire.chunk(tag, b"".join(parts), len(parts)), keys)
            keys, parts, size = [], [], 0
        if len(entry) > message_max_bytes:
            raise Failed(
                f"the record of event {key[1]} has {len(entry)} bytes, more than forward.message_max_bytes "
                f"({message_max_bytes}); raise it, and buffer_max_size at the receiver"
            )
        keys.append(key)
        parts.append(entry)
        size += len(entry)
    if parts:
        yield Parcel(wire.chunk(tag, b"".join(parts), len(parts)), keys)
