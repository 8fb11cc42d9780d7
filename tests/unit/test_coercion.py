"""Conversion to declared types, problems, and that no value of any event is lost."""

from __future__ import annotations

import json
import math
import random
from fractions import Fraction
from typing import Any

import msgpack
from support.hostile_events import events

from in_jumpcloud.config.schema import EcsSettings
from in_jumpcloud.ecs import fields
from in_jumpcloud.ecs.coercion import MAX_DEPTH, coerce
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.forward.wire import pack_entry
from in_jumpcloud.insights.event import decode_event, parse_event
from in_jumpcloud.insights.nesting import MAX_NESTING

GONE: Any = "(removed)"
RECEIVED_NS = 1_698_303_449_823_000_000
NO_GEO = GeoIPLookup(None, None)
MAPPERS = {
    keep: Mapper(
        EcsSettings(profile="elastic", preserve_duplicate_custom_fields=keep), NO_GEO, agent_id="a", ephemeral_id="b"
    )
    for keep in (False, True)
}


def mapped(raw: bytes) -> dict[str, Any]:
    """The record's body of an event's JSON text."""
    return MAPPERS[True].map(parse_event(raw), RECEIVED_NS).body


def coerced(**data: Any) -> tuple[Any, list[str]]:
    """An event's data with declared types, and the problems."""
    problems: list[str] = []
    return coerce(data, fields.declared(), problems, strict=True), problems


def test_converted() -> None:
    """A value is converted to its declared type, in lists each member; undeclared values are kept as sent."""
    rows: list[tuple[str, Any, Any]] = [
        *[("scope", value, 2) for value in (2, 2.0, "2", "2.0", "2.", "+2", "002")],
        *[("error_code", value, -49) for value in (-49, -49.0, "-49")],
        *[("deref", value, value) for value in (0, 2**63 - 1, -(2**63))],
        ("number_of_results", str(2**63 - 1), 2**63 - 1),
        ("operation_number", [1, "2", 3.0, None], [1, 2, 3]),
        *[("mfa", value, True) for value in (True, "true", "TRUE", "True")],
        *[("start_tls", value, False) for value in (False, "false", "FALSE")],
        ("success", [True, "false"], [True, False]),
        *[("dn", value, value) for value in ("x", " ", "\0", "é\U0001f600")],
        *[("dn", value, json.dumps(value)) for value in (True, False, 128, 0, -1.5, 2**70)],
        ("dn", ["x", 1, True, "", None], ["x", "1", "true"]),
        ("dn", [["x"], [1]], [["x"], ["1"]]),
        ("undeclared", {"a": [1, "x", {"b": False}]}, {"a": [1, "x", {"b": False}]}),
        ("undeclared", 1.5, 1.5),
        ("changes", [{"field": "active", "to": True}, {"to": 1}], [{"field": "active", "to": True}, {"to": 1}]),
        ("changes", {"scope": "x", "deep": {"mfa": [0]}}, {"scope": "x", "deep": {"mfa": [0]}}),
    ]
    latitudes = (51, 51.0, "51", "51.0", "5.1e1", "+51", "51.", "0051")
    rows += [("geoip", {"latitude": value}, {"latitude": 51.0}) for value in latitudes]
    assert [row for row in rows if repr(coerced(**{row[0]: row[1]})) != repr(({row[0]: row[2]}, []))] == []


def test_mistyped_below_a_name_with_dots() -> None:
    """An object in place of a declared value is reported as it was sent, although all that it holds is empty."""
    data, problems = coerced(**{"command.managed_apps_only": {"type": []}, "dn": "x"})
    assert data == {"dn": "x"}
    assert problems == [
        'jumpcloud.event.command.managed_apps_only: {"type": []} is not of type boolean; see event.original'
    ]


def test_mistyped() -> None:
    """A value that cannot be converted is removed, with a problem that names the field and shows the value's start."""
    rows: dict[str, list[Any]] = {
        "scope": ["x", "2.5", 2.5, " 2", "1e3", "0x2", "\u0662", True, {"a": 1}, 2**63, -(2**63) - 1, str(2**63)],
        "deref": [float(2**63), "9" * 31],
        "mfa": [0, 1, 1.0, "yes", "1", " true", {"a": 1}],
        "dn": [{"a": 1}],
        "changes": ["x", 1, True],
        "system": ["x", 1, True],
        "geoip.longitude": ["x", "nan", "inf", "1e400", "1_0", True, {"a": 1}, "\u0661"],
    }
    for path, values in rows.items():
        name, _, inner = path.partition(".")
        for value in values:
            data, (problem,) = coerced(**{name: {inner: value} if inner else value}, dn2="x")
            assert data == {"dn2": "x"}
            assert problem.startswith(f"jumpcloud.event.{path}: {json.dumps(value)} is not of type ")
    for name, inner_value in (("scope", "x" * 10_000), ("geoip", {"longitude": 10**400})):
        data, (problem,) = coerced(**{name: inner_value})
        assert (data, len(problem) < 150) == ({}, True)
    assert coerced(scope="") == ({}, [])


