"""`make simulation`: run many seeds on all cores, and shrink the first that fails.

`python -m simulation SEEDS [FIRST]` runs SEEDS seeds from FIRST on; `python -m simulation --replay SEED` prints one.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from simulation.faults import NAMES
from simulation.run import Result, run_seed, shrink

LANDMARKS = (
    *NAMES,
    "a page is ahead",
    "a page ahead fails",
    "counts are ahead",
    "counts are behind",
    "a chunk arrived again",
    "killed between ack and commit",
    "owed for long",
)
"""What some seeds must reach: else the simulation proves less than it says."""
ENOUGH_SEEDS = 200
_PAGE_LINES = 60


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("seeds", type=int, nargs="?", default=1000)
    parser.add_argument("first", type=int, nargs="?", default=0)
    parser.add_argument("--replay", type=int)
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--enough", type=int, default=sys.maxsize, help="end after so many seeds that fail")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.replay is not None:
        result = run_seed(options.replay, keep_trace=True)
        print("\n".join(result.lines))
        print(_summary(result))
        return bool(result.failure)
    failed, landmarks = _run_all(options.first, options.seeds, options.workers, options.enough)
    for name in sorted(landmarks):
        print(f"{landmarks[name]:8} {name}")
    missing = [name for name in LANDMARKS if not landmarks[name]] if options.seeds >= ENOUGH_SEEDS else []
    if missing:
        print(f"never reached: {', '.join(missing)}")
    if failed and not options.no_shrink:
        print(f"{len(failed)} seeds fail; shrinking {failed[0].seed}")
        result, _ = shrink(failed[0].seed)
        print("\n".join(line[:200] for line in result.lines[-_PAGE_LINES:]))
        print(_summary(result))
    return bool(failed or missing)


def _run_all(first: int, seeds: int, workers: int, enough: int) -> tuple[list[Result], Counter[str]]:
    failed: list[Result] = []
    landmarks: Counter[str] = Counter()
    began = shown = time.monotonic()
    with ProcessPoolExecutor(workers) as pool:
        for number, result in enumerate(pool.map(run_seed, range(first, first + seeds), chunksize=4), 1):
            landmarks += result.landmarks
            if result.failure:
                failed.append(result)
                print(_summary(result), flush=True)
            is_last = number == seeds or len(failed) >= enough
            if time.monotonic() - shown > 10 or is_last:
                shown = time.monotonic()
                rate = number / (shown - began)
                print(f"{number} seeds, {rate:.1f} a second, {len(failed)} failed", flush=True)
            if is_last:
                pool.shutdown(cancel_futures=True)
                break
    return failed, landmarks


def _summary(result: Result) -> str:
    return f"SEED={result.seed} {result.failure or 'holds'} (hash {result.hash}; faults: {', '.join(result.faults)})"


if __name__ == "__main__":
    sys.exit(main())
