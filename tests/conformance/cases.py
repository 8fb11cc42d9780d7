"""All cases, and where their recordings are."""

from __future__ import annotations

from pathlib import Path

from conformance.cases_connections import HANDSHAKES, OVER_TLS, PAUSES
from conformance.cases_modes import MODES, OPTIONS, TAGS
from conformance.cases_payloads import COMPRESSION, LIMITS, POISON
from conformance.cases_sender import SENDER
from conformance.cases_times import TIMES

CASES = (*MODES, *OPTIONS, *TAGS, *TIMES, *COMPRESSION, *LIMITS, *POISON, *HANDSHAKES, *OVER_TLS, *PAUSES, *SENDER)
NAMED = {case.name: case for case in CASES}
RECORDINGS = Path(__file__).parents[1] / "data" / "exchanges"


def recording(name: str) -> Path:
    """The file of a case."""
    return RECORDINGS / f"{name}.txt"
