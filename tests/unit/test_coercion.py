"""Conversion to declared types, problems, and that no value of any event is lost."""

from __future__ import annotations

import ipaddress
import json
import math
import re
from fractions import Fraction
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from in_jumpcloud.config.schema import EcsSettings
from in_jumpcloud.ecs import fields
from in_jumpcloud.ecs.coercion import MAX_DEPTH, MAX_TEXT_DEPTH, coerce
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.forward.wire import pack_entry
from in_jumpcloud.insights.event import RawEvent, parse_event

GONE: Any = "(removed)"
RECEIVED_NS = 1_698_303_449_823_000_000
NO_GEO = GeoIPLookup(None, None)
MAPPERS = {
    keep: Mapper(
        EcsSettings(profile="elastic", preserve_duplicate_custom_fields=keep), NO_GEO, agent_id="a", ephemeral_id="b"
    )
    for keep in (False, True)
}


def mapped(raw: bytes, *, keep_duplicates: bool = True) -> dict[str, Any]:
    """The record's body of an event's JSON text."""
    return MAPPERS[keep_duplicates].map(parse_event(raw), RECEIVED_NS).body


def coerced(**data: Any) -> tuple[Any, list[str]]:
    """An event's data with declared types, and the problems."""
    problems: list[str] = []
    return coerce(data, fields.declared(), problems, strict=True), problems


class TestTypes:
    """Values of declared fields."""

    @pytest.mark.parametrize(
        ("name", "given", "kept"),
        [
            *[("scope", value, 2) for value in (2, 2.0, "2", "2.0", "2.", "+2", "002")],
            *[("error_code", value, -49) for value in (-49, -49.0, "-49")],
            *[("deref", value, value) for value in (0, 2**63 - 1, -(2**63))],
            ("number_of_results", str(2**63 - 1), 2**63 - 1),
            ("operation_number", [1, "2", 3.0, None], [1, 2, 3]),
            *[("mfa", value, True) for value in (True, "true", "TRUE", "True")],
            *[("start_tls", value, False) for value in (False, "false", "FALSE")],
            ("success", [True, "false"], [True, False]),
            *[("dn", value, value) for value in ("x", " ", "\0", "é\U0001f600")],
            ("dn", True, "true"),
            ("dn", False, "false"),
            ("dn", 128, "128"),
            ("dn", 0, "0"),
            ("dn", -1.5, "-1.5"),
            ("dn", 2**70, str(2**70)),
            ("dn", ["x", 1, True, "", None], ["x", "1", "true"]),
            ("dn", [["x"], [1]], [["x"], ["1"]]),
            ("undeclared", {"a": [1, "x", {"b": False}]}, {"a": [1, "x", {"b": False}]}),
            ("undeclared", 1.5, 1.5),
            ("changes", [{"field": "active", "to": True}, {"to": 1}], [{"field": "active", "to": True}, {"to": 1}]),
            ("changes", {"scope": "x", "deep": {"mfa": [0]}}, {"scope": "x", "deep": {"mfa": [0]}}),
        ],
    )
    def test_converted(self, name: str, given: Any, kept: Any) -> None:
        """A value is converted to its declared type, in lists each member; undeclared values are kept as sent."""
        data, problems = coerced(**{name: given})
        assert repr(data[name]) == repr(kept)
        assert problems == []

    @pytest.mark.parametrize("value", [51, 51.0, "51", "51.0", "5.1e1", "+51", "51.", "0051"])
    def test_float(self, value: Any) -> None:
        """A latitude becomes a float."""
        data, problems = coerced(geoip={"latitude": value})
        assert repr(data) == "{'geoip': {'latitude': 51.0}}"
        assert problems == []

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *[("scope", value) for value in ("x", "2.5", 2.5, "", " 2", "1e3", "0x2", "\u0662", True, {"a": 1})],
            *[("scope", value) for value in (2**63, -(2**63) - 1, str(2**63), float(2**63), "9" * 31)],
            *[("mfa", value) for value in (0, 1, 1.0, "yes", "1", " true", {"a": 1})],
            ("dn", {"a": 1}),
            *[("changes", value) for value in ("x", 1, True)],
            *[("system", value) for value in ("x", 1, True)],
        ],
    )
    def test_mistyped(self, name: str, value: Any) -> None:
        """A value that cannot be converted is removed, with one problem that names the field and the value."""
        data, problems = coerced(**{name: value}, dn2="x")
        assert data == {"dn2": "x"}
        if value == "":
            assert problems == []
        else:
            (problem,) = problems
            assert problem.startswith(f"jumpcloud.event.{name}: {json.dumps(value)} is not of type ")

    @pytest.mark.parametrize("value", ["x", "nan", "inf", "1e400", "1_0", True, 10**400, {"a": 1}, "\u0661"])
    def test_not_a_float(self, value: Any) -> None:
        """Text that is not a number, infinities, NaN and objects cannot become a float."""
        data, problems = coerced(geoip={"longitude": value})
        assert data == {}
        assert [problem.partition(":")[0] for problem in problems] == ["jumpcloud.event.geoip.longitude"]

    def test_through_lists(self) -> None:
        """A declared path continues in lists of objects, and in lists of such lists."""
        policies = [{"id": 1, "metadata": {"action": True}}, [{"id": "x", "more": 2}], {"id": {"a": 1}}]
        data, problems = coerced(auth_context={"policies_applied": policies})
        kept = [{"id": "1", "metadata": {"action": "true"}}, [{"id": "x", "more": 2}]]
        assert data == {"auth_context": {"policies_applied": kept}}
        assert len(problems) == 1
        assert problems[0].startswith("jumpcloud.event.auth_context.policies_applied.id: ")

    def test_part_of_a_list(self) -> None:
        """Only the members of a list that cannot be converted are removed."""
        data, problems = coerced(scope=[1, "x", {"a": 1}, 2])
        assert data == {"scope": [1, 2]}
        assert len(problems) == 2

    def test_long_values_are_shortened(self) -> None:
        """A problem shows only the beginning of a long value."""
        assert len(coerced(scope="x" * 10_000)[1][0]) < 150


