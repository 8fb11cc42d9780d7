"""An error that is kept, so that people can read it, holds nothing of what was at hand when it happened."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import pytest
from support.command import wait_until
from support.postgres import Server, state_settings
from support.streams import running_in, stream_settings

from in_jumpcloud import app
from in_jumpcloud.config.schema import MembersSettings, ServerSettings
from in_jumpcloud.config.types import Duration, Start
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS, now_ms

pytestmark = pytest.mark.timeout(120)
STREAMS = 8


def _held() -> set[str]:
    """The functions of the plugin whose variables are kept alive by an error that nothing handles any more."""
    gc.collect()
    found: set[str] = set()
    handled = set(map(id, _handled()))
    for each in gc.get_objects():
        if isinstance(each, TracebackType) and id(each) not in handled:
            module = str(each.tb_frame.f_globals.get("__name__"))
            if module.startswith("in_jumpcloud.") and ".simulator" not in module:
                found.add(f"{module}.{each.tb_frame.f_code.co_qualname}")
    return found


def _handled() -> Iterator[TracebackType]:
    """The tracebacks of the errors that threads are handling: they wait before they try again."""
    current: Any = sys._current_exceptions().values()
    for each in current:
        error = each[1] if isinstance(each, tuple) else each  # a tuple before Python 3.12
        while error:
            traceback = error.__traceback__
            while traceback:
                yield traceback
                traceback = traceback.tb_next
            error = error.__context__


@pytest.mark.parametrize("fault", ["receiver", "api", "key", "file", "server"])
def test_kept_errors(
    tmp_path: Path, fault: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails keeps no page, chunk or connection, whatever it is that fails, and however long."""
    monkeypatch.setattr(logging.getLogger("in_jumpcloud"), "propagate", False)  # pytest keeps what was logged
    began = now_ms() - 60 * MINUTE_MS
    names = [f"o{number}" for number in range(STREAMS)]
    with ExitStack() as stack:
        api = stack.enter_context(
            SimulatedApi({name: EventSource(start_ms=began, per_minute=60, organization=name) for name in names})
        )
        receiver, other = (stack.enter_context(SimulatedReceiver()) for _ in range(2))
        settings = stream_settings(
            *(api, receiver, tmp_path),
            jumpcloud__organizations="all",
            jumpcloud__interval=Duration(0.5),
            jumpcloud__start=Start("1h"),
            forward__servers=tuple(ServerSettings(host="127.0.0.1", port=each.port) for each in (receiver, other)),
        )
        breaks: dict[str, Callable[[], None]] = {
            "receiver": receiver.stop,
            "api": lambda: api.faults.always(Fault("status", status=500)),
            "key": lambda: api.faults.always(Fault("status", status=401)),
            "file": settings.state.path.unlink,
        }
        if fault == "server":
            server: Server = request.getfixturevalue("server")
            group = {"state": state_settings(server.url), "members": MembersSettings(lease=Duration(5))}
            settings = msgspec.structs.replace(settings, **group)
            breaks["server"] = server.kill
        plugin = stack.enter_context(app.open_app(settings))
        stack.enter_context(running_in(plugin))
        wait_until(lambda: len(plugin.collectors) == STREAMS and receiver.received > 0)

        def has_failed() -> bool:
            if fault == "receiver":
                return any(each.error for each in plugin.resources.receivers.statistics())
            return all(each.error or each.counters.held_up for each in plugin.collectors)

        breaks[fault]()
        wait_until(has_failed)
        wait_until(lambda: not _held())  # what is under way holds something for a moment
        assert has_failed()
