"""Whether the plugin is alive and ready, from a snapshot alone."""

from __future__ import annotations

from typing import Any

import msgspec

from in_jumpcloud.counters import Counters, LatencyHistogram
from in_jumpcloud.load import Load
from in_jumpcloud.monitoring import health
from in_jumpcloud.monitoring.group_status import GroupStatus, MemberStatus
from in_jumpcloud.monitoring.snapshot import BackfillStatus, ReceiverStatus, Snapshot, StreamStatus
from in_jumpcloud.monitoring.survey import NOTHING
from in_jumpcloud.progress import Progress
from in_jumpcloud.troubles import Trouble

LAG = 900.0
SILENCE = 1200.0
BEHIND: dict[str, Any] = {"lag": 10 * 86_400.0, "backfilling": True}
REFUSED: dict[str, Any] = {"error": "JumpCloud answered 403: no", "refused": True}

FULL: dict[str, Any] = {
    "error": "state.db: full; free some",
    "state_error": "state.db: full; free some",
    "since_progress": LAG + 1,
    **BEHIND,
}

OVERLOAD = (
    "overload: 160 streams need 5.7 requests/s for polls every 30 s; 5.0 are possible: jumpcloud.requests_per_second "
    "is 5. Each stream is polled every 35 s instead of every 30 s; raise "
    "jumpcloud.interval, jumpcloud.interval_max or jumpcloud.requests_per_second; more processes share that limit"
)
CHECK = "`in-jumpcloud check` names the cause"
SLOW = "see the log, and how long requests take; no event is lost"
NO_TIME = "see the log; JumpCloud or the rate limit leaves no time for it"


def stream(name: str = "one", **values: Any) -> StreamStatus:
    """A healthy stream, except for these values."""
    return StreamStatus(
        **{
            "name": name,
            "watermark_ms": 0,
            "reached_ms": 0,
            "window": None,
            "lag": 1.0,
            "counters": Counters(),
            **values,
        }
    )


def snapshot(*streams: StreamStatus, receivers: tuple[bool | None, ...] = (True,), **values: Any) -> Snapshot:
    """A snapshot of these streams, and of receivers that are up or not."""
    return Snapshot(
        now_ms=0,
        uptime=60,
        streams=streams,
        receivers=tuple(
            ReceiverStatus(f"r{number}", up, LatencyHistogram(), *(("no ack", 61.0) if up is False else ()))
            for number, up in enumerate(receivers)
        ),
        max_lag=LAG,
        max_silence=SILENCE,
        **values,
    )


