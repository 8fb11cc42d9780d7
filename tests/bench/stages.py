"""CPU time of the plugin by stage, from a separate run in which functions of the package are timed from outside.

Arguments: the file for the result, as JSON, then those of `in-jumpcloud`. The time of a stage excludes the stages
that it calls. The cost of the timing itself is measured first and subtracted.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

_thread_time, _wall_time = time.thread_time_ns, time.perf_counter_ns
_MARKS = (
    ("fetch", _thread_time, "in_jumpcloud.insights.transport", "Transport.post"),
    ("decode", _thread_time, "in_jumpcloud.insights.api", "split_page"),
    ("decode", _wall_time, "in_jumpcloud.pipeline", "parse_event"),
    ("map", _wall_time, "in_jumpcloud.ecs.mapper", "Mapper.map"),
    ("geo", _wall_time, "in_jumpcloud.ecs.geoip", "GeoIPLookup.lookup"),
    ("encode", _wall_time, "in_jumpcloud.ecs.encoder", "RecordEncoder.encode"),
    ("pack", _thread_time, "in_jumpcloud.forward.wire", "build_chunk"),
    ("send and ack", _thread_time, "in_jumpcloud.forward.failover", "Failover.deliver"),
    ("ledger", _thread_time, "in_jumpcloud.state.store", "StateStore.delivered"),
    ("ledger", _thread_time, "in_jumpcloud.state.store", "StateStore.commit"),
    ("ledger", _thread_time, "in_jumpcloud.state.store", "StateStore.prune"),
    ("ledger", _thread_time, "in_jumpcloud.state.store", "StateReader.counts"),
)
"""Stage, clock, module, and the function that is timed.

The clock of the thread's CPU time is right for functions that wait. It costs ten times as much as the wall clock, which
is used for functions that are called for each event and never wait.
"""
STAGES = tuple(dict.fromkeys(stage for stage, _, _, _ in _MARKS))
_CALIBRATION_CALLS = 50_000


class _Overhead(NamedTuple):
    """Nanoseconds that the timing of a call adds to its own stage, and to the calling stage."""

    inside: float
    outside: float


class Stopwatch:
    """Sums up the nanoseconds and the number of calls of the timed functions, by stage."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.times: dict[str, int] = {}
        self._overhead = _Overhead(0, 0)
        self._local = threading.local()
        self._lock = threading.Lock()

    def timed(self, stage: str, now: Callable[[], int], function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, with its time by the clock `now` added to `stage`."""
        local = self._local

        @functools.wraps(function)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            outer = getattr(local, "inner", None)  # time and calls of the stages that the calling stage has called
            local.inner = [0, 0]
            began = now()
            try:
                return function(*arguments, **named)
            finally:
                took = now() - began
                inner, calls = local.inner
                own = took - inner - self._overhead.inside - calls * self._overhead.outside
                with self._lock:
                    self.spent[stage] = self.spent.get(stage, 0) + own
                    self.times[stage] = self.times.get(stage, 0) + 1
                local.inner = outer
                if outer is not None:
                    outer[0] += took
                    outer[1] += 1

        return wrapper

    def calibrate(self) -> int:
        """Measure the cost of timing; returns the nanoseconds that it adds to a call."""

        def nothing() -> None:
            pass

        def repeat(function: Callable[[], None]) -> int:
            began = _wall_time()
            for _ in range(_CALIBRATION_CALLS):
                function()
            return _wall_time() - began

        bare, marked = repeat(nothing), self.timed("calibration", _wall_time, nothing)
        timed = repeat(marked)
        inside = self.spent.pop("calibration") / self.times.pop("calibration")
        each = (timed - bare) / _CALIBRATION_CALLS
        self._overhead = _Overhead(inside, each - inside)
        return round(each)


def _mark(stopwatch: Stopwatch) -> None:
    """Time every function of _MARKS."""
    for stage, clock, module, path in _MARKS:
        *owners, name = path.split(".")
        owner: Any = importlib.import_module(module)
        try:
            for each in owners:
                owner = getattr(owner, each)
            setattr(owner, name, stopwatch.timed(stage, clock, getattr(owner, name)))
        except AttributeError:
            sys.exit(f"stages: {module} has no {path} (stage {stage}); update _MARKS in tests/bench/stages.py")


def main() -> None:
    """Run the command and write the seconds by stage, of the start, and of everything else."""
    result, arguments = Path(sys.argv[1]), sys.argv[2:]
    stopwatch = Stopwatch()
    each_ns = stopwatch.calibrate()
    _mark(stopwatch)
    app = importlib.import_module("in_jumpcloud.app")
    start: list[float] = []
    run = app.App.run

    def begun(self: Any, *rest: Any) -> Any:
        start.append(time.process_time())
        return run(self, *rest)

    app.App.run = begun
    sys.argv = ["in-jumpcloud", *arguments]
    try:
        importlib.import_module("in_jumpcloud.cli").main()
    finally:
        timing = sum(stopwatch.times.values()) * each_ns / 1e9
        total = time.process_time() - timing
        stages = {stage: stopwatch.spent.get(stage, 0) / 1e9 for stage in STAGES}
        rest = total - start[0] - sum(stages.values()) if start else 0.0
        seconds = {
            "start": start[0] if start else total,
            "stages": stages,
            "else": rest,
            "timing": timing,
        }
        result.write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