class TestNothingLost:
    """Records of events that cannot be mapped completely."""

    @pytest.mark.parametrize(
        ("raw", "names", "path", "kept"),
        [
            (b'{"id":"1","scope":"x"}', "jumpcloud.event.scope", "scope", GONE),
            (b'{"id":"1","client_ip":"174.16.38.486"}', "client_ip", "client_ip", "174.16.38.486"),
            (b'{"id":"1","src_ip":["192.0.2.1"]}', "src_ip", "src_ip", ["192.0.2.1"]),
            (b'{"id":"1","timestamp":"yesterday"}', "timestamp", "timestamp", "yesterday"),
            (b'{"id":"1","timestamp":0}', "timestamp", "timestamp", "0"),
            (b'{"id":"1","timestamp":{"a":1}}', "jumpcloud.event.timestamp", "timestamp", GONE),
            (b'{"id":"1","n":18446744073709551616}', "jumpcloud.event.n", "n", "18446744073709551616"),
            (b'{"id":"1","n":-9223372036854775809}', "jumpcloud.event.n", "n", "-9223372036854775809"),
            (b'{"id":"1","n":' + b"7" * 5000 + b"}", "5000 digits", "n", "7" * 5000),
            (b'{"id":"1","n":"a\\ud800b"}', "jumpcloud.event.n", "n", "a\ufffdb"),
            (b'{"id":"1","n":{"\\udfff":1}}', "jumpcloud.event.n", "n", {"\ufffd": 1}),
            (b'{"id":"1","n":NaN}', "jumpcloud.event.n", "n", "nan"),
            (b'{"id":"1","n":[-Infinity]}', "jumpcloud.event.n", "n", ["-inf"]),
            (b'{"id":"1","n":1e999}', "jumpcloud.event.n", "n", "inf"),
            (b'{"id":"1","n":"\xff"}', "not UTF-8", "n", "\ufffd"),
            (b'{"id":"1","mfa":' + b"[" * 40 + b"1" + b"]" * 40 + b"}", "jumpcloud.event.mfa", "mfa", GONE),
            (b'{"id":"1","changes":' + b"[" * 40 + b"1" + b"]" * 40 + b"}", "jumpcloud.event.changes", "changes", GONE),
        ],
    )
    def test_reported(self, raw: bytes, names: str, path: str, kept: Any) -> None:
        """All other values are mapped; kind, a message naming the field, the tag and the original are set."""
        body = mapped(raw)
        assert body["event"]["kind"] == "pipeline_error"
        assert body["event"]["original"] == raw.decode(errors="replace")
        assert body["event"]["id"] == "1"
        assert body["tags"] == ["preserve_duplicate_custom_fields", "forwarded", "preserve_original_event"]
        (problem,) = body["error"]["message"]
        assert names in problem
        assert body["jumpcloud"]["event"].get(path, GONE) == kept

    def test_tag_once(self) -> None:
        """If the original is preserved by the settings, its tag is not duplicated."""
        mapper = Mapper(
            EcsSettings(profile="elastic", preserve_original_event=True), NO_GEO, agent_id="a", ephemeral_id="b"
        )
        assert mapper.map(parse_event(b'{"scope":"x"}'), 0).body["tags"] == ["preserve_original_event", "forwarded"]

    def test_next_event(self) -> None:
        """A problem with one event does not affect the next."""
        mapped(b'{"scope":"x"}')
        body = mapped(b'{"scope":1}')
        assert "error" not in body
        assert body["tags"] == ["preserve_duplicate_custom_fields", "forwarded"]

    def test_deep_subtree(self) -> None:
        """A subtree deeper than 32 levels becomes its JSON text, from which it can be read back."""
        deep: Any = {"é": [1, None, "x"]}
        for _ in range(40):
            deep = {"a": deep}
        value = mapped(json.dumps({"n": deep}).encode())["jumpcloud"]["event"]["n"]
        levels = 2
        while isinstance(value, dict):
            value, deep, levels = value["a"], deep["a"], levels + 1
        assert levels - 1 == 32
        assert json.loads(value) == deep

    def test_32_levels(self) -> None:
        """An event of exactly 32 levels is kept as sent."""
        raw = b'{"n":' + b"[" * 31 + b"1" + b"]" * 31 + b"}"
        body = mapped(raw)
        assert body["jumpcloud"]["event"] == json.loads(raw)
        assert "error" not in body

    @pytest.mark.parametrize("strict", [True, False])
    def test_very_deep(self, strict: bool) -> None:
        """A subtree too deep to become text is removed, at the same depth on every Python; the rest is kept."""
        for levels, kept in ((MAX_DEPTH + MAX_TEXT_DEPTH - 1, 1), (MAX_DEPTH + MAX_TEXT_DEPTH, 0), (5000, 0)):
            deep: Any = "x"
            for _ in range(levels):
                deep = [deep]
            data = {"n": deep, "scope": "2", "mfa": {"a": deep}}
            problems: list[str] = []
            result = coerce(data, fields.declared(), problems, strict=strict)
            assert result.pop("scope") == 2
            assert len(result) == kept
            assert [problem.partition(": ")[0] for problem in problems] == [
                "jumpcloud.event.n",
                "jumpcloud.event.mfa",
            ]

    @pytest.mark.parametrize(
        "raw",
        [b"1", b"null", b'"text"', b"[]", b"[{}]", b"NaN", b"", b"{", b'{"a":1', b"\xff\xfe", b"[" * 100_000],
        ids=lambda raw: repr(raw[:8]),
    )
    def test_unreadable(self, raw: bytes) -> None:
        """An element that is not an object, or cannot be read, becomes a record with the original and the reason."""
        made = MAPPERS[False].map(parse_event(raw), RECEIVED_NS)
        assert made.time_ns == RECEIVED_NS
        assert made.body["@timestamp"] == made.body["event"]["created"] == "2023-10-26T06:57:29.823Z"
        assert made.body["event"]["kind"] == "pipeline_error"
        assert made.body["event"]["original"] == raw.decode(errors="replace")
        assert len(made.body["error"]["message"]) == 1
        assert "jumpcloud" not in made.body


