"""Checks of JumpCloud: the connection, the clock, the key, a small query per stream, and the counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Self

import msgspec
from requests import PreparedRequest
from requests.auth import AuthBase

from in_jumpcloud import app
from in_jumpcloud.checks.result import CheckResult, failed, ok, warning
from in_jumpcloud.checks.runner import Check, run_checks
from in_jumpcloud.checks.several_organizations import SeveralOrganizations
from in_jumpcloud.collector import Stream
from in_jumpcloud.config.schema import HOSTS, Config, JumpCloudSettings
from in_jumpcloud.config.types import Duration
from in_jumpcloud.counters import plural
from in_jumpcloud.discovery import list_of
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
from in_jumpcloud.insights.clock import MAX_SKEW_SECONDS, EarlierClock
from in_jumpcloud.insights.event import parse_event
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.insights.transport import Transport
from in_jumpcloud.insights.window import Window
from in_jumpcloud.load import Load
from in_jumpcloud.streams import jumpcloud_of_stream, streams
from in_jumpcloud.timestamps import HOUR_MS, MINUTE_MS, rfc3339, whole_minute

_MAX_CONNECT_TIMEOUT, _MAX_READ_TIMEOUT = Duration(5), Duration(8)
_MIN_SKEW_SECONDS = 60.0
"""A smaller difference of the clocks is not reported."""
_MIN_STREAMS = 8
"""So many more streams are checked even where there is hardly time for them."""
_REPORT_SECONDS = 1.0
"""Kept back from the time limit to report the streams that were not checked."""


def check_jumpcloud(settings: Config, stop: threading.Event, deadline: float) -> Iterator[CheckResult]:
    """Check the host and its clock, the key, every stream, and the counts; a failure skips what depends on it.

    `deadline` is on the monotonic clock.
    """
    limited = msgspec.structs.replace(
        settings.jumpcloud,
        connect_timeout=min(settings.jumpcloud.connect_timeout, _MAX_CONNECT_TIMEOUT),
        read_timeout=min(settings.jumpcloud.read_timeout, _MAX_READ_TIMEOUT),
    )
    clock = EarlierClock()
    try:
        _connect(limited, clock)
    except Retryable as error:
        yield failed("JumpCloud", error, _timeout_advice(error, limited))
        return
    yield ok("JumpCloud", f"{limited.base_url}: reachable")
    yield _check_clock(clock)
    # A wrong clock is reported once, not per query.
    jumpcloud_now_ms = clock.newest_ms()
    with _Queries(limited, jumpcloud_now_ms, stop) as queries:
        organizations: list[str] | None = None
        if settings.jumpcloud.is_discovered:
            try:
                listed = list_of(settings.jumpcloud, queries.organizations)(stop).organizations
            except InJumpCloudError as error:
                yield failed("organizations", error, _timeout_advice(error, limited))
                return
            organizations = list(listed)
            yield ok("organizations", f"{plural(len(listed), 'organization')} to poll are listed")
        first, *others = streams(settings, organizations)
        try:
            yield from queries.check_stream(first)
        except KeyRefused as error:
            yield failed("JumpCloud", error, _region_advice(limited, first.scope, jumpcloud_now_ms, stop))
            return
        yield queries.check_load(app.required_load(settings, 1 + len(others)))
        ends_at = deadline - _REPORT_SECONDS
        most = max(_MIN_STREAMS, int((ends_at - time.monotonic()) * limited.requests_per_second / 2))
        checks = [Check("JumpCloud", partial(queries.check_stream, stream)) for stream in others[:most]]
        yield from run_checks(checks, ends_at)
        if queries.accessible:
            yield queries.check_counts(queries.accessible[-1])
        accessible = set(queries.accessible)
        scopes = [each.scope for each in (first, *others) if each.scope in accessible]
        asked = [each.organization for each in scopes if each.organization]
        if len(asked) > 1:
            yield queries.check_several(asked, ends_at)
        if others[most:]:
            yield warning(
                "JumpCloud", f"{plural(len(others) - most, 'stream')} not checked: there is time for {most} more"
            )


class _NoAuth(AuthBase):
    """Sends no key: any answer shows that the host is reachable."""

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        return request


def _check_clock(clock: EarlierClock) -> CheckResult:
    """Compare this machine's clock with the date of the answer."""
    ahead = clock.newest_skew_seconds
    if ahead is None:
        return warning("clock", "cannot be compared: the response has no date")
    if abs(ahead) <= _MIN_SKEW_SECONDS:
        return ok("clock", "agrees with JumpCloud's")
    message = f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} JumpCloud's"
    advice = "set it (NTP), otherwise events arrive late and requests are refused"
    return (failed if abs(ahead) > MAX_SKEW_SECONDS else warning)("clock", message, advice)


def _connect(settings: JumpCloudSettings, clock: EarlierClock) -> None:
    """Send a request without a key.

    Raises:
        Retryable: no response.
    """
    transport = Transport(settings, clock=clock)
    try:
        url = f"{settings.base_url}/insights/directory/v1/events"
        transport.post(url, b"{}", {"Content-Type": "application/json"}, _NoAuth())
    finally:
        transport.close()


