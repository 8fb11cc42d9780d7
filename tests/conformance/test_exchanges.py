"""Every case of the forward protocol, byte for byte: the simulated receiver and a real one do as the recording says."""

from __future__ import annotations

import pytest
from conformance.case import Case
from conformance.cases import CASES, RECORDINGS, recording
from conformance.conftest import PeerFor
from conformance.exchange import Exchange, Line, lengthened, shortened
from conformance.handshake import Helo, comparable, lines_of
from conformance.messages import message_of
from conformance.peers import Simulated, in_order
from conformance.play import play

EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@EVERY_CASE
def test_it_answers_as_recorded(case: Case, peer_for: PeerFor) -> None:
    """What a Fluent Bit answered, when it closed, what it kept: the peer does the same."""
    recorded = Exchange.load(recording(case.name)).lines
    records = sum(line.what == "ingested" for line in recorded)
    peer = peer_for(case.name)
    simulated = isinstance(peer, Simulated)
    count = 0 if simulated and case.not_simulated else records

    happened = play(case, peer.connect, peer.resume)
    happened += peer.ingested(count)

    if simulated and case.not_simulated:
        happened = [line for line in happened if line.what != "ingested"]
        recorded = tuple(line for line in recorded if line.what != "ingested")
    assert comparable(in_order(happened), case) == comparable(recorded, case)


@EVERY_CASE
def test_the_recording_is_what_the_table_says(case: Case) -> None:
    """A recording is of this very case, and no case is without one."""
    exchange = Exchange.load(recording(case.name))

    expected = in_order(lines_of(case.steps, case.receiver.key, Helo()))

    assert exchange.header["case"] == case.name
    assert exchange.header["why"] == case.why
    assert comparable(exchange.lines, case) == comparable(expected, case)


def test_no_recording_is_left_over() -> None:
    """Every file is a case's, and small enough to be read."""
    files = {path.name: path.stat().st_size for path in RECORDINGS.iterdir()}

    assert set(files) == {recording(case.name).name for case in CASES}
    assert max(files.values()) < 8000


@pytest.mark.parametrize(
    "data", [b"", b"abc", b"x" * 500, b"ab" * 300 + b"c" * 5, message_of(2_000_000, "a", chunk="c")]
)
def test_a_file_gives_back_the_bytes(data: bytes) -> None:
    """However bytes are written down in short, the same are read."""
    short = shortened(data)

    assert lengthened(short) == data
    assert len(short) < 200


def test_a_wrong_digest_is_not_masked() -> None:
    """A comparison forgives another nonce, but no digest that does not fit it."""
    case = next(case for case in CASES if case.name == "key")
    right = list(lines_of(case.steps, "s3cr3t", Helo()))
    other_nonce = list(lines_of(case.steps, "s3cr3t", Helo(b"n" * 16, b"a" * 16)))
    wrong = [Line(line.what, line.data[:-1] + b"x") if b"PONG" in line.data else line for line in right]

    assert comparable(other_nonce, case) == comparable(right, case)
    assert comparable(wrong, case) != comparable(right, case)
