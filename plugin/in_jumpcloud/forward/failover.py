"""Several receivers: which of them gets a chunk, and how one that failed comes back."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Collection

from in_jumpcloud.config.schema import ForwardSettings
from in_jumpcloud.errors import ReceiverDown, Stopped
from in_jumpcloud.forward.sender import AckSender
from in_jumpcloud.forward.wire import PROBE_TAG, Chunk

log = logging.getLogger(__name__)

_FIRST_LOOK = 0.5
_LAST_LOOK = 30.0
"""Seconds between two looks at a receiver that is down: at first, doubled each time, at last."""


class Failover:
    """The receivers of `forward.servers`, used as `forward.balance` says.

    One that failed is left alone until it has been looked at, beside the deliveries: it must take a connection and
    hold the handshake, and acknowledge a message without records where it was silent before.
    """

    def __init__(self, settings: ForwardSettings) -> None:
        """Make ready; nothing is connected yet.

        Raises:
            OSError: a certificate cannot be used.
        """
        self._senders = [AckSender(server, settings) for server in settings.servers]
        self._down: set[AckSender] = set()
        self._turn = itertools.count() if settings.balance == "round_robin" else None
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._last: AckSender | None = None

    @property
    def senders(self) -> tuple[AckSender, ...]:
        """One for each receiver, in the order of the settings; to be looked at."""
        return tuple(self._senders)

    @property
    def max_delivery_seconds(self) -> float:
        """The longest that one `deliver` can take: every receiver fails, after another thread's try at each."""
        return 2 * sum(sender.max_delivery_seconds for sender in self._senders)

    def deliver(self, chunk: Chunk, stop: threading.Event) -> None:
        """Send `chunk` to one receiver after the other, each once, until one has acknowledged it.

        Raises:
            ReceiverDown: none has; all reasons, and whom the chunk has reached.
            Stopped: `stop` was set.
        """
        errors: list[ReceiverDown] = []
        for sender in self._in_order():
            try:
                sender.deliver(chunk, stop)
            except ReceiverDown as error:
                errors.append(error)
                self._take_out(sender, error)
            else:
                self._note_use(sender)
                return
        raise _together(errors)

    def probe(self, among: Collection[str], stop: threading.Event) -> bool:
        """Whether one of the receivers of these names acknowledges a message without records."""
        return any(sender.probe(PROBE_TAG, stop) for sender in self._senders if str(sender.server) in among)

    def connect(self, stop: threading.Event) -> None:
        """Make sure that one of the receivers is there.

        Raises:
            ReceiverDown: none is.
            Stopped: `stop` was set.
        """
        errors: list[ReceiverDown] = []
        for sender in self._senders:
            try:
                sender.connect(stop)
            except ReceiverDown as error:
                errors.append(error)
            else:
                return
        raise _together(errors)

    def close(self) -> None:
        """Close all for good."""
        self._closing.set()
        for sender in self._senders:
            sender.close()

    def _in_order(self) -> list[AckSender]:
        """Whom to try, one after the other: all that are not known to be down; if none is left, all."""
        with self._lock:
            up = [sender for sender in self._senders if sender not in self._down] or self._senders
            first = next(self._turn) % len(up) if self._turn else 0
            return up[first:] + up[:first]

    def _note_use(self, sender: AckSender) -> None:
        with self._lock:
            before, self._last = self._last, sender
        if self._turn is None and before not in (None, sender):
            log.info("chunks now go to receiver %s", sender.server)

    def _take_out(self, sender: AckSender, error: ReceiverDown) -> None:
        with self._lock:
            if len(self._senders) == 1 or sender in self._down:
                return
            self._down.add(sender)
        log.warning("%s; the others are used until it is back", error)
        # Who takes a connection and is silent then, such as one that is paused, would be taken for sound.
        silent = bool(error.reached)
        threading.Thread(target=self._recover, args=(sender, silent), name="receiver-check", daemon=True).start()

    def _recover(self, sender: AckSender, silent: bool) -> None:
        pause = _FIRST_LOOK
        while not self._closing.wait(pause):
            pause = min(2 * pause, _LAST_LOOK)
            try:
                if silent and not sender.probe(PROBE_TAG, self._closing):
                    continue
                sender.connect(self._closing)
            except ReceiverDown:
                continue
            except Stopped:
                return
            with self._lock:
                self._down.discard(sender)
            log.info("receiver %s is back", sender.server)
            return


def _together(errors: list[ReceiverDown]) -> ReceiverDown:
    """One error for all receivers; it is of a kind of its own where all of theirs are."""
    kinds = {type(error) for error in errors}
    kind = kinds.pop() if len(kinds) == 1 else ReceiverDown
    return kind("; ".join(map(str, errors)), reached=frozenset().union(*(error.reached for error in errors)))
