"""Every shipped receiver configuration works in a real Fluent Bit, with the plugin settings that its header gives."""

from __future__ import annotations

import json
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from support.command import ROOT, wait_until
from support.fluent_bit import FluentBit, needs_fluent_bit

from in_jumpcloud.config.loader import load_config
from in_jumpcloud.errors import ReceiverDown
from in_jumpcloud.forward import wire
from in_jumpcloud.forward.sender import AckSender

pytestmark = needs_fluent_bit

RECEIVERS = [f"fluent-bit{kind}.{suffix}" for kind in ("", "-unix", "-tls") for suffix in ("yaml", "conf")]
TLS = [name for name in RECEIVERS if "-tls" in name]


class Receiver:
    """A Fluent Bit with a shipped configuration, and the plugin settings from the header of that file."""

    def __init__(self, name: str, directory: Path, socket_directory: Path, authority: trustme.CA) -> None:
        self.socket = socket_directory / "forward.sock"
        places = {
            "flush: 1\n": "flush: 0.1\n",
            "/run/fluent-bit/forward.sock": str(self.socket),
            "/etc/fluent-bit/tls": str(directory),
            "/etc/in-jumpcloud/tls": str(directory),
            "host: fluent-bit.example.com": "host: 127.0.0.1",
            "listen: 0.0.0.0": "listen: 127.0.0.1",
            "Listen                    0.0.0.0": "Listen 127.0.0.1",
        }
        text = (ROOT / "conf" / name).read_text()
        for place, ours in places.items():
            text = text.replace(place, ours)
        authority.cert_pem.write_to_path(directory / "ca.crt")
        for role, certificate in (
            ("server", authority.issue_cert("fluent-bit.example.com")),
            ("client", authority.issue_cert("jumpcloud")),
        ):
            certificate.private_key_pem.write_to_path(directory / f"{role}.key")
            certificate.cert_chain_pems[0].write_to_path(directory / f"{role}.crt")
        self.fluent_bit = FluentBit(directory, text, suffix=Path(name).suffix)
        self._ours = directory / "jumpcloud.yaml"
        self._ours.write_text(_advice(text).replace("24224", str(self.fluent_bit.port)))

    def deliver(self, *overrides: str, name: str = "one") -> None:
        """Deliver a record with this id, with the settings of the header, changed by `overrides`."""
        settings = load_config(self._ours, overrides, needs_key=False).forward
        sender = AckSender(settings.servers[0], settings)
        record = wire.pack_entry(1_767_225_600_123_456_789, {"event": {"id": name}})
        try:
            sender.deliver(wire.build_chunk("jumpcloud.events", record, 1), threading.Event())
        finally:
            sender.close()


def _advice(text: str) -> str:
    """The lines for conf/jumpcloud.yaml in the header of a receiver's configuration."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("# In conf/jumpcloud.yaml"):
            break
    advice = []
    for line in lines:
        if not line.startswith("#   "):
            break
        advice.append(line.removeprefix("#   "))
    return "\n".join(advice)


@pytest.fixture
def receiver(
    request: pytest.FixtureRequest, tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Receiver]:
    """A running receiver, with the configuration that the test names."""
    monkeypatch.setenv("FORWARD_SHARED_KEY", "the key")
    monkeypatch.setenv("FORWARD_PASSWORD", "the password")
    # The path of a unix socket must be short.
    with tempfile.TemporaryDirectory() as sockets:
        receiver = Receiver(request.param, tmp_path, Path(sockets), authority)
        with receiver.fluent_bit:
            yield receiver


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The CA that both sides trust."""
    return trustme.CA()


@pytest.mark.parametrize("receiver", RECEIVERS, indirect=True)
def test_a_record_is_delivered(receiver: Receiver) -> None:
    """The receiver acknowledges it and writes it to its output."""
    receiver.deliver()

    wait_until(lambda: receiver.fluent_bit.ids() == {"one": 1})


@pytest.mark.parametrize("receiver", [name for name in RECEIVERS if name.endswith("yaml")], indirect=True)
def test_acknowledged_records_survive_a_kill(receiver: Receiver) -> None:
    """Killed right after the ack and restarted, Fluent Bit writes the record."""
    receiver.deliver()
    receiver.fluent_bit.__exit__()
    receiver.fluent_bit.start()

    wait_until(lambda: "one" in receiver.fluent_bit.ids())


@pytest.mark.parametrize("receiver", ["fluent-bit-unix.yaml", "fluent-bit-unix.conf"], indirect=True)
def test_the_socket_is_for_its_owner_and_group(receiver: Receiver) -> None:
    """A process that can write to the socket can deliver, so other users cannot."""
    assert stat.S_IMODE(receiver.socket.stat().st_mode) == 0o660


@pytest.mark.parametrize("receiver", TLS, indirect=True)
def test_unauthorized_senders_are_refused(receiver: Receiver) -> None:
    """A wrong certificate, key, password or server name gets no ack."""
    differences: dict[str, dict[str, str | None]] = {
        "certificate required": {"forward.tls.cert_file": None, "forward.tls.key_file": None},
        "forward.shared_key": {"forward.shared_key": "another key"},
        "username/password mismatch": {"forward.password": "another password"},
        "another.example.com": {"forward.tls.server_name": "another.example.com"},
    }
    for reason, difference in differences.items():
        with pytest.raises(ReceiverDown, match=reason):
            receiver.deliver(*(f"{key}={json.dumps(value)}" for key, value in difference.items()), name="refused")

    receiver.deliver()
    wait_until(lambda: bool(receiver.fluent_bit.ids()))
    assert receiver.fluent_bit.ids() == {"one": 1}
