"""Requests a page from the running process."""

from __future__ import annotations

import http.client
from typing import NamedTuple

from in_jumpcloud.config import addresses
from in_jumpcloud.errors import ConfigError, Fatal

_MAX_BODY_BYTES = 64 * 1024**2


class PageResponse(NamedTuple):
    """Status code and body."""

    status: int
    body: bytes


def get_page(listen: str | None, path: str, *, timeout: float = 5.0) -> PageResponse:
    """Get `path` from the process that listens at `listen`, the setting http.listen; `timeout` is in seconds.

    Raises:
        ConfigError: `listen` is None.
        Fatal: no HTTP response.
    """
    if listen is None:
        raise ConfigError("http.listen: is null, so the running process cannot be asked; set an address")
    host, port = addresses.local_address(listen)
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return PageResponse(response.status, response.read(_MAX_BODY_BYTES))
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        where = addresses.format_address(host, port)
        raise Fatal(f"no answer from {where}: {reason}; is `in-jumpcloud run` running?") from None
    finally:
        connection.close()
