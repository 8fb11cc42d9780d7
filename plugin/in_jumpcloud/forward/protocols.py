"""Recognizes, by its first bytes, a receiver that speaks another protocol than the settings say."""

from __future__ import annotations

from in_jumpcloud.errors import ReceiverDown

WITHOUT_TLS = "set forward.tls.enabled to false, or enable TLS in the receiver"
WITH_TLS = "set forward.tls.enabled to true, or disable TLS in the receiver"
_PORT = "correct the port in forward.servers"
_PROTOCOLS = (
    (b"HTTP/", "it is an HTTP server, not a forward receiver", _PORT),
    (b"<", "it sent a page, as an HTTP server does", _PORT),
    (b"SSH-", "it is an SSH server, not a forward receiver", _PORT),
    (b"\x15\x03", "it expects TLS", WITH_TLS),  # an alert (RFC 8446, 6)
)
_BEGINNING_OF_HELO = b"\x92\xa4HELO"


def recognize(answer: bytes) -> ReceiverDown | None:
    """The error for what a receiver answers first, without TLS or inside it; None if it may be the forward protocol."""
    for beginning, what, advice in _PROTOCOLS:
        if answer.startswith(beginning):
            return ReceiverDown(what, advice=advice)
    return None


def recognize_without_tls(answer: bytes) -> ReceiverDown | None:
    """The same for the answer to the beginning of TLS."""
    if answer.startswith(_BEGINNING_OF_HELO):
        return ReceiverDown("it began the forward protocol without TLS", advice=WITHOUT_TLS)
    return recognize(answer)
