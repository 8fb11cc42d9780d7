"""Service accounts of the simulated API: bearer tokens for client credentials (OAuth 2)."""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from secrets import token_urlsafe
from urllib.parse import parse_qs

import msgspec

from in_jumpcloud.simulator.query import Answer, Refusal

PATH = "/oauth2/token"


class Tokens:
    """The tokens that `/oauth2/token` has granted."""

    def __init__(self, accounts: Mapping[str, str], *, lifetime: float, clock: Callable[[], int]) -> None:
        """`accounts`: client id → secret; `lifetime`: seconds; `clock`: now, in epoch milliseconds."""
        self.lifetime = lifetime
        self._accounts = dict(accounts)
        self._clock = clock
        self._expiry_ms: dict[str, float] = {}
        self._lock = threading.Lock()

    def grant(self, method: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Grant a token. Header names are in lower case.

        Raises:
            Refusal: the request is wrong; the answer is the error that RFC 6749, section 5.2 defines.
        """
        if method != "POST":
            raise Refusal("Method Not Allowed", HTTPStatus.METHOD_NOT_ALLOWED)
        if not self._is_known(headers.get("authorization", "")):
            raise _refused(HTTPStatus.UNAUTHORIZED, "invalid_client", "Client authentication failed")
        form = parse_qs(body.decode(errors="replace"))
        if headers.get("content-type") != "application/x-www-form-urlencoded" or "grant_type" not in form:
            raise _refused(HTTPStatus.BAD_REQUEST, "invalid_request", "grant_type is missing")
        if form["grant_type"] != ["client_credentials"]:
            raise _refused(HTTPStatus.BAD_REQUEST, "unsupported_grant_type", "Only client_credentials")
        if form.get("scope") != ["api"]:
            raise _refused(HTTPStatus.BAD_REQUEST, "invalid_scope", "The scope is api")
        token = f"ory_at_{token_urlsafe(48)}"
        with self._lock:
            self._expiry_ms[token] = self._clock() + self.lifetime * 1000
        granted = {"access_token": token, "expires_in": self.lifetime, "scope": "api", "token_type": "bearer"}
        return Answer(HTTPStatus.OK, msgspec.json.encode(granted), {"Cache-Control": "no-store"})

    def accepts(self, authorization: str) -> bool:
        """Whether an `Authorization` header has a valid token."""
        with self._lock:
            expiry_ms = self._expiry_ms.get(authorization.removeprefix("Bearer "), 0)
        return authorization.startswith("Bearer ") and self._clock() < expiry_ms

    def revoke(self) -> None:
        """Invalidate every token granted so far."""
        with self._lock:
            self._expiry_ms.clear()

    def _is_known(self, authorization: str) -> bool:
        scheme, _, encoded = authorization.partition(" ")
        try:
            client, colon, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        return scheme == "Basic" and bool(colon) and self._accounts.get(client) == secret


def _refused(status: HTTPStatus, error: str, description: str) -> Refusal:
    refusal = Refusal(description, status)
    refusal.answer.body = msgspec.json.encode({"error": error, "error_description": description})
    return refusal
