"""What our own sender says, built by hand: each chunk's id is the hash of tag and entries that the sender makes."""

from __future__ import annotations

from conformance.case import CLOSED, HELO, Case, Ping, Pong, ack, case, ingested, send
from conformance.messages import LIMIT, entry, forward, gzip_member, pack, packed, padded_entry, payload
from conformance.receivers import EMPTY_KEY, KEY, TLS, TLS_KEY, USERS

TAG = "jumpcloud.events"
FIRST, SECOND = "yhL3uohCK47QNK5k8qlU5Q==", "egQX/IbttIUjhLS+Dd1yBg=="
AT_THE_LIMIT, ABOVE_THE_LIMIT = "G31pBCSKsLx9yaYVJKTEcg==", "MrOTf0TdgPWthXmKXUA3jA=="
OF_THE_PROBE = "AAAAAAAAAAAAAAAAAAAAAA=="
LONGEST_ENTRY = LIMIT - 61  # what is left for entries in a message of LIMIT bytes

_DELIVERED = (send(packed("a", "b", tag=TAG, chunk=FIRST, size=2)), ack(FIRST), ingested("a", TAG), ingested("b", TAG))
_COMPRESSED = {"tag": TAG, "chunk": FIRST, "size": 2, "compressed": "gzip"}

SENDER: tuple[Case, ...] = (
    case("sender_delivers", "a chunk of two records", *_DELIVERED),
    case(
        "sender_stays",
        "a second chunk goes over the same connection",
        *_DELIVERED,
        send(packed("c", tag=TAG, chunk=SECOND, size=1)),
        ack(SECOND),
        ingested("c", TAG),
    ),
    case(
        "sender_compresses",
        "the same records as one gzip member",
        send(payload(gzip_member(entry("a") + entry("b")), **_COMPRESSED)),
        ack(FIRST),
        ingested("a", TAG),
        ingested("b", TAG),
    ),
    case(
        "sender_probes",
        "a message without records, to see whether small ones pass",
        send(forward(tag=TAG, chunk=OF_THE_PROBE, size=0)),
        ack(OF_THE_PROBE),
    ),
    case(
        "sender_at_the_limit",
        "a record that just fits",
        send(pack([TAG, padded_entry("a", LONGEST_ENTRY), {"chunk": AT_THE_LIMIT, "size": 1}])),
        ack(AT_THE_LIMIT),
        ingested("a", TAG),
    ),
    case(
        "sender_above_the_limit",
        "a record that does not fit is refused without a word",
        send(pack([TAG, padded_entry("a", LONGEST_ENTRY + 1), {"chunk": ABOVE_THE_LIMIT, "size": 1}])),
        CLOSED,
    ),
    case("sender_with_key", "our handshake", HELO, Ping("s3cr3t"), Pong(), *_DELIVERED, receiver=KEY),
    case(
        "sender_with_empty_key",
        "our handshake with an empty key",
        HELO,
        Ping(""),
        Pong(),
        *_DELIVERED,
        receiver=EMPTY_KEY,
    ),
    case("sender_with_wrong_key", "our handshake with another key", HELO, Ping("other"), CLOSED, receiver=KEY),
    case(
        "sender_with_user",
        "our handshake with a name and a password",
        HELO,
        Ping("s3cr3t", "alice", "pass word"),
        Pong(),
        *_DELIVERED,
        receiver=USERS,
    ),
    case(
        "sender_with_wrong_password",
        "our handshake with another password",
        HELO,
        Ping("s3cr3t", "alice", "x"),
        Pong(accepted=False, reason="username/password mismatch"),
        CLOSED,
        receiver=USERS,
    ),
    case("sender_over_tls", "our chunks inside TLS", *_DELIVERED, receiver=TLS),
    case(
        "sender_over_tls_with_key",
        "our handshake inside TLS",
        HELO,
        Ping("s3cr3t"),
        Pong(),
        *_DELIVERED,
        receiver=TLS_KEY,
    ),
)
