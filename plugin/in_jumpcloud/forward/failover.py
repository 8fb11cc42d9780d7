"""Several receivers: which one gets a chunk, and when one that failed is used again."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Collection
from functools import partial
from typing import NamedTuple, Protocol

from in_jumpcloud.config.schema import ForwardSettings
from in_jumpcloud.counters import LatencyHistogram
from in_jumpcloud.errors import ReceiverDown, Stopped
from in_jumpcloud.forward import connection
from in_jumpcloud.forward.connection import Network
from in_jumpcloud.forward.receiver import Receiver
from in_jumpcloud.forward.wire import Chunk
from in_jumpcloud.runtime import SYSTEM, Runtime

log = logging.getLogger(__name__)

MIN_CHECK_SECONDS = 0.5
MAX_CHECK_SECONDS = 30.0
"""The pause between two checks of a receiver that is down: it starts at the minimum and doubles up to the maximum."""


class ReceiverStatistics(NamedTuple):
    """One receiver; `up` says whether the last try succeeded, None before the first. Latencies are in seconds.

    `error` is why the last try failed, None if it did not; tries fail since `error_since`, on the monotonic clock.
    """

    name: str
    up: bool | None
    latencies: LatencyHistogram
    error: ReceiverDown | None = None
    error_since: float = 0.0


class Outcomes(NamedTuple):
    """How many chunks with records receivers have acknowledged, and how often `doubt` was called for them."""

    acknowledged: int
    doubts: int


class Receivers(Protocol):
    """Where chunks go. Thread-safe."""

    @property
    def max_delivery_seconds(self) -> float:
        """The longest that one `deliver` can take."""

    def statistics(self) -> tuple[ReceiverStatistics, ...]:
        """The state of each receiver."""

    def outcomes(self, names: Collection[str] | None) -> Outcomes:
        """What the receivers of these names, None for all of them, did with chunks since the process started."""

    def doubt(self, names: Collection[str] | None) -> None:
        """Note that these may have taken no records for a while."""

    def deliver(self, chunk: Chunk, stop: threading.Event) -> None:
        """Return when `chunk` is acknowledged. Raises ReceiverDown or Stopped."""

    def probe(self, names: Collection[str], stop: threading.Event) -> bool:
        """Whether one of these acknowledges a message without records. Raises Stopped."""

    def check_if_down(self, stop: threading.Event) -> None:
        """Find out whether one is back, if all are down. Raises Stopped."""

    def connect(self, stop: threading.Event) -> None:
        """Return when a receiver accepts a connection. Raises ReceiverDown or Stopped."""

    def close(self) -> None:
        """Close all connections for good."""


class Failover:
    """The receivers of `forward.servers`, used in order or in turn, as `forward.balance` says.

    A receiver that fails gets no chunks until a check in the background succeeds: it accepts a connection and completes
    the handshake and, if it had not acknowledged a chunk, acknowledges a message without records.
    """

    def __init__(
        self,
        settings: ForwardSettings,
        *,
        connections: int = 1,
        network: Network = connection,
        runtime: Runtime = SYSTEM,
    ) -> None:
        """Prepare to send, over up to so many connections to each; connects later.

        Raises:
            OSError: a certificate or key cannot be used.
        """
        self._receivers = [
            Receiver(each, settings, connections=connections, network=network, runtime=runtime)
            for each in settings.servers
        ]
        self._runtime = runtime
        self._down: set[Receiver] = set()
        self._turn = itertools.count() if settings.balance == "round_robin" else None
        self._closing = runtime.event()
        self._lock = threading.Lock()
        self._check_at = runtime.monotonic()
        self._last_used: Receiver | None = None

    @property
    def max_delivery_seconds(self) -> float:
        """The longest that one `deliver` can take: every receiver fails, after another thread's try at each."""
        return 2 * sum(receiver.max_delivery_seconds for receiver in self._receivers)

    def statistics(self) -> tuple[ReceiverStatistics, ...]:
        """The state of each receiver, in the order of the settings. Takes no lock."""
        return tuple(
            ReceiverStatistics(str(each.server), seen.up, seen.latencies, seen.error, seen.error_since)
            for each in self._receivers
            for seen in [each.last_try]
        )

    def outcomes(self, names: Collection[str] | None) -> Outcomes:
        """What the receivers of these names did with chunks since the process started; None for all of them."""
        receivers = self._named(names)
        return Outcomes(sum(each.acknowledged for each in receivers), sum(each.doubts for each in receivers))

    def doubt(self, names: Collection[str] | None) -> None:
        """Note that the receivers of these names, None for all of them, may have taken no records for a while."""
        with self._lock:
            for receiver in self._named(names):
                receiver.doubts += 1

    def deliver(self, chunk: Chunk, stop: threading.Event) -> None:
        """Send `chunk` to each receiver, one after the other, until one acknowledges it.

        Raises:
            ReceiverDown: none did; it has the reason of each, and the receivers that the chunk reached.
            Stopped: `stop` was set.
        """
        errors: list[ReceiverDown] = []
        for receiver in self._in_order():
            try:
                receiver.deliver(chunk, stop)
            except ReceiverDown as error:
                errors.append(error)
                self._mark_down(receiver, error)
            else:
                self._note_use(receiver)
                return
        raise _combined(errors)

    def probe(self, names: Collection[str], stop: threading.Event) -> bool:
        """Whether a receiver of one of these names acknowledges a message without records.

        Raises:
            Stopped: `stop` was set.
        """
        return any(receiver.probe(stop) for receiver in self._named(names))

    def check_if_down(self, stop: threading.Event) -> None:
        """Probe the receivers if the last try at each of them failed, at most every MAX_CHECK_SECONDS.

        While there is nothing to send, nothing else shows that one is back.

        Raises:
            Stopped: `stop` was set.
        """
        now = self._runtime.monotonic()
        with self._lock:
            if now < self._check_at or not all(each.last_try.up is False for each in self._receivers):
                return
            self._check_at = now + MAX_CHECK_SECONDS
        for receiver in self._receivers:
            receiver.probe(stop)

    def connect(self, stop: threading.Event) -> None:
        """Connect to the first receiver that accepts, unless there is a connection already.

        Raises:
            ReceiverDown: none accepts.
            Stopped: `stop` was set.
        """
        errors: list[ReceiverDown] = []
        for receiver in self._receivers:
            try:
                receiver.connect(stop)
            except ReceiverDown as error:
                errors.append(error)
            else:
                return
        raise _combined(errors)

    def close(self) -> None:
        """Close all connections for good, and end the checks in the background."""
        self._closing.set()
        for receiver in self._receivers:
            receiver.close()

    def _named(self, names: Collection[str] | None) -> list[Receiver]:
        return [each for each in self._receivers if names is None or str(each.server) in names]

    def _in_order(self) -> list[Receiver]:
        """The receivers that are not marked down, in the order to try them; all of them if every one is down."""
        with self._lock:
            up = [receiver for receiver in self._receivers if receiver not in self._down] or self._receivers
            first = next(self._turn) % len(up) if self._turn else 0
            return up[first:] + up[:first]

    def _note_use(self, receiver: Receiver) -> None:
        with self._lock:
            previous, self._last_used = self._last_used, receiver
        if self._turn is None and previous not in (None, receiver):
            log.info("chunks now go to receiver %s", receiver.server)

    def _mark_down(self, receiver: Receiver, error: ReceiverDown) -> None:
        with self._lock:
            if len(self._receivers) == 1 or receiver in self._down:
                return
            self._down.add(receiver)
        log.warning("%s; using the other receivers until it is back", error)
        # A receiver that accepts connections but does not acknowledge, such as a paused one, needs more than a connect.
        needs_probe = bool(error.reached)
        try:
            self._runtime.start(partial(self._recover, receiver, needs_probe), name="receiver-check")
        except RuntimeError:  # the system has no more threads: without a check it would stay out of use
            self._use_again(receiver)

    def _recover(self, receiver: Receiver, needs_probe: bool) -> None:
        """Check a receiver until it is back, then use it again."""
        pause = MIN_CHECK_SECONDS
        while not self._closing.wait(pause):
            pause = min(2 * pause, MAX_CHECK_SECONDS)
            try:
                if needs_probe and not receiver.probe(self._closing):
                    continue
                receiver.connect(self._closing)
            except ReceiverDown:
                continue
            except Stopped:
                return
            except Exception:
                log.exception("receiver %s: unexpected error; checking it again", receiver.server)
                continue
            self._use_again(receiver)
            log.info("receiver %s is back", receiver.server)
            return

    def _use_again(self, receiver: Receiver) -> None:
        with self._lock:
            self._down.discard(receiver)


def _combined(errors: list[ReceiverDown]) -> ReceiverDown:
    """One error for all receivers; of the class and with the attributes that all of them share."""
    if len(errors) == 1:
        return errors[0]
    kinds = {type(error) for error in errors}
    stages = {error.stage for error in errors}
    codes = {error.errno for error in errors}
    return (kinds.pop() if len(kinds) == 1 else ReceiverDown)(
        "; ".join(map(str, errors)),
        stage=stages.pop() if len(stages) == 1 else None,
        errno=codes.pop() if len(codes) == 1 else None,
        reached=frozenset().union(*(error.reached for error in errors)),
    )
