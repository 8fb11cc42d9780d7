"""Who asks: what a request carries for JumpCloud to let it in, an administrator's key or a service account's token."""

from __future__ import annotations

import contextlib
import copy
import re
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import requests
from requests import PreparedRequest
from requests.auth import AuthBase, HTTPBasicAuth

from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.config.types import Secret
from in_jumpcloud.errors import ConfigError, InJumpCloudError, KeyRefused, RequestRejected, Retryable, Stopped
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.insights.transport import HttpResponse, Transport, common_error

RENEWED_BEFORE = 60.0
"""Seconds before its end that a token is renewed; a tenth of its life where that is shorter."""
LIFETIME = 3600.0
"""Seconds that a token lives where the answer does not say."""
_LONGEST_LIFETIME = 86_400.0
_TELLING = 12
"""Characters at the beginning of a secret that are not shown either."""


class ApiKey(AuthBase):
    """An administrator's API key.

    It is put on as `requests` authentication, which also keeps `requests` from reading a netrc file.
    """

    if_refused = "the key is wrong, expired or revoked, or belongs to another region"

    def __init__(self, key: Secret) -> None:
        self._key = key

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Put the key on `request`."""
        request.headers["x-api-key"] = self._key.reveal()
        return request

    def ready(self, stop: threading.Event) -> None:
        """A key is always ready."""

    def renewable(self, sent: Mapping[str, str]) -> bool:  # noqa: ARG002 - ServiceAccount needs it
        """A key that is refused stays refused."""
        return False

    def redact(self, text: str) -> str:
        """`text` without the key, should somebody have echoed it; also where the text breaks off within the key."""
        return _without(text, [self._key.reveal()])


class _Token(NamedTuple):
    text: str
    good_until: float


class ServiceAccount(AuthBase):
    """A service account: OAuth 2 client credentials, for a token that is renewed before its end.

    Several threads may use it at once: they make one token request between them, and share its failure too.
    """

    if_refused = "a fresh token of the service account is refused too; does it belong to another region?"

    def __init__(
        self,
        client_id: str,
        client_secret: Secret,
        settings: JumpCloudSettings,
        rate_limiter: RateLimiter,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._basic = HTTPBasicAuth(client_id, client_secret.reveal())
        pair = f"{client_id}:{client_secret.reveal()}"
        self._secrets = (client_secret.reveal(), b64encode(pair.encode()).decode())
        self._settings = settings
        self._rate_limiter = rate_limiter
        self._clock = clock
        self._lock = threading.Lock()  # held during a token request
        self._token: _Token | None = None
        self._rejected: str | None = None
        self._shown: tuple[str, ...] = ()  # the last tokens: an answer may echo one that is renewed by now
        self._tries = 0
        self._failure: InJumpCloudError | None = None

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Put the token on `request`; `ready` comes first."""
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token.text}"
        return request

    def ready(self, stop: threading.Event) -> None:
        """Have a token that is good for a while.

        Raises:
            TryAgain, Refused, KeyRefused: there is none to be had, as errors.py says.
            Stopped: `stop` was set first.
        """
        if self._is_good():
            return
        tries = self._tries
        while not self._lock.acquire(timeout=0.25):
            if stop.is_set():
                raise Stopped
        try:
            if self._is_good():
                return
            if self._tries != tries and self._failure:  # somebody else's attempt, while we waited for it
                raise copy.copy(self._failure)
            self._rate_limiter.acquire(stop)
            try:
                self._failure = None
                self._renew()
            except InJumpCloudError as error:
                self._failure = copy.copy(error)
                raise
            finally:
                self._tries += 1
        finally:
            self._lock.release()

    def renewable(self, sent: Mapping[str, str]) -> bool:
        """A request that sent these headers was refused: its token is of no use. A fresh one may help."""
        self._rejected = sent.get("Authorization", "").removeprefix("Bearer ")
        return True

    def redact(self, text: str) -> str:
        """`text` without the secret and the tokens, also where it breaks off within one."""
        return _without(text, [*self._secrets, *self._shown])

    def _is_good(self) -> bool:
        token = self._token
        return token is not None and token.text != self._rejected and self._clock() < token.good_until

    def _renew(self) -> None:
        transport = Transport(self._settings, self.redact)
        began = self._clock()
        try:
            answer = transport.post(
                self._settings.token_endpoint,
                b"grant_type=client_credentials&scope=api",
                {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"},
                self._basic,
            )
            if answer.status != requests.codes.ok:
                raise _token_error(answer, transport.describe(answer), self._rate_limiter)
            text, lifetime = _granted(answer)
        finally:
            transport.close()
        self._shown = (text, *self._shown[:3])
        self._rejected = None
        self._token = _Token(text, began + lifetime - min(RENEWED_BEFORE, lifetime / 10))


Auth = ApiKey | ServiceAccount


def auth_for(settings: JumpCloudSettings, rate_limiter: RateLimiter) -> Auth:
    """The authentication that `settings` ask for.

    Raises:
        ConfigError: neither a key nor a service account is given.
    """
    if settings.api_key is not None:
        return ApiKey(settings.api_key)
    if settings.client_id is None or settings.client_secret is None:
        raise ConfigError("jumpcloud.api_key: missing")
    return ServiceAccount(settings.client_id, settings.client_secret, settings, rate_limiter)


def _granted(answer: HttpResponse) -> tuple[str, float]:
    """The token of an answer, and the seconds that it lives."""
    granted: dict[str, Any] = {}
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        granted = msgspec.json.decode(answer.body, type=dict[str, Any])
    text = granted.get("access_token")
    if not isinstance(text, str) or not re.fullmatch(r"[\x21-\x7e]+", text):
        raise Retryable("the answer to the token request holds no access_token; is jumpcloud.token_url right?")
    lifetime = granted.get("expires_in")
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or lifetime <= 0:
        lifetime = LIFETIME
    return text, float(min(lifetime, _LONGEST_LIFETIME))


def _token_error(answer: HttpResponse, text: str, rate_limiter: RateLimiter) -> InJumpCloudError:
    text = f"token request: {text}"
    if 300 <= answer.status < 400:  # noqa: PLR2004
        return RequestRejected(f"{text}; redirects are not followed, check jumpcloud.token_url")
    if error := common_error(answer, text, rate_limiter):
        return error
    wrong = answer.status == requests.codes.bad_request and b"invalid_client" in answer.body
    if wrong or answer.status == requests.codes.unauthorized:
        return KeyRefused(f"{text}; jumpcloud.client_id or client_secret is wrong, expired, or of another region")
    return RequestRejected(f"{text}; check jumpcloud.token_url, and the service account's role")


def _without(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        for length in range(len(secret), min(len(secret), _TELLING) - 1, -1):
            text = text.replace(secret[:length], "***")
    return text
