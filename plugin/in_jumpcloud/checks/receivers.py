"""Checks of a receiver: its name, the connection, TLS, the handshake, and optionally an ack."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator

import msgspec

from in_jumpcloud.checks.peer import begin_message, identify, listen
from in_jumpcloud.checks.result import CONFIGURATION, RECEIVER, CheckResult, failed, ok, warning
from in_jumpcloud.config.schema import ForwardSettings, ServerSettings, TlsSettings
from in_jumpcloud.config.types import Duration
from in_jumpcloud.errors import HandshakeRejected, ReceiverDown
from in_jumpcloud.forward import wire
from in_jumpcloud.forward.sender import AckSender
from in_jumpcloud.forward.wire import AckReader

_MAX_CONNECT_TIMEOUT, _MAX_ACK_TIMEOUT = Duration(5), Duration(12)
_CERTIFICATE_WARNING_SECONDS = 14 * 86_400
_DAY_SECONDS = 86_400


def check_receiver(
    server: ServerSettings, settings: ForwardSettings, stop: threading.Event, *, probe: bool
) -> Iterator[CheckResult]:
    """Connect to the receiver as the plugin does. With `probe`, send one message without records."""
    limited = msgspec.structs.replace(
        settings,
        connect_timeout=min(settings.connect_timeout, _MAX_CONNECT_TIMEOUT),
        ack_timeout=min(settings.ack_timeout, _MAX_ACK_TIMEOUT),
    )
    try:
        sender = AckSender(server, limited)
    except OSError as error:
        yield failed("receiver", f"{server}: forward.tls: {error.strerror or error}", code=CONFIGURATION)
        return
    try:
        sender.connect(stop)
        done = ["connected"]
        if isinstance(sender.socket, ssl.SSLSocket):
            yield from _check_certificate(server, settings.tls, sender.socket)
            done.append(str(sender.socket.version()))
        if settings.shared_key is not None:
            done.append("handshake completed")
        else:
            _require_no_handshake(server, sender.socket, stop, probe=probe)
        if probe:
            sender.deliver(wire.build_probe(wire.PROBE_TAG), stop)
            done.append("a message without records acknowledged")
        else:
            done.append("no message sent (use --probe)")
    except ReceiverDown as error:
        other = None
        if error.stage not in {"resolve", "connect"} and not isinstance(error, HandshakeRejected):
            other = identify(server, stop, uses_tls=settings.tls.enabled)
        if other:
            error = ReceiverDown(f"receiver {server}: {other.message}", advice=other.advice)
        yield failed("receiver", error, code=RECEIVER)
    else:
        yield ok("receiver", f"{server}: {', '.join(done)}")
    finally:
        sender.close()


def _require_no_handshake(
    server: ServerSettings, connected: socket.socket, stop: threading.Event, *, probe: bool
) -> None:
    """Wait for a HELO that the settings do not expect, and begin a message unless a `probe` follows.

    Raises:
        ReceiverDown: it begins a handshake, sends something else, or closes the connection.
    """
    answer = listen(connected, stop)
    if answer == "closed":
        raise ReceiverDown(f"receiver {server}: it closed the connection at once, as a paused one may do")
    if answer == "silent" and not probe:
        answer = begin_message(connected, stop)
    if answer == "closed":
        raise ReceiverDown(f"receiver {server}: it closed the connection when a message began", advice="see its log")
    if isinstance(answer, bytes):
        try:
            AckReader().feed(answer)
        except ReceiverDown as error:
            raise type(error)(f"receiver {server}: {error.message}", advice=error.advice) from None
        raise ReceiverDown(f"receiver {server}: sent data that is not the forward protocol")


def _check_certificate(
    server: ServerSettings, settings: TlsSettings, connected: ssl.SSLSocket
) -> Iterator[CheckResult]:
    if not settings.verify:
        advice = "set forward.tls.ca_file and forward.tls.verify: true"
        yield warning("receiver", f"{server}: certificate not verified (forward.tls.verify is false)", advice)
        return
    certificate = connected.getpeercert() or {}
    not_after = str(certificate.get("notAfter", ""))
    if not not_after:
        return
    left = ssl.cert_time_to_seconds(not_after) - time.time()
    if left < _CERTIFICATE_WARNING_SECONDS:
        message = f"{server}: certificate expires in {left / _DAY_SECONDS:.0f} days, on {not_after}"
        yield warning("receiver", message, "renew it")
    else:
        yield ok("receiver", f"{server}: certificate is trusted, and valid until {not_after}")
