"""Pages that are requested ahead: how many, how large, and how many events each."""

from __future__ import annotations

import threading

import pytest
from support.command import wait_until

from in_jumpcloud.errors import Retryable
from in_jumpcloud.insights.page_limit import PageLimit
from in_jumpcloud.insights.pages import Page
from in_jumpcloud.insights.pages_ahead import AheadLimit, PagesAhead
from in_jumpcloud.insights.window import Window

STOP = threading.Event()


def window(number: int, limit: int = 10) -> Window:
    """One of many."""
    return Window(start_ms=number, end_ms=number + 1, services=("all",), limit=limit)


class Api:
    """Answers with pages of 10 events of 100 bytes when it may; notes the requests."""

    def __init__(self) -> None:
        self.requested: list[int] = []
        self.may_answer = threading.Event()
        self.failing: set[int] = set()

    def fetch(self, window: Window, stop: threading.Event) -> Page:
        """A page, or an error."""
        self.requested.append(window.start_ms)
        while not self.may_answer.wait(0.01):
            if stop.is_set():
                break
        if window.start_ms in self.failing:
            raise Retryable(f"page {window.start_ms}")
        return Page([b"x" * 100] * 10, None, 1000, 0)


@pytest.fixture
def api() -> Api:
    """It answers at once, until the test says otherwise."""
    api = Api()
    api.may_answer.set()
    return api


def test_the_limit_is_in_bytes_for_all_streams(api: Api) -> None:
    """Pages that are awaited, and those that are there, take no more than the limit; what is used gives its bytes back.

    How large a page is expected to be is known from the last one.
    """
    limit = AheadLimit(max_bytes=3500)
    one, other = (PagesAhead(api.fetch, limit) for _ in range(2))
    assert not one.ask(window(0)), "nothing is known about the size of its pages"
    for each in (one, other):
        each.page(window(0), STOP)
    api.may_answer.clear()
    assert [one.ask(window(1)), one.ask(window(2)), one.ask(window(1)), other.ask(window(3))] == [True] * 4
    assert not other.ask(window(4))
    assert limit.bytes == 3000
    api.may_answer.set()
    assert one.page(window(1), STOP).size == 1000
    assert limit.bytes == 2000
    assert other.ask(window(4))
    for each in (one, other):
        each.drop()
    wait_until(lambda: limit.bytes == 0)
    assert other.ask(window(5, limit=100_000)), "one page is possible, however large"


def test_an_error_is_raised_where_the_page_is_needed(api: Api) -> None:
    """A failed page holds nothing, and is requested again only when it is asked for again."""
    limit = AheadLimit()
    ahead = PagesAhead(api.fetch, limit)
    ahead.page(window(0), STOP)
    api.failing = {2}
    assert ahead.ask(window(1))
    assert ahead.ask(window(2))
    ahead.page(window(1), STOP)
    with pytest.raises(Retryable, match="page 2"):
        ahead.page(window(2), STOP)
    assert limit.bytes == 0
    api.failing.clear()
    assert ahead.page(window(2), STOP).size == 1000
    assert sorted(api.requested) == [0, 1, 2, 2]


def test_what_is_dropped_is_not_awaited(api: Api) -> None:
    """A dropped request is stopped, and its page is not used."""
    limit = AheadLimit()
    ahead = PagesAhead(api.fetch, limit)
    ahead.page(window(0), STOP)
    api.may_answer.clear()
    assert ahead.ask(window(1))
    ahead.drop()
    wait_until(lambda: limit.bytes == 0)
    api.may_answer.set()
    ahead.page(window(1), STOP)
    assert api.requested == [0, 1, 1]


def page(events: int, size: int) -> Page:
    """A page of so many events and bytes."""
    return Page([b"x"] * events, None, size, 0)


def test_the_limit_of_a_page_follows_its_size_and_the_time_it_takes() -> None:
    """Fewer events after a page of many bytes, one too large to hold, or a timeout; more after pages that succeed."""
    limit = PageLimit(3000, page_bytes=1000)
    limit.note(page(3000, 2000), window(0, 3000))
    assert limit.events == 1500
    limit.note(page(10, 10), window(0, 1500))
    assert limit.events == 1500, "a page of few events says nothing"
    limit.note(page(1000, 10), window(0, 1500))
    assert limit.events == 3000
    assert limit.too_large()
    assert limit.events == 750
    limit.reset()
    lowered = []
    while limit.too_slow():
        lowered.append(limit.events)
    assert lowered == [1500, 750, 375, 187, 100]


def test_an_api_that_is_too_slow_for_whole_pages_is_seldom_asked_for_them() -> None:
    """Each timeout makes it take more pages until the limit is raised again; pages that succeed end that."""
    limit, pages = PageLimit(3000, page_bytes=10**6), []
    for _ in range(3):
        assert limit.too_slow()
        count = 0
        while limit.events < 3000:
            limit.note(page(limit.events, 10), window(0, limit.events))
            count += 1
        pages.append(count)
    assert pages == [4, 16, 64]
    for _ in range(64):
        limit.note(page(3000, 10), window(0, 3000))
    assert limit.too_slow()
    for _ in range(4):
        limit.note(page(1500, 10), window(0, 1500))
    assert limit.events == 3000


def test_a_page_that_is_too_large_at_one_event_cannot_be_smaller() -> None:
    """Nor is one of a hundred events too slow because of their number."""
    limit = PageLimit(1, page_bytes=10)
    assert not limit.too_large()
    assert not PageLimit(100, page_bytes=10).too_slow()
