"""Asks the running process for one of its pages."""

from __future__ import annotations

import http.client
from typing import NamedTuple

from in_jumpcloud.config import addresses
from in_jumpcloud.errors import ConfigError, Fatal

_LARGEST = 64 * 1024**2


class PageResponse(NamedTuple):
    """Its status and its body."""

    status: int
    body: bytes


def get_page(listen: str | None, path: str, *, timeout: float = 5.0) -> PageResponse:
    """The page at `path` of whoever listens at `listen`, which is `http.listen`; `timeout` is in seconds.

    Raises:
        ConfigError: nobody is to listen.
        Failed: nobody answers.
    """
    if listen is None:
        raise ConfigError("http.listen: is null, so the running process cannot be asked; name an address")
    host, port = addresses.local_address(listen)
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return PageResponse(response.status, response.read(_LARGEST))
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        where = addresses.format_address(host, port)
        raise Fatal(f"nothing answers at {where}: {why}; is `in-jumpcloud run` running?") from None
    finally:
        connection.close()
