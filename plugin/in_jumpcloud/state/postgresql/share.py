"""How many streams each member of a group should run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

_Id = TypeVar("_Id", int, str)


def shares(members: Mapping[_Id, bool], total: int) -> dict[_Id, int]:
    """The number of streams of each member, by id, of `total`: equal but for one.

    `members` says who is able to deliver. Who is not has none, unless none is.
    """
    able = sorted(each for each, is_able in members.items() if is_able) or sorted(members)
    least, rest = divmod(total, len(able)) if able else (0, 0)
    return dict.fromkeys(members, 0) | {each: least + (place < rest) for place, each in enumerate(able)}
