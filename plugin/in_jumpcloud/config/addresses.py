"""The address of the status page, as host and port."""

from __future__ import annotations

import ipaddress
import re

_ADDRESS = re.compile(r"([^\[\]:\s]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})", re.ASCII)
_LAST_PORT = 65_535
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing listens here


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of an address such as `127.0.0.1:2021` or `[::1]:2021`.

    Raises:
        ValueError: `text` is not an address.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[2]) > _LAST_PORT:
        raise ValueError("expected host and port, such as 127.0.0.1:2021 or [::1]:2021")
    return match[1].strip("[]"), int(match[2])


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address without brackets, is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def format_address(host: str, port: int) -> str:
    """The inverse of `parse_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local_address(text: str) -> tuple[str, int]:
    """Where a client on this machine connects to a server that listens at `text`.

    Raises:
        ValueError: `text` is not an address.
    """
    host, port = parse_address(text)
    return _ANY_ADDRESS.get(host, host), port
