"""Modes, options, acks, tags: what a receiver takes, and what it closes the connection for."""

from __future__ import annotations

from conformance.case import ALIVE, ALIVE_INGESTED, CLOSED, GAP, Case, ack, case, ingested, send
from conformance.messages import TIME, forward, message, pack, packed, payload
from conformance.receivers import ROUTED

_RECORD = {"id": "a"}
_PAIR = pack([TIME, {"id": "a"}])
_LONG = "c" * 3000

MODES: tuple[Case, ...] = (
    case("message", "Message mode is acknowledged", send(message("a", chunk="c")), ack("c"), ingested("a")),
    case(
        "forward",
        "Forward mode is acknowledged",
        send(forward("a", "b", chunk="c")),
        ack("c"),
        ingested("a"),
        ingested("b"),
    ),
    case(
        "packed",
        "PackedForward is what we send",
        send(packed("a", "b", chunk="c", size=2)),
        ack("c"),
        ingested("a"),
        ingested("b"),
    ),
    case(
        "packed_as_str",
        "the payload may be str instead of bin",
        send(payload(_PAIR.decode("utf-8", "surrogateescape"), chunk="c")),
        ack("c"),
        ingested("a"),
    ),
    case(
        "no_chunk",
        "nothing answers a message without chunk",
        send(message("a"), forward("b"), packed("c")),
        *ALIVE,
        ingested("a"),
        ingested("b"),
        ingested("c"),
        ALIVE_INGESTED,
    ),
    case(
        "no_options",
        "a message need not have options",
        send(pack(["tag", TIME, _RECORD]), pack(["tag", _PAIR])),
        *ALIVE,
        ingested("a"),
        ingested("a"),
        ALIVE_INGESTED,
    ),
    case(
        "pipelined",
        "acks come in the order of the messages",
        send(*(message(each, chunk=each) for each in "abcde")),
        *map(ack, "abcde"),
        *map(ingested, "abcde"),
    ),
    case(
        "message_in_two_segments",
        "TCP cuts where it likes",
        send(packed("a", chunk="c")[:20]),
        GAP,
        send(packed("a", chunk="c")[20:]),
        ack("c"),
        ingested("a"),
    ),
    case(
        "message_and_a_half",
        "what is behind a whole message waits for its rest",
        send(message("a", chunk="1"), message("b", chunk="2")[:9]),
        ack("1"),
        GAP,
        send(message("b", chunk="2")[9:]),
        ack("2"),
        ingested("a"),
        ingested("b"),
    ),
    case("cut_off", "half a message is nothing", send(packed("a", "b", chunk="c")[:-30])),
    case(
        "empty_forward_array",
        "our probe: acknowledged, and nothing kept of it",
        send(forward(chunk="c", size=0)),
        ack("c"),
    ),
    case("empty_payload", "so the probe cannot be PackedForward", send(payload(b"", chunk="c")), CLOSED),
    case(
        "bad_entry_in_forward",
        "entries before a bad one are kept although nothing is acknowledged",
        send(pack(["tag", [[TIME, _RECORD], [TIME, 1], [TIME, {"id": "b"}]], {"chunk": "c"}])),
        CLOSED,
        ingested("a"),
    ),
    case("heartbeat", "nil is no message here", send(pack(None)), CLOSED),
    case("map_at_the_root", "only arrays are messages", send(pack({"a": 1})), CLOSED),
    case("json", "JSON text is for Fluentd", send(b'["tag",1767225600,{"id":"a"}]'), CLOSED),
)

OPTIONS: tuple[Case, ...] = (
    case("chunk_as_bin", "a chunk has to be str", send(message("a", chunk=b"c")), CLOSED),
    case("chunk_as_bin_packed", "in PackedForward as well", send(packed("a", chunk=b"c")), CLOSED),
    case("chunk_empty", "an empty chunk asks for an ack", send(message("a", chunk="")), ack(""), ingested("a")),
    case(
        "chunk_with_line_feed",
        "Fluentd's chunks end with one",
        send(packed("a", chunk="Zm9v\n")),
        ack("Zm9v\n"),
        ingested("a"),
    ),
    case("chunk_long", "a chunk of any length comes back", send(packed("a", chunk=_LONG)), ack(_LONG), ingested("a")),
    case(
        "size_wrong", "size is a hint that nobody reads", send(packed("a", chunk="c", size=7)), ack("c"), ingested("a")
    ),
    case(
        "option_unknown",
        "options that are not known are passed over",
        send(packed("a", chunk="c", what=[1])),
        ack("c"),
        ingested("a"),
    ),
    case(
        "option_key_as_int",
        "in PackedForward every key has to be str",
        send(pack(["tag", _PAIR, {1: 2, "chunk": "c"}])),
        CLOSED,
    ),
    case(
        "option_key_as_int_in_message",
        "in Message mode not",
        send(pack(["tag", TIME, _RECORD, {1: 2, "chunk": "c"}])),
        ack("c"),
        ingested("a"),
    ),
    case(
        "options_nil_in_message",
        "nil is no options",
        send(pack(["tag", TIME, _RECORD, None])),
        *ALIVE,
        ingested("a"),
        ALIVE_INGESTED,
    ),
    case(
        "options_nil_in_forward",
        "nil is no options",
        send(pack(["tag", [[TIME, _RECORD]], None])),
        *ALIVE,
        ingested("a"),
        ALIVE_INGESTED,
    ),
    case("options_nil_in_packed", "but not so in PackedForward", send(pack(["tag", _PAIR, None])), CLOSED),
    case("options_as_str", "options are a map", send(pack(["tag", _PAIR, "chunk"])), CLOSED),
    case(
        "signal_logs",
        "a payload of logs may say so",
        send(packed("a", chunk="c", fluent_signal=0)),
        ack("c"),
        ingested("a"),
    ),
    case(
        "signal_unknown",
        "a payload of another kind is not taken",
        send(packed("a", chunk="c", fluent_signal=3)),
        CLOSED,
    ),
    case(
        "metadata_option",
        "metadata of a message is no part of its record",
        send(message("a", chunk="c", metadata={"m": 1})),
        ack("c"),
        ingested("a"),
    ),
)

TAGS: tuple[Case, ...] = (
    case("tag_as_bin", "a tag has to be str", send(packed("a", tag=b"tag", chunk="c")), CLOSED),
    case(
        "tag_empty",
        "an empty tag has no output: acknowledged, then dropped",
        send(packed("a", tag="", chunk="c")),
        ack("c"),
    ),
    case(
        "tag_unroutable",
        "a tag that no output matches: acknowledged, then dropped",
        send(packed("a", tag="jumpcloud.events", chunk="c")),
        ack("c"),
        send(packed("b", tag="routed.events", chunk="d")),
        ack("d"),
        ingested("b", "routed.events"),
        receiver=ROUTED,
    ),
    case(
        "tag_too_long",
        "a tag of more than 65,531 bytes is cut",
        send(packed("a", tag="t" * 65_532, chunk="c")),
        ack("c"),
        ingested("a", "t" * 65_531),
    ),
)
