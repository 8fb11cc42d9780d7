"""Parse addresses as JumpCloud sends them: plain, with a port, or IPv4 written as IPv6."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple

_MAX_TEXT_LENGTH = 53  # characters: an IPv4-mapped address written in full, in brackets, with a port
_MAX_PORT = 65_535
_BRACKETS = re.compile(r"\[([^]%]+)\](?::(\d{1,5}))?", re.ASCII)
_IPV4_AND_PORT = re.compile(r"((?:[0-9a-f:]*:)?\d+\.\d+\.\d+\.\d+):(\d{1,5})", re.ASCII | re.IGNORECASE)


class IpAndPort(NamedTuple):
    """An IP address, as it was sent unless it was IPv4 written as IPv6, and the port sent with it."""

    ip: str
    port: int | None


def parse_ip(text: str) -> IpAndPort | None:
    """The address in `text`; None if it is not an address, or has a scope id. Never raises."""
    return _parse(text) if len(text) <= _MAX_TEXT_LENGTH else None  # longer text would fill the memory


@lru_cache(maxsize=8192)
def _parse(text: str) -> IpAndPort | None:
    ip, port = text, None
    if match := _BRACKETS.fullmatch(text) or _IPV4_AND_PORT.fullmatch(text):
        ip, digits = match.groups()
        port = int(digits) if digits else None
        if port is not None and port > _MAX_PORT:
            return None
    if "%" in ip:
        return None
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return IpAndPort(str(mapped) if mapped else ip, port)
