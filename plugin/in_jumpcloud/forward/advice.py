"""What to do about a receiver that fails, by the stage and the system's error code."""

from __future__ import annotations

import errno

from in_jumpcloud.errors import ReceiverDown, ReceiverStage
from in_jumpcloud.forward.protocols import WITH_TLS

_NAME = "correct the name in forward.servers, or the DNS of this machine"
_ADDRESS = "correct forward.servers, or the network route"
_PORT = "is it a forward receiver? correct the port in forward.servers; see its log"
_TLS = f"does it expect TLS at this port? {WITH_TLS}; see its log"
_ADVICE = {
    ("connect", errno.ECONNREFUSED): "nothing listens there: start the receiver, or correct forward.servers",
    ("connect", errno.ENOENT): "there is no such socket: start the receiver, or correct forward.servers",
    ("connect", errno.EACCES): "allow this user to use the socket: see unix_perm of Fluent Bit's input, or its group",
    ("connect", errno.EHOSTUNREACH): _ADDRESS,
    ("connect", errno.ENETUNREACH): _ADDRESS,
    ("connect", errno.ETIMEDOUT): "the address in forward.servers is wrong, or a firewall is in between",
    ("handshake", errno.ETIMEDOUT): "check the port in forward.servers, forward.shared_key and forward.tls.enabled",
    ("ack", errno.ETIMEDOUT): "it is paused, or is not a forward receiver; see its log",
}


def advise(error: ReceiverDown, stage: ReceiverStage, *, has_answered: bool, uses_tls: bool) -> str:
    """What to do about `error` at `stage`.

    `has_answered`: the receiver has shaken hands or acknowledged before, so the settings fit it.
    """
    if error.advice:
        return error.advice
    if stage == "resolve":
        return _NAME
    if stage in {"send", "ack"} and error.errno == errno.ECONNRESET and not has_answered:
        return _PORT if uses_tls else _TLS
    return _ADVICE.get((stage, error.errno or 0), "")