# Any event: JSON of every kind, sometimes deep, and values of every kind at declared paths.
PATHS = [field.name.removeprefix("jumpcloud.event.") for field in fields.table() if "jumpcloud.event." in field.name]
TEXT = st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates too
LIKELY = st.sampled_from(
    [*("true", "FALSE", "12", "-1.50", "1e3", "nan", "", "192.0.2.1", "::1", "300.1.1.1", "2025-06-18T01:40:48Z"), 2.0]
)
INTEGERS = st.integers() | st.integers(-(2**65), 2**65) | st.sampled_from([2**63, -(2**63), 10**400])
SCALARS = st.none() | st.booleans() | INTEGERS | st.floats() | TEXT | LIKELY
KEYS = TEXT | st.sampled_from(["@version", "version", "id", "a", "timestamp", "geoip", "scope"])
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))


@st.composite
def nested(draw: st.DrawFn) -> Any:
    """A value below many levels of lists and objects."""
    value = draw(JSON)
    for _ in range(draw(st.integers(20, 60))):
        value = [value] if draw(st.booleans()) else {"a": value}
    return value


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    """An object with values of any kind at declared paths, some of them in lists, and at others."""
    event: dict[str, Any] = draw(st.dictionaries(KEYS, JSON, max_size=4))
    for path in draw(st.lists(st.sampled_from(PATHS), max_size=6)):
        *parents, leaf = path.split(".")
        value = {leaf: draw(JSON | LIKELY | nested())}
        for name in reversed(parents):
            value = {name: [value, draw(JSON)] if draw(st.integers(0, 5)) == 0 else value}
        event |= value
    return event


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


