"""`in-jumpcloud simulate receiver` with a handshake and TLS, as users start it."""

from __future__ import annotations

import signal
import ssl
from contextlib import closing
from pathlib import Path

import pytest
import trustme
from support.command import Command, wait_until
from support.fluent_bit import free_port
from support.receivers import Peer, digest, packed, ping


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates and their keys, in one file and in two."""
    folder = tmp_path_factory.mktemp("certificates")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("localhost", "sender"):
        certificate = ca.issue_cert(name)
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.crt")
    (folder / "nothing.pem").write_text("nothing\n")
    return folder


def _tls(files: Path, *, certificate: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=files / "ca.pem")
    if certificate:
        context.load_cert_chain(files / "sender.pem")
    return context


def test_key_user_and_tls(command: Command, files: Path) -> None:
    """It asks for all of them, tells its name, and prints what it was sent."""
    port = free_port()
    options = ["--port", port, "--shared-key", "key", "--user", "eve:x", "--user", "alice:pass:word"]
    options += ["--self-hostname", "flb.local", "--tls-cert", files / "localhost.crt"]
    options += ["--tls-key", files / "localhost.key", "--tls-client-ca", files / "ca.pem"]
    process = command.start("simulate", "receiver", *options)
    wait_until(lambda: "receiving at" in command.log.read_text())

    with closing(Peer(("127.0.0.1", port), tls=_tls(files, certificate=True))) as peer:
        helo = peer.answer()
        peer.send(ping(helo, "key", "alice", "pass:word"))
        proof = digest("0123", "flb.local", helo[1]["nonce"], "key")
        assert peer.answer() == ["PONG", True, "", "flb.local", proof]
        assert peer.exchange(packed("a", chunk="c")) == "c"
    process.send_signal(signal.SIGTERM)

    assert process.wait(60) == 0
    assert b'"id":"a"' in command.output.read_bytes()


def test_an_empty_key_and_a_certificate_in_one_file(command: Command, files: Path) -> None:
    """The key may be empty, and without a CA for clients no certificate is asked for."""
    port = free_port()
    command.start(
        "simulate", "receiver", "--port", port, "--shared-key", "", "--tls-cert", files / "localhost.pem", "--quiet"
    )
    wait_until(lambda: "receiving at" in command.log.read_text())

    with closing(Peer(("127.0.0.1", port), tls=_tls(files))) as peer:
        peer.send(ping(peer.answer(), ""))
        assert peer.answer()[1] is True


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--user", "alice:pw"], "--user needs --shared-key"),
        (["--shared-key", "key", "--user", "alice"], "--user: expected NAME:PASSWORD"),
        (["--tls-key", "localhost.key"], "--tls-key needs --tls-cert"),
        (["--tls-client-ca", "ca.pem"], "--tls-client-ca needs --tls-cert"),
        (["--tls-cert", "missing.pem"], "missing.pem: No such file or directory"),
        (["--tls-cert", "."], "Is a directory"),
        (["--tls-cert", "localhost.crt", "--tls-key", "missing.key"], "missing.key: No such file or directory"),
        (["--tls-cert", "localhost.crt"], "expected a certificate and its key"),
        (["--tls-cert", "localhost.crt", "--tls-key", "sender.key"], "expected a certificate and its key"),
        (["--tls-cert", "nothing.pem"], "expected a certificate and its key"),
        (["--tls-cert", "localhost.pem", "--tls-client-ca", "nothing.pem"], "expected certificates as PEM"),
    ],
)
def test_what_is_wrong_gets_one_line(command: Command, files: Path, options: list[str], says: str) -> None:
    """It names the option and the file, and nothing is listened at."""
    named = [str(files / each) if each.endswith((".pem", ".key", ".crt", ".")) else each for each in options]
    done = command("simulate", "receiver", "--port", 0, *named)

    (line,) = done.stderr.decode().splitlines()
    assert says in line
    assert line.startswith("in-jumpcloud: --")
    assert done.returncode == 2
