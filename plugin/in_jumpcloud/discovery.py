"""Which organizations there are: a list of JumpCloud's, or a file, looked at again and again while running."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import NamedTuple

from in_jumpcloud.backoff import backoff_delay
from in_jumpcloud.config.organizations import read_organizations
from in_jumpcloud.config.schema import Config, JumpCloudSettings
from in_jumpcloud.counters import Counters, Liveness, plural
from in_jumpcloud.errors import (
    Fatal,
    InJumpCloudError,
    RequestRejected,
    Retryable,
    StateCorrupt,
    StateUnavailable,
    Stopped,
)
from in_jumpcloud.runtime import Runtime
from in_jumpcloud.text import printable
from in_jumpcloud.troubles import Troubles

log = logging.getLogger(__name__)

ListOfApi = Callable[[str | None, threading.Event], dict[str, str]]
"""The name of each organization of a provider, or with None of the key, by its ID; raises InJumpCloudError."""
_LISTS_WITHOUT = 2
"""An organization leaves once so many of JumpCloud's lists in a row are without it."""
_FEW, _SHARE = 10, 0.2
"""A list that lacks more than so many organizations, and more than that share of them, is not believed."""
_FILE_SECONDS = 10.0
"""How often the file is looked at."""
_SETTLE_SECONDS = 1.0
"""How soon a file that has changed is looked at again: it may have been read while it was being written."""
_REJECTED_DELAY = 300.0
_MAX_FAILURES = 3
"""Failures in a row from which on a list that may come later is a trouble."""
_EMPTY_ADVICE = "check jumpcloud.provider_id and what the key has access to, or list IDs in jumpcloud.organizations"
_MAX_LOGGED = 10
"""So many of those that join or leave at once have a line of their own."""


class Listed(NamedTuple):
    """A list: the name of each organization that is to be polled, by its ID, and the IDs of those that are not."""

    organizations: dict[str, str]
    excluded: Collection[str] = ()


List = Callable[[threading.Event], Listed]
"""Lists the organizations; raises InJumpCloudError."""


class Change(NamedTuple):
    """What a list changes: the organizations that are polled from now on, those that are new, and those that left."""

    polled: list[str]
    joined: list[str]
    left: list[str]


class Roll:
    """Which organizations are polled, list by list. It knows no clock and no network."""

    def __init__(self, polled: Collection[str] = ()) -> None:
        """`polled` are polled already."""
        self._polled = dict.fromkeys(polled)
        self._missing: dict[str, int] = {}  # in how many lists in a row

    def change(self, listed: Collection[str], *, patience: int, excluded: Collection[str] = ()) -> Change:
        """Note a list. One that is excluded leaves; another one once `patience` lists in a row are without it.

        Raises:
            Fatal: the list is not believed, and changes nothing. With a patience of 1 every list is.
        """
        listed, excluded = dict.fromkeys(listed), set(excluded)
        missing = [each for each in self._polled if each not in listed and each not in excluded]
        if patience > 1 and len(missing) > max(_FEW, _SHARE * len(self._polled)):
            raise Fatal(
                f"the list has {plural(len(listed), 'organization')}, and {len(missing)} that are polled are not in it",
                advice="it is not used; a restart, of all processes of a group, takes it as it is",
            )
        self._missing = {each: self._missing.get(each, 0) + 1 for each in missing}
        left = [each for each, count in self._missing.items() if count >= patience]
        left += [each for each in self._polled if each in excluded]
        joined = [each for each in listed if each not in self._polled]
        for each in left:
            del self._polled[each]
            self._missing.pop(each, None)
        self._polled.update(dict.fromkeys(joined))
        return Change(list(self._polled), joined, left)


