"""The client against everything that goes wrong: one error each, which says what to do and never shows the key."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from support.insights import (
    CURSOR,
    KEY,
    NOW,
    OWN,
    SECOND_PAGE,
    WINDOW,
    Client,
    Request,
    Serve,
    answer,
    clients,
    failure,
    fetch,
    ten_minutes,
)

from in_jumpcloud.config.types import Duration, Size
from in_jumpcloud.errors import (
    CursorLost,
    InJumpCloudError,
    KeyRefused,
    NotLicensed,
    PageTooLarge,
    RequestRejected,
    Retryable,
)
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.insights.window import Window
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.faults import Fault, FaultKind

# The error table


@pytest.mark.parametrize(
    ("status", "window", "kind", "words"),
    [
        (400, WINDOW, RequestRejected, "likely: a service name it does not know"),
        (400, SECOND_PAGE, CursorLost, ""),
        (401, WINDOW, KeyRefused, "the key is wrong, expired or revoked, or belongs to another region"),
        (401, SECOND_PAGE, KeyRefused, "the key is wrong"),
        (402, WINDOW, NotLicensed, "likely: Directory Insights is not enabled"),
        (403, WINDOW, RequestRejected, "likely: the administrator's role is too low"),
        (404, WINDOW, RequestRejected, "likely: jumpcloud.url is wrong"),
        (408, WINDOW, Retryable, ""),
        (410, WINDOW, RequestRejected, ""),
        (429, WINDOW, Retryable, ""),
        (500, WINDOW, Retryable, ""),
        (503, SECOND_PAGE, Retryable, ""),
        (504, WINDOW, Retryable, ""),
    ],
)
def test_error_table(
    client: Client, api: SimulatedApi, status: int, window: Window, kind: type[InJumpCloudError], words: str
) -> None:
    """Each status ends in the error that says what to do; its text has status, JumpCloud's words and a request id."""
    api.faults.once(Fault("status", status=status, message="these\n  words"))
    error = failure(client(api.url), window)
    assert type(error) is kind
    assert str(error).startswith(f"JumpCloud answered {status}: these words (request ")
    assert words in str(error)
    assert getattr(error, "after", None) is None


def test_real_refusals(client: Client, api: SimulatedApi) -> None:
    """What the API itself refuses: another key, another path, an unknown service, a cursor of another query."""
    assert type(failure(client(api.url, key="another"))) is KeyRefused
    assert "answered 404" in str(failure(client(f"{api.url}/v2")))
    unknown = Window(start_ms=WINDOW.start_ms, end_ms=NOW, services=("nonsense",), limit=1)
    error = failure(client(api.url), unknown)
    assert type(error) is RequestRejected
    assert "Unsupported service: nonsense" in str(error)
    cursor = fetch(client(api.url)).cursor
    assert type(failure(client(api.url), unknown.after(cursor))) is CursorLost


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html> <h1>Bad\r\n Gateway</h1>", "<html> <h1>Bad Gateway</h1>"),
        (b'{"error":"x"}', '{"error":"x"}'),
        (b'{"message":{"text":5}}', "{'text': 5}"),
        (b'["message"]', '["message"]'),
        (b"", "Strange Gateway"),
        (b"\xff", "\ufffd"),
        (b"[" * 5000, "[" * 300),
        (b'{"message":"' + b"x" * 5000 + b'"}', "x" * 300),
    ],
)
def test_error_body(client: Client, serve: Serve, body: bytes, words: str) -> None:
    """Where an error's body is not what the API documents, its beginning is shown, or else the status's own words."""
    error = failure(client(serve(answer(body, status="502 Strange Gateway")).url))
    assert str(error) == f"JumpCloud answered 502: {words}"


# Too many requests


class Clock(threading.Event):
    """A clock that waiting moves: given as the event that stops, its waits take no time."""

    now = NOW / 1000

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        """Let the time pass."""
        self.now += timeout or 0
        return False


