"""When a changed configuration file is loaded: what is written is whole, however the file is replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from in_jumpcloud.config.schema import Config
from in_jumpcloud.config.types import NamedFile, Secret
from in_jumpcloud.config.watch import LOOK_SECONDS, ConfigWatch

SETTINGS = Config()


class Watched:
    """A watched file, and the clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 0.0
        self.watch = ConfigWatch(path, lambda: self.now)
        self.watch.loading()

    def look(self, settings: Config = SETTINGS) -> list[str]:
        """Wait until the next look is due, look, and return the names of the files that changed."""
        self.now += self.watch.look(settings).seconds
        return [path.name for path in self.watch.look(settings).changed]


def test_it_is_due_seldom(tmp_path: Path) -> None:
    """A call before the next look reads nothing, and says when the look is due."""
    watched = Watched(tmp_path / "a")
    watched.path.write_text("one")
    watched.watch.loading()
    assert watched.watch.look(SETTINGS) == ((), LOOK_SECONDS)
    watched.path.write_text("two")
    watched.now += LOOK_SECONDS - 1
    assert watched.watch.look(SETTINGS) == ((), 1)
    assert watched.watch.look(SETTINGS) == ((), 1)


def test_what_is_a_change(tmp_path: Path) -> None:
    """Content that two looks find the same, and that the last load did not read; each is returned once."""
    path = tmp_path / "jumpcloud.yaml"

    def written(text: str) -> Callable[[], object]:
        return lambda: path.write_text(text)

    steps: list[tuple[Callable[[], object], list[str]]] = [
        (lambda: None, []),
        (written("half"), []),
        (written("all of it"), []),  # still being written at the look before
        (lambda: None, ["jumpcloud.yaml"]),
        (lambda: None, []),
        (path.touch, []),  # the same content
        (written("other"), []),
        (written("all of it"), []),  # as it was loaded
        (lambda: None, []),
        (path.unlink, []),
        (lambda: None, ["jumpcloud.yaml"]),
        (lambda: None, []),
        (written("all of it"), []),
        (lambda: None, ["jumpcloud.yaml"]),
    ]
    path.write_text("one")
    watched = Watched(path)
    for number, (step, expected) in enumerate(steps):
        step()
        assert watched.look() == expected, number

    path.write_text("by a signal")  # a load that something else begins
    assert watched.look() == []
    watched.watch.loading()
    assert watched.look() == watched.look() == []


def test_a_mounted_config_map(tmp_path: Path) -> None:
    """Kubernetes replaces a link above the file at once: the file's own link stays as it is."""
    for name, text in (("..1", "one"), ("..2", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "jumpcloud.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("..1")
    path = tmp_path / "jumpcloud.yaml"
    path.symlink_to("..data/jumpcloud.yaml")
    watched = Watched(path)
    assert watched.look() == []
    before = path.lstat()
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert path.lstat().st_mtime_ns == before.st_mtime_ns
    assert [watched.look(), watched.look()] == [[], ["jumpcloud.yaml"]]


def test_named_files(tmp_path: Path) -> None:
    """Secrets and certificates of the settings in use are watched too. One that new settings name has not changed."""
    key, authority = tmp_path / "key", tmp_path / "ca.pem"
    for file in (key, authority):
        file.write_text("old")
    watched = Watched(tmp_path / "jumpcloud.yaml")
    names = {"api_key": Secret.from_file(key), "ca_file": NamedFile(authority)}
    settings = msgspec.structs.replace(SETTINGS, jumpcloud=msgspec.structs.replace(SETTINGS.jumpcloud, **names))
    assert watched.look(settings) == watched.look(settings) == []
    for file in (key, authority):
        file.write_text("new")
        assert [watched.look(settings), watched.look(settings), watched.look(settings)] == [[], [file.name], []]
    key.write_text("newer")
    assert watched.look() == watched.look() == []


def test_without_a_file() -> None:
    """There is nothing to look at."""
    watch = ConfigWatch(None)
    watch.loading()
    assert watch.look(SETTINGS) == ((), LOOK_SECONDS)
