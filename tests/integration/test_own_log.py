"""The plugin's own log on standard error."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Literal

import pytest

from in_jumpcloud.config.schema import LogSettings
from in_jumpcloud.config.types import Secret
from in_jumpcloud.monitoring.logs import MAX_LINES_PER_KIND, configure_logging

LOG = logging.getLogger("in_jumpcloud.test")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    """Restore the logger afterwards: it belongs to the whole process."""
    logger = logging.getLogger("in_jumpcloud")
    before = logger.handlers, logger.level, logger.propagate
    last_resort = logging.lastResort
    yield
    logger.handlers, logger.level, logger.propagate = before
    logging.lastResort = last_resort


def test_repeated_lines_are_suppressed(capsys: pytest.CaptureFixture[str]) -> None:
    """An identical line appears once, a flood of similar lines is cut short, and other lines are not affected."""
    configure_logging(LogSettings(format="text"))
    for _ in range(100):
        LOG.warning("%s: the receiver is down", "first")
    LOG.warning("%s: the receiver is down", "second")
    for number in range(100):
        LOG.error("event %d cannot be delivered", number)
    LOG.info("another line")
    lines = capsys.readouterr().err.splitlines()
    assert sum("first: the receiver is down" in line for line in lines) == 1
    assert next(line for line in lines if "second" in line).endswith(" (99 similar lines suppressed)")
    assert sum("cannot be delivered" in line for line in lines) == MAX_LINES_PER_KIND
    assert lines[-1].endswith("info    another line")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """A line is one ECS object, a traceback included; lines below the level are left out."""
    configure_logging(LogSettings(level="warning"))
    try:
        int("ö")
    except ValueError:
        LOG.exception("it failed")
    LOG.info("not shown")
    line = json.loads(capsys.readouterr().err)
    assert (line["log.level"], line["message"], line["log.logger"]) == ("error", "it failed", "in_jumpcloud.test")
    assert "ValueError: invalid literal" in line["error.stack_trace"]


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_hostile_text(capsys: pytest.CaptureFixture[str], log_format: Literal["json", "text"]) -> None:
    """Control, bidi and surrogate characters are escaped and secrets hidden, also in tracebacks and of libraries."""
    secret = Secret("sesame-sesame-sesame")
    hostile = f"\x1b[2J\u202e\udc80\x9b\n2026-01-01 forged {secret.reveal()} {secret.reveal()[:15]}"
    configure_logging(LogSettings(format=log_format))
    try:
        try:
            raise KeyError(hostile)  # noqa: TRY301
        except KeyError as error:
            raise RuntimeError(hostile) from error
    except RuntimeError:
        LOG.exception("failed: %s", hostile)
    assert logging.lastResort  # by which the warnings of libraries go
    logging.lastResort.handle(logging.makeLogRecord({"msg": hostile, "levelname": "WARNING"}))
    text = capsys.readouterr().err
    lines = text.splitlines()
    if log_format == "json":
        assert len(lines) == 2
        lines += [value for line in lines for each in json.loads(line).values() for value in str(each).splitlines()]
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("2026-01-01") and log_format == "text" for line in lines)
    assert "sesame-sesame" not in text
    assert r"\x1b[2J\u202e\udc80\x9b; 2026-01-01 forged *** ***" in text.replace("\\\\", "\\")


def test_reconfiguring_replaces_the_format(capsys: pytest.CaptureFixture[str]) -> None:
    """A reload changes the format; each line is still written once."""
    configure_logging(LogSettings())
    configure_logging(LogSettings(format="text"))
    LOG.info("hello %s", "there")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("Z info    hello there")


def test_threads(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines of the same kind from several threads raise nothing and do not exceed the limit."""
    configure_logging(LogSettings(format="text"))
    errors: list[BaseException] = []
    interval = sys.getswitchinterval()

    def work(number: int) -> None:
        try:
            for kind in range(300):
                for line in range(MAX_LINES_PER_KIND):
                    LOG.warning(f"{kind}: %s is down", number * 1000 + line)  # noqa: G004 - the format is the kind
        except BaseException as error:  # noqa: BLE001 - any error fails the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors
    assert len(capsys.readouterr().err.splitlines()) == 300 * MAX_LINES_PER_KIND