def test_lists() -> None:
    """A declared path continues in nested lists of objects; only members that cannot be converted are removed."""
    policies = [{"id": 1, "metadata": {"action": True}}, [{"id": "x", "more": 2}], {"id": {"a": 1}}]
    data, (problem,) = coerced(auth_context={"policies_applied": policies})
    kept = [{"id": "1", "metadata": {"action": "true"}}, [{"id": "x", "more": 2}]]
    assert data == {"auth_context": {"policies_applied": kept}}
    assert problem.startswith("jumpcloud.event.auth_context.policies_applied.id: ")
    data, problems = coerced(scope=[1, "x", {"a": 1}, 2])
    assert (data, len(problems)) == ({"scope": [1, 2]}, 2)


def test_reported() -> None:
    """What cannot be mapped is reported: kind, a message that names the field, the tag and the original are set."""
    deep = b"[" * 40 + b"1" + b"]" * 40
    rows: list[tuple[bytes, str, Any]] = [
        (b'"scope":"x"', "jumpcloud.event.scope", GONE),
        (b'"client_ip":"174.16.38.486"', "client_ip", "174.16.38.486"),
        (b'"src_ip":["192.0.2.1"]', "src_ip", ["192.0.2.1"]),
        (b'"timestamp":"yesterday"', "timestamp", "yesterday"),
        (b'"timestamp":0', "timestamp", "0"),
        (b'"timestamp":{"a":1}', "jumpcloud.event.timestamp", GONE),
        (b'"n":18446744073709551616', "jumpcloud.event.n", "18446744073709551616"),
        (b'"n":-9223372036854775809', "jumpcloud.event.n", "-9223372036854775809"),
        (b'"n":' + b"7" * 5000, "5000 digits", "7" * 5000),
        (b'"n":"a\\ud800b"', "jumpcloud.event.n", "a\ufffdb"),
        (b'"n":{"\\udfff":1}', "jumpcloud.event.n", {"\ufffd": 1}),
        (b'"n":NaN', "jumpcloud.event.n", "nan"),
        (b'"n":[-Infinity]', "jumpcloud.event.n", ["-inf"]),
        (b'"n":1e999', "jumpcloud.event.n", "inf"),
        (b'"n":"\xff"', "not UTF-8", "\ufffd"),
        (b'"mfa":' + deep, "jumpcloud.event.mfa", GONE),
        (b'"changes":' + deep, "jumpcloud.event.changes", GONE),
    ]
    for member, names, kept in rows:
        raw = b'{"id":"1",' + member + b"}"
        body = mapped(raw)
        assert (body["event"]["kind"], body["event"]["id"]) == ("pipeline_error", "1")
        assert body["event"]["original"] == raw.decode(errors="replace")
        assert body["tags"] == ["preserve_duplicate_custom_fields", "forwarded", "preserve_original_event"]
        (problem,) = body["error"]["message"]
        assert names in problem
        assert body["jumpcloud"]["event"].get(member.decode(errors="replace").split('"')[1], GONE) == kept, member
        # The next event is not affected.
        body = mapped(b'{"scope":1}')
        assert "error" not in body
        assert body["tags"] == ["preserve_duplicate_custom_fields", "forwarded"]


def test_tag_once() -> None:
    """If the original is preserved by the settings, its tag is not duplicated."""
    mapper = Mapper(
        EcsSettings(profile="elastic", preserve_original_event=True), NO_GEO, agent_id="a", ephemeral_id="b"
    )
    assert mapper.map(parse_event(b'{"scope":"x"}'), 0).body["tags"] == ["preserve_original_event", "forwarded"]


def test_deep() -> None:
    """32 levels are kept as sent. A deeper subtree becomes its JSON text, from which it can be read back."""
    raw = b'{"n":' + b"[" * (MAX_DEPTH - 1) + b"1" + b"]" * (MAX_DEPTH - 1) + b"}"
    assert mapped(raw)["jumpcloud"]["event"] == json.loads(raw)
    assert "error" not in mapped(raw)

    for levels in (40, MAX_NESTING - 3):
        deep: Any = {"é": [1, None, "x"]}
        for _ in range(levels):
            deep = {"a": deep}
        value = mapped(json.dumps({"n": deep}).encode())["jumpcloud"]["event"]["n"]
        depth = 1
        while isinstance(value, dict):
            value, deep, depth = value["a"], deep["a"], depth + 1
        assert depth == MAX_DEPTH
        assert json.loads(value) == deep
    for strict in (b"1", b"NaN"):  # what is too deep to be decoded is text in that text
        body = mapped(b'{"n":' + b"[" * 5000 + b"]" * 5000 + b',"scope":"2","mfa":' + strict + b"}")
        assert body["jumpcloud"]["event"]["scope"] == 2
        assert "[" * 1000 in json.dumps(body["jumpcloud"]["event"]["n"])
        assert body["event"]["kind"] == "pipeline_error"


