"""A JSON document on one line keeps its value."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from in_jumpcloud.cli.lines import one_line

TEXTS = st.text(alphabet=st.sampled_from('a\\\n\r\t" ü{}[],:'))
VALUES = st.recursive(
    TEXTS | st.integers() | st.none(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXTS, children, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.sampled_from([None, 0, 2]), st.booleans())
def test_any_document(value: Any, indent: int | None, as_is: bool) -> None:
    """However it is laid out, also with line ends as they are within texts, which only a lenient decoder accepts."""
    document = json.dumps(value, indent=indent, ensure_ascii=False)
    if as_is:
        # An escaped backslash before an n is no line end.
        parts = document.split("\\\\")
        document = "\\\\".join(part.replace("\\n", "\n") for part in parts)
    line = one_line(document.encode())
    assert b"\n" not in line
    assert json.loads(line, strict=False) == value
