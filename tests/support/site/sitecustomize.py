"""Shifts the clock of a process that a test starts: Python imports this module from PYTHONPATH before anything else."""

from __future__ import annotations

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).parents[1] / "clock.py"), run_name="support.clock")["install"]()