def test_ready() -> None:
    """A stream is a reason if it is refused or lags more than allowed; a backfill only if it makes no progress.

    Receivers are one only if all are known to be down. Several reasons are all given.
    """
    up, down, untried = True, False, None
    for seen, reasons in [
        (snapshot(stream(), stream("two")), []),
        (snapshot(stream(lag=LAG)), []),
        (snapshot(stream(lag=LAG + 1)), [f"lagging: one: 15m 1s behind now; {SLOW}"]),
        (snapshot(stream(lag=7200.0, error="no answer")), [f"lagging: one: 2h behind now: no answer; {CHECK}"]),
        (snapshot(stream(error="no answer")), []),
        (snapshot(stream(**BEHIND, since_progress=LAG)), []),
        (
            snapshot(stream(**BEHIND, since_progress=LAG + 1)),
            [f"stalled: one: no new event and no completed window for 15m 1s; {SLOW}"],
        ),
        (
            snapshot(stream(lag=LAG + 1, unacknowledged_wait=5.0)),
            [f"lagging: one: 15m 1s behind now; {SLOW}"],
        ),
        (
            snapshot(stream(lag=LAG + 1, held_up="receiver r0: it refused")),
            ["lagging: one: 15m 1s behind now: receiver r0: it refused"],
        ),
        (
            snapshot(stream(**FULL), stream("two", **FULL)),
            ["state: state.db: full; free some"],  # at once, and once for all streams
        ),
        (
            snapshot(stream(**FULL), troubles=(Trouble("state.db: full", 0, "free some", "state.files"),)),
            ["state: state.db: full; free some"],
        ),
        (
            snapshot(stream(lag=LAG + 1, awaits_ack=True)),
            ["lagging: one: 15m 1s behind now; the receiver is slow: see how long its acks take"],
        ),
        (
            snapshot(stream(lag=LAG + 1, awaits_ack=True), receivers=(down, up)),
            ["lagging: one: 15m 1s behind now: receiver r0: no ack"],
        ),
        (snapshot(stream("two"), stream(**REFUSED)), [f"refused: one: JumpCloud answered 403: no; {CHECK}"]),
        (snapshot(stream(**REFUSED, has_advice=True)), ["refused: one: JumpCloud answered 403: no"]),
        (snapshot(stream(), receivers=(down,)), [f"receivers: no receiver is up: r0, for 1m 1s: no ack; {CHECK}"]),
        (
            snapshot(stream(), receivers=(down, down)),
            [f"receivers: no receiver is up: r0, for 1m 1s: no ack; r1, for 1m 1s: no ack; {CHECK}"],
        ),
        (snapshot(stream(), receivers=(down, up)), []),
        (snapshot(stream(), receivers=(untried, down)), []),
        (snapshot(stream(), troubles=(Trouble("x: gone", 0, "bring it"),)), ["trouble: x: gone; bring it"]),
        (snapshot(stream(), troubles=(Trouble("x", 0, "", "state.files"),)), ["state: x"]),
        (snapshot(stream(), troubles=(Trouble("x", 0, "free some", "state.space"),)), ["disk: x; free some"]),
        (snapshot(stream(), troubles=(Trouble("x", 0, "", "reload"),)), []),  # events arrive with the old settings
        (snapshot(stream(), clock_skew=-299.0), []),
        (
            snapshot(stream(), clock_skew=-3600.0),
            ["clock: this machine's clock is 1h behind JumpCloud's; set it (NTP)"],
        ),
        (snapshot(stream(counters=Counters(unexpected_in_a_row=2))), []),
        (
            snapshot(stream(counters=Counters(unexpected_in_a_row=3))),
            ["defect: one: 3 unexpected errors in a row; report it with the traceback in the log"],
        ),
        (snapshot(stream(late_error="no counts", late_error_for=LAG)), []),
        (
            snapshot(stream(late_error="no counts", late_error_for=LAG + 1)),
            ["comparisons: one: late events cannot be looked for, for 15m 1s: no counts"],
        ),
        (
            snapshot(stream(compared_lag=4 * 3600.0)),
            [f"comparisons: one: late events were last looked for 4h ago; {NO_TIME}"],
        ),
        (snapshot(stream(), load=Load(140, 30, 204, 5)), []),
        (
            snapshot(stream(), load=Load(160, 30, 204, 5)),
            [OVERLOAD],
        ),
        (
            snapshot(stream(**REFUSED, lag=1e6), receivers=(down,)),
            [
                f"refused: one: JumpCloud answered 403: no; {CHECK}",
                f"receivers: no receiver is up: r0, for 1m 1s: no ack; {CHECK}",
            ],
        ),
    ]:
        assert list(map(str, health.not_ready(seen))) == reasons
        assert health.not_alive(seen) == []  # a restart helps none of these


def group(*others: str, state: str = "able", **values: Any) -> GroupStatus:
    """A group of this member, which is in this state, and others in these; in order except for these values."""
    this = MemberStatus(
        id="a",
        name="a",
        version="1",
        address=None,
        link=None,
        state=state,
        streams=1,
        uptime=60.0,
        silent=0.0,
        lease=15.0,
        settings="x",
        this=True,
    )
    members = [
        msgspec.structs.replace(this, id=name, name=name, state=each, this=False)
        for name, each in zip("bcd", others, strict=False)
    ]
    standard: dict[str, Any] = {"streams": 3, "unowned": 0, "held": 1, "share": 0.3, "renewed": 0.5, "lease": 15.0}
    return GroupStatus(members=(this, *members), **{**standard, **values})


