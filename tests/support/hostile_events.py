"""Hostile events: mutated documented events, and other bytes that a server could send."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from support.command import ROOT

from in_jumpcloud.ecs import event_types, fields, objects

DATA = ROOT / "tests" / "data"


def _of_samples(pattern: str) -> list[dict[str, Any]]:
    """The events of the samples whose path matches, those without any value excepted."""
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((DATA / "samples").glob(pattern))]
    return [each["event"] for entries in files if isinstance(entries, list) for each in entries if each["event"]]


DOCUMENTED: list[dict[str, Any]] = [
    *(json.loads(line) for line in (DATA / "documented_events.ndjson").read_bytes().splitlines()),
    *(json.loads(path.read_bytes()) for path in sorted((DATA / "cases").glob("*.ndjson"))),
    *_of_samples("*.yaml"),
]
OF_RULES = _of_samples("rules/*.yaml")
DECLARED = [
    tuple(row.name.removeprefix(f"{fields.EVENT}.").split("."))
    for row in fields.table()
    if row.name.startswith(f"{fields.EVENT}.")
]
NAMES = sorted({name for path in DECLARED for name in path})
TYPES = [(row.service, row.name) for row in event_types.table()]


class Literal(str):
    """Text that is put into an event unquoted; it need not be JSON."""

    __slots__ = ()


class Members(list[tuple[str, Any]]):
    """An object's members, which may have duplicate names."""


def _nested(depth: int, opening: str = "[", innermost: str = "1") -> Literal:
    closing = "]" if opening == "[" else "}"
    return Literal(opening * depth + innermost + closing * depth)


