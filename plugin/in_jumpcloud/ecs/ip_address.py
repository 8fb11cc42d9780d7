"""Parse addresses as JumpCloud sends them: plain, with a port, IPv4 written as IPv6, or several in one text."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Any, NamedTuple

_MAX_TEXT_LENGTH = 53  # characters: an IPv4-mapped address written in full, in brackets, with a port
_MAX_PORT = 65_535
_MAX_LIST_LENGTH = 1024  # characters of a list, or its texts
_BRACKETS = re.compile(r"\[([^]%]+)\](?::(\d{1,5}))?", re.ASCII)
_IPV4_AND_PORT = re.compile(r"((?:[0-9a-f:]*:)?\d+\.\d+\.\d+\.\d+):(\d{1,5})", re.ASCII | re.IGNORECASE)


class IpAndPort(NamedTuple):
    """An IP address, as it was sent unless it was IPv4 written as IPv6, and the port sent with it."""

    ip: str
    port: int | None


def parse_ip(text: str) -> IpAndPort | None:
    """The address in `text`; None if it is not an address, or has a scope id. Never raises."""
    return _parse(text) if len(text) <= _MAX_TEXT_LENGTH else None  # longer text would fill the memory


def first_ip(value: Any) -> IpAndPort | None:
    """The first address in `value`, which is an address or as for parse_ips. Never raises."""
    address = _parse(value) if type(value) is str and len(value) <= _MAX_TEXT_LENGTH else None
    return address or next(iter(parse_ips(value)), None)


def parse_ips(value: Any) -> list[IpAndPort]:
    """The addresses in `value`, in order: a text with commas, as of the header X-Forwarded-For, or a list of texts.

    What is not an address is skipped. Never raises.
    """
    if type(value) is str:
        value = value[:_MAX_LIST_LENGTH].split(",")
    if type(value) is not list:
        return []
    texts = [text.strip() for text in value[:_MAX_LIST_LENGTH] if type(text) is str]
    return [address for text in texts if (address := parse_ip(text))]


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
