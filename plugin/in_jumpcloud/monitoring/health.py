"""Decides from a snapshot whether the plugin is alive and whether it is ready.

Both functions return the reasons why it is not; an empty list means it is. `warnings` returns what needs attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from in_jumpcloud.collector import MAX_COMPARED_LAG
from in_jumpcloud.counters import Counters, plural
from in_jumpcloud.insights.clock import MAX_SKEW_SECONDS, WARN_SKEW_SECONDS
from in_jumpcloud.monitoring import group_status
from in_jumpcloud.monitoring.group_status import GroupStatus
from in_jumpcloud.monitoring.snapshot import ReceiverStatus, Snapshot, StreamStatus
from in_jumpcloud.monitoring.survey import MAX_UNEXPECTED, state_name
from in_jumpcloud.text import format_duration
from in_jumpcloud.troubles import Trouble

_CHECK = "`in-jumpcloud check` names the cause"
_TROUBLES = {"state.files": "state", "state.space": "disk", "reload": "reload"}
"""The codes of troubles that have one of their own, by the names of the troubles."""


def not_alive(snapshot: Snapshot) -> list[str]:
    """Reasons to restart the process: a worker has ended or hangs, or no worker runs a stream that is due.

    A receiver that is down, a rejected request and a full disk are not among them: a restart does not help.
    """
    limit = snapshot.max_silence
    reasons = [] if snapshot.workers_alive else ["a worker thread has ended"]
    reasons += [
        f"{stream.name}: no activity for {format_duration(stream.silent)}"
        for stream in snapshot.streams
        if stream.silent is not None and stream.silent > limit
    ]
    # While the workers are busy with others, a stream may wait for long. If none is busy, they are stuck.
    silences = [*(each.silent for each in snapshot.streams), *(each.silent for each in snapshot.backfills)]
    if not snapshot.survey.is_busy and all(silent is None for silent in silences):
        reasons += [
            f"{stream.name}: due for {format_duration(stream.overdue)}, but no worker runs it"
            for stream in snapshot.streams
            if stream.overdue is not None and stream.overdue > limit
        ]
    return reasons


class Reason(NamedTuple):
    """Why the plugin is not ready, or what needs attention.

    `code` is one of REASONS or WARNINGS and never changes its meaning; `text` is for a person, `advice` what to do.
    """

    code: str
    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.code}: {self.text}; {self.advice}" if self.advice else f"{self.code}: {self.text}"


Find = Callable[[Snapshot], Iterable[tuple[str, str]]]
"""Finds one kind of reason: the text and the advice of each."""


def not_ready(snapshot: Snapshot) -> list[Reason]:
    """Reasons why events do not arrive in time, may be missing, or arrive incomplete."""
    return _find(REASONS, snapshot)


def warnings(snapshot: Snapshot) -> list[Reason]:
    """What needs attention although events arrive in time."""
    return _find(WARNINGS, snapshot)


def _find(table: dict[str, Find], snapshot: Snapshot) -> list[Reason]:
    reasons = []
    for code, find in table.items():
        found = [Reason(code, text, advice) for text, advice in find(snapshot)]
        more = snapshot.survey.found.get(code, 0) - len(found)
        rest = [Reason(code, f"and {plural(more, 'more stream')}", "")] if found and more > 0 else []
        reasons += found + rest
    return reasons


def _refused(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    for stream in snapshot.streams:
        if stream.refused:
            yield f"{stream.name}: {stream.error}", "" if stream.has_advice else _CHECK


def _lagging(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    for stream in snapshot.streams:
        if not stream.backfilling and _lags_otherwise(stream, snapshot):
            text, advice = _cause(stream, snapshot)
            yield f"{stream.name}: {format_duration(stream.lag)} behind now{text}", advice


def _stalled(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    for stream in snapshot.streams:
        if stream.backfilling and _lags_otherwise(stream, snapshot):
            for_ = format_duration(stream.since_progress)
            text, advice = _cause(stream, snapshot)
            yield f"{stream.name}: no new event and no completed window for {for_}{text}", advice


def _lags_otherwise(stream: StreamStatus, snapshot: Snapshot) -> bool:
    """Whether the stream lags, and not for a cause that is a reason of its own."""
    return not stream.refused and not stream.state_error and is_lagging(stream, snapshot.max_lag)


def _cause(stream: StreamStatus, snapshot: Snapshot) -> tuple[str, str]:
    """What holds a stream up, as far as it is known, and what to do."""
    if stream.error:
        return f": {stream.error}", "" if stream.has_advice else _CHECK
    failing = [f"receiver {each.name}: {each.error}" for each in snapshot.receivers if each.error]
    if failing and (stream.held_up or stream.awaits_ack):
        return f": {'; '.join(failing)}", ""
    if stream.held_up:
        return f": {stream.held_up}", ""
    if stream.awaits_ack:
        return "", "the receiver is slow: see how long its acks take"
    return "", "see the log, and how long requests take; no event is lost"


def _overloaded(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    if snapshot.load and snapshot.load.is_too_high and not list(_no_receiver(snapshot)):
        yield str(snapshot.load), snapshot.load.advice


def _clock_off(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    if abs(snapshot.clock_skew or 0) > MAX_SKEW_SECONDS:
        yield _skew(snapshot), "set it (NTP)"


def _clock_differs(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    if WARN_SKEW_SECONDS < abs(snapshot.clock_skew or 0) <= MAX_SKEW_SECONDS:
        yield _skew(snapshot), "set it (NTP)"


def _skew(snapshot: Snapshot) -> str:
    skew = snapshot.clock_skew or 0
    direction = "ahead of" if skew > 0 else "behind"
    return f"this machine's clock is {format_duration(abs(skew))} {direction} JumpCloud's"


def _not_compared(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    for stream in snapshot.streams:
        if stream.late_error and stream.late_error_for > snapshot.max_lag:
            for_ = format_duration(stream.late_error_for)
            yield f"{stream.name}: late events cannot be looked for, for {for_}: {stream.late_error}", ""
        elif not stream.backfilling and stream.compared_lag > MAX_COMPARED_LAG + snapshot.max_lag:
            ago = format_duration(stream.compared_lag)
            advice = "see the log; JumpCloud or the rate limit leaves no time for it"
            yield f"{stream.name}: late events were last looked for {ago} ago", advice


def _failing(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    for stream in snapshot.streams:
        count = stream.counters.unexpected_in_a_row
        if count >= MAX_UNEXPECTED:
            yield f"{stream.name}: {count} unexpected errors in a row", "report it with the traceback in the log"


def _no_receiver(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    if snapshot.receivers and all(receiver.up is False for receiver in snapshot.receivers):
        yield f"no receiver is up: {'; '.join(map(_down, snapshot.receivers))}", _CHECK


def _receiver_down(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    if any(receiver.up is not False for receiver in snapshot.receivers):
        for receiver in snapshot.receivers:
            if receiver.up is False:
                yield f"{_down(receiver)}", "the others are used meanwhile"


def _down(receiver: ReceiverStatus) -> str:
    return f"{receiver.name}, for {format_duration(receiver.error_for)}: {receiver.error}"


def troubles(present: Iterable[Trouble]) -> list[Reason]:
    """Troubles as reasons; before the plugin is open there is nothing else to say."""
    return [Reason(_TROUBLES.get(each.name, "trouble"), each.what, each.advice) for each in present]


def _state(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """What is wrong with the files, and with their use: all streams use the same, so each cause is named once."""
    found = list(_trouble("state")(snapshot))
    yield from found
    errors = dict.fromkeys(stream.state_error for stream in snapshot.streams if stream.state_error)
    yield from ((error, "") for error in errors if error not in map("; ".join, found))


def _of_group(find: Callable[[GroupStatus], Iterable[tuple[str, str]]]) -> Find:
    """What is found in the group, if there is one."""
    return lambda snapshot: find(snapshot.group) if snapshot.group else ()


def _unable(snapshot: Snapshot) -> Iterable[tuple[str, str]]:
    return () if list(_no_receiver(snapshot)) else _of_group(group_status.unable)(snapshot)


def _trouble(code: str) -> Find:
    return lambda snapshot: [each[1:] for each in troubles(snapshot.troubles) if each.code == code]


def _counted(count: Callable[[Counters], int], text: str, advice: str) -> Find:
    """Streams of which something was counted; `text` follows the number."""
    return lambda snapshot: [
        (f"{stream.name}: {count(stream.counters)} {text}", advice)
        for stream in snapshot.streams
        if count(stream.counters)
    ]


def _unavailable(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    for stream in snapshot.streams:
        if seconds := stream.counters.unavailable_seconds:
            text = f"{stream.name}: {format_duration(seconds)} of events are older than the plan keeps them"
            yield text, "the log has the time span"


def _backfills(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    for backfill in snapshot.backfills:
        if backfill.error:
            yield (
                f"{backfill.name}: for {format_duration(backfill.error_for)}: {backfill.error}",
                f"it is retried; `in-jumpcloud backfill --cancel {backfill.number}` ends it",
            )


def _dead_letters(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    if snapshot.dead_letters:
        yield f"{plural(snapshot.dead_letters, 'event')} could not be delivered", "see `in-jumpcloud dead-letters list`"


REASONS: dict[str, Find] = {
    "refused": _refused,
    "lagging": _lagging,
    "stalled": _stalled,
    "overload": _overloaded,
    "clock": _clock_off,
    "comparisons": _not_compared,
    "defect": _failing,
    "receivers": _no_receiver,
    "lease": _of_group(group_status.no_lease),
    "unable": _unable,
    "state": _state,
    "disk": _trouble("disk"),
    "trouble": _trouble("trouble"),
}
"""Every reason why the plugin is not ready, by its code, and how to find it."""

WARNINGS: dict[str, Find] = {
    "clock": _clock_differs,
    "receiver": _receiver_down,
    "unable": _of_group(group_status.others_unable),
    "unowned": _of_group(group_status.unowned),
    "differences": _of_group(group_status.differences),
    "open_minutes": _counted(
        lambda counters: counters.open_minutes,
        "minutes in which JumpCloud counts other events than were delivered",
        "they are read again",
    ),
    "given_up_minutes": _counted(
        lambda counters: counters.given_up_minutes,
        "minutes in which JumpCloud counts events that it does not return",
        "the log has them; compare with `in-jumpcloud audit`",
    ),
    "left_out": _counted(
        lambda counters: counters.left_out,
        "events larger than jumpcloud.event_max_bytes were not collected",
        "raise it; the dead letters have their places",
    ),
    "unavailable": _unavailable,
    "parked": _counted(
        lambda counters: counters.parked,
        "events that the receiver refused alone",
        "they are sent again, and become dead letters if they are refused again",
    ),
    "backfill": _backfills,
    "reload": _trouble("reload"),
    "dead_letters": _dead_letters,
}
"""Every warning, by its code, and how to find it. Counts are since the start of the process."""


OF_GROUP = frozenset({"lease", "unable", "unowned", "differences"})
"""The codes of what only a member of a group can have."""


def is_lagging(stream: StreamStatus, max_lag: float) -> bool:
    """Whether the stream is more than `max_lag` seconds behind now.

    During a backfill the lag is expected: then the stream lags only if it made no progress for `max_lag` seconds.
    """
    return stream.lag > max_lag and (not stream.backfilling or stream.since_progress > max_lag)


def stream_state(stream: StreamStatus, max_lag: float) -> str:
    """The state of a stream as the status page shows it; `max_lag` is in seconds."""
    return state_name(
        fails=bool(stream.error),
        is_refused=stream.refused,
        is_lagging=is_lagging(stream, max_lag),
        is_backfilling=stream.backfilling,
    )
