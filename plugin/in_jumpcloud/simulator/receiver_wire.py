"""What a sender may say to the simulated receiver: the messages of this plugin, and its part of the handshake.

Everything else is refused, also what a Fluent Bit tolerates, or acknowledges and loses.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgpack
import msgspec

READ_BYTES = 262_144
_SECOND_NS = 1_000_000_000
_END_OF_TIME = 2**32 - 2
"""The first EventTime second that Fluent Bit uses for markers of its own."""
_EVENT_TIME = struct.Struct(">II")
_EVENT_TIME_TYPE = 0
_OPTIONS = {"chunk", "size", "compressed"}
_MAX_PING_BYTES = 1023
_NONCE_BYTES = 16

Entry = tuple[int, dict[str, Any]]
"""The time in nanoseconds since the epoch, and the record."""


class Refused(Exception):
    """The message is not one that the plugin sends: close the connection without an ack."""


class Denied(Exception):
    """The handshake failed: close the connection."""


class Message(NamedTuple):
    """One message; a probe has no entries."""

    tag: str
    chunk: str
    entries: list[Entry]


def stream_unpacker(max_bytes: int) -> msgpack.Unpacker:
    """Splits a stream of bytes into MessagePack objects of at most about `max_bytes`."""
    return msgpack.Unpacker(max_buffer_size=2 * max_bytes + READ_BYTES)


def read_message(message: Any, max_bytes: int) -> Message:
    """Read `[tag, entries, {"chunk": …, "size": …}]`; the entries may have `max_bytes` bytes when decompressed.

    Raises:
        Refused: it is not a PackedForward message, or an empty one in Forward mode, as the plugin sends them.
    """
    match message:
        case [str(tag), bytes() | [] as payload, {"chunk": str(chunk), "size": int(size), **rest}] if tag and chunk:
            pass
        case _:
            raise Refused("not a message with records and options")
    if not _OPTIONS.issuperset(rest):
        raise Refused(f"unexpected options: {rest}")
    if payload == []:
        if size or rest:
            raise Refused("a message without records has no size and is not compressed")
        return Message(tag, chunk, [])
    if "compressed" in rest:
        payload = _gunzip(payload, rest["compressed"], max_bytes)
    if not payload:
        raise Refused("no records")
    return Message(tag, chunk, _read_entries(payload, size))


def _gunzip(payload: bytes, compression: object, max_bytes: int) -> bytes:
    if compression != "gzip":
        raise Refused(f"unexpected compression: {compression!r}")
    member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = member.decompress(payload, max_bytes + 1)
    except zlib.error as error:
        raise Refused(f"not gzip: {error}") from None
    if len(content) > max_bytes or not member.eof or member.unused_data:
        raise Refused("too large when decompressed, or not one whole gzip member")
    return content


_decode_entries = msgspec.msgpack.Decoder(list[tuple[msgspec.msgpack.Ext, dict[str, Any]]]).decode


def _read_entries(payload: bytes, size: int) -> list[Entry]:
    try:
        entries = _decode_entries(b"\xdd" + size.to_bytes(4, "big") + payload)  # as one array of `size` entries
    except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, RecursionError) as error:
        raise Refused(f"not {size} entries: {error}") from None
    return [(_nanoseconds(time), record) for time, record in entries]


def _nanoseconds(time: msgspec.msgpack.Ext) -> int:
    data = bytes(time.data)
    if time.code != _EVENT_TIME_TYPE or len(data) != _EVENT_TIME.size:
        raise Refused("not an EventTime")
    seconds, nanoseconds = _EVENT_TIME.unpack(data)
    if seconds >= _END_OF_TIME or nanoseconds >= _SECOND_NS:
        raise Refused("not a time")
    return int(seconds) * _SECOND_NS + int(nanoseconds)


class ServerHandshake:
    """The receiver's part of HELO, PING, PONG. Without `users`, name and password are not checked."""

    def __init__(self, shared_key: str, users: Mapping[str, str], hostname: str) -> None:
        self._key = shared_key
        self._users = users
        self._hostname = hostname

    def run(self, connection: socket.socket) -> None:
        """Send HELO, read the PING, send PONG.

        Raises:
            Denied: the PING is malformed, or the key, the user or the password is wrong.
            ConnectionError: the sender has closed the connection.
        """
        nonce, auth = secrets.token_bytes(_NONCE_BYTES), secrets.token_bytes(_NONCE_BYTES)
        connection.sendall(_pack(["HELO", {"nonce": _as_text(nonce), "auth": _as_text(auth)}]))
        data = connection.recv(_MAX_PING_BYTES)  # one read, like Fluent Bit: a PING in pieces is refused
        if not data:
            raise ConnectionAbortedError("closed before its PING")
        hostname, salt, key_digest, name, password_digest = _read_ping(data)
        if key_digest != _hex_digest(salt, hostname, nonce, self._key):
            raise Denied("shared_key mismatch")
        if self._users and not (name in self._users and password_digest == _hex_digest(auth, name, self._users[name])):
            connection.sendall(_pack(["PONG", False, "username/password mismatch", "", ""]))
            raise Denied("username/password mismatch")
        digest = _hex_digest(salt, self._hostname, nonce, self._key)
        connection.sendall(_pack(["PONG", True, "", self._hostname, digest]))


def _read_ping(data: bytes) -> list[str]:
    """Host name, salt, digest of the key, user name, digest of the password."""
    try:
        message = msgspec.msgpack.decode(data, type=list[str])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Denied("a PING in pieces, too long, or not six strings") from error
    if len(message) != 6 or message[0] != "PING":  # noqa: PLR2004
        raise Denied("not a PING")
    return message[1:]


def _hex_digest(*parts: str | bytes) -> str:
    return hashlib.sha512(b"".join(each if isinstance(each, bytes) else each.encode() for each in parts)).hexdigest()


def _as_text(data: bytes) -> str:
    """Random bytes to pack as str, although they are not UTF-8: Fluent Bit does so."""
    return data.decode("utf-8", "surrogateescape")


def _pack(message: list[Any]) -> bytes:
    packed: bytes = msgpack.packb(message, unicode_errors="surrogateescape")
    return packed
