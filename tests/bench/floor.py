"""The lower bound: decode the events from JSON and pack their mapped records as MessagePack, and nothing else.

The mapping between the two is not measured. Prints the number of records, and the CPU seconds of decoding and packing.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import msgspec
from bench.events import EventFile
from bench.mapping import PAGE, mapper, read_page

from in_jumpcloud.insights.event import parse_event


def main() -> None:
    """Process all events of a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    events = EventFile(parser.parse_args().path)
    decode, pack, ecs = msgspec.json.Decoder().decode, msgspec.msgpack.Encoder().encode, mapper()
    records, cpu = 0, 0.0
    for begin in range(0, events.count, PAGE):
        page, raws = read_page(events, begin)
        bodies = [ecs.map(parse_event(raw), 0).body for raw in raws]
        began = time.process_time()
        decode(page)
        for body in bodies:
            pack(body)
        cpu += time.process_time() - began
        records += len(bodies)
    print(json.dumps({"records": records, "cpu": cpu}))  # noqa: T201 - the parent process reads this


if __name__ == "__main__":
    main()
