"""Fuzz the mapping: hostile events become records with declared types, also after a real Fluent Bit.

Usage:

    FLUENT_BIT=/path/to/fluent-bit PYTHONPATH=tests .venv/bin/python -m tools.ecs_fuzz --events 100000 --seed 1
"""

from __future__ import annotations

import argparse
import hashlib
import ipaddress
import json
import math
import random
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from support.command import ROOT, wait_until
from support.fluent_bit import BINARY, FluentBit
from support.hostile_events import events as hostile_events
from support.store import Refused, Store

from in_jumpcloud.config.schema import EcsSettings, ForwardSettings, ServerSettings
from in_jumpcloud.ecs import fields
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.index_template import Dialect, index_template
from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.forward import wire
from in_jumpcloud.forward.chunks import batch
from in_jumpcloud.forward.sender import AckSender
from in_jumpcloud.insights.event import parse_event

DIALECTS: tuple[Dialect, ...] = ("elasticsearch", "opensearch")
ELASTIC_INTERVAL = 5
"""One of this many events is mapped by both profiles."""
_TAG = "jumpcloud.fuzz"
_NUMBER = "number"  # the record's number; ECS has no field of this name
_MAX_SHOWN, _MAX_DEFECTS = 5, 1000

Path_ = tuple[str, ...]
EVENT = tuple(fields.EVENT.split("."))
TYPES = {tuple(row.name.split(".")): row.type for row in fields.table()}
PARENTS = {path[:length] for path in TYPES for length in range(1, len(path))}
ELASTIC = {tuple(row.name.split(".")) for row in fields.table() if row.origin == "elastic"}
ELASTIC_PARENTS = {path[:length] for path in ELASTIC for length in range(1, len(path))}
OWN = {("error",), ("tags",), ("event", "kind"), ("event", "original")}
_TEXTS = {"keyword", "constant_keyword", "wildcard", "match_only_text"}
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)


@dataclass
class Figures:
    """The results."""

    seed: int
    events: int = 0
    raw_bytes: int = 0
    reported: int = 0
    """Records of events that could not be mapped completely."""
    leaves: int = 0
    """Values of declared fields in mapped records whose type was checked."""
    compared: int = 0
    """Events that both profiles mapped."""
    stored: int = 0
    """Records that an index with the template of each store accepted."""
    lines: int | None = None
    """Lines that a real Fluent Bit wrote; None without Fluent Bit."""
    leaves_out: int = 0
    """Values of declared fields in those lines whose type was checked."""
    seconds: float = 0
    defects: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}: {self.events} events, {self.raw_bytes / 1e6:.1f} MB, in {self.seconds:.0f} s",
            (
                f"mapped {self.events}, {self.reported} of them with problems; "
                f"{self.leaves} values of declared fields checked; {self.compared} compared with profile elastic; "
                f"{self.stored} accepted by both index templates"
            ),
            "not delivered to a real Fluent Bit: set FLUENT_BIT, or put fluent-bit on PATH"
            if self.lines is None
            else (
                f"Fluent Bit: {self.events} records in, {self.lines} lines out, each compared with what was sent; "
                f"{self.leaves_out} values of declared fields checked"
            ),
            f"defects: {len(self.defects)}",
            *self.defects[:_MAX_SHOWN],
        ]
        return "\n".join(lines)


class Entry(NamedTuple):
    """A packed record and its tag."""

    tag: str
    packed: bytes


