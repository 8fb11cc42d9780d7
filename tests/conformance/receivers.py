"""The receivers that the cases are played against."""

from __future__ import annotations

from conformance.case import Receiver

PASSWORDS = {"alice": "pass word", "bob": "pw2"}

_NAMED = {"self_hostname": "receiver.test"}
KEY = Receiver("key", {"shared_key": "s3cr3t", **_NAMED}, {"shared_key": "s3cr3t", **_NAMED})
USERS = Receiver(
    "users",
    {**KEY.settings, "security.users": [f"{name} {password}" for name, password in PASSWORDS.items()]},
    {**KEY.simulated, "users": PASSWORDS},
)
EMPTY_KEY = Receiver("empty key", {"empty_shared_key": True, **_NAMED}, {"shared_key": "", **_NAMED})
TLS = Receiver("tls", tls=True)
TLS_KEY = Receiver("tls and key", KEY.settings, KEY.simulated, tls=True)
# A Fluent Bit may notice the rest of a good client's handshake only after a second: it needs more time than the other.
IMPATIENT_TLS = Receiver("impatient tls", {"net.accept_timeout": "3s"}, {"accept_timeout": 0.5}, tls=True)
ROUTED = Receiver("routed", simulated={"match": "routed.*"}, match="routed.*")
LIMIT = {"storage.type": "memory", "mem_buf_limit": "100k"}
PAUSING = Receiver("pausing", LIMIT, {"pause_above_records": 1}, held=True)
PAUSING_WITH_KEY = Receiver(
    "pausing, with a key", {**LIMIT, **EMPTY_KEY.settings}, {"pause_above_records": 1, **EMPTY_KEY.simulated}, held=True
)
