"""Reads a configuration of Fluent Bit as it does: YAML and the classic format, includes, environment variables.

Source: src/config_format/ and src/flb_env.c of Fluent Bit 5.1.1.
"""

from __future__ import annotations

import glob
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import yaml

from in_jumpcloud.errors import ConfigError
from in_jumpcloud.file_access import read_limited

_MAX_BYTES = 4 * 1024**2
_YAML = {".yaml", ".yml"}
_PIPELINE = {"inputs": "input", "filters": "filter", "outputs": "output"}
_SECTIONS = {
    *("service", "env", "includes", "pipeline", "customs", "plugins", "upstream_servers", "extensions"),
    *("parsers", "multiline_parsers", "stream_processor"),  # YAML
    *(
        "input",
        "filter",
        "output",
        "custom",
        "parser",
        "multiline_parser",
        "stream_task",
        "upstream",
        "node",
    ),  # classic
}
_VARIABLE = re.compile(r"\$\{([^}]+)\}")
_CAPITAL = re.compile(r"(?<!^)([A-Z])")


class Value(NamedTuple):
    """The value of a setting, and its place as `file:line`.

    `text` is None if it depends on a variable of the environment that is not set here: `variable` is its name.
    """

    text: str | None
    place: str
    variable: str = ""


@dataclass
class Section:
    """`service`, or one `input`, `filter` or `output`. A setting has several values if it is repeated, or a list."""

    kind: str
    place: str
    values: dict[str, list[Value]] = field(default_factory=dict)

    def get(self, key: str) -> Value | None:
        """The last value of a setting; None if it is not set."""
        return self.values[key][-1] if self.values.get(key) else None

    def text(self, key: str, default: str = "") -> str:
        """The last value of a setting as it is, or `default` where it is not set or not known."""
        value = self.get(key)
        return default if value is None or value.text is None else value.text

    @property
    def plugin(self) -> str:
        """The name of its plugin, such as `forward`."""
        return self.text("name").lower()

    def __str__(self) -> str:
        alias = self.text("alias")
        return f"{self.kind} {self.plugin}".strip() + (f" ({alias})" if alias else "")


def read_configuration(path: Path, environ: Mapping[str, str]) -> list[Section]:
    """The sections of the configuration at `path`, in their order, with the values of variables in their place.

    Raises:
        ConfigError: a file cannot be read or parsed; the text has its name and the line.
    """
    reader = _Reader(path)
    reader.read(path, "")
    if not reader.names & _SECTIONS:
        raise ConfigError(f"{path}:1: not a configuration of Fluent Bit: it has no section of one")
    for section in reader.sections:
        for values in section.values.values():
            values[:] = [_substitute(value, reader.environ, environ) for value in values]
    return reader.sections


def _substitute(value: Value, own: Mapping[str, str | None], environ: Mapping[str, str]) -> Value:
    """Replace `${NAME}` and `${NAME:-default}`. `own` are the variables of the configuration, which come first."""
    missing: list[str] = []

    def replace(match: re.Match[str]) -> str:
        name, separator, default = match[1].partition(":-")
        known = own[name] if name in own else environ.get(name) or None
        if known or separator:
            return known or default
        missing.append(name)
        return ""

    text = _VARIABLE.sub(replace, value.text or "")
    return value._replace(text=None, variable=missing[0]) if missing else value._replace(text=text.strip())