class _Queries:
    """Queries with the configured key, all at the same `now_ms`."""

    def __init__(self, settings: JumpCloudSettings, now_ms: int, stop: threading.Event) -> None:
        self._settings = settings
        self._now_ms = now_ms
        self._stop = stop
        self.accessible: list[Scope] = []
        """The scopes that the key has access to."""
        rate_limiter = RateLimiter(settings.requests_per_second)
        self._api = DirectoryInsights(settings, auth.create_auth(settings, rate_limiter), rate_limiter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._api.close()

    def organizations(self, provider: str | None, stop: threading.Event) -> dict[str, str]:
        """As DirectoryInsights.organizations."""
        return self._api.organizations(provider, stop)

    def check_stream(self, stream: Stream) -> Iterator[CheckResult]:
        """Query one event of a stream.

        Raises:
            KeyRefused: the key, or the service account, is refused.
            Stopped: `stop` was set.
        """
        settings = jumpcloud_of_stream(self._settings, stream)
        start_ms = min(settings.start.resolve(self._now_ms), self._now_ms - MINUTE_MS)
        try:
            oldest = self.oldest_event(stream.scope, start_ms, settings.services)
        except KeyRefused as error:
            raise KeyRefused(f"{stream.name}: {error}") from None
        except Stopped:
            raise
        except NotLicensed as error:
            yield failed("JumpCloud", f"{stream.name}: {error}", self._licence_advice(stream.scope))
            return
        except InJumpCloudError as error:
            yield failed("JumpCloud", f"{stream.name}: {error}", _timeout_advice(error, self._settings))
            return
        self.accessible.append(stream.scope)
        since = rfc3339(start_ms)
        if oldest:
            yield ok("JumpCloud", f"{stream.name}: access granted, the oldest event since {since} is of {oldest}")
        else:
            message = f"{stream.name}: access granted, but no event of the configured services since {since}"
            yield warning("JumpCloud", message, "check that it is the right organization, and jumpcloud.services")

    def oldest_event(self, scope: Scope, start_ms: int, services: tuple[str, ...] = ()) -> str | None:
        """The time of the oldest event since `start_ms`, None if there is none; raises as DirectoryInsights.fetch."""
        services = services or self._settings.services
        window = Window(start_ms=start_ms, end_ms=self._now_ms, services=services, limit=1)
        events = self._api.fetch(window, scope, self._stop).events
        return (parse_event(events[0]).timestamp or "an unknown time") if events else None

    def check_load(self, load: Load) -> CheckResult:
        """Compare what the streams need with the rate limit, at the speed of the requests of this check."""
        load = load._replace(seconds=self._api.statistics().latencies.mean())
        if load.is_too_high:
            return warning("load", str(load), load.advice)
        return ok("load", str(load))

    def check_counts(self, scope: Scope) -> CheckResult:
        """Check that JumpCloud counts events, which finds late events with few requests."""
        end_ms = whole_minute(self._now_ms)
        try:
            counts = self._api.counts(end_ms - HOUR_MS, end_ms, self._settings.services, scope, self._stop)
        except Stopped:
            raise
        except CountsUnavailable as error:
            return warning("counts", str(error), "late events are found by reading again, which takes more requests")
        except InJumpCloudError as error:
            return failed("counts", error, _timeout_advice(error, self._settings))
        return ok("counts", f"{sum(counts.values())} events in the last hour")

    def check_several(self, organizations: Sequence[str], ends_at: float) -> CheckResult:
        """Find out whether one request can ask for several. It ends by `ends_at`, on the monotonic clock."""
        longest = self._settings.connect_timeout + self._settings.read_timeout
        several = SeveralOrganizations(
            *(self._api, self._settings.services, self._now_ms, self._stop),
            has_time=lambda: time.monotonic() + longest < ends_at,
        )
        return several.check(organizations)

    def _licence_advice(self, scope: Scope) -> str:
        """Tell a plan without Directory Insights from one that does not reach back far enough."""
        try:
            self.oldest_event(scope, self._now_ms - HOUR_MS)
        except InJumpCloudError:
            return "enable Directory Insights for the organization"
        return "the last hour is available: set a later jumpcloud.start"


def _region_advice(settings: JumpCloudSettings, scope: Scope, now_ms: int, stop: threading.Event) -> str:
    """Try the key in JumpCloud's other regions; it is sent to no other host."""
    if settings.url or settings.token_url:
        return ""
    others = [region for region in HOSTS if region != settings.region]
    for region in others:
        with _Queries(msgspec.structs.replace(settings, region=region), now_ms, stop) as queries:
            try:
                queries.oldest_event(scope, now_ms - MINUTE_MS)
            except (KeyRefused, Retryable):
                continue
            except Stopped:
                raise
            except InJumpCloudError:
                pass  # refused for another reason: the region knows the key
        return f"region {region} accepts it: set jumpcloud.region to {region}"
    return f"no other region ({', '.join(others)}) accepts it"


def _timeout_advice(error: InJumpCloudError, limited: JumpCloudSettings) -> str:
    """The timeouts of the check, which may be shorter than those of the settings that the error names."""
    if not isinstance(error, RequestTimeout):
        return ""
    timeouts = f"{limited.connect_timeout:g} s for a connection and {limited.read_timeout:g} s for a response"
    return f"the check waits {timeouts}; is there a firewall or a proxy in between?"
