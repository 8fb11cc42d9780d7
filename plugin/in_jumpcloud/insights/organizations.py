"""The organizations of a provider, or of the key, page by page.

Sources of the facts: JumpCloud's specifications of its API v1 and v2 (docs.jumpcloud.com/api). A page has at most 100
organizations. The v2 API lists those of a provider, the v1 API those of an administrator's key; a service account may
have no access to either.
"""

from __future__ import annotations

import threading
from urllib.parse import quote

import msgspec
import requests

from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.config.types import fits_a_header
from in_jumpcloud.errors import InJumpCloudError, KeyRefused, RequestRejected, Retryable
from in_jumpcloud.insights.auth import Auth
from in_jumpcloud.insights.http_exchange import HttpResponse
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.insights.transport import Transport, common_error
from in_jumpcloud.runtime import Runtime

_PAGE = 100
_MAX_PAGES = 1000
_MAX_NAME = 256


class _Organization(msgspec.Struct):
    """One organization: with `id` and `name` in the API v2, with the others in v1."""

    id: str = ""
    name: str = ""
    id_v1: str = msgspec.field(default="", name="_id")
    name_v1: str = msgspec.field(default="", name="displayName")


class _Page(msgspec.Struct):
    results: list[_Organization]
    total: int = msgspec.field(name="totalCount")


_decode_page = msgspec.json.Decoder(_Page).decode


class Organizations:
    """Lists the organizations that the key, or the provider, has access to. Thread-safe."""

    def __init__(
        self,
        settings: JumpCloudSettings,
        auth: Auth,
        rate_limiter: RateLimiter,
        transport: Transport,
        runtime: Runtime,
    ) -> None:
        self._base_url = f"{settings.console_url}/api"
        self._auth = auth
        self._rate_limiter = rate_limiter
        self._runtime = runtime
        self._transport = transport

    def all(self, provider: str | None, stop: threading.Event) -> dict[str, str]:
        """The name of each organization of the provider, or else of the key, by its ID.

        Raises:
            RequestRejected, KeyRefused: there is no access to the list.
            Retryable: no answer, or the pages do not make a whole list.
            Stopped: `stop` was set.
        """
        path = f"v2/providers/{quote(provider, safe='')}/organizations" if provider else "organizations"
        url = f"{self._base_url}/{path}?limit={_PAGE}&sort={'id' if provider else '_id'}"
        found: dict[str, str] = {}
        total = read = 0
        for skip in range(0, _PAGE * _MAX_PAGES, _PAGE):
            page = self._page(f"{url}&skip={skip}", stop)
            total, read = page.total, read + len(page.results)
            found.update({each.id or each.id_v1: _clean(each.name or each.name_v1) for each in page.results})
            if read >= total or not page.results:
                break
        if len(found) != total:
            raise Retryable(f"JumpCloud lists {len(found)} organizations, but announces {total}")
        wrong = next((each for each in found if not fits_a_header(each)), None)
        if wrong is not None:
            raise Retryable(f"JumpCloud lists an organization with the ID {wrong!r:.40}, which cannot be one")
        return found

    def _page(self, url: str, stop: threading.Event) -> _Page:
        response = self._get(url, stop)
        if response.status == requests.codes.unauthorized and self._auth.retry_refused(response.request_headers):
            response = self._get(url, stop)
        if response.status != requests.codes.ok:
            raise self._error(response)
        try:
            return _decode_page(response.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Retryable(f"{url}: JumpCloud sent no list of organizations") from None

    def _get(self, url: str, stop: threading.Event) -> HttpResponse:
        self._auth.prepare(stop)
        self._rate_limiter.acquire(stop)
        return self._transport.get(url, {"Accept": "application/json"}, self._auth)

    def _error(self, response: HttpResponse) -> InJumpCloudError:
        description = f"the list of organizations: {self._transport.describe(response)}"
        if error := common_error(response, description, self._rate_limiter, self._runtime):
            return error
        if response.status == requests.codes.unauthorized:
            return KeyRefused(f"{description}; {self._auth.refusal_advice}")
        advice = "use the key of an administrator of the provider, or list IDs in jumpcloud.organizations"
        return RequestRejected(description, advice=advice)


def _clean(name: str) -> str:
    """A name as records and databases can have it."""
    return name.replace("\0", "")[:_MAX_NAME]