class TestAnyEvent:
    """Properties of all events."""

    @staticmethod
    def read(value: Any) -> RawEvent:
        """The event of a JSON value, as JumpCloud could send it."""
        return parse_event(json.dumps(value).encode())

    @settings(max_examples=120, deadline=None)
    @given(events() | JSON | nested())
    def test_record(self, value: Any) -> None:
        """Every event becomes a record that can be packed and written as JSON, with declared types."""
        event = self.read(value)
        made = MAPPERS[True].map(event, RECEIVED_NS)
        entry = pack_entry(made.time_ns, made.body)
        assert msgpack.unpackb(entry)[1] == made.body
        json.dumps(made.body, allow_nan=False, ensure_ascii=False).encode()
        assert conforms(made.body.get("jumpcloud", {}).get("event", {}), fields.declared())
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", made.body["@timestamp"])
        for side in ("client", "source"):
            if "ip" in made.body.get(side, {}):
                ipaddress.ip_address(made.body[side]["ip"])

    @settings(max_examples=120, deadline=None)
    @given(events() | JSON | nested())
    def test_nothing_lost(self, value: Any) -> None:
        """A record has every value of the event, or the original and the reason."""
        event = self.read(value)
        body = MAPPERS[True].map(event, RECEIVED_NS).body
        if body["event"].get("kind") == "pipeline_error":
            assert body["event"]["original"] == json.dumps(value)
            assert body["tags"][-1] == "preserve_original_event"
            assert body["error"]["message"]
            return
        assert "original" not in body["event"]
        given = pruned(value) or {}
        if "@version" in given and "version" not in value:
            given["version"] = given.pop("@version")
        assert carries(body.get("jumpcloud", {"event": {}})["event"], given)

    @settings(max_examples=50, deadline=None)
    @given(events())
    def test_twice(self, value: Any) -> None:
        """Mapping twice gives the same record and does not change the event."""
        event = self.read(value)
        before = repr(event)
        first = repr(MAPPERS[False].map(event, RECEIVED_NS))
        assert repr(MAPPERS[False].map(event, RECEIVED_NS)) == first
        assert repr(event) == before

    @settings(max_examples=50, deadline=None)
    @given(events())
    def test_duplicates(self, value: Any) -> None:
        """Without preserve_duplicate_custom_fields, exactly the duplicates are absent."""
        event = self.read(value)
        without, kept = (MAPPERS[keep].map(event, RECEIVED_NS).body for keep in (False, True))
        expected = duplicates_removed(kept.pop("jumpcloud", {}).get("event", {}))
        assert without.pop("jumpcloud", {}).get("event", {}) == expected
        assert {**without, "tags": []} == {**kept, "tags": []}