NUMBERS: list[Any] = [
    *(0, -1, 1.5, -0.0, 0.1, 1e308, 5e-324, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1, 10**40),
    *map(Literal, ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e-400", "1E5", "-0", "12.0", "1" * 40)),
]
TEXTS = [
    *("", " ", "true", "FALSE", "nan", "inf", "1e5", "0x10", "\uff11\uff12", "12.0", "-7", "\u0663", "1_000", "null"),
    *("\ud800", "a\udfffb", "\udc00\ud800", "\U0001f600", "\0", "a\0b", "\x01\x1f\x7f\x85", "\u2028", "\u202egnp"),
    *("\ufeff", "\ufffe\uffff", "é", "e\u0301", '"\\/', "</script>", "{}", "\r\n\t\b\f", "a" * 300, "9" * 400),
    *("2025-06-18T01:40:48.953462371Z", "2025-06-18T01:40:48", "2025-02-30T00:00:00Z", "9999-12-31T23:59:59Z", "1"),
    *("81.2.69.144", "::ffff:81.2.69.144", "81.2.69.144:5", "[2001:db8::1]:443", "fe80::1%eth0", "1.2.3", "999.1.1.1"),
    *("user", "admin", "user_group", "system", "application", "Success", "Error", "High", "email", "username"),
    *("81.2.69.144, x, [2001:db8::1]:1", ",,,", "CORP\\ann", "\\", "ann@example.com", "/usr/sbin/sshd", "C:\\"),
    *(kind.upper() for kind in objects.table()),
]
DEEP = [
    *(_nested(depth, opening) for depth in (30, 31, 32, 33, 40, 64, 70, 500) for opening in ("[", '{"a":')),
    *(_nested(depth) for depth in (900, 1100)),
    _nested(40, '{"id":', '"x"'),
    _nested(33, "[", '{"id":"x"}'),
]
HUGE = ["a" * 33_000, "漢" * 11_000, _nested(20_000), Literal("1" * 5000)]
OBJECTS: list[Any] = [
    *({}, [], [[]], [None], [{}], {"": 1}, {"a.b": 1}, {"id": {"id": {"id": 1}}}, [1, "a", {}, [2]], {"type": []}),
    *({".": 1}, {"a..b": 1}, {".a": {"b.": [1]}}, {"\ud800": 1, "y\udfff": 2}, {"a\0b": 1}, {" ": 1}, {"@version": 2}),
    Members([("id", "1"), ("id", "2"), ("id", {"id": 3})]),
    [["a", ["b", ["c"]]], {"id": ["d", 1, True, None]}],
]
KEYS = [
    *("", " ", ".", "..", "a.b", "a..b", ".a", "a.", "\0", "a\0b", "\ud800", "\x1f", "é", "漢" * 100, "k" * 500),
    *("initiated_by.id", "initiated_by.", "success.x", "geoip.latitude", "system.id", "changes.a", "a.success", "ID"),
    *("@timestamp", "event", "ecs", "tags", "_id", "_source", "__proto__", "@version", "version"),
    *("useragent.useragent", "changes", "number"),
    *NAMES,
]


def events(count: int, seed: int) -> Iterator[bytes]:
    """`count` events, the same for the same seed; each is meant as an element of a page."""
    dice = random.Random(seed)
    kinds: list[Callable[[random.Random, int], bytes]] = [_mutated, _mistyped, _arbitrary, _large, _broken]
    for number in range(count):
        kind = dice.choices(kinds, (50, 25, 15, 0.2, 9.8))[0]
        yield kind(dice, number)


def _mutated(dice: random.Random, _number: int) -> bytes:
    """A documented event with some values replaced."""
    event = copy.deepcopy(dice.choice(DOCUMENTED if dice.random() < 0.7 else OF_RULES))
    if dice.random() < 0.3:
        event["service"], event["event_type"] = dice.choice(TYPES)
    for _ in range(dice.randint(1, 6)):
        container, key = dice.choice([*_places(event)])
        how = dice.randrange(6)
        if how == 0 and isinstance(container, dict):
            container[dice.choice(KEYS)] = container.pop(key)
        elif how == 1:
            container[key] = [container[key], _value(dice)]
        elif how == 2:
            container[key] = {dice.choice(KEYS): container[key]}
        else:
            container[key] = _value(dice)
        if not event:
            break
    return _written(_with_duplicates(event, dice), dice)


def _mistyped(dice: random.Random, number: int) -> bytes:
    """An event with unexpected values in declared fields, each field in turn."""
    service, event_type = dice.choice(TYPES)
    event: dict[str, Any] = {"id": str(number), "timestamp": "2025-06-18T01:40:48.9Z", "service": service}
    event["event_type"] = event_type
    for path in (DECLARED[number % len(DECLARED)], dice.choice(DECLARED)):
        if dice.random() < 0.1:
            event[".".join(path)] = _value(dice)
            continue
        value = _value(dice)
        for name in reversed(path[1:]):
            value = {name: value} if dice.random() < 0.9 else [{name: value}, _value(dice)]
        event[path[0]] = value
    return _written(_with_duplicates(event, dice), dice)


def _arbitrary(dice: random.Random, _number: int) -> bytes:
    """Any JSON object."""

    def made(depth: int) -> Any:
        how = dice.random()
        if depth > 5 or how < 0.5:
            return _value(dice)
        if how < 0.7:
            return [made(depth + 1) for _ in range(dice.randint(0, 4))]
        return Members([(dice.choice(KEYS), made(depth + 1)) for _ in range(dice.randint(0, 5))])

    return _written(Members([(dice.choice(KEYS), made(0)) for _ in range(dice.randint(0, 12))]), dice)


def _large(dice: random.Random, _number: int) -> bytes:
    """An event of up to 1 MB: a long text, many members, a long list, or a long name."""
    size = dice.randint(10_000, 200_000)
    how = dice.randrange(4)
    members: list[tuple[str, Any]] = [
        ("message", "ab\0é漢" * size),
        ("changes", [{"field": f"{number}", "to": number} for number in range(size // 20)]),
        ("x", {f"k{number}.{number % 7}": number for number in range(size // 20)}),
        ("n" * size, 1),
    ]
    return _written(Members([("id", str(size)), members[how]]), dice)


def _broken(dice: random.Random, number: int) -> bytes:
    """Bytes that are not an object, not JSON, or not UTF-8."""
    whole = _mutated(dice, number)
    how = dice.randrange(8)
    if how == 0:
        return _written(_value(dice), dice)
    if how == 1:
        return whole[: dice.randrange(len(whole))]
    if how == 2:
        at = dice.randrange(len(whole))
        return whole[:at] + dice.randbytes(dice.randint(1, 4)) + whole[at + 1 :]
    if how == 3:
        return b"\xef\xbb\xbf" + whole
    if how == 4:
        return whole.decode(errors="replace").encode(dice.choice(["utf-16", "utf-16-le", "utf-32"]))
    if how == 5:
        return whole + dice.choice([b",", b"}", b"\0", b" {}", b"//"])
    if how == 6:
        return dice.randbytes(dice.randint(0, 200))
    return whole.replace(b'"', b"'", dice.randint(1, 5))


def _value(dice: random.Random) -> Any:
    pool = dice.choices([NUMBERS, TEXTS, [None, True, False], OBJECTS, DEEP, HUGE], (30, 40, 10, 17, 2.8, 0.2))[0]
    return copy.deepcopy(dice.choice(pool))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in `value`, with each of its keys or indexes."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list) and not isinstance(value[key], Members):
            yield from _places(value[key])


def _with_duplicates(event: dict[str, Any], dice: random.Random) -> Members:
    members = Members(event.items())
    if members and dice.random() < 0.1:
        members.append((dice.choice(members)[0], _value(dice)))
    return members


def _written(value: Any, dice: random.Random) -> bytes:
    """JSON text in one of its possible forms; lone surrogates are escaped or not."""
    ascii_only = dice.random() < 0.5
    bare_controls = dice.random() < 0.05
    whitespace = dice.choice(["", "", " ", "\n\t"])

    def text(value: Any) -> str:
        if isinstance(value, Literal):
            return str(value)
        if isinstance(value, dict):
            value = Members(value.items())
        if isinstance(value, Members):
            return "{" + f",{whitespace}".join(f"{text(key)}:{whitespace}{text(each)}" for key, each in value) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(text, value)) + "]"
        if isinstance(value, str) and bare_controls:
            return f'"{value.replace(chr(92), "").replace(chr(34), "")}"'
        return json.dumps(value, ensure_ascii=ascii_only)

    return text(value).encode(errors="surrogatepass")
