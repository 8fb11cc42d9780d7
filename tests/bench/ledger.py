"""Fills a ledger with millions of ids as the plugin does, measures it, and prints JSON."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from statistics import median

from in_jumpcloud.insights.event import EventKey
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state.sqlite.store import SqliteStore

STREAM = "default"
MINUTES = 72 * 60
CHUNK = 1000
_FILL = 100_000
_TIMED = 50


def fill(path: Path, count: int) -> dict[str, float]:
    """Put `count` ids of three days into a new ledger.

    Returns:
        bytes per id; milliseconds to commit a chunk of 1,000 ids in an empty and in the full ledger, to look up 1,000,
        to prune the oldest minute, and to open the ledger
    """
    position = Position.starting_at(0)
    first_minute = time.time_ns() // 60_000_000_000 - MINUTES
    with SqliteStore(path, new_agent_id="bench") as state:

        def committed(begin: int) -> float:
            keys = _keys(begin, CHUNK, count, first_minute)
            began = time.perf_counter()
            state.commit(STREAM, keys, position)
            return (time.perf_counter() - began) * 1000

        empty = [committed(number * CHUNK) for number in range(_TIMED)]
        for begin in range(_TIMED * CHUNK, count - _TIMED * CHUNK, _FILL):
            size = min(_FILL, count - _TIMED * CHUNK - begin)
            state.commit(STREAM, _keys(begin, size, count, first_minute), position)
        full = [committed(count - (number + 1) * CHUNK) for number in range(_TIMED)]
        looked_up = []
        for number in range(_TIMED):
            keys = _keys(number * (count // _TIMED), CHUNK, count, first_minute)
            began = time.perf_counter()
            known = state.delivered(STREAM, keys)
            looked_up.append((time.perf_counter() - began) * 1000)
            assert len(known) == CHUNK
        began = time.perf_counter()
        pruned = state.prune(STREAM, (first_minute + 1) * 60_000)
        prune = (time.perf_counter() - began) * 1000
    began = time.perf_counter()
    with SqliteStore(path, new_agent_id="bench"):
        opened = (time.perf_counter() - began) * 1000
    return {
        "ids": count,
        "bytes_per_id": path.stat().st_size / count,
        "commit_empty_ms": median(empty),
        "commit_full_ms": median(full),
        "look_up_ms": median(looked_up),
        "prune_ms": prune,
        "pruned": pruned,
        "open_ms": opened,
    }


def _keys(begin: int, size: int, count: int, first_minute: int) -> list[EventKey]:
    """`size` keys from number `begin`, spread evenly over three days."""
    return [
        EventKey(first_minute + number * MINUTES // count, hashlib.blake2b(b"%d" % number, digest_size=16).digest())
        for number in range(begin, begin + size)
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("ids", type=int)
    arguments = parser.parse_args()
    print(json.dumps(fill(arguments.path, arguments.ids)))  # noqa: T201 - the parent process reads this


if __name__ == "__main__":
    main()