class Fuzz:
    """Maps hostile events with both profiles and, with `deliver`, sends the records through a real Fluent Bit."""

    def __init__(self, directory: Path, *, events: int | list[bytes], seed: int, deliver: bool) -> None:
        self._directory = directory
        self._with_fluent_bit = deliver
        self._events: Iterable[bytes] = hostile_events(events, seed) if isinstance(events, int) else events
        self._digests: list[bytes] = []
        self._counted = 0
        self._extended, self._elastic = (
            Mapper(
                settings,
                GeoIPLookup(ROOT / "geoip" / "demo-city.mmdb", ROOT / "geoip" / "demo-asn.mmdb", extended=extended),
                agent_id="the agent",
                ephemeral_id="the process",
            )
            for settings, extended in ((EcsSettings(), True), (EcsSettings(profile="elastic"), False))
        )
        self._stores = {dialect: Store(index_template(dialect)) for dialect in DIALECTS}
        self.figures = Figures(seed)

    def run(self) -> Figures:
        """Run the whole fuzz."""
        began = time.monotonic()
        if self._with_fluent_bit:
            with FluentBit.with_input(self._directory, {}) as fluent_bit:
                self._deliver(fluent_bit)
                with fluent_bit.output.open("rb") as output:
                    wait_until(lambda: self._lines_of(output) >= self.figures.events, 60 + self.figures.events / 1000)
                fluent_bit.stop()
            self._check_output(fluent_bit.output)
        else:
            for _ in self._entries():
                pass
        self.figures.seconds = time.monotonic() - began
        return self.figures

    def _entries(self) -> Iterator[Entry]:
        now_ns = time.time_ns()
        for number, raw in enumerate(self._events):
            self.figures.events += 1
            self.figures.raw_bytes += len(raw)
            record = self._extended.map(parse_event(raw), now_ns)
            self.figures.reported += "error" in record.body
            self.figures.leaves += self._check_types(record.body, raw, sent=True)
            if number % ELASTIC_INTERVAL == 0:
                self.figures.compared += 1
                base = self._elastic.map(parse_event(raw), now_ns).body
                self._note([f"extended lacks {'.'.join(path)}" for path in lacking(base, record.body)], raw)
            self._store(record.body, raw)
            body = record.body | {_NUMBER: number}
            self._digests.append(_digest(_printed(body)))
            yield Entry(_TAG, wire.pack_entry(record.time_ns, body))

    def _deliver(self, fluent_bit: FluentBit) -> None:
        server = ServerSettings(host="127.0.0.1", port=fluent_bit.port)
        sender = AckSender(server, ForwardSettings(servers=(server,)))
        for entries, _ in batch(self._entries(), 1_000_000):
            packed = b"".join(entry.packed for entry in entries)
            sender.deliver(wire.build_chunk(_TAG, packed, len(entries)), threading.Event())
        sender.close()

    def _lines_of(self, output: BinaryIO) -> int:
        """The number of lines so far; lines that were counted are not read again."""
        self._counted += sum(block.count(b"\n") for block in iter(lambda: output.read(2**20), b""))
        return self._counted

    def _check_output(self, output: Path) -> None:
        self.figures.lines = 0
        missing = set(range(self.figures.events))
        with output.open("rb") as lines:
            for line in lines:
                self.figures.lines += 1
                try:
                    body = strictly(line)
                except ValueError as error:
                    self._note([f"not JSON: {error}"], line)
                    continue
                number = body[_NUMBER]
                if number not in missing:
                    self._note([f"record {number} came twice"], line)
                    continue
                missing.discard(number)
                if _digest(body) != self._digests[number]:
                    self._note([f"record {number} came out changed"], line)
                del body[_NUMBER]
                self.figures.leaves_out += self._check_types(body, line, sent=False)
        self._note([f"record {number} did not come out" for number in sorted(missing)], b"")

    def _check_types(self, body: dict[str, Any], of: bytes, *, sent: bool) -> int:
        checked = 0
        for path, value in leaves(body):
            if path in TYPES:
                checked += 1
                if not conforms(value, TYPES[path], sent=sent):
                    self._note([f"{'.'.join(path)} is not of type {TYPES[path]}: {value!r:.80}"], of)
            elif path in PARENTS:
                self._note([f"{'.'.join(path)} is not an object: {value!r:.80}"], of)
            elif path[: len(EVENT)] != EVENT:
                self._note([f"{'.'.join(path)} is not declared"], of)
        return checked

    def _store(self, body: dict[str, Any], of: bytes) -> None:
        """Put a record into an index of each store, after all records before it."""
        try:
            for store in self._stores.values():
                store.put(body)
            self.figures.stored += 1
        except Refused as refused:
            self._note([f"a store refuses it: {refused}"], of)

    def _note(self, defects: list[str], of: bytes) -> None:
        if len(self.figures.defects) < _MAX_DEFECTS:
            self.figures.defects.extend(f"{defect} | {of[:2000]!r}" for defect in defects)