def in_seconds(seconds: float) -> str:
    """A date so far from now, as a header spells it."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("0.5", 0.5, 0.5),
        ("-5", 0, 0),
        ("86400", 300, 300),
        ("1e400", 300, 300),
        (lambda: in_seconds(200), 100, 200),
        (lambda: in_seconds(200).replace("GMT", "-0000"), 100, 200),
        (lambda: in_seconds(-200), 0, 0),
        (lambda: in_seconds(86_400), 300, 300),
        (None, None, None),
        ("soon", None, None),
        ("nan", None, None),
        ("Mon, 45 Jan 2026 00:00:00 GMT", None, None),
        ("Mon, 01 Jan 2026 00:00:00 +99999999999999999", None, None),
    ],
)
def test_retry_after(
    client: Client,
    api: SimulatedApi,
    header: str | Callable[[], str] | None,
    least: float | None,
    most: float | None,
) -> None:
    """`Retry-After` is seconds or a date, at most five minutes; nonsense and absence leave the pause to the caller."""
    api.faults.once(Fault("status", status=429, retry_after=header() if callable(header) else header))
    error = failure(client(api.url))
    assert type(error) is Retryable
    if least is None or most is None:
        assert error.after is None
    else:
        assert error.after is not None
        assert least <= error.after <= most


def test_nothing_goes_out_while_retry_after_holds() -> None:
    """After a 429 no client that shares the rate_limiter asks until the time is over, and then one after the other."""
    clock = Clock()
    rate_limiter = RateLimiter(2, clock=clock)
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        clients(monkeypatch) as client,
        SimulatedApi(ten_minutes(), api_key=KEY, clock=lambda: round(clock.now * 1000)) as api,
    ):
        api.faults.once(Fault("status", status=429, retry_after="120"))
        with pytest.raises(Retryable):
            client(api.url, rate_limiter=rate_limiter).fetch(WINDOW, OWN, clock)
        for _ in range(3):
            client(api.url, rate_limiter=rate_limiter).fetch(WINDOW, OWN, clock)
        assert [request.time_ms - NOW for request in api.requests] == [0, 120_000, 120_500, 121_000]


def test_without_retry_after_nothing_is_held(client: Client, api: SimulatedApi) -> None:
    """A 429 that names no time holds nobody else back: how long to wait is the caller's own affair."""
    api.faults.once(Fault("status", status=429))
    clock = Clock()
    asks = client(api.url, rate_limiter=RateLimiter(1000, clock=clock))
    with pytest.raises(Retryable):
        asks.fetch(WINDOW, OWN, clock)
    asks.fetch(WINDOW, OWN, clock)
    assert clock.now - NOW / 1000 < 0.01


# Connections


def test_no_answer_in_time(client: Client, api: SimulatedApi) -> None:
    """An answer that does not begin within `read_timeout` is given up."""
    api.faults.once(Fault("delay", seconds=30))
    error = failure(client(api.url, read_timeout=Duration(0.1)))
    assert type(error) is Retryable
    assert str(error) == f"{api.url}/insights/directory/v1/events: no answer within jumpcloud.read_timeout"


def test_answer_that_stalls(client: Client, serve: Serve) -> None:
    """An answer that begins and then stalls for `read_timeout` is given up, and that is said."""

    def stall(request: Request) -> None:
        request.wfile.write(answer(b"[{}]")[:-2])
        request.server.ended.wait(30)

    error = failure(client(serve(stall).url, read_timeout=Duration(0.1)))
    assert type(error) is Retryable
    assert str(error).endswith("no answer within jumpcloud.read_timeout")


def test_answer_that_drips(client: Client, serve: Serve) -> None:
    """An answer that never pauses for `read_timeout`, but goes on and on, is given up after five times that."""

    def drip(request: Request) -> None:
        request.wfile.write(answer(b"", {"Content-Length": "30000000"}))
        while not request.server.ended.wait(0.01):
            request.wfile.write(b" " * 8192)
            request.wfile.flush()

    error = failure(client(serve(drip).url, read_timeout=Duration(0.06)))
    assert type(error) is Retryable
    assert "took longer than" in str(error)


