"""The lower bound: decode the same events from JSON and pack them as MessagePack, and nothing else."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgpack
import msgspec
from bench.events import EventFile

PAGE = 1000


def main() -> None:
    """Process all events of a file, or none, to measure the start."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--empty", action="store_true")
    arguments = parser.parse_args()
    events = EventFile(arguments.path)
    decode = msgspec.json.Decoder().decode
    pack = msgpack.Packer(autoreset=True).pack
    packed = 0
    for begin in range(0, 0 if arguments.empty else events.count, PAGE):
        for event in decode(events.page(begin, min(begin + PAGE, events.count))):
            pack(event)
            packed += 1
    print(packed)  # noqa: T201 - the parent process reads this


if __name__ == "__main__":
    main()
