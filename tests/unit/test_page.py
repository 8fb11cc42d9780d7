"""Pages: split into events byte for byte and never into fewer than were sent; a window is paged to its end."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from in_jumpcloud.errors import CursorLost, Retryable
from in_jumpcloud.insights.pages import Page, Pager, split_page
from in_jumpcloud.insights.window import Window

DEEP = b"[" * 5000 + b"]" * 5000
TRICKY = [
    b'{"id":"a","message":"brackets ]}]} and , and \\" in text"}',
    b'{"id":"b","context":"{\\"a\\":[1,2]}","path":"C:\\\\"}',
    b'{"id":"c","changes":[{"from":[],"to":{}},{"from":null}],"n":-1.5e3}',
    '{"id":"d","name":"Åsa 李 \U0001f600"}'.encode(),
]
UNUSUAL = [
    b'{"n":NaN}',
    b'{"n":-Infinity}',
    b'"\\ud800"',
    b'{"a":"\\ud800]}"}',
    b'{"deep":' + DEEP + b"}",
    b'{"control":"\x00\x01\n]}\x1f"}',
    b'{"bytes":"\xff\xfe]"}',
    b"{'id': 1}",
    b"nonsense",
    b'{"escape":"\\x \\"]"}',
]


def parts(body: bytes) -> list[bytes]:
    """The elements of a page, as bytes."""
    return [bytes(element) for element in split_page(body)]


def accepted(bodies: list[bytes]) -> list[bytes]:
    """Those of the bodies that are split without a Retryable."""
    result = []
    for body in bodies:
        try:
            split_page(body)
        except Retryable:
            continue
        result.append(body)
    return result


def test_bytes_are_exact() -> None:
    """An element keeps its own bytes, order, spelling and inner whitespace; whitespace between elements is dropped."""
    elements = [b'{"b": 1.0,  "a" :1e2}', b'"\\u00e9\\/"', b"-0.0", b"[ 1 , 2 ]", *TRICKY]
    for space in (b"", b" ", b"\r\n\t "):
        body = space + b"[" + space + (space + b"," + space).join(elements) + space + b"]" + space
        assert parts(body) == elements
        assert parts(space + b"[" + space + b"]" + space) == []


def test_unusual_elements_do_not_hold_up_others() -> None:
    """An element that no strict decoder accepts is kept byte for byte, and so are the elements around it."""
    for unusual in UNUSUAL:
        elements = [TRICKY[0], unusual, *TRICKY[1:], unusual]
        assert parts(b"[" + b" , ".join(elements) + b"]") == elements


def test_not_an_array() -> None:
    """Anything but one array is requested again. The error shows its beginning, to recognize a proxy's page."""
    bodies = [b"", b" ", b"null", b"5", b'"[]"', b'{"message":"Unauthorized"}', b"<html>[]</html>"]
    assert accepted([*bodies, b"[]]", b"[] []", b"[1]x", b"\xff[]", b"NaN"]) == []
    with pytest.raises(Retryable, match=r"not a JSON array; it begins with '<html>\\n\ufffd'$"):
        split_page(b"<html>\n\xff")


def test_cut_off_anywhere() -> None:
    """A page that ends after any of its bytes, also inside text full of brackets, is requested again."""
    for elements in (TRICKY, UNUSUAL):
        body = b"[" + b",".join(element for element in elements if len(element) < 1000) + b"]"
        assert len(split_page(body)) > 1
        assert accepted([body[:end] for end in range(len(body))]) == []
    # Text that is cut off after its own brackets does not end the array. The last is detected in one pass.
    ends = (b"}" * 3, b"]}" * 3, b"]", b'\\"]', b"\\")
    for body in (*(b'[{"a":1},{"id":"b","message":"' + end for end in ends), b'[NaN,"' + b'\\"[' * 300_000):
        with pytest.raises(Retryable, match="incomplete"):
            split_page(body)


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('[]{}",\\a'), inner, max_size=4),
    max_leaves=6,
)
DOCUMENTS = st.builds(
    lambda value, ascii_only: json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass"),
    VALUES,
    st.booleans(),
)


@given(st.lists(DOCUMENTS, max_size=5), st.sampled_from([b",", b" , ", b",\n"]), st.data())
def test_split_undoes_join(documents: list[bytes], comma: bytes, data: st.DataObject) -> None:
    """JSON documents that are joined to an array come out again; no part of that array is accepted as a shorter one."""
    body = b"[" + comma.join(documents) + b"]"
    assert parts(body) == documents
    assert accepted([body[: data.draw(st.integers(0, len(body) - 1))]]) == []


# Pager

WINDOW = Window(start_ms=0, end_ms=1, services=("all",), limit=1)


def pager(cursors: list[str | None], requested: list[str | None]) -> Pager:
    """A pager whose pages lead from cursor to cursor; `requested` receives the cursors of the requests."""
    following = dict(zip([None, *cursors], cursors, strict=False))

    def fetch(window: Window, _: threading.Event) -> Page:
        requested.append(window.cursor)
        return Page([str(window.cursor).encode()], following[window.cursor], 0, 0)

    return Pager(WINDOW, fetch)


def test_pager() -> None:
    """A pager goes through the window once; only `advance` moves it."""
    requested: list[str | None] = []
    pages, stop = pager(["1", "2", None], requested), threading.Event()
    for cursor in (None, "1", "2"):
        assert not pages.done
        page = pages.page(stop)
        assert page.events == [str(cursor).encode()]
        assert pages.window == WINDOW.after(cursor)
        pages.advance(page)
    assert pages.done
    assert requested == [None, "1", "2"]


def test_cycle_of_cursors() -> None:
    """Cursors that lead back to an earlier page are an error, not an endless loop."""
    pages, stop = pager(["1", "2", "1"], []), threading.Event()
    for _ in range(2):
        pages.advance(pages.page(stop))
    with pytest.raises(CursorLost, match="cursor 1 again"):
        pages.page(stop)
