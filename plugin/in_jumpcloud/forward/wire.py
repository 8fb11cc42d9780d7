"""Messages of the forward protocol as bytes: pure functions, no I/O.

Records are sent in PackedForward mode: Fluent Bit, since 3.2.0, acknowledges it only after it has stored the records.
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
from in_jumpcloud.forward.protocols import recognize

SAFE_COMPRESSED_BYTES = 1_000_000
"""The most bytes of entries to compress: Fluent Bit before 5.0 splits what inflates to more than 1,024,000 bytes."""
PROBE_TAG = "in_jumpcloud.probe"
"""The tag of messages without records; no output needs to match it."""
ENVELOPE_BYTES = 128
"""The most bytes of a message besides its tag and its entries."""

_MAX_ANSWER_BYTES = 64 * 1024
_ENTRY_HEADER = struct.Struct(">3sII")
_ARRAY_OF_2_WITH_EVENT_TIME = b"\x92\xd7\0"  # EventTime: extension type 0 of 8 bytes, seconds and nanoseconds

_ARRAY_HEADER = struct.Struct(">cI")
_decode_message = msgspec.msgpack.Decoder(tuple[str, bytes, dict[str, Any]]).decode
_decode_entries = msgspec.msgpack.Decoder(list[tuple[msgspec.msgpack.Ext, dict[str, Any]]]).decode

Compression = Literal["none", "gzip"]


class Chunk(NamedTuple):
    """One message with `records` records. `id` is a hash of tag and entries: a resend has the same id."""

    id: str
    message: bytes
    records: int
    tag: str = ""


pack = msgspec.msgpack.Encoder().encode
"""Encode a value as MessagePack. The bytes are those of msgpack.Packer, in half the time."""


def pack_entry(time_ns: int, body: dict[str, Any]) -> bytes:
    """One entry, `[EventTime, body]`; `time_ns` is in nanoseconds since the epoch."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return _ENTRY_HEADER.pack(_ARRAY_OF_2_WITH_EVENT_TIME, seconds, nanoseconds) + pack(body)


def build_chunk(tag: str, entries: bytes, records: int, *, compress: Compression = "none") -> Chunk:
    """The message for `records` concatenated entries, as one gzip member if `compress` asks for it and size allows."""
    digest = hashlib.sha256(tag.encode() + b"\0" + entries).digest()[:16]
    options: dict[str, Any] = {"chunk": base64.b64encode(digest).decode(), "size": records}
    payload = entries
    if compress == "gzip" and len(entries) <= SAFE_COMPRESSED_BYTES:
        options["compressed"] = "gzip"
        payload = gzip.compress(entries, compresslevel=6, mtime=0)  # no time in it: a resend has the same bytes
    return Chunk(options["chunk"], pack((tag, payload, options)), records, tag)


def read_chunk(chunk: Chunk) -> list[dict[str, Any]]:
    """The records of a chunk that `build_chunk` made, without their times."""
    _, payload, options = _decode_message(chunk.message)
    entries = gzip.decompress(payload) if "compressed" in options else payload
    return [record for _, record in _decode_entries(_ARRAY_HEADER.pack(b"\xdd", chunk.records) + entries)]


def message_bytes(tag: str, entries_bytes: int) -> int:
    """The most bytes that a message with `entries_bytes` bytes of entries can have, compressed or not."""
    return ENVELOPE_BYTES + len(tag.encode()) + entries_bytes


def build_probe(tag: str) -> Chunk:
    """A message without records, in Forward mode: a receiver acknowledges it and stores nothing."""
    chunk_id = base64.b64encode(os.urandom(16)).decode()
    return Chunk(chunk_id, msgpack.packb((tag, [], {"chunk": chunk_id, "size": 0})), 0, tag)


class AnswerReader:
    """Splits the bytes of a receiver into MessagePack objects; strings in them are bytes."""

    def __init__(self) -> None:
        self._unpacker = msgpack.Unpacker(raw=True, max_buffer_size=_MAX_ANSWER_BYTES)
        self._is_first = True
        self._unread_bytes = 0  # the unpacker limits each element of an answer, not the whole answer

    def feed(self, data: bytes) -> list[Any]:
        """The objects that are complete now.

        Raises:
            ReceiverDown: the bytes are not MessagePack, or an answer is too long; close the connection.
        """
        if self._is_first and (other := recognize(data)):
            raise other
        self._is_first = False
        try:
            self._unpacker.feed(data)
            answers = list(self._unpacker)
        except (ValueError, msgpack.UnpackException) as error:
            raise ReceiverDown(f"the receiver sent bytes that are not MessagePack ({type(error).__name__})") from None
        self._unread_bytes = 0 if answers else self._unread_bytes + len(data)
        if self._unread_bytes > _MAX_ANSWER_BYTES:
            raise ReceiverDown(f"the receiver sent an answer of more than {_MAX_ANSWER_BYTES} bytes")
        return answers


class AckReader:
    """Splits the bytes of a receiver into acknowledgements."""

    def __init__(self) -> None:
        self._answers = AnswerReader()

    def feed(self, data: bytes) -> list[str]:
        """The chunk ids that are acknowledged now.

        Raises:
            ReceiverDown: an answer is not an acknowledgement; close the connection.
            HandshakeRejected: the receiver expects a handshake.
        """
        acks = []
        for answer in self._answers.feed(data):
            if isinstance(answer, list) and answer[:1] == [b"HELO"]:
                raise HandshakeRejected(
                    'it asks for a shared key: set forward.shared_key ("" if its key is empty)', stage="handshake"
                )
            ack = answer.get(b"ack") if isinstance(answer, dict) else None
            if not isinstance(ack, bytes):
                raise ReceiverDown(f"the receiver sent {reprlib.repr(answer):.80} instead of an ack")
            acks.append(ack.decode(errors="replace"))
        return acks
