"""A service account: its tokens, when they are renewed, and the errors when there is none."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from support.command import Command
from support.insights import NOW, OWN, WINDOW, Client, Serve, answer, clients, failure, fetch, ten_minutes
from support.turns import ClockRuntime

from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.config.types import Duration, Secret
from in_jumpcloud.errors import (
    ConfigError,
    InJumpCloudError,
    KeyRefused,
    RequestRejected,
    RequestTimeout,
    Retryable,
    Stopped,
)
from in_jumpcloud.insights.api import DirectoryInsights, Scope
from in_jumpcloud.insights.auth import ServiceAccount, create_auth
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import now_ms

ID, SECRET = "5f0c1a2b3c4d", "Hc8~vB2_kq-R7.mZpX4tW9sLd0"
TOKEN = "/oauth2/token"  # noqa: S105 - a path
SCOPE = Scope(organization="5a2af2a82cf2b0010053ea41")


class Time:
    """The seconds that have passed, for client and server."""

    def __init__(self) -> None:
        self.passed = 0.0

    def ms(self) -> int:
        """The time of the simulated API."""
        return NOW + round(self.passed * 1000)

    def monotonic(self) -> float:
        """The time of the service account."""
        return 1000.0 + self.passed


@pytest.fixture
def time() -> Time:
    """A time that the test advances."""
    return Time()


@pytest.fixture
def api(time: Time) -> Iterator[SimulatedApi]:
    """The simulated API with a service account, whose tokens are valid for an hour."""
    with SimulatedApi(ten_minutes(), accounts={ID: SECRET}, clock=time.ms) as api:
        yield api


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, time: Time) -> Iterator[Callable[..., DirectoryInsights]]:
    """Makes clients with the service account."""
    with clients(monkeypatch) as client:

        def create(api: SimulatedApi | str, *, secret: str = SECRET, **options: Any) -> DirectoryInsights:
            url, token_url = (api, f"{api}{TOKEN}") if isinstance(api, str) else (api.url, api.token_url)
            options = {"token_url": token_url, "runtime": ClockRuntime(time.monotonic), **options}
            return client(url, client_id=ID, client_secret=Secret(secret), organizations=("a",), **options)

        yield create


def account(url: str, clock: Callable[[], float]) -> ServiceAccount:
    """The service account without a client."""
    settings = JumpCloudSettings(url=url, token_url=f"{url}{TOKEN}", client_id=ID, client_secret=Secret(SECRET))
    auth = create_auth(settings, RateLimiter(10_000), runtime=ClockRuntime(clock))
    assert isinstance(auth, ServiceAccount)
    return auth


def token_requests(api: SimulatedApi) -> int:
    """The number of token requests."""
    return sum(request.path == TOKEN for request in api.requests)


def test_token_is_requested_once(client: Client, api: SimulatedApi) -> None:
    """Basic authentication for the token, Bearer and x-org-id with every request, and x-api-key with none."""
    insights = client(api)
    assert len(fetch(insights, scope=SCOPE).events) == 100
    fetch(insights, scope=SCOPE)
    first, *others = api.requests
    assert (first.path, first.status) == (TOKEN, 200)
    assert first.headers["authorization"] == "Basic " + base64.b64encode(f"{ID}:{SECRET}".encode()).decode()
    assert first.headers["content-type"] == "application/x-www-form-urlencoded"
    assert len({request.headers["authorization"] for request in others}) == 1
    for request in others:
        assert request.headers["authorization"].startswith("Bearer ory_at_")
        assert request.headers["x-org-id"] == SCOPE.organization
        assert "x-api-key" not in request.headers
    assert "organization id is missing" in str(failure(insights, scope=OWN))


def test_revoked_token_is_replaced_once(client: Client, api: SimulatedApi) -> None:
    """After a 401 the same request is sent again with a new token. A second 401 is an error of the account."""
    insights = client(api)
    fetch(insights, scope=SCOPE)
    api.tokens.revoke()
    assert len(fetch(insights, scope=SCOPE).events) == 100
    assert [request.status for request in api.requests] == [200, 200, 401, 200, 200]
    api.requests.clear()
    api.faults.always(Fault("status", status=401, path="/events"))
    error = failure(insights, scope=SCOPE)
    assert type(error) is KeyRefused
    assert "a new token of the service account is refused too" in str(error)
    assert [request.status for request in api.requests] == [401, 200, 401]


def test_threads_share_a_token(client: Client, api: SimulatedApi) -> None:
    """Ten threads need a token at the same time, at first and after it was revoked: one token request each time."""
    insights = client(api)
    for expected in (1, 2):
        pages: list[int] = []
        barrier = threading.Barrier(10)

        def ask(barrier: threading.Barrier = barrier, pages: list[int] = pages) -> None:
            barrier.wait()
            pages.append(len(fetch(insights, scope=SCOPE).events))

        threads = [threading.Thread(target=ask) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pages == [100] * 10
        assert token_requests(api) == expected
        api.tokens.revoke()


def test_threads_share_a_failure(serve: Serve, time: Time) -> None:
    """Threads that wait for a token request of another thread fail with it, and send none of their own."""
    received, refuse, waiting = threading.Event(), threading.Event(), threading.Semaphore(0)

    def busy(request: Any) -> None:
        received.set()
        refuse.wait(30)
        request.wfile.write(answer(b"{}", status="503 Busy"))

    class Stop(threading.Event):
        """Counts the waits of a thread that waits for another one's token."""

        def wait(self, timeout: float | None = None) -> bool:
            waiting.release()
            return super().wait(timeout)

    server = serve(busy)
    auth = account(server.url, time.monotonic)
    errors: list[InJumpCloudError] = []

    def prepare(stop: threading.Event) -> None:
        try:
            auth.prepare(stop)
        except InJumpCloudError as error:
            errors.append(error)

    threads = [threading.Thread(target=prepare, args=(threading.Event(),))]
    threads[0].start()
    assert received.wait(30)
    for _ in range(4):
        threads.append(threading.Thread(target=prepare, args=(Stop(),)))
        threads[-1].start()
        assert waiting.acquire(timeout=30)
    refuse.set()
    for thread in threads:
        thread.join()
    assert [type(error) for error in errors] == [Retryable] * 5
    assert len(server.paths) == 1


