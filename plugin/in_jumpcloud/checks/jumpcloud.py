"""Checks of JumpCloud: the way there, the clock, the key, and one small query for each stream."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Self

import msgspec
from requests import PreparedRequest
from requests.auth import AuthBase

from in_jumpcloud import app
from in_jumpcloud.checks.result import CheckResult, failed, ok, warning
from in_jumpcloud.checks.runner import Check, run_checks
from in_jumpcloud.collector import Stream
from in_jumpcloud.config.schema import HOSTS, Config, JumpCloudSettings
from in_jumpcloud.config.types import Duration
from in_jumpcloud.errors import (
    CountsUnavailable,
    InJumpCloudError,
    KeyRefused,
    NotLicensed,
    RequestTimeout,
    Retryable,
    Stopped,
)
from in_jumpcloud.insights import auth
from in_jumpcloud.insights.api import DirectoryInsights, Scope
from in_jumpcloud.insights.clock_skew import MAX_SKEW, ClockSkewMonitor
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.insights.transport import Transport
from in_jumpcloud.insights.window import Window
from in_jumpcloud.timestamps import now_ms, parse_http_date, rfc3339

_CONNECT, _READ = Duration(5), Duration(8)
_NOTABLE = 60.0
"""Seconds that the clocks may differ by before it is told."""
_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS
_SLACK = 1.0
"""Seconds that are left to say which streams were not come to."""


def check_jumpcloud(settings: Config, stop: threading.Event, deadline: float) -> Iterator[CheckResult]:
    """The host and its clock, the key, every stream, the counts. What cannot work any more is not tried."""
    brief = msgspec.structs.replace(
        settings.jumpcloud,
        connect_timeout=min(settings.jumpcloud.connect_timeout, _CONNECT),
        read_timeout=min(settings.jumpcloud.read_timeout, _READ),
    )
    skew = _Skew()
    try:
        _reach(brief, skew)
    except Retryable as error:
        yield failed("JumpCloud", error, _waited(error, brief))
        return
    yield ok("JumpCloud", f"{brief.base_url}: answers")
    yield skew.finding()
    their_now_ms = now_ms() - round(skew.ahead * 1000)  # a wrong clock is told once, and not by each query
    with _Asking(brief, their_now_ms, stop) as asking:
        first, *others = app.streams(settings)
        try:
            yield from asking.stream(first)
        except KeyRefused as error:
            yield failed("JumpCloud", error, _other_region(brief, first.scope, their_now_ms, stop))
            return
        checks = [Check("JumpCloud", partial(asking.stream, each)) for each in others]
        yield from run_checks(checks, deadline - _SLACK)
        if asking.let_in:
            yield asking.counts(asking.let_in)


class _Nobody(AuthBase):
    """No key: who answers at all is seen without one."""

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        return request


class _Skew(ClockSkewMonitor):
    """Keeps by how many seconds our clock is ahead of the API's; None: it named no time."""

    def __init__(self) -> None:
        super().__init__()
        self._named = False
        self.ahead = 0.0

    def compare(self, date: str | None, sent_ns: int, received_ns: int) -> None:
        moment = parse_http_date(date)
        if moment is not None:
            theirs = moment.timestamp()
            self._named = True
            self.ahead = max(0.0, sent_ns / 1e9 - theirs - 1) or min(0.0, received_ns / 1e9 - theirs)

    def finding(self) -> CheckResult:
        if not self._named:
            return warning("clock", "the answer has no date to compare it with")
        found = f"{abs(self.ahead):.0f} s {'ahead of' if self.ahead > 0 else 'behind'} JumpCloud's"
        if abs(self.ahead) <= _NOTABLE:
            return ok("clock", "agrees with JumpCloud's")
        advice = "set it (NTP), or events come late and requests are refused"
        return (failed if abs(self.ahead) > MAX_SKEW else warning)("clock", f"this machine's clock is {found}", advice)


def _reach(settings: JumpCloudSettings, skew: _Skew) -> None:
    """See that somebody answers.

    Raises:
        TryAgain: nobody does; why.
    """
    transport = Transport(settings, str, clock_skew=skew)
    try:
        url = f"{settings.base_url}/insights/directory/v1/events"
        transport.post(url, b"{}", {"Content-Type": "application/json"}, _Nobody())
    finally:
        transport.close()


