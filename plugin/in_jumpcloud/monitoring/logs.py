"""The plugin's own log: JSON in the Elastic Common Schema, or text; repeated lines are suppressed."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections import OrderedDict
from typing import Any, TextIO

from in_jumpcloud.config.schema import LogSettings
from in_jumpcloud.counters import plural
from in_jumpcloud.ecs.mapper import ECS_VERSION
from in_jumpcloud.text import shown_in_one, shown_lines
from in_jumpcloud.timestamps import rfc3339

SUPPRESS_SECONDS = 10.0
"""An identical line within this time is suppressed."""
MAX_LINES_PER_KIND = 20
"""Lines with the same format string within that time; further ones are suppressed."""
_MAX_KINDS = 1000


def configure_logging(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Log as `settings` say from now on, to `stream` or standard error. Called at start and after each reload."""
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if settings.format == "json" else _TextFormatter())
    handler.addFilter(_RepeatFilter())
    logging.lastResort = handler  # what libraries warn of
    logger = logging.getLogger("in_jumpcloud")
    logger.handlers = [handler]
    logger.setLevel(settings.level.upper())
    logger.propagate = False


def write_json_line(stream: TextIO, logger: str, message: str) -> None:
    """Write one line as the JSON log has them, whatever the log is now.

    Raises:
        OSError: it cannot be written.
    """
    record = logging.LogRecord(logger, logging.ERROR, "", 0, "%s", (message,), None)
    stream.write(f"{_JsonFormatter().format(record)}\n")
    stream.flush()


class _Handler(logging.StreamHandler[TextIO]):
    """A line that cannot be written is lost: there is no other place that would take it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base calls it
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


class _RepeatFilter(logging.Filter):
    """Suppresses repeated lines, but for those of level debug. The next line of the same kind says how many."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: OrderedDict[tuple[str, str], _Kind] = OrderedDict()
        self._lock = threading.Lock()  # logging calls filters without one

    def filter(self, record: logging.LogRecord) -> bool:
        with self._lock:
            return self._filter(record)

    def _filter(self, record: logging.LogRecord) -> bool:
        if record.levelno == logging.DEBUG:
            return True
        key = (record.name, str(record.msg))
        kind = self._kinds.setdefault(key, _Kind())
        self._kinds.move_to_end(key)
        if len(self._kinds) > _MAX_KINDS:
            self._kinds.popitem(last=False)
        if not kind.allows(record.getMessage(), record.created):
            kind.suppressed += 1
            return False
        record.suppressed = kind.suppressed
        kind.suppressed = 0
        return True


class _Kind:
    """Lines with the same logger and format string: which were shown lately, and how many were suppressed since."""

    def __init__(self) -> None:
        self.suppressed = 0
        self._shown_at: dict[str, float] = {}

    def allows(self, text: str, now: float) -> bool:
        self._shown_at = {line: at for line, at in self._shown_at.items() if abs(now - at) < SUPPRESS_SECONDS}
        if text in self._shown_at or len(self._shown_at) >= MAX_LINES_PER_KIND:
            return False
        self._shown_at[text] = now
        return True


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "@timestamp": _time(record),
            "log.level": record.levelname.lower(),
            "message": shown_in_one(_message(record)),
            "ecs.version": ECS_VERSION,
            "log.logger": record.name,
            "process.pid": record.process,
            **_fields(record),
        }
        if record.exc_info:
            line["error.stack_trace"] = "\n".join(shown_lines(self.formatException(record.exc_info)))
        return json.dumps(line, ensure_ascii=False)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname.lower():7} {shown_in_one(_message(record))}"
        # Indented, so that no line of an exception's text looks like a line of the log.
        trace = shown_lines(self.formatException(record.exc_info)) if record.exc_info else []
        return "\n    ".join([line, *trace])


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a line says as fields too, by their names: ECS's, or ours below `in_jumpcloud`."""
    fields = getattr(record, "fields", {})
    return {
        name: shown_in_one(value) if isinstance(value, str) else value
        for name, value in fields.items()
        if value is not None
    }


def _message(record: logging.LogRecord) -> str:
    suppressed = getattr(record, "suppressed", 0)
    return record.getMessage() + (f" ({plural(suppressed, 'similar line')} suppressed)" if suppressed else "")


def _time(record: logging.LogRecord) -> str:
    return rfc3339(int(record.created * 1000))