def test_errors_of_the_token_request(client: Client, serve: Serve) -> None:
    """A failed token request is an error that says what to do, and no request is sent to the API."""
    errors: list[tuple[str, bytes, type[InJumpCloudError], str]] = [
        ("401 No", b'{"error":"invalid_client"}', KeyRefused, "jumpcloud.client_id or client_secret is wrong"),
        ("400 No", b'{"error":"invalid_client"}', KeyRefused, "jumpcloud.client_id or client_secret is wrong"),
        ("400 No", b'{"error":"invalid_scope"}', RequestRejected, "check jumpcloud.token_url"),
        ("403 No", b"{}", RequestRejected, "the service account's role"),
        ("404 No", b"{}", RequestRejected, "check jumpcloud.token_url"),
        ("302 No", b"", RequestRejected, "redirects are not followed, check jumpcloud.token_url"),
        ("429 No", b"{}", Retryable, "answered 429"),
        ("500 No", b"{}", Retryable, "answered 500"),
    ]
    without = [b"{}", b"[]", b'{"access_token":5}', b'{"access_token":"a b"}', b'{"access_token":"a\\r\\nx: y"}']
    errors += [("200 OK", body, Retryable, "has no access_token") for body in [*without, b"<html>"]]
    for status, body, kind, words in errors:
        server = serve(answer(body, {"Location": "http://127.0.0.1:9/", "Retry-After": "7"}, status))
        error = failure(client(server.url))
        assert type(error) is kind, (status, body)
        assert words in str(error)
        assert server.paths == [TOKEN]
        assert getattr(error, "after", None) == (7 if status.startswith("429") else None)


def test_timeout_and_proxy_of_the_token_request(client: Client, api: SimulatedApi, serve: Serve) -> None:
    """The token request has the same timeouts and the same proxy as others."""
    api.faults.once(Fault("delay", seconds=30, path=TOKEN))
    error = failure(client(api, read_timeout=Duration(0.1)), scope=SCOPE)
    assert type(error) is RequestTimeout
    assert str(error) == f"{api.token_url}: no answer within jumpcloud.read_timeout"
    proxy = serve(answer(b'{"access_token":"t"}'))
    failure(client("http://api.invalid", proxy=proxy.url))
    assert proxy.paths[0] == f"http://api.invalid{TOKEN}"


def test_lifetime(serve: Serve, time: Time) -> None:
    """A token is renewed a minute before it expires, or a tenth of its lifetime if that is shorter, but not earlier.

    A lifetime that is missing or invalid counts as an hour; the longest is a day.
    """
    lifetimes: dict[bytes, float] = {b',"expires_in":100': 100, b',"expires_in":600': 600}
    lifetimes[b',"expires_in":' + b"9" * 400] = 86_400
    lifetimes |= {b',"expires_in":' + value: 3600 for value in (b"null", b'"x"', b"-1", b"true")}
    for expires, seconds in (lifetimes | {b"": 3600}).items():
        server = serve(answer(b'{"access_token":"t"' + expires + b"}"))
        auth = account(server.url, time.monotonic)
        auth.prepare(threading.Event())
        time.passed += seconds - min(60, seconds / 10) - 1
        auth.prepare(threading.Event())
        assert len(server.paths) == 1, expires
        time.passed += 1
        auth.prepare(threading.Event())
        assert len(server.paths) == 2, expires


