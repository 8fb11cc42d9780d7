"""Service accounts of the simulated API: bearer tokens for client credentials (OAuth 2)."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from secrets import token_urlsafe
from urllib.parse import parse_qs

import msgspec

from in_jumpcloud.simulator.query import Answer, Refusal

PATH = "/oauth2/token"


class Tokens:
    """The tokens that `/oauth2/token` has granted. `lifetime` is that of the next, in seconds."""

    def __init__(self, accounts: Mapping[str, str], clock: Callable[[], int]) -> None:
        """`accounts`: client id → secret; `clock`: now, in epoch milliseconds."""
        self.lifetime = 3600.0
        self._credentials = {
            f"Basic {base64.b64encode(f'{client}:{secret}'.encode()).decode()}" for client, secret in accounts.items()
        }
        self._clock = clock
        self._expiry_ms: dict[str, float] = {}

    def grant(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Grant a token. Header names are in lower case.

        Raises:
            Refusal: the request is wrong; the answer is an error of RFC 6749, section 5.2.
        """
        if headers.get("authorization") not in self._credentials:
            raise Refusal(401, error="invalid_client", error_description="Client authentication failed")
        form = parse_qs(body.decode(errors="replace"))
        is_form = headers.get("content-type") == "application/x-www-form-urlencoded"
        if not is_form or form != {"grant_type": ["client_credentials"], "scope": ["api"]}:
            raise Refusal(400, error="invalid_request", error_description="Only client_credentials with scope api")
        token = f"ory_at_{token_urlsafe(48)}"
        self._expiry_ms[f"Bearer {token}"] = self._clock() + self.lifetime * 1000
        granted = {"access_token": token, "expires_in": self.lifetime, "scope": "api", "token_type": "bearer"}
        return Answer(200, msgspec.json.encode(granted), {"Cache-Control": "no-store"})

    def accepts(self, authorization: str) -> bool:
        """Whether an `Authorization` header has a valid token."""
        return self._clock() < self._expiry_ms.get(authorization, 0)

    def revoke(self) -> None:
        """Invalidate every token granted so far."""
        self._expiry_ms.clear()
