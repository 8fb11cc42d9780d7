"""A service account: its tokens, when they are renewed, and what is said when there are none."""

from __future__ import annotations

import base64
import threading
import time as wall
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from support.command import Command
from support.insights import NOW, OWN, WINDOW, Client, Serve, answer, clients, failure, fetch, ten_minutes

from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.config.types import Duration, Secret
from in_jumpcloud.errors import ConfigError, InJumpCloudError, KeyRefused, RequestRejected, Retryable, Stopped
from in_jumpcloud.insights import auth
from in_jumpcloud.insights.api import DirectoryInsights, Scope
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver

ID, SECRET = "5f0c1a2b3c4d", "Hc8~vB2_kq-R7.mZpX4tW9sLd0"
TOKEN = "/oauth2/token"  # noqa: S105 - a path
MINE = Scope(organization="5a2af2a82cf2b0010053ea41")


class Time:
    """The seconds that have passed, on both sides."""

    def __init__(self) -> None:
        self.passed = 0.0

    def ms(self) -> int:
        """For the simulated API."""
        return NOW + round(self.passed * 1000)

    def monotonic(self) -> float:
        """For the service account."""
        return 1000.0 + self.passed


@pytest.fixture
def time() -> Time:
    """A time that a test moves."""
    return Time()


@pytest.fixture
def api(time: Time) -> Iterator[SimulatedApi]:
    """The simulated API, with a service account whose tokens live an hour."""
    with SimulatedApi(ten_minutes(), accounts={ID: SECRET}, clock=time.ms) as api:
        yield api


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, time: Time) -> Iterator[Callable[..., DirectoryInsights]]:
    """Make clients that ask as the service account."""
    monkeypatch.setattr(auth.ServiceAccount.__init__, "__kwdefaults__", {"clock": time.monotonic})
    with clients(monkeypatch) as client:

        def make(api: SimulatedApi | str, *, secret: str = SECRET, **options: Any) -> DirectoryInsights:
            url, token_url = (api, f"{api}{TOKEN}") if isinstance(api, str) else (api.url, api.token_url)
            options = {"token_url": token_url, **options}
            return client(url, client_id=ID, client_secret=Secret(secret), organizations=("a",), **options)

        yield make


def tokens(api: SimulatedApi) -> int:
    """How many token requests there were."""
    return sum(request.path == TOKEN for request in api.requests)


def test_a_token_is_asked_for_once_and_used(client: Client, api: SimulatedApi) -> None:
    """HTTP Basic for the token, Bearer and x-org-id with every request, and no x-api-key anywhere."""
    one = client(api)
    assert len(fetch(one, scope=MINE).events) == 100
    fetch(one, scope=MINE)
    first, *others = api.requests
    assert (first.path, first.status) == (TOKEN, 200)
    assert first.headers["authorization"] == "Basic " + base64.b64encode(f"{ID}:{SECRET}".encode()).decode()
    assert first.headers["content-type"] == "application/x-www-form-urlencoded"
    assert len({request.headers["authorization"] for request in others}) == 1
    for request in others:
        assert request.headers["authorization"].startswith("Bearer ory_at_")
        assert request.headers["x-org-id"] == MINE.organization
        assert "x-api-key" not in request.headers
    assert "organization id is missing" in str(failure(one, scope=OWN))


@pytest.mark.parametrize(("lifetime", "margin"), [(3600, 60), (100, 10)])
def test_a_token_is_renewed_before_its_end(
    client: Client, api: SimulatedApi, time: Time, lifetime: float, margin: float
) -> None:
    """A minute before its end, or a tenth of its life where that is shorter; not earlier."""
    api.tokens.lifetime = lifetime
    one = client(api)
    fetch(one, scope=MINE)
    time.passed += lifetime - margin - 1
    fetch(one, scope=MINE)
    assert tokens(api) == 1
    time.passed += 1
    fetch(one, scope=MINE)
    assert tokens(api) == 2
    assert {request.status for request in api.requests} == {200}