def test_refused_connection(client: Client) -> None:
    """A port where nobody listens is said by its cause."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = failure(client(f"http://127.0.0.1:{port}"))
    assert type(error) is Retryable
    assert str(error) == f"http://127.0.0.1:{port}/insights/directory/v1/events: Connection refused"


def test_name_that_does_not_resolve(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that no name server knows is said by its cause."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = failure(client("http://api.invalid"))
    assert type(error) is Retryable
    assert "Failed to resolve 'api.invalid'" in str(error)


@pytest.mark.parametrize("url", ["http://a..b", f"http://{'a' * 70}.invalid", "http://[x", "http://127.0.0.1:99999"])
def test_url_that_is_none(client: Client, url: str) -> None:
    """A base that no connection can be made to is an error like any other, whichever library finds out."""
    error = failure(client(url))
    assert type(error) is Retryable
    assert str(error).startswith(f"{url}/insights/directory/v1/events: ")


# Answers that are wrong


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("drop", "Remote end closed connection without response"),
        ("cut", ""),
        ("bad_json", "breaks off in the middle of its JSON array (request "),
        ("wrong_count", "announced 101 events and sent 100 (request "),
    ],
)
def test_faulty_answer(client: Client, api: SimulatedApi, fault: FaultKind, words: str) -> None:
    """A dropped, cut-off or senseless answer is asked for again, and the page is whole then."""
    asks = client(api.url)
    good = fetch(asks)
    api.faults.once(Fault(fault))
    error = failure(asks)
    assert type(error) is Retryable
    assert words in str(error)
    assert fetch(asks)[:3] == good[:3]


@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}])
def test_cut_off_without_a_length(client: Client, serve: Serve, headers: dict[str, str]) -> None:
    """An answer without a length whose connection closes too early is not taken for a shorter one."""
    body = b"[" + b",".join(b'{"n":%d}' % number for number in range(1000)) + b"]"
    if headers:
        body = gzip.compress(body)
    head, _, rest = answer(body, headers).partition(b"\r\n")
    whole = head + b"\r\n" + rest.split(b"\r\n", 1)[1]
    window = Window(start_ms=WINDOW.start_ms, end_ms=NOW, services=("all",), limit=10_000)
    assert len(fetch(client(serve(whole).url), window).events) == 1000
    for share in (0.1, 0.5, 0.9):
        server = serve(whole[: len(whole) - len(body) + round(len(body) * share)])
        error = failure(client(server.url), window)
        assert type(error) is Retryable
        assert "breaks off" in str(error) or "gzip" in str(error)


def test_repeated_cursor(client: Client, api: SimulatedApi) -> None:
    """A cursor that leads to the page it came from is an error, not a loop."""
    asks = client(api.url)
    cursor = fetch(asks).cursor
    api.faults.once(Fault("repeat_cursor"))
    error = failure(asks, WINDOW.after(cursor))
    assert type(error) is CursorLost
    assert f"gave the cursor {cursor} again" in str(error)


@pytest.mark.parametrize(
    "cursor", [None, "", "null", "{}", '"a"', "[1", "[NaN]", '["\\ud800"]', "[" * 5000 + "]" * 5000]
)
def test_full_page_without_a_cursor(client: Client, serve: Serve, cursor: str | None) -> None:
    """A full page whose cursor is missing, or cannot be sent back, is asked for again: the window goes on behind it."""
    headers = {"X-Limit": "2", "X-Result-Count": "2"} | ({} if cursor is None else {"X-Search_after": cursor})
    error = failure(client(serve(answer(b"[{},{}]", headers)).url))
    assert type(error) is Retryable
    assert "leads to no next one" in str(error)


def test_sorted_the_other_way(client: Client, serve: Serve) -> None:
    """A page that is sorted newest first is not taken: its cursor would lead backwards."""
    error = failure(client(serve(answer(b"[{}]", {"X-Sort": "DESC"})).url))
    assert type(error) is Retryable
    assert "sorted the events 'DESC'" in str(error)
    assert len(fetch(client(serve(answer(b"[{}]", {"X-Sort": "asc"})).url)).events) == 1


def test_too_large(client: Client, api: SimulatedApi) -> None:
    """An answer of more than twice `page_bytes` is not held, also where it is small before it is unpacked."""
    size = fetch(client(api.url)).size
    assert fetch(client(api.url, page_bytes=Size(size // 2 + 1))).size == size
    error = failure(client(api.url, page_bytes=Size(size // 2 - 1)))
    assert type(error) is PageTooLarge
    assert f"the answer is larger than {(size // 2 - 1) * 2} bytes (request " in str(error)


def test_packed_bomb(client: Client, serve: Serve) -> None:
    """A small answer that unpacks to a huge one is given up at the bound, not when it is whole."""
    bomb = answer(gzip.compress(b" " * 50_000_000), {"Content-Encoding": "gzip"})
    assert type(failure(client(serve(bomb).url, page_bytes=Size(1000)))) is PageTooLarge


# The key


def echoes() -> Iterator[bytes]:
    """Answers that repeat the key wherever a server can put it."""
    full = {"X-Limit": "1", "X-Search_after": CURSOR}
    for status in ("400 Bad", "401 Bad", "403 Bad", "429 Bad", "503 Bad", "302 Bad"):
        yield answer(b'{"message":"bad key %s"}' % KEY.encode(), {"X-Request-Id": KEY}, status)
    for length in range(260, 301, 8):
        yield answer(b"x" * length + KEY.encode(), status="500 Bad")
        yield answer(b'{"message":"%s%s"}' % (b"x" * length, KEY.encode()), status="500 Bad")
    yield answer(b"", status=f"500 {KEY}")
    yield answer(f'"{KEY}"'.encode())
    yield answer(f"<{KEY}>".encode(), {"X-Request-Id": KEY})
    yield answer(b"[{}]", {"X-Sort": KEY})
    yield answer(b"[{}]", {**full, "X-Search_after": KEY})
    yield answer(b"[{}]", {**full, "X-Search_after": f'["{KEY}"'})
    yield answer(b"[{}]", {"X-Result-Count": "2", "X-Request-Id": KEY})
    yield f"{KEY} {KEY}\r\n\r\n".encode()
    yield f"HTTP/1.1 {KEY}\r\n\r\n".encode()
    yield answer(b"[]", {"Content-Encoding": "gzip", "X-Request-Id": KEY})
    yield answer(b"[]", {"Content-Length": KEY, "Transfer-Encoding": "chunked"})


@pytest.mark.parametrize("echo", [pytest.param(echo, id=str(number)) for number, echo in enumerate(echoes())])
def test_errors_do_not_show_the_key(client: Client, serve: Serve, echo: bytes) -> None:
    """Whatever a server makes of the key, no error's text repeats it, or a telling part of it."""
    error = failure(client(serve(echo).url))
    assert KEY[:12] not in str(error)
    assert KEY[-12:] not in str(error)
