"""Our sender, made for a receiver of the cases."""

from __future__ import annotations

from typing import Any

from conformance.case import Ping
from conformance.peers import Peer

from in_jumpcloud.config.schema import ForwardSettings, ServerSettings, TlsSettings
from in_jumpcloud.config.types import Duration, Secret
from in_jumpcloud.forward.sender import AckSender

PATIENCE = Duration(20)


def sender_to(
    peer: Peer | int,
    *,
    shared_key: str | None = None,
    password: str | None = None,
    ack_timeout: float = PATIENCE,
    **settings: Any,
) -> AckSender:
    """A sender to this receiver, or to this port, with the name that the cases have for their client."""
    server = ServerSettings(host="127.0.0.1", port=peer if isinstance(peer, int) else peer.port)
    if isinstance(peer, Peer) and peer.receiver.tls and "tls" not in settings:
        settings["tls"] = TlsSettings(enabled=True, ca_file=peer.certificates.authority)
    made = ForwardSettings(
        servers=(server,),
        self_hostname=Ping("").hostname,
        shared_key=None if shared_key is None else Secret(shared_key),
        password=None if password is None else Secret(password),
        ack_timeout=Duration(ack_timeout),
        **settings,
    )
    return AckSender(server, made)
