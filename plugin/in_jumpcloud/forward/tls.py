"""TLS towards a receiver: the context for the settings, the handshake, and what an error of the TLS library means."""

from __future__ import annotations

import errno
import socket
import ssl

from in_jumpcloud.config.schema import TlsSettings
from in_jumpcloud.errors import HandshakeRejected, ReceiverDown
from in_jumpcloud.forward.connection import TICK_SECONDS, IoDeadline
from in_jumpcloud.forward.protocols import WITHOUT_TLS, recognize_without_tls

# X509_V_ERR_* of OpenSSL; the ssl module does not export them.
_UNKNOWN_AUTHORITY = {18, 19, 20, 21}  # self-signed, or signed by an authority that we do not have
_OTHER_NAME = {62, 64}  # host name, IP address
_NOT_VALID_NOW = {9, 10}  # not yet, no longer
# SSL_R_* of OpenSSL, the same from 1.1.1 on: alerts of a receiver, named after the protocol that introduced them.
_CERTIFICATE_REFUSED = {
    "SSLV3_ALERT_BAD_CERTIFICATE",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED",
    "SSLV3_ALERT_CERTIFICATE_REVOKED",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    "SSLV3_ALERT_HANDSHAKE_FAILURE",
    "SSLV3_ALERT_NO_CERTIFICATE",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
    "TLSV1_ALERT_ACCESS_DENIED",
    "TLSV1_ALERT_UNKNOWN_CA",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED",
}
_VERSION_REFUSED = {"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"}

_RECORD_TYPES = {b"\x15", b"\x16"}
"""The first byte of a TLS server's answer: alert or handshake (RFC 8446, 5.1)."""

_PEEK_BYTES = 8


def tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """A client context of TLS 1.2 or later, with the certificates that `settings` name.

    Raises:
        OSError: a file cannot be read, or has no certificate, or no key that belongs to it.
    """
    context = ssl.create_default_context(cafile=settings.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.cert_file:
        # An empty passphrase makes an encrypted key an error; without it OpenSSL asks at the terminal.
        context.load_cert_chain(settings.cert_file, settings.key_file, password=lambda: b"")
    return context


def start_tls(
    connection: socket.socket, context: ssl.SSLContext, name: str | None, deadline: IoDeadline
) -> ssl.SSLSocket:
    """Do the TLS handshake with the receiver; `name` is the one that its certificate must have.

    Raises:
        HandshakeRejected: one side does not accept the certificate or the version of the other.
        ReceiverDown: the handshake failed for another reason; the receiver may not speak TLS.
    """
    connection.setblocking(False)
    secured = context.wrap_socket(connection, server_hostname=name, do_handshake_on_connect=False)
    is_tls = False
    try:
        while True:
            deadline.check()
            try:
                secured.do_handshake()  # the first time it sends the ClientHello
            except (ssl.SSLWantReadError, TimeoutError):
                secured.settimeout(TICK_SECONDS)
            else:
                secured.settimeout(TICK_SECONDS)
                return secured
            if not is_tls:
                # Libraries report a receiver without TLS in many ways; the first byte of its answer is certain.
                _require_tls(secured, deadline)
                is_tls = True
    except OSError as error:
        secured.close()
        cause = explain_io_error(error)
        if is_tls or isinstance(cause, HandshakeRejected):
            raise cause from None
        raise _not_tls(closed=cause.errno is not None) from None
    except BaseException:
        secured.close()  # wrap_socket detached `connection`
        raise


def _require_tls(secured: ssl.SSLSocket, deadline: IoDeadline) -> None:
    while True:
        deadline.check()
        try:
            first = socket.socket.recv(secured, _PEEK_BYTES, socket.MSG_PEEK)  # of the socket below TLS
        except TimeoutError:
            continue
        except OSError:
            first = b""
        if first[:1] not in _RECORD_TYPES:
            raise recognize_without_tls(first) or _not_tls(closed=not first)
        return


def _not_tls(*, closed: bool) -> ReceiverDown:
    action = "closed the connection" if closed else "sent something else"
    return ReceiverDown(
        f"expected a TLS handshake, but the receiver {action}",
        advice=f"does it speak TLS at this port? correct the port in forward.servers, or {WITHOUT_TLS}",
        errno=errno.ECONNRESET if closed else None,
    )


def explain_io_error(error: OSError) -> ReceiverDown:
    """The error to raise instead of one of the system or the TLS library: what failed, and which setting to change."""
    if not isinstance(error, ssl.SSLError):
        return ReceiverDown(str(error.strerror or error), errno=error.errno)
    if isinstance(error, ssl.SSLCertVerificationError):
        message = error.verify_message.rstrip(".")
        advice = _certificate_advice(error.verify_code)
        return HandshakeRejected(f"its certificate fails the check: {message}", advice=advice, stage="tls")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return ReceiverDown("it closed the connection without an answer", errno=errno.ECONNRESET)
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if error.reason in _CERTIFICATE_REFUSED:
        return HandshakeRejected(
            f"it refuses our certificate ({reason})",
            advice="check forward.tls.cert_file and key_file",
            stage="tls",
        )
    if error.reason in _VERSION_REFUSED:
        return HandshakeRejected(f"it does not speak TLS 1.2 or later ({reason})", stage="tls")
    return ReceiverDown(f"TLS: {reason}")


def _certificate_advice(verify_code: int) -> str:
    if verify_code in _UNKNOWN_AUTHORITY:
        return "set forward.tls.ca_file to the authority that signed it"
    if verify_code in _OTHER_NAME:
        return "set forward.tls.server_name to a name in the certificate"
    if verify_code in _NOT_VALID_NOW:
        return "renew it, or set this machine's clock"
    return "check forward.tls.ca_file and forward.tls.server_name"