class Discovery:
    """Lists the organizations, and says which are polled. One thread at a time calls `step`."""

    name = "organizations"
    is_behind = False
    timed_out = False

    def __init__(
        self,
        settings: JumpCloudSettings,
        list_: List,
        *,
        known: Callable[[], Collection[str]],
        name: Callable[[Mapping[str, str]], None],
        apply: Callable[[list[str], threading.Event], None],
        polled: Collection[str] = (),
        polled_by_others: Callable[[], Collection[str]] = tuple,
        troubles: Troubles,
        runtime: Runtime,
    ) -> None:
        """`list_` lists them, and `apply` is called with those that are polled from now on. `polled` are already.

        `name` is called with the names of those on a list, by their IDs, before `apply` is.
        The first list is taken as it is, unless there are some that are `polled_by_others`: then it is the next one of
        theirs. Until there is a list, what is polled stays; if nothing is, `known` returns the organizations of earlier
        runs.
        """
        self.counters = Counters(liveness=Liveness(runtime.monotonic))
        self.count: int | None = None
        """How many organizations the last list has; None before the first."""
        self.error: InJumpCloudError | None = None
        """Why the last list is not used; None if it is."""
        self.error_since = 0.0
        """When lists began to fail, on the monotonic clock."""
        self._list = list_
        self._known = known
        self._name = name
        self._apply = apply
        self._polled_by_others: Callable[[], Collection[str]] | None = polled_by_others
        self._is_next = False  # of the lists of others
        self._is_file = settings.organizations_file is not None
        self._every = _FILE_SECONDS if self._is_file else float(settings.discover.every)
        self._polled = list(polled)
        self._roll = Roll(polled)
        self._read: dict[str, str] | None = None  # from the file, the last time
        self._troubles = troubles
        self._runtime = runtime
        self._failures = 0
        self._said: type[InJumpCloudError] | None = None  # of the trouble

    @property
    def is_final(self) -> bool:
        """Whether another try soon does not help."""
        return self.error is not None and not isinstance(self.error, Retryable)

    def step(self, stop: threading.Event) -> float:
        """List them.

        Returns:
            Seconds until the next step is due.

        Raises:
            StateCorrupt, Stopped: as Collector.step.
        """
        return self.counters.liveness.around(lambda: self._step(stop))

    def _step(self, stop: threading.Event) -> float:
        try:
            self._continue_others()
            return self._use(self._list(stop), stop)
        except (Stopped, StateCorrupt):
            raise
        except InJumpCloudError as error:
            return self._failed(error, stop)
        except Exception as error:
            log.exception("organizations: unexpected error")
            return self._failed(Fatal(f"unexpected {type(error).__name__}", advice="see the log"), stop)

    def _use(self, found: Listed, stop: threading.Event) -> float:
        (listed, excluded), is_first = found, self.count is None
        if self._is_file and not is_first and listed != self._read:
            self._read = listed
            return _SETTLE_SECONDS
        is_believed = self._is_file or (is_first and not self._is_next)
        change = self._roll.change(listed, patience=1 if is_believed else _LISTS_WITHOUT, excluded=excluded)
        self._failures, self._said, self.error, self.count, self._read = 0, None, None, len(listed), listed
        self._troubles.end(self.name)
        self._polled = change.polled
        self._name(listed)
        self._apply(change.polled, stop)
        if change.joined or change.left:
            _report(change, listed, is_first=is_first)
        return self._every

    def _continue_others(self) -> None:
        if self._polled_by_others is None:
            return
        if polled := list(self._polled_by_others()):
            self._polled, self._roll, self._is_next = polled, Roll(polled), True
        self._polled_by_others = None

    def _failed(self, error: InJumpCloudError, stop: threading.Event) -> float:
        """Report it, and poll what was polled. At the start that is what the state knows."""
        if self.error is None:
            self.error_since = self._runtime.monotonic()
        self._failures += 1
        self.error = error.kept()
        if not self._polled:
            with suppress(StateUnavailable):  # it is asked again with the next failure
                self._polled = list(self._known())
            if self._polled:
                self._roll = Roll(self._polled)
                self._apply(self._polled, stop)
        self._say(error)
        return min(self._every, self._delay(error))

    def _delay(self, error: InJumpCloudError) -> float:
        if not isinstance(error, Retryable):
            return _REJECTED_DELAY
        return error.after if error.after is not None else backoff_delay(self._failures, self._runtime.random)

    def _say(self, error: InJumpCloudError) -> None:
        if isinstance(error, Retryable) and self._failures < _MAX_FAILURES:
            if self._failures == 1:
                log.warning("organizations cannot be listed: %s", error)
            return
        if isinstance(error, RequestRejected | Retryable) and self._said is type(error):
            return  # each answer has another request ID
        self._said = type(error)
        polled = f"{plural(len(self._polled), 'organization')} that are known are polled meanwhile"
        advice = "; ".join(filter(None, (error.advice, polled if self._polled else "none is polled until then")))
        self._troubles.begin(self.name, f"organizations cannot be listed: {error.message}", advice)


def _report(change: Change, names: dict[str, str], *, is_first: bool) -> None:
    log.info("%s: %d joined, %d left", plural(len(change.polled), "organization"), len(change.joined), len(change.left))
    for word, ids in (("joined", [] if is_first else change.joined), ("left", change.left)):
        for each in ids[:_MAX_LOGGED]:
            name = printable(names.get(each, ""))
            log.info("organization %s %s", f"{each} ({name})" if name else each, word)


def list_of(settings: JumpCloudSettings, of_api: ListOfApi) -> List:
    """What lists the organizations that are to be polled, from the file or with `of_api`.

    It raises besides what these raise:
        Fatal: there is none.
    """
    if file := settings.organizations_file:
        return lambda _: Listed(dict.fromkeys(read_organizations(file), ""))

    def listed(stop: threading.Event) -> Listed:
        found = of_api(settings.provider_id, stop)
        wanted = {each: name for each, name in found.items() if _is_wanted(settings, each, name)}
        if not found:
            raise Fatal("JumpCloud's list is empty", advice=_EMPTY_ADVICE)
        if not wanted:
            raise Fatal(
                f"{plural(len(found), 'organization')}, of which none is to be polled", advice="see jumpcloud.discover"
            )
        return Listed(wanted, found.keys() - wanted.keys())

    return listed


def _is_wanted(settings: JumpCloudSettings, organization: str, name: str) -> bool:
    def matches(patterns: tuple[str, ...]) -> bool:
        return any(fnmatchcase(organization, each) or fnmatchcase(name, each) for each in patterns)

    return matches(settings.discover.include) and not matches(settings.discover.exclude)


def discovery_settings(settings: Config) -> tuple[object, ...]:
    """What decides which organizations are listed, and how."""
    jumpcloud = settings.jumpcloud
    listed = "all" if jumpcloud.organizations == "all" else None
    return listed, jumpcloud.organizations_file, jumpcloud.discover, jumpcloud.provider_id