def test_a_revoked_token_is_replaced_once(client: Client, api: SimulatedApi) -> None:
    """A 401 brings one fresh token and the same request again; a second 401 is the account's own fault."""
    one = client(api)
    fetch(one, scope=MINE)
    api.tokens.revoke()
    assert len(fetch(one, scope=MINE).events) == 100
    assert [request.status for request in api.requests] == [200, 200, 401, 200, 200]
    api.requests.clear()
    api.faults.always(Fault("status", status=401, path="/events"))
    error = failure(one, scope=MINE)
    assert type(error) is KeyRefused
    assert "a fresh token of the service account is refused too" in str(error)
    assert [request.status for request in api.requests] == [401, 200, 401]


def test_many_streams_make_one_token_request(client: Client, api: SimulatedApi) -> None:
    """Ten threads ask at the same time, at first and after a revocation: one token request each time."""
    one = client(api)
    for expected in (1, 2):
        pages: list[int] = []
        barrier = threading.Barrier(10)

        def ask(barrier: threading.Barrier = barrier, pages: list[int] = pages) -> None:
            barrier.wait()
            pages.append(len(fetch(one, scope=MINE).events))

        threads = [threading.Thread(target=ask) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pages == [100] * 10
        assert tokens(api) == expected
        api.tokens.revoke()


def test_many_streams_share_a_failure(client: Client, serve: Serve) -> None:
    """Streams that wait for somebody else's token request that fails fail with it, and do not all ask themselves."""
    asked, refused, waits = threading.Event(), threading.Event(), threading.Semaphore(0)

    def refuse(request: Any) -> None:
        asked.set()
        refused.wait(10)
        request.wfile.write(answer(b"{}", status="503 Busy"))

    server = serve(refuse)
    account = client(server.url)._auth
    errors: list[InJumpCloudError] = []

    class Lock:
        def __init__(self, lock: threading.Lock) -> None:
            self.release = lock.release
            self._acquire = lock.acquire

        def acquire(self, timeout: float) -> bool:
            waits.release()
            return self._acquire(timeout=timeout)

    def ask() -> None:
        try:
            account.ready(threading.Event())
        except InJumpCloudError as error:
            errors.append(error)

    assert isinstance(account, auth.ServiceAccount)
    account._lock = Lock(account._lock)  # type: ignore[assignment]
    threads = [threading.Thread(target=ask) for _ in range(5)]
    threads[0].start()
    assert asked.wait(10)
    for thread in threads[1:]:
        thread.start()
    for _ in threads:
        assert waits.acquire(timeout=10)
    refused.set()
    for thread in threads:
        thread.join()
    assert {type(error) for error in errors} == {Retryable}
    assert len(errors) == 5
    assert len(server.paths) == 1


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        ("401 No", b'{"error":"invalid_client"}', KeyRefused, "jumpcloud.client_id or client_secret is wrong"),
        ("400 No", b'{"error":"invalid_client"}', KeyRefused, "jumpcloud.client_id or client_secret is wrong"),
        ("400 No", b'{"error":"invalid_scope"}', RequestRejected, "check jumpcloud.token_url"),
        ("403 No", b"{}", RequestRejected, "the service account's role"),
        ("404 No", b"{}", RequestRejected, "check jumpcloud.token_url"),
        ("302 No", b"", RequestRejected, "redirects are not followed, check jumpcloud.token_url"),
        ("429 No", b"{}", Retryable, "answered 429"),
        ("500 No", b"{}", Retryable, "answered 500"),
        ("200 OK", b"{}", Retryable, "holds no access_token"),
        ("200 OK", b"[]", Retryable, "holds no access_token"),
        ("200 OK", b'{"access_token":5}', Retryable, "holds no access_token"),
        ("200 OK", b'{"access_token":"a b"}', Retryable, "holds no access_token"),
        ("200 OK", b'{"access_token":"a\\r\\nx: y"}', Retryable, "holds no access_token"),
        ("200 OK", b"<html>", Retryable, "holds no access_token"),
    ],
)
def test_token_faults(
    client: Client, serve: Serve, status: str, body: bytes, kind: type[InJumpCloudError], words: str
) -> None:
    """What goes wrong with the token request is an error that says what to do; the API is not asked."""
    server = serve(answer(body, {"Location": "http://127.0.0.1:9/", "Retry-After": "7"}, status))
    error = failure(client(server.url))
    assert type(error) is kind
    assert words in str(error)
    assert server.paths == [TOKEN]
    assert getattr(error, "after", None) == (7 if status.startswith("429") else None)


