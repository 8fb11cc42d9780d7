"""What a server says of itself, for people who set up a state there."""

from __future__ import annotations

from typing import NamedTuple

from in_jumpcloud.state.group import Member


class Server(NamedTuple):
    """A server that can hold the state.

    `round_trip` is the time of a short statement, and `ahead` how far its clock is ahead of that of this machine, in
    seconds. `isolation` and `synchronous_commit` are its defaults. `connections` are those that this program has now,
    and `free` how many more it may have; one process has at most `connections_each`. `bytes` is the size of the state,
    `database_bytes` that of the whole database.
    `members` are the processes that use the state now.
    """

    version: str
    round_trip: float
    ahead: float
    isolation: str
    synchronous_commit: str
    connections: int
    free: int
    connections_each: int
    bytes: int
    database_bytes: int
    members: tuple[Member, ...]
