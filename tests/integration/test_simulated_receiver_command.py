"""`in-jumpcloud simulate receiver` with a handshake and TLS."""

from __future__ import annotations

import re
import signal
import ssl
from contextlib import closing
from pathlib import Path

import trustme
from support.command import Command, wait_until
from support.receivers import Peer, packed, ping


def test_handshake_and_tls(command: Command, tmp_path: Path) -> None:
    """With an empty shared key, and certificate and key in one file."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")

    options = ("--port", 0, "--shared-key", "", "--tls-cert", tmp_path / "both.pem")
    process = command.start("simulate", "receiver", *options)
    wait_until(lambda: "receiving at" in command.log.read_text())
    (port,) = re.findall(r"receiving at 127\.0\.0\.1:(\d+);", command.log.read_text())
    with closing(Peer(("127.0.0.1", int(port)), tls=context)) as peer:
        peer.send(ping(peer.answer(), ""))
        assert peer.answer()[1] is True
        assert peer.exchange(packed("a", chunk="c")) == "c"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert b'"id":"a"' in command.output.read_bytes()
