"""Authentication of requests to JumpCloud: an administrator's API key, or a service account's access token."""

from __future__ import annotations

import contextlib
import copy
import logging
import re
import threading
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import requests
from requests import PreparedRequest
from requests.auth import AuthBase, HTTPBasicAuth

from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.config.types import Secret, fits_a_header
from in_jumpcloud.errors import ConfigError, InJumpCloudError, KeyRefused, RequestRejected, Retryable, Stopped
from in_jumpcloud.insights.http_exchange import Exchange, HttpResponse
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.insights.transport import Transport, common_error
from in_jumpcloud.runtime import SYSTEM, Runtime
from in_jumpcloud.text import Hidden

log = logging.getLogger(__name__)

_RENEW_BEFORE_SECONDS = 60.0
"""How long before its end a token is renewed, but at most a tenth of its lifetime."""
_DEFAULT_LIFETIME_SECONDS = 3600.0
_MAX_LIFETIME_SECONDS = 86_400.0
_LOCK_RETRY_SECONDS = 0.25
"""How often a thread asks whether the token request of another thread has ended."""


class ApiKey(AuthBase):
    """An administrator's API key.

    As authentication of `requests` it also keeps `requests` from reading a netrc file.
    """

    refusal_advice = "the key is wrong, expired or revoked, or belongs to another region"
    max_requests = 2
    """HTTP requests that one API call takes at most: the request, and again with another key after a refusal."""

    def __init__(self, key: Secret) -> None:
        self._key = key
        self._former: Secret | None = None  # kept, so that it stays hidden: an answer may still contain it

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Add the key to `request`."""
        request.headers["x-api-key"] = self._key.reveal()
        return request

    def prepare(self, stop: threading.Event) -> None:
        """Nothing to do: a key needs no preparation."""

    def retry_refused(self, request_headers: Mapping[str, str]) -> bool:
        """Read the file of a key that was refused again. True: the same request may succeed with another key."""
        key = self._key
        if request_headers.get("x-api-key", key.reveal()) != key.reveal():  # another thread has read the file
            return True
        new = _read_again(key, "jumpcloud.api_key_file")
        if new:
            self._former, self._key = key, new
        return new is not None


class _Credentials:
    """The credentials of a service account."""

    def __init__(self, client_id: str, secret: Secret) -> None:
        self.client_id = client_id
        self.secret = secret
        self._hidden = Hidden(b64encode(f"{client_id}:{secret.reveal()}".encode()).decode())


class _Token(NamedTuple):
    text: str
    renew_at: float

    def __repr__(self) -> str:
        return "_Token(…)"


class ServiceAccount(AuthBase):
    """A service account: OAuth 2 client credentials for an access token, which is renewed before it expires.

    Thread-safe: threads that need a token at the same time share one token request, and its failure too.
    """

    refusal_advice = "a new token of the service account is refused too; does it belong to another region?"
    max_requests = 6
    """HTTP requests that one API call takes at most: a token and the request, and both again after a refusal.

    A token takes two if the secret was replaced.
    """

    def __init__(
        self,
        client_id: str,
        client_secret: Secret,
        settings: JumpCloudSettings,
        rate_limiter: RateLimiter,
        *,
        exchange: Exchange | None = None,
        runtime: Runtime = SYSTEM,
    ) -> None:
        """`exchange` replaces real connections."""
        self._credentials = _Credentials(client_id, client_secret)
        self._former: _Credentials | None = None  # kept, so that they stay hidden
        self._settings = settings
        self._rate_limiter = rate_limiter
        self._exchange = exchange
        self._runtime = runtime
        self._lock = runtime.lock()  # held during a token request
        self._token: _Token | None = None
        self._refused_token: str | None = None
        self._recent_tokens: tuple[Hidden, ...] = ()  # a response may contain one that was renewed since
        self._attempts = 0
        self._failure: InJumpCloudError | None = None

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Add the token to `request`. Call `prepare` first."""
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token.text}"
        return request

    def prepare(self, stop: threading.Event) -> None:
        """Get a token, unless there is a valid one.

        Raises:
            Retryable, RequestRejected, KeyRefused: the token request failed.
            Stopped: `stop` was set first.
        """
        if self._has_valid_token():
            return
        attempts = self._attempts
        while not self._lock.acquire(blocking=False):
            if stop.wait(_LOCK_RETRY_SECONDS):
                raise Stopped
        try:
            if self._has_valid_token():
                return
            if self._attempts != attempts and self._failure:  # the attempt of another thread, which we waited for
                raise copy.copy(self._failure)
            self._rate_limiter.acquire(stop)
            try:
                self._failure = None
                self._request_token(stop)
            except InJumpCloudError as error:
                self._failure = copy.copy(error)
                raise
            finally:
                self._attempts += 1
        finally:
            self._lock.release()

    def retry_refused(self, request_headers: Mapping[str, str]) -> bool:
        """Discard the token of a request that was refused. True: the same request may succeed with a new token."""
        self._refused_token = request_headers.get("Authorization", "").removeprefix("Bearer ")
        return True

    def _has_valid_token(self) -> bool:
        token = self._token
        return token is not None and token.text != self._refused_token and self._runtime.monotonic() < token.renew_at

    def _request_token(self, stop: threading.Event) -> None:
        try:
            self._request_token_once()
        except KeyRefused:
            credentials = self._credentials
            secret = _read_again(credentials.secret, "jumpcloud.client_secret_file")
            if not secret:
                raise
            self._former, self._credentials = credentials, _Credentials(credentials.client_id, secret)
            self._rate_limiter.acquire(stop)
            self._request_token_once()

    def _request_token_once(self) -> None:
        transport = Transport(self._settings, exchange=self._exchange, runtime=self._runtime)
        began = self._runtime.monotonic()
        try:
            response = transport.post(
                self._settings.token_endpoint,
                b"grant_type=client_credentials&scope=api",
                {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"},
                HTTPBasicAuth(self._credentials.client_id, self._credentials.secret.reveal()),
            )
            if response.status != requests.codes.ok:
                raise _token_error(response, transport.describe(response), self._rate_limiter, self._runtime)
            token, lifetime = _parse_token(response)
        finally:
            transport.close()
        self._recent_tokens = (Hidden(token), *self._recent_tokens[:3])
        self._refused_token = None
        self._token = _Token(token, began + lifetime - min(_RENEW_BEFORE_SECONDS, lifetime / 10))


Auth = ApiKey | ServiceAccount


def create_auth(
    settings: JumpCloudSettings,
    rate_limiter: RateLimiter,
    *,
    exchange: Exchange | None = None,
    runtime: Runtime = SYSTEM,
) -> Auth:
    """The authentication that `settings` configure. `exchange` replaces real connections.

    Raises:
        ConfigError: neither a key nor a service account is configured.
    """
    if settings.api_key is not None:
        return ApiKey(settings.api_key)
    if settings.client_id is None or settings.client_secret is None:
        raise ConfigError("jumpcloud.api_key: missing")
    return ServiceAccount(
        settings.client_id, settings.client_secret, settings, rate_limiter, exchange=exchange, runtime=runtime
    )


def _read_again(secret: Secret, setting: str) -> Secret | None:
    """What the file of a refused secret has now; None if it is no other usable one."""
    new = secret.read_again()
    if new is secret or not fits_a_header(new.reveal()):
        return None
    log.info("%s: the key was refused; the file has another one now, which is used from now on", setting)
    return new


def _parse_token(response: HttpResponse) -> tuple[str, float]:
    """The access token and its lifetime in seconds."""
    fields = _json_object(response.body)
    token = fields.get("access_token")
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise Retryable("the response to the token request has no access_token; is jumpcloud.token_url right?")
    lifetime = fields.get("expires_in")
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or lifetime <= 0:
        lifetime = _DEFAULT_LIFETIME_SECONDS
    return token, float(min(lifetime, _MAX_LIFETIME_SECONDS))


def _token_error(
    response: HttpResponse, description: str, rate_limiter: RateLimiter, runtime: Runtime
) -> InJumpCloudError:
    description = f"token request: {description}"
    if 300 <= response.status < 400:  # noqa: PLR2004
        return RequestRejected(f"{description}; redirects are not followed, check jumpcloud.token_url")
    if error := common_error(response, description, rate_limiter, runtime):
        return error
    # RFC 6749, 5.2: a server may answer 400 instead of 401 when the client's credentials are wrong.
    invalid_client = _json_object(response.body).get("error") == "invalid_client"
    if invalid_client or response.status == requests.codes.unauthorized:
        return KeyRefused(
            f"{description}; jumpcloud.client_id or client_secret is wrong, expired, or of another region"
        )
    return RequestRejected(f"{description}; check jumpcloud.token_url and the service account's role")


def _json_object(body: bytes | bytearray) -> dict[str, Any]:
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(body, type=dict[str, Any])
    return {}
