"""Text as people see it."""

from __future__ import annotations

import gc
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.config.types import ProxyUrl, Secret
from in_jumpcloud.forward.handshake import Credentials
from in_jumpcloud.insights.http_exchange import HttpResponse
from in_jumpcloud.text import Hidden, printable, printable_json, redact, shown, shown_in_one, shown_lines

ANY_TEXT = st.text(st.characters(categories=[*("L", "M", "N", "P", "S", "Z"), *("Cc", "Cf", "Cs", "Co", "Cn")]))
ANY_JSON = st.recursive(st.text() | st.none(), lambda each: st.lists(each) | st.dictionaries(st.text(), each))
KEY = "jca_of-test-text-4Hd88sNq"
"""No beginning of a key of another test, which is hidden until its objects are collected."""


@given(ANY_TEXT)
def test_printable(text: str) -> None:
    """No character that controls or misleads, in one line; what people read stays as it is."""
    result = printable(text)
    assert all(each.isprintable() or unicodedata.category(each) == "Zs" for each in result)
    result.encode()
    if text.isprintable():
        assert result == text
    assert printable("Grüße 組織 \u3000🙂") == "Grüße 組織 \u3000🙂"
    assert printable("a\tb\n\x1b\x9b\u202e\u2028\udc80\U000e0041") == (r"a\tb\n\x1b\x9b\u202e\u2028\udc80\U000e0041")


@given(ANY_JSON)
def test_printable_json(value: object) -> None:
    """The same value, of printable characters."""
    result = printable_json(json.dumps(value, ensure_ascii=False).encode())
    assert json.loads(result) == value
    assert printable(result.decode()) == result.decode()


@pytest.mark.parametrize("text", ["{}", "in {} twice {}", "x{}x"])
def test_redact(text: str) -> None:
    """A secret, wherever it is, and its beginning where a text ends inside it; only while it is in use."""
    secret = Secret(KEY)
    for shown_part in (KEY, KEY[:12], KEY[:17]):
        for function in (redact, shown, shown_in_one, lambda text: shown_lines(text)[0]):
            assert function(text.replace("{}", shown_part)) == text.replace("{}", "***")
    assert redact(KEY[:11]) == KEY[:11]
    del secret
    gc.collect()
    assert redact(KEY) == KEY


def test_short_secrets_are_words() -> None:
    """A short secret is not looked for, and a longer one before one that it contains."""
    short, long, inner = Secret("secret"), Secret("my-long-password"), Hidden("long-password")
    assert redact("the secret of my-long-password") == "the secret of ***"
    assert (short.reveal(), long.reveal(), inner.texts) == ("secret", "my-long-password", ("long-password",))


def test_proxies() -> None:
    """The password of a proxy is hidden as it is written, decoded, and as a header has it; the host is not."""
    url = ProxyUrl("http://us:p%40ssword-4Hd88sN@proxy.example.com:3128")
    for text in ("p%40ssword-4Hd88sN", "p@ssword-4Hd88sN", "dXM6cEBzc3dvcmQtNEhkODhzTg=="):
        assert redact(f"a {text} b") == "a *** b"
    assert redact(url.reveal()) == "http://us:***@proxy.example.com:3128"
    plain = ProxyUrl("http://proxy.example.com:3128")
    assert redact(plain.reveal()) == plain.reveal()


def test_no_secret_in_a_repr() -> None:
    """Neither the settings nor what is made of them."""
    values = [
        JumpCloudSettings(api_key=Secret(KEY), proxy=ProxyUrl(f"http://u:{KEY}@a")),
        Credentials("host", KEY, "user", KEY),
        HttpResponse(200, "OK", {}, b"", {"x-api-key": KEY}),
    ]
    for value in values:
        assert KEY not in f"{value!r} {value}"
