"""The plugin's own log: one line for each thing worth knowing, to standard error."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from in_jumpcloud import config
from in_jumpcloud.ecs.mapper import ECS_VERSION


class _EcsFormatter(logging.Formatter):
    """A line of JSON in the Elastic Common Schema."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "@timestamp": _time(record),
            "log.level": record.levelname.lower(),
            "message": record.getMessage(),
            "ecs.version": ECS_VERSION,
            "log.logger": record.name,
            "process.pid": record.process,
        }
        if record.exc_info:
            line["error.stack_trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname.lower():7} {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    return f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03d}Z"


def set_up(settings: config.Log) -> None:
    """Send the log of this package to standard error as `settings` say."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_EcsFormatter() if settings.format == "json" else _TextFormatter())
    logger = logging.getLogger("in_jumpcloud")
    logger.handlers = [handler]
    logger.setLevel(settings.level.upper())
    logger.propagate = False
