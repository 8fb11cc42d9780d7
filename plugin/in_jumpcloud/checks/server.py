"""Checks of the server that holds the state, and of the processes that share it."""

from __future__ import annotations

from collections.abc import Iterator

from in_jumpcloud import __version__
from in_jumpcloud.checks.result import CheckResult, failed, ok, warning
from in_jumpcloud.config.schema import Config
from in_jumpcloud.counters import plural
from in_jumpcloud.errors import ConfigError, StateCorrupt, StateMissing, StateOutdated, StateUnavailable
from in_jumpcloud.member import settings_digest
from in_jumpcloud.state.group import Member
from in_jumpcloud.state.opening import open_readonly, try_out
from in_jumpcloud.state.server import Server
from in_jumpcloud.streams import streams
from in_jumpcloud.text import printable

_MAX_AHEAD_SECONDS = 2.0
_MAX_ROUND_TRIP_SECONDS = 0.1
"""Each poll with events waits for some statements."""
_MIB = 1024**2


def check_server(settings: Config) -> Iterator[CheckResult]:
    """Check that the server can hold the state, in a transaction that is rolled back, and who uses the state."""
    try:
        server = try_out(settings.state)
        names, usage = _usage(settings)
    except (ConfigError, StateCorrupt, StateUnavailable) as error:
        yield failed("state", error)
        return
    sizes = f"{server.bytes / _MIB:.1f} MiB in a database of {server.database_bytes / _MIB:.1f}"
    answers = f"{server.version}, answers in {1000 * server.round_trip:.1f} ms"
    yield ok("state", f"{usage}; {answers}; {sizes}")
    yield from _check_settings(server)
    yield from _check_connections(server)
    yield from _check_members(settings, server.members, names)


def _usage(settings: Config) -> tuple[list[str], str]:
    """The streams of the state, and what is to be said of it, with its place."""
    place = settings.state.place
    try:
        with open_readonly(settings.state) as state:
            names = [row.name for row in state.streams()]
            user = f"in use by {state.holder}: the plugin is running" if state.holder else "not in use"
            return names, f"{place}: streams: {len(names)}, {user}"
    except StateMissing as error:
        return [], f"{place}: no state yet; {error.advice}"
    except StateOutdated as error:
        return [], f"{error.message}; {error.advice}"


def _check_settings(server: Server) -> Iterator[CheckResult]:
    if abs(server.ahead) - server.round_trip > _MAX_AHEAD_SECONDS:
        side = "ahead of" if server.ahead > 0 else "behind"
        text = f"the server's clock is {abs(server.ahead):.0f} s {side} this machine's"
        yield warning("state", text, "set both (NTP); only that of the server decides which member is silent")
    if server.round_trip > _MAX_ROUND_TRIP_SECONDS:
        text = f"the server answers in {server.round_trip:.2f} s, and each page of events waits for several answers"
        yield warning("state", text, "use one that is nearer")
    if server.isolation != "read committed":
        text = f"default_transaction_isolation is {server.isolation}: statements that meet fail and are repeated"
        yield warning("state", text, "set it to read committed for the user of state.url")
    if server.synchronous_commit == "off":
        text = "synchronous_commit is off: after a crash of the server, what it lost is delivered again"
        yield warning("state", text, "set it to on for the user of state.url")


def _check_connections(server: Server) -> Iterator[CheckResult]:
    members = max(1, len(server.members))
    needed, possible = members * server.connections_each, server.connections + server.free
    text = f"{possible} connections for {plural(members, 'member')}, which may use {server.connections_each} each"
    if needed > possible:
        advice = "raise max_connections, or the limit of the user or the database; or use a pooler"
        yield warning("state", f"only {text}", advice)
    else:
        yield ok("state", text)


def _check_members(settings: Config, members: tuple[Member, ...], names: list[str]) -> Iterator[CheckResult]:
    """Compare what can be known of the others: their settings as a digest, and the streams."""
    living = [each for each in members if each.silent <= each.lease]
    digest = settings_digest(settings)
    for each in living:
        if each.settings and each.settings != digest:
            text = f"{printable(each.name)} has other settings than this configuration"
            advice = "give all members the same; if it is another group, set another state.schema"
            yield warning("group", text, advice)
        if each.version != __version__:
            text = f"{printable(each.name)} is of version {printable(each.version)}, this is {__version__}"
            yield warning("group", text, "upgrade all members to the same version")
    if living:
        yield ok("group", f"{plural(len(living), 'member')}: {', '.join(printable(each.name) for each in living)}")
    own = {each.name for each in streams(settings)}
    if names and own and own.isdisjoint(names) and not settings.jumpcloud.is_discovered:
        text = f"none of the {plural(len(names), 'stream')} of the state is in this configuration, such as {names[0]}"
        yield warning("group", text, "if another group uses the schema, set another state.schema")
