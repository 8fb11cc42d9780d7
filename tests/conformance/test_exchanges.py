"""Our sender in every recorded scenario: it sends the same bytes, and the receiver keeps the same records."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conformance.exchange import RECORDINGS
from conformance.peers import Peer, Real, Recorded, Simulated
from conformance.scenarios import CLIENT, SALT, SCENARIOS, Scenario
from support.certificates import Certificates
from support.fluent_bit import needs_fluent_bit
from support.senders import NEVER, SenderTo

from in_jumpcloud.config.schema import TlsSettings
from in_jumpcloud.forward import sender as sender_module
from in_jumpcloud.forward.handshake import ClientHandshake

KINDS = ("recorded", "simulated", pytest.param("real", marks=needs_fluent_bit))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario.name for scenario in SCENARIOS])
def test_scenario(
    scenario: Scenario,
    kind: str,
    certificates: Certificates,
    sender_to: SenderTo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The recording is followed byte for byte, every record comes out once, and an error says what it must say."""
    peer: Peer
    if kind == "real":
        welcome = scenario.sender if scenario.welcome is None else scenario.welcome
        peer = Real(tmp_path / "real", scenario.receiver, welcome, certificates if scenario.tls else None)
    else:
        peer = Recorded(scenario, certificates) if kind == "recorded" else Simulated(scenario, certificates)
    settings: dict[str, Any] = {"self_hostname": CLIENT, **scenario.sender}
    if scenario.tls:
        settings["tls"] = TlsSettings(enabled=True, ca_file=certificates.trusted)
    monkeypatch.setattr(sender_module, "ClientHandshake", partial(ClientHandshake, salt=SALT))
    monkeypatch.setattr(os, "urandom", bytes)  # the id of a probe; after the certificates, which need random numbers
    with peer:
        sender = sender_to(peer.port, **settings)
        if scenario.error is None:
            for chunk in scenario.chunks:
                sender.deliver(chunk, NEVER)
        else:
            with pytest.raises(scenario.error) as caught:
                sender.deliver(scenario.chunks[0], NEVER)
            assert bool(caught.value.reached) == scenario.reached
        sender.close()
        assert peer.ingested() == scenario.records
    assert not isinstance(peer, Recorded) or peer.failures == []


def test_every_recording_has_a_scenario() -> None:
    """No file is left over."""
    assert {path.stem for path in RECORDINGS.iterdir()} == {scenario.name for scenario in SCENARIOS}
