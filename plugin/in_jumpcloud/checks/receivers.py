"""Checks of one receiver: its name, the connection, TLS, the handshake, and, if asked for, an ack."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import msgspec

from in_jumpcloud.checks.result import CONFIGURATION, RECEIVER, CheckResult, failed, ok, warning
from in_jumpcloud.config.schema import ForwardSettings, ServerSettings, TlsSettings
from in_jumpcloud.config.types import Duration
from in_jumpcloud.errors import InJumpCloudError, ReceiverDown
from in_jumpcloud.forward import connection, wire
from in_jumpcloud.forward.connection import IoDeadline
from in_jumpcloud.forward.sender import AckSender
from in_jumpcloud.forward.wire import AckReader

_CONNECT, _ANSWER = Duration(5), Duration(12)
_GREETING = 0.5
"""Seconds that a receiver has to ask for a handshake that nobody told us of."""
_EXPIRES_SOON = 14 * 86_400
_ADVICE = {  # by what the system says
    os.strerror(errno.ECONNREFUSED): "nobody listens there: start the receiver, or correct forward.servers",
    os.strerror(errno.ENOENT): "there is no such socket: start the receiver, or correct forward.servers",
    os.strerror(errno.EACCES): "let this user use the socket: unix_perm of Fluent Bit's input, or its group",
    os.strerror(errno.EHOSTUNREACH): "correct forward.servers, or the way there",
    os.strerror(errno.ENETUNREACH): "correct forward.servers, or the way there",
    "no connection within": "a wrong address in forward.servers, or a firewall between",
    "before the ack": "does it speak TLS at this port? see forward.tls.enabled, and the receiver's own log",
    "no ack within": "it is paused, or is no forward receiver; see its log",
}


def check_receiver(
    server: ServerSettings, settings: ForwardSettings, stop: threading.Event, *, probe: bool
) -> Iterator[CheckResult]:
    """Reach it as the plugin does, on a connection of our own. With `probe` send one message without records."""
    try:
        if server.host:
            socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        advice = "correct the name in forward.servers, or this machine's name server"
        yield failed("receiver", f"{server}: the name has no address: {reason}", advice, RECEIVER)
        return
    brief = msgspec.structs.replace(
        settings,
        connect_timeout=min(settings.connect_timeout, _CONNECT),
        ack_timeout=min(settings.ack_timeout, _ANSWER),
    )
    try:
        sender = AckSender(server, brief)
    except OSError as error:
        yield failed("receiver", f"{server}: forward.tls: {error.strerror or error}", code=CONFIGURATION)
        return
    try:
        sender.connect(stop)
        told = ["connected"]
        if isinstance(sender.socket, ssl.SSLSocket):
            yield from _certificate(server, settings.tls, sender.socket)
            told.append(str(sender.socket.version()))
        if settings.shared_key is not None:
            told.append("handshake held")
        else:
            _require_silence(server, sender.socket, stop)
        if probe:
            sender.deliver(wire.build_probe(wire.PROBE_TAG), stop)
            told.append("a message without records acknowledged")
        else:
            told.append("no message sent (--probe does)")
    except ReceiverDown as error:
        advice = next((advice for words, advice in _ADVICE.items() if words in str(error)), "")
        yield failed("receiver", str(error).removeprefix("receiver "), advice, RECEIVER)
    else:
        yield ok("receiver", f"{server}: {', '.join(told)}")
    finally:
        sender.close()


class _Silent(InJumpCloudError):
    """It said nothing, as who wants no handshake does."""


def _require_silence(server: ServerSettings, connected: socket.socket, stop: threading.Event) -> None:
    """Raise ReceiverDown where it asks for a handshake, or hangs up."""
    try:
        data = connection.receive(connected, IoDeadline(_GREETING, stop, _Silent()))
    except _Silent:
        return
    if not data:
        raise ReceiverDown(f"{server}: it closed the connection at once, as one that is paused may do")
    try:
        AckReader().feed(data)
    except ReceiverDown as error:
        raise type(error)(f"{server}: {error}") from None
    raise ReceiverDown(f"{server}: it speaks first, and not the forward protocol")


def _certificate(server: ServerSettings, settings: TlsSettings, connected: ssl.SSLSocket) -> Iterator[CheckResult]:
    if not settings.verify:
        advice = "set forward.tls.ca_file and forward.tls.verify: true"
        yield warning("receiver", f"{server}: its certificate is not looked at (forward.tls.verify is false)", advice)
        return
    certificate = connected.getpeercert() or {}
    until = str(certificate.get("notAfter", ""))
    left = ssl.cert_time_to_seconds(until) - time.time() if until else float("inf")
    if left < _EXPIRES_SOON:
        yield warning("receiver", f"{server}: its certificate expires in {left / 86_400:.0f} days, {until}", "renew it")
    elif until:
        yield ok("receiver", f"{server}: its certificate is trusted, until {until}")
