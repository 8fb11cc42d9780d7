"""A real Fluent Bit that starts in_jumpcloud by its `exec` input."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.fluent_bit import BINARY, needs_fluent_bit
from tools import exec_trial
from tools.exec_trial import Supervisor

from in_jumpcloud.simulator.api import SimulatedApi


def _has_exec() -> bool:
    if BINARY is None:
        return False
    options = subprocess.run([BINARY, "--help"], capture_output=True, check=True)  # noqa: S603
    return b" exec " in options.stdout


pytestmark = [needs_fluent_bit, pytest.mark.skipif(not _has_exec(), reason="this Fluent Bit has no exec input")]


@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", ["fluent-bit-exec.yaml", "fluent-bit-exec.conf"])
def test_a_backfill_survives_kills_and_reloads(tmp_path: Path, name: str) -> None:
    """Each id arrives after kills of both and a reload; each start succeeds; nothing runs after a SIGTERM.

    In-flight chunks may be sent again, one for each kill.
    """
    figures = exec_trial.backfill(tmp_path, name, events=20_000, rounds=1)
    print(figures)  # noqa: T201 - the figures are the point
    assert (figures.lost, figures.plugins_left) == (0, 0)
    assert figures.sent_twice <= len(exec_trial.ROUND) * exec_trial.PAGE_LIMIT
    log = (tmp_path / "plugin.log").read_text()
    assert log.count('"message":"in_jumpcloud ') >= len(exec_trial.ROUND)


@pytest.mark.timeout(100)
def test_one_run_delivers_and_exits_with_its_code(tmp_path: Path) -> None:
    """`oneshot`: Fluent Bit exits after the plugin, with its exit code, and has written each event."""
    events, expected = exec_trial.source(5000)
    with SimulatedApi(events) as api:
        once = Supervisor.between(tmp_path, "fluent-bit-exec-once.yaml", api)
        assert once.run() == 0
        ids = once.ids()
        assert len(ids) == sum(ids.values()) == expected
        assert once.run() == 0  # continues, so nothing comes again
        assert once.ids() == ids
        refused = Supervisor.between(tmp_path / "refused", "fluent-bit-exec-once.yaml", api, key="wrong")
        assert refused.run() == 3
    assert "401" in (refused.directory / "plugin.log").read_text()
