"""Many organizations in one process."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from support.command import wait_until
from support.streams import stream_settings

from in_jumpcloud import app
from in_jumpcloud.resources import Outside
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import HOUR_MS, now_ms


@pytest.mark.timeout(60)
def test_new_streams_begin_in_one_transaction(receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """However many there are, they cost the disk no transaction each while nothing happens in them."""
    began = now_ms()
    sources = {f"o{number}": EventSource(start_ms=began - HOUR_MS, end_ms=began, per_minute=0) for number in range(200)}
    statements: list[str] = []

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = sqlite3.connect(*arguments, **options)
        connection.set_trace_callback(statements.append)
        return connection

    with SimulatedApi(sources) as api:
        settings = stream_settings(api, receiver, tmp_path, jumpcloud__organizations=tuple(sources))
        with app.open_app(settings, outside=Outside(connect=connect)) as plugin:
            opening = statements.count("COMMIT")
            running = threading.Thread(target=plugin.run)
            running.start()
            try:
                wait_until(lambda: all(each.caught_up for each in plugin.collectors), timeout=40)
                assert not any(each.position.provisional for each in plugin.collectors)
            finally:
                plugin.end()
                running.join()
            assert opening < 10
            assert statements.count("COMMIT") == opening
        assert not plugin.resumed
        with app.open_app(settings) as plugin:
            assert plugin.resumed == {each.name for each in plugin.collectors}
            assert not any(
                position is None or position.provisional
                for position in (plugin.resources.state.position(each.name) for each in plugin.collectors)
            )
