"""The plugin's own log: repeats are kept back, and it can go to the receivers too."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from in_jumpcloud.config.schema import Config, ForwardSettings, LogSettings, ServerSettings
from in_jumpcloud.config.types import Duration, Secret
from in_jumpcloud.monitoring import logs
from in_jumpcloud.simulator.receiver import SimulatedReceiver

LOG = logging.getLogger("in_jumpcloud.test")


Said = Callable[[], list[str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Iterator[Said]:
    """The lines on standard error since the last look."""
    logger = logging.getLogger("in_jumpcloud")
    before = logger.handlers, logger.level, logger.propagate
    yield lambda: capsys.readouterr().err.splitlines()  # noqa: PLW0108 - read at each look
    logger.handlers, logger.level, logger.propagate = before


def settings(port: int = 1, *, form: str = "json", forward: bool = False, **more: object) -> Config:
    """A log of this form; with `forward` to this port too."""
    return Config(
        log=LogSettings(format=form, forward=forward),  # type: ignore[arg-type]  # one of the two
        forward=ForwardSettings(
            servers=(ServerSettings(host="127.0.0.1", port=port),),
            ack_timeout=Duration(5),
            **more,  # type: ignore[arg-type]  # whatever a test sets
        ),
    )


def test_repeats_are_kept_back(said: Said) -> None:
    """The same line is shown once in ten seconds, a flood of one kind cut short; other lines are not held up."""
    with logs.LogOutput(settings(form="text")):
        for _ in range(100):
            LOG.warning("%s: the receiver is down", "first")
        LOG.warning("%s: the receiver is down", "second")
        for number in range(100):
            LOG.error("event %d can not be delivered", number)
        LOG.info("another thing")
    lines = said()
    assert sum("first: the receiver is down" in line for line in lines) == 1
    assert next(line for line in lines if "second" in line).endswith("(99 more like this were not shown)")
    assert sum("can not be delivered" in line for line in lines) == logs._BURST
    assert "another thing" in lines[-1]


def test_json(said: Said) -> None:
    """A line is an object in ECS, a traceback within it."""
    with logs.LogOutput(settings()):
        try:
            int("ö")
        except ValueError:
            LOG.exception("it went wrong")
    line = json.loads("".join(said()))
    assert (line["log.level"], line["message"], line["log.logger"]) == ("error", "it went wrong", "in_jumpcloud.test")
    assert "ValueError: invalid literal" in line["error.stack_trace"]


def test_to_the_receivers(said: Said) -> None:
    """Each line is a record under its own tag, delivered like the events: with handshake and ack; and on stderr too."""
    with SimulatedReceiver(shared_key="key") as receiver:
        with logs.LogOutput(settings(receiver.port, forward=True, shared_key=Secret("key"))):
            LOG.info("hello %s", "there")
            LOG.debug("not this")
            assert receiver.wait_until(lambda: receiver.received == 1, 10)
            LOG.warning("the last line")
        (first, last) = receiver.records
    assert (first.tag, first.record["message"]) == ("in_jumpcloud.log", "hello there")
    assert last.record["message"] == "the last line"
    assert last.record["log.level"] == "warning"
    assert abs(first.time_ns / 1e9 - last.time_ns / 1e9) < 10
    assert len(receiver.acked) == 2
    assert len(said()) == 2


def test_a_receiver_that_is_down_holds_nothing_up(said: Said) -> None:
    """Without a receiver everything is on standard error all the same, and the end comes soon."""
    with SimulatedReceiver() as receiver:
        port = receiver.port
    with logs.LogOutput(settings(port, forward=True)):
        for number in range(2 * logs._WAITING):
            LOG.info(f"line {number}")  # noqa: G004 - each is a kind of its own
    assert len(said()) == 2 * logs._WAITING


def test_turned_on_and_off(said: Said, tmp_path: Path) -> None:
    """A reload takes up where it goes."""
    with SimulatedReceiver() as receiver:
        with logs.LogOutput(settings(form="text")) as log:
            log.apply(settings(receiver.port, forward=True))
            LOG.info("to both")
            assert receiver.wait_until(lambda: receiver.received == 1, 10)
            log.apply(settings(form="text"))
            LOG.info("to one")
        assert receiver.received == 1
    assert len(said()) == 2
    assert tmp_path.exists()
