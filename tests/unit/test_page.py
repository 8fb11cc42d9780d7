"""Splitting a page: every event byte for byte, and never fewer than were sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from in_jumpcloud.errors import Retryable
from in_jumpcloud.insights.pages import split_page

DEEP = b"[" * 5000 + b"]" * 5000
TRICKY = [
    b'{"id":"a","message":"brackets ]}]} and , and \\" in text"}',
    b'{"id":"b","context":"{\\"a\\":[1,2]}","path":"C:\\\\"}',
    b'{"id":"c","changes":[{"from":[],"to":{}},{"from":null}],"n":-1.5e3}',
    '{"id":"d","name":"Åsa 李 \U0001f600"}'.encode(),
]
ODD = [
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


@pytest.mark.parametrize("body", [b"[]", b" [ ] ", b"\n[\n]\n"])
def test_empty(body: bytes) -> None:
    """An empty array has no events."""
    assert parts(body) == []


@pytest.mark.parametrize("blank", [b"", b" ", b"\r\n\t "])
def test_bytes_are_exact(blank: bytes) -> None:
    """An element is its own bytes, order, spelling and inner blanks included; those between elements belong to none."""
    elements = [b'{"b": 1.0,  "a" :1e2}', b'"\\u00e9\\/"', b"-0.0", b"[ 1 , 2 ]", *TRICKY]
    body = blank + b"[" + blank + (blank + b"," + blank).join(elements) + blank + b"]" + blank
    assert parts(body) == elements


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_odd_elements_keep_nothing_back(odd: bytes) -> None:
    """An element that no strict decoder takes comes out as it is, and so do its neighbours."""
    elements = [TRICKY[0], odd, *TRICKY[1:], odd]
    assert parts(b"[" + b" , ".join(elements) + b"]") == elements


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"5",
        b'"[]"',
        b'{"message":"Unauthorized"}',
        b"<html>[]</html>",
        b"[]]",
        b"[] []",
        b"[1]x",
        b"\xff[]",
        b"NaN",
    ],
)
def test_not_an_array(body: bytes) -> None:
    """Anything but one array is asked for again."""
    with pytest.raises(Retryable):
        split_page(body)


def test_not_an_array_is_shown() -> None:
    """The error shows how the answer begins, in one line, so that a person recognizes a proxy's page."""
    with pytest.raises(Retryable, match=r"not a JSON array; it begins with '<html>\\n\ufffd'$"):
        split_page(b"<html>\n\xff")


@pytest.mark.parametrize("elements", [TRICKY, ODD], ids=["tricky", "odd"])
def test_cut_off_anywhere(elements: list[bytes]) -> None:
    """A page that breaks off after any of its bytes, also within text full of brackets, is asked for again."""
    body = b"[" + b",".join(element for element in elements if len(element) < 1000) + b"]"
    assert len(split_page(body)) > 1
    for end in range(len(body)):
        with pytest.raises(Retryable):
            split_page(body[:end])


@pytest.mark.parametrize("end", [b"}" * 3, b"]}" * 3, b"]", b'\\"]', b"\\"])
def test_cut_off_in_text_that_looks_like_an_end(end: bytes) -> None:
    """Text that breaks off right behind its own brackets does not end the array."""
    with pytest.raises(Retryable, match="breaks off"):
        split_page(b'[{"a":1},{"id":"b","message":"' + end)


def test_cut_off_text_is_not_slow() -> None:
    """A page that breaks off within a long text full of escapes is found out in one pass, not one for each quote."""
    with pytest.raises(Retryable, match="breaks off"):
        split_page(b'[NaN,"' + b'\\"[' * 300_000)


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


@given(st.lists(DOCUMENTS, max_size=5), st.sampled_from([b",", b" , ", b",\n"]))
@example([], b",")
def test_split_undoes_join(documents: list[bytes], comma: bytes) -> None:
    """Whatever JSON documents are joined to an array come out again, whether a strict decoder likes them or not."""
    assert parts(b"[" + comma.join(documents) + b"]") == documents


@given(st.lists(DOCUMENTS, min_size=1, max_size=5), st.data())
def test_no_prefix_is_a_page(documents: list[bytes], data: st.DataObject) -> None:
    """No array that was cut off anywhere passes for a shorter one."""
    body = b"[" + b",".join(documents) + b"]"
    with pytest.raises(Retryable):
        split_page(body[: data.draw(st.integers(0, len(body) - 1))])
