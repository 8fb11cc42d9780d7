"""Frames of the forward protocol: pure functions of bytes, no I/O.

Records travel in PackedForward mode: the one mode whose ack is honest in every Fluent Bit since 3.2.0.
https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import reprlib
import struct
from typing import Any, Literal, NamedTuple

import msgpack
import msgspec

from in_jumpcloud.errors import HandshakeRejected, ReceiverDown

SAFE_COMPRESSED = 1_000_000
"""Bytes of entries that are compressed at most: Fluent Bit before 5.0 tears what inflates to more than 1,024,000."""
PROBE_TAG = "in_jumpcloud.probe"
"""Of messages without records; no output has to match it."""
_LONGEST_ANSWER = 64 * 1024
ENVELOPE = 128
"""More bytes than a message has besides its tag and its entries."""

_HEAD = struct.Struct(">3sII")
_PAIR_OF_EVENT_TIME = b"\x92\xd7\0"  # an extension of 8 bytes, of type 0: seconds, nanoseconds

Compression = Literal["none", "gzip"]


class Chunk(NamedTuple):
    """One message of `records` records. `id` is a hash of tag and entries: the same records make the same chunk."""

    id: str
    message: bytes
    records: int


pack = msgspec.msgpack.Encoder().encode
"""A value in MessagePack: the bytes of msgpack.Packer, in half of its time."""


def head(time_ns: int) -> bytes:
    """The beginning of an entry, `[EventTime, body]`, with all nanoseconds; its body has to follow."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return _HEAD.pack(_PAIR_OF_EVENT_TIME, seconds, nanoseconds)


def pack_entry(time_ns: int, body: dict[str, Any]) -> bytes:
    """One entry, `[EventTime, body]`."""
    return head(time_ns) + pack(body)


def build_chunk(tag: str, entries: bytes, records: int, *, compress: Compression = "none") -> Chunk:
    """The message for so many concatenated entries, which is one gzip member where that is asked for and safe."""
    digest = hashlib.sha256(tag.encode() + b"\0" + entries).digest()[:16]
    options: dict[str, Any] = {"chunk": base64.b64encode(digest).decode(), "size": records}
    payload = entries
    if compress == "gzip" and len(entries) <= SAFE_COMPRESSED:
        options["compressed"] = "gzip"
        payload = gzip.compress(entries, compresslevel=6, mtime=0)  # no time in it: a resend is the same bytes
    return Chunk(options["chunk"], pack((tag, payload, options)), records)


def message_bytes(tag: str, entries_bytes: int) -> int:
    """The size that a message of so many bytes of entries has at most, uncompressed."""
    return ENVELOPE + len(tag.encode()) + entries_bytes


def build_probe(tag: str) -> Chunk:
    """A message without records, in Forward mode: a receiver acknowledges it and keeps nothing of it."""
    chunk_id = base64.b64encode(os.urandom(16)).decode()
    return Chunk(chunk_id, msgpack.packb((tag, [], {"chunk": chunk_id, "size": 0})), 0)


class AnswerReader:
    """Takes what the receiver sends, however it is cut up, and gives the objects in it; their text is bytes."""

    def __init__(self) -> None:
        self._unpacker = msgpack.Unpacker(raw=True, max_buffer_size=_LONGEST_ANSWER)
        self._unread = 0  # the unpacker's limit is one for each element of an answer

    def feed(self, data: bytes) -> list[Any]:
        """The answers that are whole by now.

        Raises:
            ReceiverDown: the receiver sent something else; the connection is not to be trusted.
        """
        try:
            self._unpacker.feed(data)
            answers = list(self._unpacker)
        except (ValueError, msgpack.UnpackException) as error:
            raise ReceiverDown(f"the receiver sent bytes that are not MessagePack ({type(error).__name__})") from None
        self._unread = 0 if answers else self._unread + len(data)
        if self._unread > _LONGEST_ANSWER:
            raise ReceiverDown("the receiver sent an answer that does not end")
        return answers


class AckReader:
    """Takes what the receiver sends, and gives the acks in it."""

    def __init__(self) -> None:
        self._answers = AnswerReader()

    def feed(self, data: bytes) -> list[str]:
        """The chunk ids that are acknowledged by now.

        Raises:
            ReceiverDown: the receiver sent something that is no ack; the connection is not to be trusted.
            Unwelcome: it wants a handshake first.
        """
        acks = []
        for answer in self._answers.feed(data):
            if isinstance(answer, list) and answer[:1] == [b"HELO"]:
                raise HandshakeRejected(
                    'it asks for a shared key: set forward.shared_key, to "" where it has an empty one'
                )
            ack = answer.get(b"ack") if isinstance(answer, dict) else None
            if not isinstance(ack, bytes):
                raise ReceiverDown(f"the receiver sent {reprlib.repr(answer):.80} where an ack was due")
            acks.append(ack.decode(errors="replace"))
        return acks