def test_a_group() -> None:
    """A member without a lease, or that cannot work while others can, is not ready; of the others it warns."""
    cannot = (
        "unable: this member does not reach JumpCloud or a receiver, for 30 s or longer; the others have its streams"
    )
    no_lease = (
        "lease: this member has not renewed for 1m 1s, longer than its lease of 15s: the others may have its streams, "
        "and it sends nothing"
    )
    for seen, reasons in [
        (snapshot(group=group("able", held=0)), []),
        (snapshot(group=group("able", renewed=15.0)), []),
        (
            snapshot(group=group("able", renewed=61.0, trouble="db: no answer")),
            [f"{no_lease}: db: no answer"],
        ),
        (snapshot(group=group("able", state="not able")), [f"{cannot}; {CHECK}"]),
        (snapshot(group=group("not able", state="not able")), []),
        (
            snapshot(group=group("able", state="not able"), receivers=(False,)),
            [f"receivers: no receiver is up: r0, for 1m 1s: no ack; {CHECK}"],
        ),
    ]:
        assert list(map(str, health.not_ready(seen))) == reasons
        assert health.not_alive(seen) == []
    (warning,) = health.warnings(snapshot(group=group("not able", state="not able")))
    assert "a receiver; nor does any other, so each keeps its streams; see its log" in str(warning)
    for unowned_for, codes in ((30.0, []), (30.5, ["unowned"])):
        seen = snapshot(group=group(unowned=2, unowned_for=unowned_for))
        assert [each.code for each in health.warnings(seen)] == codes
    assert str(health.warnings(seen)[0]) == "unowned: 2 streams had no member for 30s; see the logs of the members"


def test_warnings() -> None:
    """What needs attention, by its code, while the plugin is ready; what makes it not ready is no warning too."""
    assert health.warnings(snapshot(stream(), receivers=(True, None))) == []
    counters = Counters(open_minutes=1, given_up_minutes=2, left_out=3, unavailable_seconds=7200.0, parked=4)
    failing = BackfillStatus(7, "one", Progress(0.5, 1, 2, 0, None), "no answer", 61.0, "Retryable")
    seen = snapshot(
        stream(counters=counters),
        receivers=(True, False),
        clock_skew=31.0,
        dead_letters=1,
        backfills=(failing,),
        troubles=(Trouble("configuration not reloaded: x", 0, "the old one stays in use", "reload"),),
        group=group("not able", unowned=1, unowned_for=61.0, differences="b has other settings"),
    )
    found = health.warnings(seen)
    assert [each.code for each in found] == list(health.WARNINGS)
    assert all(each.text and each.advice for each in found)
    assert str(found[0]) == "clock: this machine's clock is 31s ahead of JumpCloud's; set it (NTP)"
    assert str(found[1]) == "receiver: r1, for 1m 1s: no ack; the others are used meanwhile"
    assert str(found[2]).startswith("unable: member b does not reach JumpCloud or a receiver; the others have its")
    assert "one: 2h of events" in str(found[8])
    assert "backfill 7 of one: for 1m 1s: no answer; it is retried; `in-jumpcloud backfill --cancel 7`" in str(
        found[10]
    )
    assert health.not_ready(seen) == []
    assert health.warnings(snapshot(stream(), receivers=(False,), clock_skew=301.0)) == []


def test_alive() -> None:
    """A worker that has ended, or shows no activity for too long; a stream that is due while no worker is busy."""
    waiting = stream(overdue=SILENCE + 1)
    for seen, reasons in [
        (snapshot(stream(silent=SILENCE)), []),
        (snapshot(stream(silent=SILENCE + 1)), ["one: no activity for 20m 1s"]),
        (snapshot(stream(), workers_alive=False), ["a worker thread has ended"]),
        (snapshot(waiting, stream("two", silent=3.0)), []),
        (snapshot(waiting, backfills=(BackfillStatus(1, "one", Progress(0, 0, 0, 0, None), silent=1.0),)), []),
        (snapshot(waiting, stream("two")), ["one: due for 20m 1s, but no worker runs it"]),
    ]:
        assert health.not_alive(seen) == reasons


