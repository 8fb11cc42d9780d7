"""The plugin's own log: one line for each thing worth knowing, to standard error, and to the receivers if wanted."""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import sys
import threading
from collections import OrderedDict
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from typing import Any, Self

import msgpack
from fluent.handler import FluentHandler

from in_jumpcloud.config.schema import Config, ForwardSettings
from in_jumpcloud.ecs.mapper import ECS_VERSION
from in_jumpcloud.errors import ReceiverDown, Stopped
from in_jumpcloud.forward import wire
from in_jumpcloud.forward.sender import AckSender

_QUIET = 10.0
"""Seconds in which a line that says the same again is kept back."""
_BURST = 20
"""Lines of one kind that may come within that time, whatever they say."""
_KINDS = 1000
_WAITING = 1000
"""Lines that may wait for a receiver; those beyond are on standard error only."""
_GRACE = 3.0
"""Seconds that they have at the end."""


class LogOutput:
    """Where the log of this package goes, from `apply` to the end of the `with`."""

    def __init__(self, settings: Config) -> None:
        self._to_receivers: _ToReceivers | None = None
        self.apply(settings)

    def apply(self, settings: Config) -> None:
        """Send it where `settings` say, from now on."""
        self._stop_forwarding()
        to_stderr = logging.StreamHandler(sys.stderr)
        to_stderr.setFormatter(_JsonFormatter() if settings.log.format == "json" else _TextFormatter())
        to_stderr.addFilter(_Repeats())
        handlers: list[logging.Handler] = [to_stderr]
        if settings.log.forward:
            self._to_receivers = _ToReceivers(settings)
            handlers.append(self._to_receivers)
        logger = logging.getLogger("in_jumpcloud")
        logger.handlers = handlers
        logger.setLevel(settings.log.level.upper())
        logger.propagate = False

    def _stop_forwarding(self) -> None:
        if self._to_receivers:
            self._to_receivers.close()
            self._to_receivers = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_forwarding()


class _Repeats(logging.Filter):
    """Keeps back what was said a moment ago; the next line of its kind tells how many there were."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: OrderedDict[tuple[str, str], _Kind] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        kind = self._kinds.setdefault((record.name, str(record.msg)), _Kind())
        self._kinds.move_to_end((record.name, str(record.msg)))
        if len(self._kinds) > _KINDS:
            self._kinds.popitem(last=False)
        said = kind.take(record.getMessage(), record.created)
        record.kept_back = kind.kept_back if said else 0
        if said:
            kind.kept_back = 0
        return said


class _Kind:
    """Lines of one kind: what was said in the last seconds, and how many more were not."""

    def __init__(self) -> None:
        self.kept_back = 0
        self._said: dict[str, float] = {}

    def take(self, text: str, now: float) -> bool:
        """Whether to say this now."""
        self._said = {each: at for each, at in self._said.items() if 0 <= now - at < _QUIET}
        if text in self._said or len(self._said) >= _BURST:
            self.kept_back += 1
            return False
        self._said[text] = now
        return True


class _JsonFormatter(logging.Formatter):
    """A line of JSON in the Elastic Common Schema."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_fields(self, record), ensure_ascii=False)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname.lower():7} {_message(record)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _RecordFormatter(logging.Formatter):
    """The same fields as the JSON line, as a record: what fluent-logger's handler sends."""

    def format(self, record: logging.LogRecord) -> Any:
        return _fields(self, record) | {"event.dataset": "in_jumpcloud.log"}


def _fields(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, Any]:
    line = {
        "@timestamp": _time(record),
        "log.level": record.levelname.lower(),
        "message": _message(record),
        "ecs.version": ECS_VERSION,
        "log.logger": record.name,
        "process.pid": record.process,
    }
    if record.exc_info:
        line["error.stack_trace"] = formatter.formatException(record.exc_info)
    return line


def _message(record: logging.LogRecord) -> str:
    kept_back = getattr(record, "kept_back", 0)
    return record.getMessage() + (f" ({kept_back} more like this were not shown)" if kept_back else "")


def _time(record: logging.LogRecord) -> str:
    return f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03d}Z"


class _ToReceivers(QueueHandler):
    """Hands each line to a thread that delivers it; whoever logs never waits for a receiver."""

    def __init__(self, settings: Config) -> None:
        super().__init__(queue.Queue(_WAITING))
        self.addFilter(_Repeats())
        self._stop = threading.Event()
        self._handler = _AckedHandler(settings, self._stop)
        self._listener = QueueListener(self.queue, self._handler)
        self._listener.start()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """As it is: it does not leave the process."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Without a place in the queue it is on standard error only."""
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(record)

    def close(self) -> None:
        """Deliver what waits, for a short time."""
        timer = threading.Timer(_GRACE, self._stop.set)
        timer.daemon = True
        timer.start()
        with contextlib.suppress(queue.Full):
            self._listener.stop()
        timer.cancel()
        self._handler.close()
        super().close()


class _AckedHandler(FluentHandler):  # type: ignore[misc]  # fluent-logger ships no types
    """fluent-logger's handler, over connections like those of the events: handshake, TLS, acks."""

    def __init__(self, settings: Config, stop: threading.Event) -> None:
        super().__init__(settings.log.tag, nanosecond_precision=True)
        self.setFormatter(_RecordFormatter())
        self._forward = settings.forward
        self._stop = stop

    def getSenderInstance(self, tag: str, **_: Any) -> _LogSender:  # noqa: N802 - the base's name
        """What takes a line."""
        return _LogSender(tag, self._forward, self._stop)


class _LogSender:
    """Delivers a line to the first receiver that acknowledges it; one that none takes is on standard error only."""

    nanosecond_precision = True

    def __init__(self, tag: str, settings: ForwardSettings, stop: threading.Event) -> None:
        self._tag = tag
        self._senders = [AckSender(server, settings) for server in settings.servers]
        self._stop = stop

    def emit_with_time(self, _: None, timestamp: Any, data: dict[str, Any]) -> bool:
        chunk = wire.build_chunk(self._tag, msgpack.packb((timestamp, data)), 1)
        for sender in self._senders:
            with contextlib.suppress(ReceiverDown, Stopped):
                sender.deliver(chunk, self._stop)
                return True
        return False

    def close(self) -> None:
        for sender in self._senders:
            sender.close()
