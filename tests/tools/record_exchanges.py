"""Record how a real Fluent Bit answers every case of the forward protocol.

    FLUENT_BIT=/path/to/fluent-bit python tests/tools/record_exchanges.py [NAME…]

The files in tests/data/exchanges/ are written anew; nonces aside they say the same each time. What Fluent Bit does
otherwise than the table of the cases says is shown, and not written.
"""

from __future__ import annotations

import difflib
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from conformance.case import Case, Receiver
from conformance.cases import CASES, recording
from conformance.certificates import Certificates
from conformance.exchange import Exchange
from conformance.handshake import Helo, comparable, lines_of
from conformance.peers import in_order
from conformance.play import play
from conformance.real import Real
from support.fluent_bit import BINARY


def main(names: list[str]) -> int:
    """Record the cases of these names, or all; how many differ from the table."""
    if BINARY is None:
        sys.exit("no Fluent Bit to record: set FLUENT_BIT, or put fluent-bit on PATH")
    cases: dict[str, list[Case]] = defaultdict(list)
    for case in CASES:
        if not names or case.name in names:
            # One that pauses is of no use for another case.
            cases[case.name if case.receiver.held else case.receiver.name].append(case)
    different = 0
    with tempfile.TemporaryDirectory() as directory:
        certificates = Certificates(Path(directory) / "certificates")
        for number, group in enumerate(cases.values()):
            with Real(group[0].receiver, certificates, Path(directory) / str(number)) as peer:
                different += sum(_record(case, peer) for case in group)
    return different


def _record(case: Case, peer: Real) -> bool:
    table = in_order(lines_of(case.steps, case.receiver.key, Helo()))
    happened = play(case, peer.connect, peer.resume)
    happened = in_order([*happened, *peer.ingested(sum(line.what == "ingested" for line in table))])
    expected = comparable(table, case)
    difference = list(difflib.unified_diff(expected, comparable(happened, case), "table", "Fluent Bit", lineterm=""))
    if difference:
        told = [f"{case.name}: not recorded, Fluent Bit does otherwise than the table says", *difference]
        sys.stdout.write("\n  ".join(told) + "\n")
        return True
    header = {
        "case": case.name,
        "why": case.why,
        "receiver": f"{Real.version()}, its in_forward with {_options(case.receiver)}",
        "made by": "tests/tools/record_exchanges.py",
        "lines": "> what the client sent, < what was answered, in hexadecimal; ingested: id, time and tag of a record",
    }
    Exchange(header, tuple(happened)).save(recording(case.name))
    return False


def _options(receiver: Receiver) -> str:
    options = dict(receiver.settings) | ({"tls": True} if receiver.tls else {})
    told = json.dumps(options) if options else "no options"
    if receiver.match != "*":
        told += f"; its output matches {receiver.match}"
    return told + ("; its output is held up until resume" if receiver.held else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) > 0)
