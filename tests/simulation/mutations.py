"""Undoes each mend of the delivery path, one at a time, in a copy of the package, and names the seeds that find it.

`make simulation-mutations SEEDS=1000` prints a table. A mend that no seed misses is not proven by the simulation.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

_ENOUGH = 3
"""Seeds that find a mistake."""
PACKAGE = Path(__file__).parents[2] / "plugin" / "in_jumpcloud"


class Mutation(NamedTuple):
    """Replace `old` by `new` in `file`, and so each of `more`: the package then has this mistake again."""

    name: str
    file: str
    old: str
    new: str
    more: tuple[tuple[str, str, str], ...] = ()

    @property
    def changes(self) -> tuple[tuple[str, str, str], ...]:
        """Each file, with the text that is replaced there and its replacement."""
        return (self.file, self.old, self.new), *self.more


MUTATIONS = (
    Mutation(
        "the pager advances before the delivery",
        "poller.py",
        """        minutes = self._calls.pages.deliver(page, before, after, window.span, stop)
        pager.advance(page)
        self.position = after
""",
        """        pager.advance(page)
        self.position = after
        minutes = self._calls.pages.deliver(page, before, after, window.span, stop)
""",
    ),
    Mutation(
        "the position passes a page that is requested ahead",
        "poller.py",
        "window = self._planned.pop(0)",
        "window = self._planned.pop()",
        (("poller.py", "if window.start_ms == position.watermark_ms and ", "if "),),
    ),
    Mutation(
        "late work has no turns while polls are due",
        "collector.py",
        "        return self._polled_last\n",
        "        return False\n",
    ),
    Mutation(
        "comparisons begin a day before now",
        "insights/comparison.py",
        "due.append((share, Span(start_ms, end_ms, number)))",
        "due.append((share, Span(min(end_ms, max(start_ms, whole_minute(now_ms - DAY_MS))), end_ms, number)))",
    ),
    Mutation(
        "one re-read settles a minute",
        "insights/comparison.py",
        "exhausted = entry.tries > len(PAUSES)",
        "exhausted = True",
    ),
    Mutation(
        "a minute is not read again before it leaves the reach",
        "insights/comparison.py",
        "exhausted = entry.tries > len(PAUSES)",
        "exhausted = entry.tries > 3",
    ),
    Mutation(
        "counts are believed",
        "insights/comparison.py",
        "return lower < _MIN_LOWER or lower * 2 <= len(ours)",
        "return True",
    ),
    Mutation(
        "nothing is read again without counts",
        "reconciler.py",
        "if end_ms - from_ms < _REREAD_WITHOUT_COUNTS_MS:",
        "if end_ms >= 0:",
    ),
    Mutation(
        "backfills are not compared",
        "insights/comparison.py",
        "compared_ms = [origin_ms, *",
        "compared_ms = [max(origin_ms, whole_minute(now_ms)), *",
    ),
    Mutation(
        "only the last day is compared",
        "insights/comparison.py",
        "if each.newest_ms < reach_ms",
        "if each.newest_ms == 0",
    ),
    Mutation(
        "positions move by this machine's clock",
        "insights/clock.py",
        "return self._earlier(self._runtime.now_ms(), self._trusted)",
        "return self._runtime.now_ms()",
    ),
    Mutation(
        "a position in the future stays",
        "poller.py",
        "if position.newest_ms <= now_ms + WARN_SKEW_SECONDS * 1000:",
        "if position.newest_ms:",
    ),
    Mutation(
        "the wall clock prunes the ledger",
        "collector.py",
        "before_ms = min(wanted_ms, kept_ms + round(passed * _PRUNE_PACE * 1000))",
        "before_ms = self._runtime.now_ms() - 86_400_000",
    ),
    Mutation(
        "the origin of a new stream is final at once",
        "collector.py",
        "if self.position.provisional:",
        "if False:",
    ),
    Mutation(
        "a stream begins within a minute",
        "collector.py",
        "whole_minute(settings.jumpcloud.start.resolve(now_ms))",
        "whole_minute(0) + settings.jumpcloud.start.resolve(now_ms)",
    ),
    Mutation(
        "an event is its id",
        "insights/event.py",
        'digest = blake2b(f"{event_id}\\0{timestamp}\\0{event_type}".encode(), digest_size=DIGEST_BYTES).digest()',
        "digest = blake2b(event_id.encode(), digest_size=DIGEST_BYTES).digest()",
    ),
    Mutation(
        "a moving beginning of the plan is met with the same windows, from that beginning on",
        "plan_reach.py",
        "self._margin_ms = self._margin_ms, min(DAY_MS, 2 * self._margin_ms)",
        "self._margin_ms = self._margin_ms, 1 + MINUTE_MS",
        (("poller.py", "watermark_ms = max(limit_ms, reached_ms)", "watermark_ms = max(limit_ms, wanted_ms)"),),
    ),
    Mutation(
        "the position is committed before the ack",
        "pipeline.py",
        "                position = after if is_last else before\n",
        "                position = after\n",
    ),
    Mutation(
        "commits are not synced",
        "state/sqlite/database.py",
        'connection.execute("PRAGMA synchronous = FULL")',
        'connection.execute("PRAGMA synchronous = NORMAL")',
    ),
    Mutation(
        "the ledger does not learn of a failed COMMIT that took effect",
        "state/sqlite/ledger.py",
        "if contents:  # before the COMMIT",
        "if False:  # before the COMMIT",
    ),
    Mutation(
        "a suspect waits for another record",
        "pipeline.py",
        "                self._sender.idle(stop)\n",
        "",
    ),
    Mutation(
        "a full receiver's records are dead letters",
        "record_sender.py",
        "        if refusal and proofs < PROOFS:\n",
        "        if False:\n",
    ),
    Mutation(
        "a re-read without counts continues behind a span that failed",
        "reconciler.py",
        "            self._rereads.clear()  # they are read in order",
        "            pass  # they are read in order",
    ),
    Mutation(
        "a row that came twice stands for one that did not come",
        "insights/comparison.py",
        " and count <= known\n",
        "\n",
    ),
    Mutation(
        "the first tier of comparisons always comes first",
        "insights/comparison.py",
        "return max(due, default=(0, None), key=lambda each: each[0])[1]",
        "return due[0][1] if due else None",
    ),
    Mutation(
        "comparisons in the future stay",
        "insights/comparison.py",
        "self.compared_ms[number] = min(self.compared_ms[number], now_ms - tier.newest_ms)",
        "pass",
    ),
    Mutation(
        "a plan is known for ever",
        "plan_reach.py",
        "return self._ms if is_known else None",
        "return self._ms if is_known or True else None",
    ),
)


def apply(mutation: Mutation, package: Path) -> None:
    """Make the mistake in a copy of the package.

    Raises:
        ValueError: the text is not there once; the package has changed.
    """
    for file, old, new in mutation.changes:
        text = (package / file).read_text()
        if text.count(old) != 1:
            raise ValueError(f"{mutation.name}: {file} does not contain the text once: {old}")
        (package / file).write_text(text.replace(old, new))


def seeds_that_find(mutation: Mutation, seeds: int) -> tuple[list[int], int]:
    """The first seeds that fail with this mistake, and how many were run: at most `seeds`."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "in_jumpcloud"
        shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
        apply(mutation, package)
        done = subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, "-m", "simulation", str(seeds), "--no-shrink", "--enough", str(_ENOUGH)],
            cwd=Path(__file__).parents[1],
            env={**os.environ, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    found, ran = (re.findall(text, done.stdout, re.MULTILINE) for text in (r"^SEED=(\d+)", r"^(\d+) seeds, "))
    if not ran:
        raise SystemExit(f"{mutation.name}: the simulation did not run: {done.stderr}")
    return list(map(int, found)), int(ran[-1])


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=int, nargs="?", default=1000)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    unfound = 0
    for mutation in MUTATIONS:
        if options.only in mutation.name:
            found, ran = seeds_that_find(mutation, options.seeds)
            unfound += not found
            print(f"{len(found):2} of {ran:4}  {mutation.name}  {', '.join(map(str, found))}", flush=True)
    return bool(unfound)


if __name__ == "__main__":
    sys.exit(main())
