"""HELO, PING and PONG by hand, and an exchange with all masked in it that a nonce makes different each time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgpack
from conformance.case import Case, Ping, Pong, Step
from conformance.exchange import Line, shortened
from conformance.messages import pack

_SALT = 16


class Helo(NamedTuple):
    """What a HELO brings."""

    nonce: bytes = b"N" * _SALT
    auth: bytes = b"A" * _SALT

    @classmethod
    def of(cls, data: bytes) -> Helo:
        """Read one."""
        word, options = msgpack.unpackb(data, raw=True)
        assert word == b"HELO"
        assert list(options) == [b"nonce", b"auth"]
        return cls(options[b"nonce"], options[b"auth"])

    @property
    def data(self) -> bytes:
        """The bytes of it, as Fluent Bit packs them: both as str, whatever they are."""
        return b"\x92\xa4HELO\x82\xa5nonce\xb0" + self.nonce + b"\xa4auth\xb0" + self.auth


def ping_bytes(ping: Ping, helo: Helo) -> bytes:
    """The PING that answers this HELO."""
    digest = _digest(ping.salt, ping.hostname, helo.nonce, ping.key)
    return pack(["PING", ping.hostname, ping.salt, digest, ping.username, _password_digest(ping, helo)])


def pong_bytes(pong: Pong, ping: Ping, helo: Helo, key: str) -> bytes:
    """The PONG that answers this PING."""
    if not pong.accepted:
        return pack(["PONG", False, pong.reason, "", ""])
    return pack(["PONG", True, pong.reason, pong.hostname, _digest(ping.salt, pong.hostname, helo.nonce, key)])


def lines_of(steps: Iterable[Step], key: str | None, helo: Helo) -> Iterator[Line]:
    """The lines that these steps are where the receiver's HELO is this one."""
    last = Ping("")
    for step in steps:
        if isinstance(step, Ping):
            last = step
            data = ping_bytes(step, helo) + step.behind
            if step.cut_at is None:
                yield Line(">", data)
            else:
                yield from (Line(">", data[: step.cut_at]), Line("gap"), Line(">", data[step.cut_at :]))
        elif isinstance(step, Pong):
            assert key is not None
            yield Line("<", pong_bytes(step, last, helo, key))
        elif step == "HELO":
            yield Line("<", helo.data)
        else:
            yield step


def comparable(lines: Iterable[Line], case: Case) -> list[str]:
    """The lines as text. What comes of the nonce is replaced by one and the same, provided that it is right."""
    masks: dict[bytes, bytes] = {}
    texts = []
    for line in lines:
        if line.what == "<" and line.data.startswith(b"\x92\xa4HELO"):
            masks = _masks(case, Helo.of(line.data))
        data = line.data
        for secret, mask in masks.items():
            data = data.replace(secret, mask)
        texts.append(f"{line.what} {shortened(data) if line.data else line.text}".rstrip())
    return texts


def _masks(case: Case, helo: Helo) -> dict[bytes, bytes]:
    masks = {helo.nonce: b"N" * _SALT, helo.auth: b"A" * _SALT}
    for ping in (step for step in case.steps if isinstance(step, Ping)):
        masks[_digest(ping.salt, ping.hostname, helo.nonce, ping.key).encode()] = b"C" * 128
        masks[_password_digest(ping, helo).encode()] = b"P" * 128
        for pong in (step for step in case.steps if isinstance(step, Pong)):
            masks[_digest(ping.salt, pong.hostname, helo.nonce, case.receiver.key or "").encode()] = b"S" * 128
    return masks


def _password_digest(ping: Ping, helo: Helo) -> str:
    return _digest(helo.auth, ping.username, ping.password)


def _digest(*parts: str | bytes) -> str:
    return hashlib.sha512(b"".join(part if isinstance(part, bytes) else part.encode() for part in parts)).hexdigest()