def leaves(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every scalar, and every value with a declared type; as in a store, a dot in a name makes an object."""
    if isinstance(value, list):
        for each in value:
            yield from leaves(each, path)
    elif isinstance(value, dict) and path not in TYPES:
        for key, each in value.items():
            yield from leaves(each, (*path, *key.split(".")))
    else:
        yield path, value


def conforms(value: Any, kind: str, *, sent: bool) -> bool:
    """Whether a store accepts the value for this type; `sent`: before Fluent Bit, which writes 1.0 as 1."""
    if kind in _TEXTS:
        return type(value) is str
    if kind == "long":
        return type(value) is int and -(2**63) <= value < 2**63
    if kind == "float":
        return (type(value) is float and math.isfinite(value)) or (type(value) is int and not sent)
    if kind == "boolean":
        return type(value) is bool
    if kind == "flattened":
        return type(value) is dict
    if kind == "geo_point":
        return value.keys() == {"lat", "lon"} and all(conforms(each, "float", sent=sent) for each in value.values())
    if type(value) is not str:
        return False
    if kind == "date":
        return _DATE.fullmatch(value) is not None
    assert kind == "ip"
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return "%" not in value


def lacking(base: Any, more: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The paths at which the record of profile extended, `more`, lacks a value of profile elastic, `base`.

    Problems, and fields that only profile extended declares, are not compared.
    """
    if path in OWN or (path[: len(EVENT)] == EVENT and path not in ELASTIC | ELASTIC_PARENTS):
        return
    if isinstance(base, dict) and path not in TYPES:
        for key, each in base.items():
            below = more.get(key) if isinstance(more, dict) else None
            yield from lacking(each, below, (*path, *key.split(".")))
    elif path not in PARENTS and not _holds(base, more, path):
        yield path


def _holds(base: Any, more: Any, path: Path_) -> bool:
    if path == ("event", "outcome"):  # text results add outcomes; a sign-on that waits for a second factor is unknown
        return base in {more, "unknown"} or (base, more) == ("failure", "unknown")
    if path[1:] == ("ip",):  # IPv4 written as IPv6 becomes IPv4
        one, other = (value if type(value) is list else [value] for value in (base, more))
        return {*map(_plain, one)} <= {*map(_plain, other)}
    if isinstance(base, list) and path[: len(EVENT)] != EVENT:
        return bool(more[: len(base)] == base)
    return repr(base) == repr(more)


def _plain(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def strictly(line: bytes) -> dict[str, Any]:
    """Parse a line of strict JSON.

    Raises:
        ValueError: the line is not UTF-8, not one object of strict JSON, or an object has a duplicate name.
    """

    def refuse(literal: str) -> Any:
        raise ValueError(f"{literal} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise ValueError("duplicate name")
        return members

    body = json.loads(line.decode(), parse_constant=refuse, object_pairs_hook=unique)
    if type(body) is not dict:
        raise ValueError("not an object")
    return body


def _digest(body: Any) -> bytes:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()


def _printed(value: Any) -> Any:
    """The value with floats of 16 digits, as Fluent Bit writes them."""
    if isinstance(value, dict):
        return {key: _printed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_printed(each) for each in value]
    return float(f"{value:.16g}") if type(value) is float else value


def main() -> None:
    """Run the fuzz from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)  # noqa: T201 - the result
    with tempfile.TemporaryDirectory(prefix="in-jumpcloud-fuzz-") as directory:
        figures = Fuzz(Path(directory), **vars(arguments), deliver=BINARY is not None).run()
    print(figures)  # noqa: T201 - the result
    raise SystemExit(bool(figures.defects))


if __name__ == "__main__":
    main()
