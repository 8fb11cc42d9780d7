"""`in-jumpcloud simulate receiver` with a handshake and TLS."""

from __future__ import annotations

import re
import signal
import ssl
from contextlib import closing
from pathlib import Path

import trustme
from support.command import Command, wait_until
from support.receivers import Peer, digest, packed, ping


def test_handshake_and_tls(command: Command, tmp_path: Path) -> None:
    """With a key, users and certificates in two files; or with an empty key and no client certificate."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    server, client = ca.issue_cert("localhost"), ca.issue_cert("sender")
    server.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    server.private_key_pem.write_to_path(tmp_path / "server.key")
    server.cert_chain_pems[0].write_to_path(tmp_path / "server.crt")
    client.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")

    command.start("simulate", "receiver", "--port", 0, "--shared-key", "", "--tls-cert", tmp_path / "both.pem")
    wait_until(lambda: "receiving at" in command.log.read_text())
    with closing(Peer(("127.0.0.1", _ports(command)[-1]), tls=context)) as peer:
        peer.send(ping(peer.answer(), ""))
        assert peer.answer()[1] is True

    options = ["--port", 0, "--shared-key", "key", "--user", "eve:x", "--user", "alice:pass:word"]
    options += ["--self-hostname", "flb.local", "--tls-cert", tmp_path / "server.crt"]
    options += ["--tls-key", tmp_path / "server.key", "--tls-client-ca", tmp_path / "ca.pem"]
    process = command.start("simulate", "receiver", *options)
    wait_until(lambda: len(_ports(command)) == 2)
    context.load_cert_chain(tmp_path / "client.pem")
    with closing(Peer(("127.0.0.1", _ports(command)[-1]), tls=context)) as peer:
        helo = peer.answer()
        peer.send(ping(helo, "key", "alice", "pass:word"))
        proof = digest("0123", "flb.local", helo[1]["nonce"], "key")
        assert peer.answer() == ["PONG", True, "", "flb.local", proof]
        assert peer.exchange(packed("a", chunk="c")) == "c"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert b'"id":"a"' in command.output.read_bytes()


def _ports(command: Command) -> list[int]:
    return [int(port) for port in re.findall(r"receiving at 127\.0\.0\.1:(\d+);", command.log.read_text())]
