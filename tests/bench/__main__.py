"""The benchmark: the plugin, two scripts, a lower bound, Fluent Bit alone and an older commit, in interleaved runs.

    make bench
    make bench OPTIONS='--events 20000 --runs 3 --json figures.json'
    make bench OPTIONS='--against COMMIT'

Fluent Bit takes part if FLUENT_BIT names its binary, or it is on PATH.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench import fluent_bit
from bench.contenders import CONTENDERS, NEED_COMMIT, NEED_FLUENT_BIT, Field, Run, field, interleaved
from bench.processes import Failed

_TITLES = {
    "plugin": "in_jumpcloud",
    "before": "in_jumpcloud before",
    "same-record": "same-record script",
    "mapping": "mapping alone",
    "mapping-before": "mapping alone, before",
    "script": "plain script",
    "floor": "floor: decode and pack",
    "fluent-bit": "in_jumpcloud to Fluent Bit",
    "tail": "Fluent Bit: tail, Lua, geoip2",
}


class Medians(NamedTuple):
    """Medians over the runs of a contender: events/s, CPU µs per event, start in CPU s, peak in bytes.

    The cost of a run without events, the start, is subtracted from the first two.
    """

    rate: float
    cpu_us: float
    other_us: float
    start: float
    peak: float


def medians(runs: list[Run], events: int) -> Medians:
    """The median of each figure."""
    return Medians(
        rate=median(events / max(run.all.wall - run.none.wall, 1e-9) for run in runs),
        cpu_us=median((run.all.cpu - run.none.cpu) / events * 1e6 for run in runs),
        other_us=median(run.other_cpu / events * 1e6 for run in runs),
        start=median(run.none.cpu for run in runs),
        peak=median(run.all.peak for run in runs),
    )


_MEASURE_THEMSELVES = ("mapping", "mapping-before", "floor", "tail")
"""Without a throughput: the first three measure only their work, and the last stops only at whole seconds."""


def table(figures: dict[str, Medians]) -> str:
    """The medians as a Markdown table."""
    bases = ("before", "same-record", "floor")
    lines = [
        "| | events/s | CPU µs/event | of before | of same-record | of the floor | start, CPU s | peak MiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, each in figures.items():
        ratios = [f"{each.cpu_us / figures[base].cpu_us:.2f}" if base in figures else "" for base in bases]
        receiver = f" + {each.other_us:.1f} in Fluent Bit" if each.other_us else ""
        cells = [
            _TITLES[name],
            "" if name in _MEASURE_THEMSELVES else f"{each.rate:,.0f}",
            f"{each.cpu_us:.1f}{receiver}",
            *ratios,
            f"{each.start:.2f}" if each.start else "",
            f"{each.peak / 2**20:.0f}" if each.peak and each.start else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


_PARTS = (("plugin", "mapping"), ("before", "mapping-before"), ("same-record", "mapping"))
"""Contenders, and the mapping in each."""


def parts_table(figures: dict[str, Medians]) -> str:
    """The mapping and the rest of each contender, as a Markdown table; empty if nothing was measured for it."""
    lines = ["| CPU µs/event | all | mapping | the rest |", "|---|---:|---:|---:|"]
    for name, mapping in _PARTS:
        if name in figures and mapping in figures:
            whole, part = figures[name].cpu_us, figures[mapping].cpu_us
            lines.append(f"| {_TITLES[name]} | {whole:.1f} | {part:.1f} | {whole - part:.1f} |")
    return "\n".join(lines) if lines[2:] else ""


def by_stage(field: Field, events: int, directory: Path) -> dict[str, float]:
    """CPU µs per event by stage, from a separate run of the plugin."""
    result = directory / "stages.json"
    field.stages(result)
    seconds_by_stage = json.loads(result.read_text())
    spent = {**seconds_by_stage["stages"], "else": seconds_by_stage["else"]}
    return {name: seconds / events * 1e6 for name, seconds in spent.items()}


def stage_table(stages: dict[str, float]) -> str:
    """The stages as a Markdown table."""
    total = sum(stages.values())
    lines = ["| stage | CPU µs/event | share |", "|---|---:|---:|"]
    lines += [f"| {name} | {each:.1f} | {each / total:.0%} |" for name, each in stages.items()]
    return "\n".join(lines)


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the result


def _bench(arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    unavailable = fluent_bit.unavailable()
    names = [name for name in arguments.only or CONTENDERS if not (unavailable and name in NEED_FLUENT_BIT)]
    if not arguments.against:
        names = [name for name in names if name not in NEED_COMMIT]
    with field(directory, arguments.events, arguments.against) as shared:
        size = shared.path.stat().st_size / arguments.events
        _print(f"{arguments.events:,} events of {size:,.0f} bytes, {arguments.runs} runs")
        if unavailable:
            _print(f"without Fluent Bit: {unavailable}")

        def report(name: str, run: Run) -> None:
            cpu_us = (run.all.cpu - run.none.cpu) / arguments.events * 1e6
            _print(f"  {name}: {cpu_us:.1f} µs/event")

        results = interleaved(shared, names, arguments.runs, report)
        figures = {name: medians(runs, arguments.events) for name, runs in results.items()}
        _print(f"\n{table(figures)}")
        if parts := parts_table(figures):
            _print(f"\n{parts}")
        stages: dict[str, float] = {}
        if "plugin" in names:
            try:
                stages = by_stage(shared, arguments.events, directory)
                _print(f"\n{stage_table(stages)}")
            except Failed as error:  # keep the other figures
                _print(f"bench: {error}")
    return {
        "machine": {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()},
        "events": arguments.events,
        "bytes_per_event": size,
        "against": arguments.against,
        "without_fluent_bit": unavailable,
        "runs": {
            name: [{"all": run.all._asdict(), "none": run.none._asdict(), "other_cpu": run.other_cpu} for run in runs]
            for name, runs in results.items()
        },
        "medians": {name: each._asdict() for name, each in figures.items()},
        "stages_cpu_us": stages,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--against", metavar="COMMIT", help="compare with this commit too")
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), help="only these contenders")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="in-jumpcloud-bench-") as directory:
        try:
            figures = _bench(arguments, Path(directory))
        except Failed as error:
            sys.exit(f"bench: {error}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
