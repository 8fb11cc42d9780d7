"""Compression, sizes, nesting, and entries that poison those behind them."""

from __future__ import annotations

from conformance.case import ALIVE, ALIVE_INGESTED, CLOSED, Case, ack, case, ingested, send
from conformance.messages import (
    BLOCK,
    LIMIT,
    TIME,
    entry,
    gzip_member,
    message,
    message_of,
    nested,
    pack,
    packed,
    padded,
    payload,
    zstd_frame,
)

A, B = entry("a"), entry("b")
GZIP = {"chunk": "c", "compressed": "gzip"}
ZSTD = {"chunk": "c", "compressed": "zstd"}
NO_ZSTD = "it cannot read zstd: acknowledged and lost"


def gzip_of(size: int) -> bytes:
    """One member with an entry of so many bytes."""
    head, run = padded("a", size)
    return gzip_member(head, run=run)


def zstd_of(size: int) -> bytes:
    """One frame with an entry of so many bytes."""
    head, run = padded("a", size)
    return zstd_frame(head, run=run)


COMPRESSION: tuple[Case, ...] = (
    case(
        "gzip",
        "one member, which is how we compress",
        send(payload(gzip_member(A + B), **GZIP)),
        ack("c"),
        ingested("a"),
        ingested("b"),
    ),
    case(
        "gzip_3_mb", "of any size below the limit", send(payload(gzip_of(3_000_000), **GZIP)), ack("c"), ingested("a")
    ),
    case(
        "gzip_as_str",
        "compressed bytes may be str",
        send(payload(gzip_member(A).decode("utf-8", "surrogateescape"), **GZIP)),
        ack("c"),
        ingested("a"),
    ),
    case(
        "gzip_not_named",
        "with options the first bytes are enough",
        send(payload(gzip_member(A), chunk="c")),
        ack("c"),
        ingested("a"),
    ),
    case(
        "gzip_without_options",
        "without options it is taken for entries, and lost",
        send(pack(["tag", gzip_member(A)])),
        *ALIVE,
        ALIVE_INGESTED,
    ),
    case(
        "gzip_two_members",
        "members may follow each other",
        send(payload(gzip_member(A) + gzip_member(B), **GZIP)),
        ack("c"),
        ingested("a"),
        ingested("b"),
    ),
    case(
        "gzip_empty_member",
        "but what is behind an empty one is lost",
        send(payload(gzip_member(A) + gzip_member(b"") + gzip_member(B), **GZIP)),
        ack("c"),
        ingested("a"),
    ),
    case(
        "gzip_truncated",
        "a member without its end: acknowledged, and lost",
        send(payload(gzip_member(A)[:-20], **GZIP)),
        ack("c"),
    ),
    case(
        "gzip_wrong_checksum",
        "nobody verifies the checksum",
        send(payload(gzip_member(A)[:-8] + bytes(8), **GZIP)),
        ack("c"),
        ingested("a"),
    ),
    case("gzip_is_plain", "what is named gzip and is none: acknowledged, and lost", send(payload(A, **GZIP)), ack("c")),
    case(
        "compressed_text",
        "text is no compression",
        send(payload(A, chunk="c", compressed="text")),
        ack("c"),
        ingested("a"),
    ),
    case(
        "zstd",
        "a small frame is read",
        send(payload(zstd_frame(A + B), **ZSTD)),
        ack("c"),
        ingested("a"),
        ingested("b"),
        not_simulated=NO_ZSTD,
    ),
    case(
        "zstd_within_a_block",
        "a frame that unpacks to less than buffer_chunk_size",
        send(payload(zstd_of(BLOCK - 20_000), **ZSTD)),
        ack("c"),
        ingested("a"),
        not_simulated=NO_ZSTD,
    ),
    case(
        "zstd_above_a_block",
        "more than buffer_chunk_size: acknowledged, and lost; so we offer no zstd",
        send(payload(zstd_of(BLOCK + 20_000), **ZSTD)),
        ack("c"),
    ),
    case(
        "zstd_two_frames",
        "frames may follow each other",
        send(payload(zstd_frame(A) + zstd_frame(B), **ZSTD)),
        ack("c"),
        ingested("a"),
        ingested("b"),
        not_simulated=NO_ZSTD,
    ),
    case(
        "zstd_truncated",
        "a frame without its end: acknowledged, and lost",
        send(payload(zstd_frame(A)[:-20], **ZSTD)),
        ack("c"),
    ),
)

LIMITS: tuple[Case, ...] = (
    case(
        "message_at_the_limit",
        "buffer_max_size is the longest message",
        send(message_of(LIMIT, "a", chunk="c")),
        ack("c"),
        ingested("a"),
    ),
    case(
        "message_above_the_limit",
        "a byte more: closed, nothing kept, for ever",
        send(message_of(LIMIT + 1, "a", chunk="c")),
        CLOSED,
    ),
    case(
        "gzip_at_the_limit",
        "the limit counts decompressed as well",
        send(payload(gzip_of(LIMIT), **GZIP)),
        ack("c"),
        ingested("a"),
    ),
    case(
        "gzip_above_the_limit", "a byte more: closed, nothing kept", send(payload(gzip_of(LIMIT + 1), **GZIP)), CLOSED
    ),
)

POISON: tuple[Case, ...] = (
    case(
        "nested_63",
        "the deepest record that is read",
        send(payload(pack(nested("a", 63)), chunk="c")),
        ack("c"),
        ingested("a"),
    ),
    case(
        "nested_64",
        "one map deeper: acknowledged, and it poisons the chunk",
        send(payload(pack(nested("a", 64)) + B, chunk="c")),
        ack("c"),
    ),
    case(
        "nested_63_and_an_empty_map",
        "an empty map is a level as well",
        send(payload(pack(nested("a", 63, {})), chunk="c")),
        ack("c"),
    ),
    case(
        "nested_63_and_an_empty_list",
        "so is an empty list",
        send(payload(pack(nested("a", 63, [])), chunk="c")),
        ack("c"),
    ),
    case(
        "nested_61_in_forward",
        "in Forward mode two less are read",
        send(pack(["tag", [nested("a", 61)], {"chunk": "c"}])),
        ack("c"),
        ingested("a"),
    ),
    case(
        "nested_62_in_forward", "one map deeper: closed", send(pack(["tag", [nested("a", 62)], {"chunk": "c"}])), CLOSED
    ),
    case(
        "poison_garbage",
        "bytes that are no entries: acknowledged, and lost",
        send(payload(b"garbage", chunk="c")),
        ack("c"),
    ),
    case(
        "poison_body_is_no_map",
        "what is behind a bad entry is lost with it",
        send(payload(A + pack([TIME, 1]) + B, chunk="c")),
        ack("c"),
        ingested("a"),
    ),
    case(
        "poison_three_elements",
        "an entry has two elements",
        send(payload(A + pack([TIME, {"id": "x"}, 1]) + B, chunk="c")),
        ack("c"),
        ingested("a"),
    ),
    case(
        "poison_spreads",
        "until the next flush, records of the same tag are lost as well",
        send(payload(b"garbage", chunk="c"), packed("a", chunk="d"), message("b", tag="other", chunk="e")),
        ack("c"),
        ack("d"),
        ack("e"),
        ingested("b", "other"),
    ),
)
