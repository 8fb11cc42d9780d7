"""Handshakes, TLS, pauses: what a receiver does before it takes a message, or instead of it."""

from __future__ import annotations

from conformance.case import (
    CLOSED,
    CONNECT,
    CONNECT_PLAIN,
    HANG_UP,
    HELO,
    RESUME,
    SILENT,
    Case,
    Ping,
    Pong,
    ack,
    case,
    ingested,
    send,
)
from conformance.messages import entry, packed, payload
from conformance.receivers import EMPTY_KEY, IMPATIENT_TLS, KEY, PAUSING, PAUSING_WITH_KEY, TLS, TLS_KEY, USERS

PING = Ping("s3cr3t")
NO_USER = Pong(accepted=False, reason="username/password mismatch")
MESSAGE = send(packed("a", chunk="c"))
TAKEN = (MESSAGE, ack("c"), ingested("a"))
OVER_THE_LIMIT = send(payload(entry("a", 1_767_225_600, x="x" * 150_000) + entry("b", 1_767_225_600), chunk="c"))
"""More than a receiver that pauses takes: it is written and acknowledged, and then the receiver pauses."""
A, B = ingested("a", nanoseconds=0), ingested("b", nanoseconds=0)
C, D = ingested("c", nanoseconds=0), ingested("d", nanoseconds=0)


def _late(name: str) -> bytes:
    return packed(name, time=1_767_225_600, chunk=name)


HANDSHAKES: tuple[Case, ...] = (
    case("key", "both sides know the key", HELO, PING, Pong(), *TAKEN, receiver=KEY),
    case("key_wrong", "another key: closed without a PONG", HELO, Ping("other"), CLOSED, receiver=KEY),
    case("key_empty", "an empty key is a key", HELO, Ping(""), Pong(), *TAKEN, receiver=EMPTY_KEY),
    case(
        "key_and_a_name",
        "where there are no users, nobody asks who it is",
        HELO,
        Ping("s3cr3t", "mallory", "x"),
        Pong(),
        *TAKEN,
        receiver=KEY,
    ),
    case("key_over_tls", "a handshake is the same inside TLS", HELO, PING, Pong(), *TAKEN, receiver=TLS_KEY),
    case(
        "user",
        "a user with her password, which may hold a blank",
        HELO,
        Ping("s3cr3t", "alice", "pass word"),
        Pong(),
        *TAKEN,
        receiver=USERS,
    ),
    case("user_second", "any of the users", HELO, Ping("s3cr3t", "bob", "pw2"), Pong(), *TAKEN, receiver=USERS),
    case(
        "user_wrong_password",
        "a PONG says no before the end",
        HELO,
        Ping("s3cr3t", "alice", "x"),
        NO_USER,
        CLOSED,
        receiver=USERS,
    ),
    case(
        "user_unknown",
        "whether there is such a user is not told",
        HELO,
        Ping("s3cr3t", "mallory", "x"),
        NO_USER,
        CLOSED,
        receiver=USERS,
    ),
    case("user_missing", "no name is no user", HELO, PING, NO_USER, CLOSED, receiver=USERS),
    case(
        "user_with_wrong_key", "the key comes first", HELO, Ping("other", "alice", "pass word"), CLOSED, receiver=USERS
    ),
    case(
        "ping_in_two_segments", "a PING has to come in one read", HELO, Ping("s3cr3t", cut_at=20), CLOSED, receiver=KEY
    ),
    case(
        "ping_with_a_message",
        "what is sent behind a PING is thrown away",
        HELO,
        Ping("s3cr3t", behind=packed("x", chunk="x")),
        Pong(),
        *TAKEN,
        receiver=KEY,
    ),
    case(
        "ping_too_long",
        "a PING has at most 1,023 bytes",
        HELO,
        Ping("s3cr3t", hostname="h" * 800),
        CLOSED,
        receiver=KEY,
    ),
    case(
        "ping_salt_as_bin",
        "the salt has to be str",
        HELO,
        Ping("s3cr3t", salt=b"0123456789abcdef"),
        CLOSED,
        receiver=KEY,
    ),
    case(
        "ping_with_the_same_name",
        "client and receiver may have one name",
        HELO,
        Ping("s3cr3t", hostname="receiver.test"),
        Pong(),
        *TAKEN,
        receiver=KEY,
    ),
    case("message_instead_of_ping", "nothing goes without a handshake", HELO, MESSAGE, CLOSED, receiver=KEY),
    case(
        "no_ping", "a receiver waits for a PING as long as it takes", HELO, SILENT, PING, Pong(), *TAKEN, receiver=KEY
    ),
)

OVER_TLS: tuple[Case, ...] = (
    case("tls", "the same messages inside TLS", *TAKEN, receiver=TLS),
    case("tls_not_spoken", "bytes that are no TLS", CONNECT_PLAIN, MESSAGE, CLOSED, receiver=TLS),
    case(
        "tls_behind_a_silent_client",
        "a client that says nothing holds up all others until net.accept_timeout",
        CONNECT_PLAIN,
        CONNECT,
        *TAKEN,
        receiver=IMPATIENT_TLS,
    ),
)

PAUSES: tuple[Case, ...] = (
    case(
        "pause_closes",
        "the message that passes the limit is kept and acknowledged, then all is closed",
        OVER_THE_LIMIT,
        ack("c"),
        CLOSED,
        RESUME,
        A,
        B,
        receiver=PAUSING,
    ),
    case(
        "pause_backlog",
        "what is written into a paused receiver is ingested later, its sender gone or not: a resend doubles it",
        OVER_THE_LIMIT,
        ack("c"),
        CLOSED,
        CONNECT,
        send(_late("c")),
        SILENT,
        HANG_UP,
        RESUME,
        CONNECT,
        send(_late("c")),
        ack("c"),
        A,
        B,
        C,
        C,
        receiver=PAUSING,
    ),
    case(
        "pause_with_key",
        "with a key a paused receiver gives no HELO, so nobody writes into it",
        HELO,
        Ping(""),
        Pong(),
        OVER_THE_LIMIT,
        ack("c"),
        CLOSED,
        CONNECT,
        SILENT,
        RESUME,
        HELO,
        Ping(""),
        Pong(),
        send(_late("d")),
        ack("d"),
        A,
        B,
        D,
        receiver=PAUSING_WITH_KEY,
    ),
)