def test_wrong_secret(client: Client, api: SimulatedApi) -> None:
    """The simulated API refuses another secret; the error names what to look at."""
    error = failure(client(api, secret="wrong" * 5), scope=MINE)
    assert type(error) is KeyRefused
    assert "client_secret" in str(error)


def test_no_answer_to_the_token_request(client: Client, api: SimulatedApi) -> None:
    """The token request has the same timeouts as all others."""
    api.faults.once(Fault("delay", seconds=30, path=TOKEN))
    error = failure(client(api, read_timeout=Duration(0.1)), scope=MINE)
    assert type(error) is Retryable
    assert str(error) == f"{api.token_url}: no answer within jumpcloud.read_timeout"


@pytest.mark.parametrize(
    ("expires", "seconds"),
    [
        (b"", 3600),
        (b',"expires_in":null', 3600),
        (b',"expires_in":"x"', 3600),
        (b',"expires_in":-1', 3600),
        (b',"expires_in":true', 3600),
        (b',"expires_in":600', 600),
        (b',"expires_in":' + b"9" * 400, 86_400),
    ],
)
def test_lifetime(serve: Serve, time: Time, client: Client, expires: bytes, seconds: float) -> None:
    """An hour where the answer does not say, or says nonsense; a day at most."""
    server = serve(answer(b'{"access_token":"t"' + expires + b"}"))
    account = client(server.url)._auth
    account.ready(threading.Event())
    time.passed += seconds - min(60, seconds / 10) - 1
    account.ready(threading.Event())
    assert len(server.paths) == 1
    time.passed += 1
    account.ready(threading.Event())
    assert len(server.paths) == 2


def test_token_requests_are_within_the_budget(client: Client, api: SimulatedApi) -> None:
    """A token request waits for its turn like all others, and a hold holds it back too."""
    rate_limiter = RateLimiter(1000)
    rate_limiter.pause(300)
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(Stopped):
        client(api, rate_limiter=rate_limiter).fetch(WINDOW, MINE, stop)
    assert not api.requests


def test_secrets_are_not_shown(client: Client, serve: Serve) -> None:
    """Whatever the token's server or the API echo, no error shows secret, Basic credentials or token."""
    token = "ory_at_" + "Vb" * 30
    basic = base64.b64encode(f"{ID}:{SECRET}".encode()).decode()
    for status in ("400 Bad", "401 Bad", "503 Bad"):
        echo = f'{{"message":"{SECRET} {basic} {"x" * 200} {SECRET}"}}'.encode()
        error = failure(client(serve(answer(echo, {"X-Request-Id": SECRET}, status)).url))
        assert not [each for each in (SECRET, basic) if each[:12] in str(error)]
    granted = answer(f'{{"access_token":"{token}"}}'.encode())

    def reply(request: Any) -> None:
        echo = answer(f'{{"message":"no {token} {SECRET}"}}'.encode(), {"X-Request-Id": token}, "403 No")
        request.wfile.write(granted if request.path == TOKEN else echo)

    error = failure(client(serve(reply).url))
    assert "answered 403" in str(error)
    assert not [each for each in (SECRET, token) if each[:12] in str(error)]


def test_the_token_goes_through_the_proxy(client: Client, serve: Serve) -> None:
    """The token request takes the same way out as all others."""
    proxy = serve(answer(b'{"access_token":"t"}'))
    failure(client("http://api.invalid", proxy=proxy.url))
    assert proxy.paths[0] == f"http://api.invalid{TOKEN}"