class _Asking:
    """Asks with the settings' own key, at a time that stands still."""

    def __init__(self, settings: JumpCloudSettings, now_ms: int, stop: threading.Event) -> None:
        self._settings = settings
        self._now_ms = now_ms
        self._stop = stop
        self.let_in: Scope | None = None
        """One that could be asked for."""
        rate_limiter = RateLimiter(settings.requests_per_second)
        self._api = DirectoryInsights(settings, auth.create_auth(settings, rate_limiter), rate_limiter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._api.close()

    def stream(self, stream: Stream) -> Iterator[CheckResult]:
        """Ask for one event of a stream.

        Raises:
            KeyRefused: the key, or the service account, is not let in.
            Stopped: `stop` was set.
        """
        start_ms = min(self._settings.start.resolve(self._now_ms), self._now_ms - _MINUTE_MS)
        try:
            events = self.ask(stream.scope, start_ms)
        except KeyRefused as error:
            raise KeyRefused(f"{stream.name}: {error}") from None
        except Stopped:
            raise
        except NotLicensed as error:
            yield failed("JumpCloud", f"{stream.name}: {error}", self._licence(stream.scope))
            return
        except InJumpCloudError as error:
            yield failed("JumpCloud", f"{stream.name}: {error}", _waited(error, self._settings))
            return
        self.let_in = stream.scope
        since = rfc3339(start_ms)
        if events:
            yield ok("JumpCloud", f"{stream.name}: lets us in, and has events since {since}")
        else:
            found = f"{stream.name}: lets us in, and has no event of these services since {since}"
            yield warning("JumpCloud", found, "see whether it is the one that is meant, and jumpcloud.services")

    def ask(self, scope: Scope, start_ms: int) -> int:
        """How many events there are from then on, 0 or 1."""
        services = self._settings.services
        window = Window(start_ms=start_ms, end_ms=self._now_ms, services=services, limit=1)
        return len(self._api.fetch(window, scope, self._stop).events)

    def counts(self, scope: Scope) -> CheckResult:
        """Whether it counts, which is how late events are found."""
        end_ms = self._now_ms - self._now_ms % _MINUTE_MS
        try:
            found = self._api.counts(end_ms - _HOUR_MS, end_ms, self._settings.services, scope, self._stop)
        except Stopped:
            raise
        except CountsUnavailable as error:
            return warning("counts", str(error), "late events are found by reading again, which takes more requests")
        except InJumpCloudError as error:
            return failed("counts", error, _waited(error, self._settings))
        return ok("counts", f"{sum(found.values())} events in the last hour")

    def _licence(self, scope: Scope) -> str:
        """What of it is not licensed: all, or what lies so far back."""
        try:
            self.ask(scope, self._now_ms - _HOUR_MS)
        except InJumpCloudError:
            return "have Directory Insights enabled for it"
        return "the last hour is there: set a later jumpcloud.start"


def _other_region(settings: JumpCloudSettings, scope: Scope, now_ms: int, stop: threading.Event) -> str:
    """Which region the key is of, where it is another of JumpCloud's own; the key goes nowhere else."""
    if settings.url or settings.token_url:
        return ""
    for region in HOSTS:
        if region == settings.region:
            continue
        with _Asking(msgspec.structs.replace(settings, region=region), now_ms, stop) as asking:
            try:
                asking.ask(scope, now_ms - _MINUTE_MS)
            except (KeyRefused, Retryable):
                continue
            except Stopped:
                raise
            except InJumpCloudError:
                pass  # it knows the key, whatever else it wants
        return f"it is let in at region {region}: set jumpcloud.region to {region}"
    return f"no other region ({', '.join(each for each in HOSTS if each != settings.region)}) lets it in either"


def _waited(error: InJumpCloudError, brief: JumpCloudSettings) -> str:
    """What to add to an error that names a time-out: `brief` has how long was waited, which may be less."""
    if not isinstance(error, RequestTimeout):
        return ""
    waited = f"{brief.connect_timeout:g} s for a connection and {brief.read_timeout:g} s for an answer"
    return f"check waits {waited}; is a firewall or a proxy between?"
