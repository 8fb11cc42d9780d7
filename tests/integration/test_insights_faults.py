"""The client against every failure: each is one error that says what to do and never shows the key."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from email.utils import formatdate

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
from support.turns import Clock, ClockRuntime

from in_jumpcloud.config.types import Duration, Size
from in_jumpcloud.errors import (
    CursorLost,
    InJumpCloudError,
    KeyRefused,
    NotLicensed,
    PageTooLarge,
    RequestRejected,
    RequestTimeout,
    Retryable,
)
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.insights.window import Window
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.faults import Fault, FaultKind

# Statuses


def test_statuses(client: Client, api: SimulatedApi) -> None:
    """Each status becomes the error that says what to do, with the status, JumpCloud's message and the request id."""
    errors: list[tuple[int, Window, type[InJumpCloudError], str]] = [
        (400, WINDOW, RequestRejected, "likely: an unknown name in jumpcloud.services"),
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
    ]
    for status, window, kind, words in errors:
        api.faults.once(Fault("status", status=status, message="these\n  words"))
        error = failure(client(api.url), window)
        assert type(error) is kind, status
        assert str(error).startswith(f"JumpCloud answered {status}: these words (request ")
        assert words in str(error)
        assert getattr(error, "after", None) is None


def test_real_refusals(client: Client, api: SimulatedApi) -> None:
    """The API refuses another key, another path, an unknown service, and a cursor of another query."""
    assert type(failure(client(api.url, key="another"))) is KeyRefused
    assert "answered 404" in str(failure(client(f"{api.url}/v2")))
    unknown = Window(start_ms=WINDOW.start_ms, end_ms=NOW, services=("nonsense",), limit=1)
    error = failure(client(api.url), unknown)
    assert type(error) is RequestRejected
    assert "Unsupported service: nonsense" in str(error)
    cursor = fetch(client(api.url)).cursor
    assert type(failure(client(api.url), unknown.after(cursor))) is CursorLost


def test_body_of_an_error(client: Client, serve: Serve) -> None:
    """If the body of an error is not the documented JSON, its beginning is shown, or else the reason of the status."""
    messages = {
        b"<html> <h1>Bad\r\n Gateway</h1>": "<html> <h1>Bad Gateway</h1>",
        b'{"error":"x"}': '{"error":"x"}',
        b'{"message":{"text":5}}': "{'text': 5}",
        b'["message"]': '["message"]',
        b"": "Strange Gateway",
        b"\xff": "\ufffd",
        b"[" * 5000: "[" * 300,
        b'{"message":"' + b"x" * 5000 + b'"}': "x" * 300,
    }
    for body, message in messages.items():
        error = failure(client(serve(answer(body, status="502 Strange Gateway")).url))
        assert str(error) == f"JumpCloud answered 502: {message}"


# Too many requests


def test_retry_after(client: Client, api: SimulatedApi) -> None:
    """`Retry-After` is seconds or a date, one second to five minutes. Without a sensible one the caller decides.

    A date is compared with the API's own.
    """

    def in_seconds(seconds: float) -> str:
        return formatdate(NOW / 1000 + seconds, usegmt=True)

    pauses: list[tuple[str, float, float]] = [
        ("7", 7, 7),
        ("0.5", 1, 1),
        ("86400", 300, 300),
        ("1e400", 300, 300),
        (in_seconds(200), 100, 200),
        (in_seconds(200).replace("GMT", "-0000"), 100, 200),
        (in_seconds(86_400), 300, 300),
    ]
    for header, least, most in pauses:
        api.faults.once(Fault("status", status=429, retry_after=header))
        error = failure(client(api.url))
        assert isinstance(error, Retryable)
        assert error.after is not None
        assert least <= error.after <= most, header
    dates = ("Mon, 45 Jan 2026 00:00:00 GMT", "Mon, 01 Jan 2026 00:00:00 +99999999999999999")
    for unreadable in (None, "soon", "nan", "0", "0.0", "-5", "-inf", in_seconds(-200), in_seconds(0), *dates):
        api.faults.once(Fault("status", status=429, retry_after=unreadable))
        error = failure(client(api.url))
        assert isinstance(error, Retryable)
        assert error.after is None, unreadable