def test_of() -> None:
    """A key, or a service account, or an error that names the key."""
    rate_limiter = RateLimiter(1)
    assert isinstance(auth.auth_for(JumpCloudSettings(api_key=Secret("k")), rate_limiter), auth.ApiKey)
    account = JumpCloudSettings(client_id=ID, client_secret=Secret(SECRET))
    assert isinstance(auth.auth_for(account, rate_limiter), auth.ServiceAccount)
    with pytest.raises(ConfigError, match="api_key"):
        auth.auth_for(JumpCloudSettings(client_id=ID), rate_limiter)


# The installed command


def test_run(command: Command, receiver: SimulatedReceiver) -> None:
    """Two organizations are delivered with one token; a wrong secret ends with the exit code of a refused key."""
    now_ms = wall.time_ns() // 1_000_000
    sources = {name: EventSource(start_ms=now_ms - 600_000, organization=name) for name in ("a", "b")}
    with SimulatedApi(sources, accounts={ID: SECRET}) as api:
        account = {"api_key": None, "client_id": ID, "token_url": api.token_url, "organizations": ["a", "b"]}
        options = command.settings(api, receiver, **{f"jumpcloud__{name}": value for name, value in account.items()})
        done = command("run", "--once", *options, "-o", f"jumpcloud.client_secret={SECRET}")
        assert done.returncode == 0, done.stderr
        assert tokens(api) == 1
        assert {request.headers.get("x-org-id") for request in api.requests} == {None, "a", "b"}
        assert len(receiver.ids) >= sum(source.count(0, now_ms, now_ms=now_ms) for source in sources.values()) > 0
        refused = command("run", "--once", *options, "-o", "jumpcloud.client_secret=wrong")
        assert refused.returncode == 3
        assert b"jumpcloud.client_id or client_secret is wrong" in refused.stderr


# The simulated API's side


@pytest.mark.parametrize(
    ("method", "form", "credentials", "kind", "status", "error"),
    [
        ("GET", b"", (ID, SECRET), "application/x-www-form-urlencoded", 405, None),
        ("POST", b"grant_type=client_credentials&scope=api", None, None, 401, "invalid_client"),
        ("POST", b"grant_type=client_credentials&scope=api", (ID, "x"), None, 401, "invalid_client"),
        ("POST", b"grant_type=client_credentials&scope=api", (ID, SECRET), "text/plain", 400, "invalid_request"),
        ("POST", b"scope=api", (ID, SECRET), None, 400, "invalid_request"),
        ("POST", b"grant_type=password&scope=api", (ID, SECRET), None, 400, "unsupported_grant_type"),
        ("POST", b"grant_type=client_credentials", (ID, SECRET), None, 400, "invalid_scope"),
    ],
)
def test_simulated_refusals(
    api: SimulatedApi,
    method: str,
    form: bytes,
    credentials: tuple[str, str] | None,
    kind: str | None,
    status: int,
    error: str | None,
) -> None:
    """The simulated token endpoint refuses what OAuth 2 refuses, in its words."""
    headers = {"Content-Type": kind or "application/x-www-form-urlencoded"}
    found = requests.request(method, api.token_url, data=form, auth=credentials, headers=headers, timeout=10)
    assert (found.status_code, found.json().get("error")) == (status, error)


def test_expired_tokens_are_refused(api: SimulatedApi, time: Time) -> None:
    """A token is good for its lifetime to the second, and another's is not."""
    form = b"grant_type=client_credentials&scope=api"
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    granted = requests.post(api.token_url, data=form, auth=(ID, SECRET), headers=kind, timeout=10).json()
    assert granted["expires_in"] == 3600
    assert api.tokens.accepts(f"Bearer {granted['access_token']}")
    assert not api.tokens.accepts(granted["access_token"])
    assert not api.tokens.accepts("Bearer another")
    time.passed += 3600
    assert not api.tokens.accepts(f"Bearer {granted['access_token']}")