def test_rate_limit_of_the_token_request(client: Client, api: SimulatedApi) -> None:
    """A token request waits for its turn like all others, also during a pause."""
    rate_limiter = RateLimiter(1000)
    rate_limiter.pause(300)
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(Stopped):
        client(api, rate_limiter=rate_limiter).fetch(WINDOW, SCOPE, stop)
    assert not api.requests


def test_secrets_are_not_shown(client: Client, serve: Serve) -> None:
    """No error shows the secret, the Basic credentials or the token, even if a server repeats them."""
    token = "ory_at_" + "Vb" * 30
    basic = base64.b64encode(f"{ID}:{SECRET}".encode()).decode()
    for status in ("400 Bad", "401 Bad", "503 Bad"):
        echo = f'{{"message":"{SECRET} {basic} {"x" * 200} {SECRET}"}}'.encode()
        error = failure(client(serve(answer(echo, {"X-Request-Id": SECRET}, status)).url))
        assert not [secret for secret in (SECRET, basic) if secret[:12] in str(error)]
    granted = answer(f'{{"access_token":"{token}"}}'.encode())

    def reply(request: Any) -> None:
        echo = answer(f'{{"message":"no {token} {SECRET}"}}'.encode(), {"X-Request-Id": token}, "403 No")
        request.wfile.write(granted if request.path == TOKEN else echo)

    error = failure(client(serve(reply).url))
    assert "answered 403" in str(error)
    assert not [secret for secret in (SECRET, token) if secret[:12] in str(error)]


def test_missing_account() -> None:
    """Without a key and a complete service account, the error names the key."""
    with pytest.raises(ConfigError, match="api_key"):
        create_auth(JumpCloudSettings(client_id=ID), RateLimiter(1))


def test_run(command: Command, receiver: SimulatedReceiver) -> None:
    """Two organizations are delivered with one token. A wrong secret ends with the exit code of a refused key."""
    now = now_ms() - 60_000
    sources = {name: EventSource(start_ms=now - 600_000, end_ms=now, organization=name) for name in ("a", "b")}
    with SimulatedApi(sources, accounts={ID: SECRET}) as api:
        settings = {"api_key": None, "client_id": ID, "token_url": api.token_url, "organizations": ["a", "b"]}
        options = command.settings(api, receiver, **{f"jumpcloud__{name}": value for name, value in settings.items()})
        completed = command("run", "--once", *options, "-o", f"jumpcloud.client_secret={SECRET}")
        assert completed.returncode == 0, completed.stderr
        assert token_requests(api) == 1
        assert {request.headers.get("x-org-id") for request in api.requests} == {None, "a", "b"}
        assert len(receiver.ids) == sum(source.count(0, now, now_ms=now) for source in sources.values()) > 0
        refused = command("run", "--once", *options, "-o", "jumpcloud.client_secret=wrong")
        assert refused.returncode == 3
        assert b"jumpcloud.client_id or client_secret is wrong" in refused.stderr


def test_the_simulated_api(api: SimulatedApi, time: Time) -> None:
    """The simulated token endpoint grants tokens for what the plugin sends, valid exactly for their lifetime."""
    form, good, kind = b"grant_type=client_credentials&scope=api", (ID, SECRET), "application/x-www-form-urlencoded"
    table: list[tuple[bytes, tuple[str, str] | None, str, int, str | None]] = [
        (form, None, kind, 401, "invalid_client"),
        (form, (ID, "x"), kind, 401, "invalid_client"),
        (form, good, "text/plain", 400, "invalid_request"),
        (b"grant_type=password&scope=api", good, kind, 400, "invalid_request"),
        (b"grant_type=client_credentials", good, kind, 400, "invalid_request"),
        (form, good, kind, 200, None),
    ]
    body: dict[str, Any] = {}
    for data, auth, content_type, status, error in table:
        headers = {"Content-Type": content_type}
        response = requests.post(api.token_url, data=data, auth=auth, headers=headers, timeout=10)
        body = response.json()
        assert (response.status_code, body.get("error")) == (status, error), data
    assert body["expires_in"] == 3600
    assert api.tokens.accepts(f"Bearer {body['access_token']}")
    assert not api.tokens.accepts(body["access_token"])
    time.passed += 3600
    assert not api.tokens.accepts(f"Bearer {body['access_token']}")
