"""TLS towards a receiver: the context that the settings make, and what its errors mean to a person."""

from __future__ import annotations

import ssl

from in_jumpcloud.config.schema import TlsSettings
from in_jumpcloud.errors import HandshakeRejected, ReceiverDown

_NO_AUTHORITY = {18, 19, 20, 21}  # self-signed, or by somebody unknown
_OTHER_NAME = {62, 64}  # host name, IP address
_TIME = {9, 10}  # not yet, no longer
_OF_OUR_CERTIFICATE = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE")
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF", "HTTP_REQUEST", "PACKET_LENGTH")


def tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """At least TLS 1.2, with the certificates that `settings` name.

    Raises:
        OSError: a file cannot be read, or holds no certificate or key that fits; an SSLError is one.
    """
    made = ssl.create_default_context(cafile=settings.ca_file)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if not settings.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if settings.cert_file:
        # A key with a passphrase would ask for it at the terminal: an empty one makes that an error.
        made.load_cert_chain(settings.cert_file, settings.key_file, password=lambda: b"")
    return made


def explain_tls_error(error: ssl.SSLError) -> ReceiverDown:
    """What went wrong, which check it was, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = error.verify_message.rstrip(".")
        return HandshakeRejected(f"its certificate fails the check: {text}; {_advice(error.verify_code)}")
    reason = error.reason or str(error)
    said = reason.replace("_", " ").lower()
    if "ALERT" in reason and any(word in reason for word in _OF_OUR_CERTIFICATE):
        return HandshakeRejected(f"it refuses our certificate ({said}); check forward.tls.cert_file and key_file")
    if "ALERT" in reason and "VERSION" in reason:
        return HandshakeRejected(f"it speaks no TLS of version 1.2 or later ({said})")
    if any(word in reason for word in _NO_TLS):
        return ReceiverDown(f"the TLS handshake was cut short ({said}); does it speak TLS at this port?")
    return ReceiverDown(f"TLS: {said}")


def _advice(code: int) -> str:
    if code in _NO_AUTHORITY:
        return "set forward.tls.ca_file to the authority that signed it"
    if code in _OTHER_NAME:
        return "set forward.tls.server_name to a name that stands in it"
    if code in _TIME:
        return "renew it, or set this machine's clock"
    return "see what forward.tls.ca_file and server_name say"
