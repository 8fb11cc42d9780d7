"""Notices that the configuration file, or a secret or certificate that it names, has other content than was loaded.

It compares the content: on Kubernetes neither the file nor its link changes, but a link above it. Content counts once
two looks have found the same, so that half a file is not loaded while it is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from in_jumpcloud.config.schema import Config, settings_of
from in_jumpcloud.config.types import NamedFile, Secret
from in_jumpcloud.file_access import content_digest

LOOK_SECONDS = 10.0
_SECOND_LOOK_SECONDS = 3.0


class Look(NamedTuple):
    """The files that have changed for good, and the seconds until the next look is due."""

    changed: tuple[Path, ...]
    seconds: float


class ConfigWatch:
    """Compares the files with what the last load read."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`path` is the configuration file, if there is one."""
        self._path = path
        self._clock = clock
        self._loaded: dict[Path, bytes | None] = {path: None} if path else {}
        self._seen: dict[Path, bytes | None] | None = None
        self._look_at = 0.0

    def loading(self) -> None:
        """A load begins. What changes from now on is a change, even if the load reads it already."""
        self._loaded = {path: content_digest(path) for path in self._loaded}
        self._seen = None

    def look(self, settings: Config) -> Look:
        """Look at the files, if that is due. A change is returned once. `settings` are those in use."""
        now = self._clock()
        if now < self._look_at:
            return Look((), self._look_at - now)
        own = [self._path] if self._path else []
        found = {path: content_digest(path) for path in (*own, *_named_files(settings))}
        # A file that was not named before is as it was loaded.
        changed = tuple(path for path, digest in found.items() if self._loaded.get(path, digest) != digest)
        is_new = bool(changed) and found != self._seen
        self._seen = found
        if not is_new:
            self._loaded = found
        seconds = _SECOND_LOOK_SECONDS if is_new else LOOK_SECONDS
        self._look_at = now + seconds
        return Look(() if is_new else changed, seconds)


def _named_files(settings: Config) -> Iterator[Path]:
    for _, value in settings_of(settings):
        if isinstance(value, NamedFile):
            yield value.path
        elif isinstance(value, Secret) and value.file:
            yield value.file
