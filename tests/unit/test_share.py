"""How many streams each member of a group should run."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from in_jumpcloud.state.postgresql.share import shares


@given(st.dictionaries(st.text(max_size=3), st.booleans(), min_size=1, max_size=12), st.integers(0, 5000))
def test_all_streams_are_shared_by_the_able(members: dict[str, bool], total: int) -> None:
    """Together they are all streams, and equal but for one; who is not able has none, unless none is."""
    found = shares(members, total)

    assert found.keys() == members.keys()
    assert sum(found.values()) == total
    able = [found[each] for each, is_able in members.items() if is_able or not any(members.values())]
    assert max(able) - min(able) <= 1
    assert sum(able) == total


def test_without_members() -> None:
    """Without members there are no shares."""
    assert shares(dict[str, bool](), 5) == {}