def test_unreadable() -> None:
    """An element that is not an object, or cannot be read, becomes a record with the original and the reason."""
    for raw in (b"1", b"null", b'"text"', b"[]", b"[{}]", b"NaN", b"", b"{", b'{"a":1', b"\xff\xfe", b"[" * 20_000):
        record = MAPPERS[False].map(parse_event(raw), RECEIVED_NS)
        assert record.time_ns == RECEIVED_NS
        assert record.body["@timestamp"] == record.body["event"]["created"] == "2023-10-26T06:57:29.823Z"
        assert record.body["event"]["kind"] == "pipeline_error"
        assert record.body["event"]["original"] == raw.decode(errors="replace")
        assert len(record.body["error"]["message"]) == 1
        assert "jumpcloud" not in record.body


# Any event


def pruned(value: Any) -> Any:
    """A value without empty parts; None if nothing is left."""
    if isinstance(value, dict):
        value = {key: kept for key, each in value.items() if (kept := pruned(each)) is not None}
    elif isinstance(value, list):
        value = [kept for each in value if (kept := pruned(each)) is not None]
    return None if value is None or value in ("", {}, []) else value


def carries(kept: Any, given: Any) -> bool:
    """Whether a record's value equals the event's, in this or another type."""
    if isinstance(given, dict):
        return isinstance(kept, dict) and kept.keys() == given.keys() and all(carries(kept[k], given[k]) for k in given)
    if isinstance(given, list):
        return isinstance(kept, list) and len(kept) == len(given) and all(map(carries, kept, given))
    if type(kept) is type(given) and kept == given:
        return True
    if isinstance(kept, str):  # a keyword
        return not isinstance(given, str) and kept == json.dumps(given)
    if isinstance(kept, bool) or isinstance(given, bool):
        return isinstance(given, str) and given.lower() == str(kept).lower()
    return math.isclose(Fraction(kept), Fraction(given.rstrip(".") if isinstance(given, str) else given))


def conforms(value: Any, kind: str | fields.Declared) -> bool:
    """Whether a value, or every member of a list, has the declared type."""
    if isinstance(value, list):
        return all(conforms(each, kind) for each in value)
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(conforms(value[key], kind[key]) for key in kind.keys() & value.keys())
    if kind == "long":
        return type(value) is int and -(2**63) <= value < 2**63
    return type(value) is {"keyword": str, "float": float, "boolean": bool, "flattened": dict}[kind]


def duplicates_removed(data: dict[str, Any]) -> dict[str, Any]:
    """An event's data without the duplicates that the mapper removes."""
    gone = {*["version", "timestamp", "client_ip", "src_ip", "id", "message", "username", "useragent"]}
    gone |= {"event_type", "service", "process_name"}
    inner = {"system": {"id", "hostname"}, "initiated_by": {"id", "email", "username"}}
    kept = {}
    for name, value in data.items():
        if name in inner and isinstance(value, dict):
            kept[name] = {key: each for key, each in value.items() if key not in inner[name]}
        elif name not in gone:
            kept[name] = value
    return {name: value for name, value in kept.items() if value != {}}


def test_any_event(dice: random.Random) -> None:
    """Every event becomes a record of declared types with all its values, or with the original and the reason.

    Mapping changes no event and keeps nothing of it. Without preserve_duplicate_custom_fields exactly the duplicates
    are absent.
    """
    reported = 0
    for raw in events(500, dice.randrange(2**32)):
        event = parse_event(raw)
        record = MAPPERS[True].map(event, RECEIVED_NS)
        body = record.body
        entry = pack_entry(record.time_ns, body)
        assert msgpack.unpackb(entry)[1] == body, raw
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
        data = body.get("jumpcloud", {}).get("event", {})
        assert conforms(data, fields.declared()), raw

        if body["event"].get("kind") == "pipeline_error":
            reported += 1
            assert body["event"]["original"] == raw.decode(errors="replace"), raw
            assert body["tags"][-1] == "preserve_original_event", raw
            assert body["error"]["message"], raw
        else:
            assert "original" not in body["event"], raw
            sent = decode_event(raw).data or {}
            if "@version" in sent and "version" not in sent:
                sent["version"] = sent.pop("@version")
            assert carries(data, pruned(sent) or {}), raw

        without = MAPPERS[False].map(event, RECEIVED_NS).body
        assert without.pop("jumpcloud", {}).get("event", {}) == duplicates_removed(
            body.pop("jumpcloud", {}).get("event", {})
        ), raw
        assert {**without, "tags": []} == {**body, "tags": []}, raw
        assert pack_entry(record.time_ns, MAPPERS[True].map(event, RECEIVED_NS).body) == entry, raw
    assert 50 < reported < 450