def test_nothing_is_sent_during_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a 429 all clients with the same rate limiter wait until the pause is over, and then keep their spacing.

    A 429 without a time pauses none of them: the caller decides how long to wait.
    """
    clock = Clock(NOW / 1000)
    rate_limiter = RateLimiter(2, runtime=ClockRuntime(clock))
    with (
        clients(monkeypatch) as client,
        SimulatedApi(ten_minutes(), api_key=KEY, clock=lambda: round(clock.now * 1000)) as api,
    ):
        for seconds in ("120", None):
            api.faults.once(Fault("status", status=429, retry_after=seconds))
            with pytest.raises(Retryable):
                client(api.url, rate_limiter=rate_limiter).fetch(WINDOW, OWN, clock)
            for _ in range(2):
                client(api.url, rate_limiter=rate_limiter).fetch(WINDOW, OWN, clock)
        times = [request.time_ms - NOW for request in api.requests]
    assert times == [0, 120_000, 120_500, 121_000, 121_500, 122_000]


# Invalid responses


def test_read_timeout(client: Client, api: SimulatedApi, serve: Serve) -> None:
    """A response that does not begin within `read_timeout`, or pauses for as long, is given up."""

    def stall(request: Request) -> None:
        request.wfile.write(answer(b"[{}]")[:-2])
        request.server.ended.wait(30)

    api.faults.once(Fault("delay", seconds=30))
    for url in (api.url, serve(stall).url):
        error = failure(client(url, read_timeout=Duration(0.1)))
        assert type(error) is RequestTimeout
        assert str(error) == f"{url}/insights/directory/v1/events: no answer within jumpcloud.read_timeout"


def test_faulty_response(client: Client, api: SimulatedApi) -> None:
    """A dropped, incomplete or contradictory response is requested again, and the page is complete then."""
    faults: dict[FaultKind, str] = {
        "drop": "Remote end closed connection without response",
        "cut": "",
        "bad_json": "the response is incomplete: its JSON array does not end (request ",
        "wrong_count": "announced 101 events and sent 100 (request ",
    }
    insights = client(api.url)
    good = fetch(insights)
    for fault, words in faults.items():
        api.faults.once(Fault(fault))
        error = failure(insights)
        assert type(error) is Retryable
        assert words in str(error)
        assert fetch(insights)[:3] == good[:3]


def test_cut_off_without_a_length(client: Client, serve: Serve) -> None:
    """A response without a length whose connection closes too early is not accepted as a shorter one."""
    events = b"[" + b",".join(b'{"n":%d}' % number for number in range(1000)) + b"]"
    window = Window(start_ms=WINDOW.start_ms, end_ms=NOW, services=("all",), limit=10_000)
    for body, headers in ((events, {}), (gzip.compress(events), {"Content-Encoding": "gzip"})):
        head, _, rest = answer(body, headers).partition(b"\r\n")
        whole = head + b"\r\n" + rest.split(b"\r\n", 1)[1]
        assert len(fetch(client(serve(whole).url), window).events) == 1000
        for share in (0.1, 0.5, 0.9):
            server = serve(whole[: len(whole) - len(body) + round(len(body) * share)])
            assert type(failure(client(server.url), window)) is Retryable


def test_repeated_cursor(client: Client, api: SimulatedApi) -> None:
    """A cursor that leads back to the same page is an error, not an endless loop."""
    insights = client(api.url)
    cursor = fetch(insights).cursor
    api.faults.once(Fault("repeat_cursor"))
    error = failure(insights, WINDOW.after(cursor))
    assert type(error) is CursorLost
    assert f"the cursor {cursor} again" in str(error)


def test_full_page_without_a_cursor(client: Client, serve: Serve) -> None:
    """A full page whose cursor is missing, or cannot be sent back, is requested again: the window does not end here."""
    for cursor in (None, "", "null", "{}", '"a"', "[1", "[NaN]", '["\\ud800"]', "[" * 500 + "]" * 500):
        headers = {"X-Limit": "2", "X-Result-Count": "2"} | ({} if cursor is None else {"X-Search_after": cursor})
        error = failure(client(serve(answer(b"[{},{}]", headers)).url))
        assert type(error) is Retryable, cursor
        assert "the cursor" in str(error)


def test_descending_order(client: Client, serve: Serve) -> None:
    """A page that is sorted newest first is not accepted: its cursor would lead backwards."""
    error = failure(client(serve(answer(b"[{}]", {"X-Sort": "DESC"})).url))
    assert type(error) is Retryable
    assert "sorted the events 'DESC'" in str(error)
    assert len(fetch(client(serve(answer(b"[{}]", {"X-Sort": "asc"})).url)).events) == 1


def test_too_large(client: Client, api: SimulatedApi) -> None:
    """A response of more than twice `page_bytes` is given up, also one that is small while compressed."""
    size = fetch(client(api.url)).size
    assert fetch(client(api.url, page_bytes=Size(size // 2 + 1), event_max_bytes=Size(1))).size == size
    error = failure(client(api.url, page_bytes=Size(size // 2 - 1), event_max_bytes=Size(1)))
    assert type(error) is PageTooLarge
    assert f"the response is larger than {(size // 2 - 1) * 2} bytes (request " in str(error)


# The key


def echoes() -> Iterator[bytes]:
    """Responses that repeat the key wherever a server can put it."""
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


def test_errors_do_not_show_the_key(client: Client, serve: Serve) -> None:
    """Wherever a server repeats the key, no error shows it, or a telling part of it."""
    errors = [str(failure(client(serve(echo).url))) for echo in echoes()]
    assert [error for error in errors if KEY[:12] in error or KEY[-12:] in error] == []