def test_states() -> None:
    """The word that the status page shows for a stream."""
    for one, state in [
        (stream(), "up to date"),
        (stream(lag=LAG + 1), "lagging"),
        (stream(**BEHIND), "catching up"),
        (stream(error="no answer"), "failing"),
        (stream(**REFUSED), "refused"),
    ]:
        assert health.stream_state(one, LAG) == state


def test_load() -> None:
    """Slow requests count, and so does the time that polls wait for a worker."""
    assert not Load(20, 30, 204, 5, seconds=1.0, workers=4, gap=30.5).is_too_high
    assert Load(140, 30, 204, 5, seconds=1.0, workers=4).is_too_high
    assert str(Load(1, 30, 0, 5, seconds=0.5)) == (
        "1 stream needs 0.033 requests/s (2,880 a day) for polls every 30 s; 2.0 are possible: "
        "jumpcloud.requests_per_second is 5, 1 worker sends 2.0 at 0.50 s each"
    )
    assert Load(1, 30, 204, 5, gap=45).is_too_high


def test_the_advice_is_about_what_limits() -> None:
    """More processes share the limit of requests: they only help where the processor is what limits."""
    of_limit, of_workers, of_process = (
        Load(160, 30, 204, 5, seconds=0.1, workers=4),
        Load(140, 30, 204, 5, seconds=1.0, workers=4),
        Load(20, 30, 204, 5, seconds=0.1, workers=4, gap=60),
    )
    assert all(each.is_too_high for each in (of_limit, of_workers, of_process))
    assert "requests_per_second; more processes share that limit" in of_limit.advice
    assert "several processes" not in of_limit.advice + of_workers.advice
    assert "jumpcloud.workers" in of_workers.advice
    assert "where the processor is the limit, let several processes" in of_process.advice


def test_a_member_has_its_share_of_the_limit() -> None:
    """What is too much for the group is too much for each member."""
    whole = Load(300, 30, 0, 5)
    third = Load(100, 30, 0, 5, share=1 / 3)
    assert (whole.kept, round(third.kept)) == (60, 60)
    assert "jumpcloud.requests_per_second is 5, and 1.7 of that are for these streams" in str(third)
    assert "of that" not in str(whole)


def test_a_member_that_has_just_lost_its_streams() -> None:
    """Until they have ended here it has streams, but no share: that is no overload."""
    lost = Load(3, 30, 204, 5, seconds=0.1, workers=3, gap=31, share=0)
    assert not lost.is_too_high
    assert (lost.kept, lost.interval_text) == (30, "every 30 s")


def test_the_interval_that_is_kept() -> None:
    """As it was measured; else late events have their comparisons, but at most every second request."""
    assert Load(100, 30, 204, 5).kept == 30
    assert Load(160, 30, 0, 5).kept == 32
    assert Load(10_000, 30, 204, 5).kept == 4000
    assert Load(10_000, 30, 204, 5, gap=3000).kept == 3000
    assert Load(100, 30, 204, 5, gap=60).interval_text == "every 60 s instead of every 30 s"


def test_reasons_beyond_those_that_are_shown_are_counted() -> None:
    """With thousands of streams not each has a line of its own."""
    survey = msgspec.structs.replace(NOTHING, streams=5000, found={"refused": 700, "parked": 1})
    refused = snapshot(stream(**REFUSED), stream("two", **REFUSED), survey=survey)
    assert [str(each) for each in health.not_ready(refused)][1:] == [
        f"refused: two: JumpCloud answered 403: no; {CHECK}",
        "refused: and 698 more streams",
    ]
    assert health.warnings(refused) == []