class _Reader:
    """Collects the sections of a file and of those that it includes."""

    def __init__(self, path: Path) -> None:
        self.sections: list[Section] = []
        self.names: set[str] = set()
        self.environ: dict[str, str | None] = {"HOSTNAME": socket.gethostname()}
        self._directory = path.parent
        self._read: set[Path] = set()

    def read(self, path: Path, place: str) -> None:
        """Read the file at `path`, which is included at `place`."""
        where = f"{place}: " if place else ""
        if path.resolve() in self._read:
            raise ConfigError(f"{where}{path} is included twice, which Fluent Bit refuses")
        self._read.add(path.resolve())
        try:
            content = read_limited(path, _MAX_BYTES)
        except OSError as error:
            raise ConfigError(f"{where}{path} cannot be read: {error.strerror}") from None
        if path.suffix.lower() in _YAML:
            self._read_yaml(path, content)
        else:
            self._read_classic(path, content)

    def _include(self, pattern: str, directories: Iterable[Path], place: str) -> None:
        """Read what an include names, relative to the first of `directories` that has it."""
        for directory in directories if "\0" not in pattern else ():
            paths = sorted(glob.glob(str(directory / pattern))) if "*" in pattern else [str(directory / pattern)]  # noqa: PTH207
            if found := [Path(path) for path in paths if Path(path).exists()]:
                for path in found:
                    self.read(path, place)
                return
        raise ConfigError(f"{place}: no such file: {pattern}")

    # YAML

    def _read_yaml(self, path: Path, content: bytes) -> None:
        try:
            document = yaml.compose(content, Loader=_Loader)
            for name, node in _pairs(document, path) if document else ():
                self._read_yaml_section(name.value.lower(), node, path)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem or error.context}") from None
        except yaml.reader.ReaderError as error:
            line = content[: error.position].count(b"\n") + 1
            raise ConfigError(f"{path}:{line}: not valid YAML: {error.reason}") from None
        except RecursionError:
            raise ConfigError(f"{path}:1: not valid YAML: it is nested too deeply") from None

    def _read_yaml_section(self, name: str, node: yaml.Node, path: Path) -> None:
        self.names.add(name)
        if name == "service":
            self._add_yaml("service", node, path)
        elif name == "env":
            for key, value in _pairs(node, path) if isinstance(node, yaml.MappingNode) else ():
                # One from a file is set, and not known here.
                text = value.value if isinstance(value, yaml.ScalarNode) else ""
                self.environ[key.value] = None if text.startswith("file://") else text
        elif name == "includes":
            for item in _items(node, path):
                self._include(item.value, [path.parent], _place(item, path))
        elif name == "pipeline":
            for key, items in _pairs(node, path):
                kind = _PIPELINE.get(key.value.lower())
                if not kind:
                    expected = "inputs, filters or outputs"
                    raise ConfigError(f"{_place(key, path)}: expected {expected} in pipeline (got {key.value!r:.40})")
                for item in _items(items, path):
                    self._add_yaml(kind, item, path)

    def _add_yaml(self, kind: str, node: yaml.Node, path: Path) -> None:
        section = Section(kind, _place(node, path))
        for key, value in _pairs(node, path):
            name = key.value
            if name[:1].islower() and "_" not in name:  # bufferMaxSize is buffer_max_size
                name = _CAPITAL.sub(r"_\1", name)
            values = [Value(text, _place(key, path)) for text in _scalars(value)]
            section.values.setdefault(name.lower(), []).extend(values)
        self.sections.append(section)

    # The classic format

    def _read_classic(self, path: Path, content: bytes) -> None:
        section: Section | None = None
        indent = ""
        is_group = False
        for number, line in enumerate(content.decode(errors="replace").split("\n"), 1):
            text, place = line.rstrip("\r"), f"{path}:{number}"
            if not text.strip() or text.lstrip(" \t").startswith("#"):
                continue
            if text[:9].lower() == "@include ":
                self._include(text[9:].strip(), [self._directory, Path()], place)
            elif text.startswith("@"):
                self._set(text)
            elif text.startswith("["):
                section, is_group = self._begin(text, place), False
            else:
                indent = indent or text[: len(text) - len(text.lstrip(" \t"))]
                if not indent:
                    raise ConfigError(f"{place}: expected [SECTION], or a setting that is indented")
                is_deeper = text.startswith(indent) and text[len(indent)].isspace()
                if not text.startswith(indent) or (is_deeper and not is_group):
                    raise ConfigError(f"{place}: the indentation differs from that of the lines before")
                if text.strip().startswith("["):
                    is_group = True  # its lines are indented further, and no settings of the section
                elif not is_deeper:
                    is_group = False
                    _add_classic(section, text.strip(), place)

    def _set(self, text: str) -> None:
        """`@SET NAME=value`."""
        command, _, assignment = text.partition(" ")
        if command.lower() == "@set":
            name, _, value = assignment.partition("=")
            self.environ[name.strip()] = value.strip()

    def _begin(self, text: str, place: str) -> Section | None:
        """`[INPUT]`; None for a section that holds no settings of ours."""
        name, bracket, _ = text[1:].partition("]")
        if not bracket:
            raise ConfigError(f"{place}: a section such as [INPUT] needs a closing bracket")
        kind = name.strip().lower()
        self.names.add(kind)
        section = Section(kind.removesuffix("s") if kind in _PIPELINE else kind, place)
        self.sections.append(section)
        return section


def _add_classic(section: Section | None, text: str, place: str) -> None:
    key, _, value = text.partition(" ")
    if section is None:
        raise ConfigError(f"{place}: expected a section such as [INPUT] before the first setting")
    if not value.strip():
        raise ConfigError(f"{place}: {key} has no value")
    section.values.setdefault(key.lower(), []).append(Value(value.strip(), place))


class _Loader(yaml.SafeLoader):
    """Fluent Bit takes no aliases."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="Fluent Bit takes no aliases", problem_mark=mark)
        return super().compose_node(parent, index)


def _place(node: yaml.Node, path: Path) -> str:
    return f"{path}:{node.start_mark.line + 1}"


def _pairs(node: yaml.Node, path: Path) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{_place(node, path)}: expected settings such as `name: forward`")
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{_place(key, path)}: expected the name of a setting")
        yield key, value


def _items(node: yaml.Node, path: Path) -> list[yaml.Node]:
    if not isinstance(node, yaml.SequenceNode):
        raise ConfigError(f"{_place(node, path)}: expected a list")
    items: list[yaml.Node] = node.value
    return items


def _scalars(node: yaml.Node) -> Iterator[str]:
    """Every text in it."""
    if isinstance(node, yaml.ScalarNode):
        yield node.value
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _scalars(item)
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            for part in pair:
                yield from _scalars(part)
