"""Parse addresses as JumpCloud sends them: plain, with a port, IPv4 written as IPv6, or several in one text."""

from __future__ import annotations

import re
import socket
from functools import lru_cache
from typing import Any, NamedTuple

_MAX_TEXT_LENGTH = 53  # characters: an IPv4-mapped address written in full, in brackets, with a port
_MAX_PORT = 65_535
_MAPPED = bytes(10) + b"\xff\xff"
"""How an IPv4 address begins that is written as IPv6."""
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
    if ip := _plain(text):
        return IpAndPort(ip, None)
    match = _BRACKETS.fullmatch(text) or _IPV4_AND_PORT.fullmatch(text)
    if match is None:
        return None
    address, digits = match.groups()
    port = int(digits) if digits else None
    if port is not None and port > _MAX_PORT:
        return None
    ip = _plain(address)
    return IpAndPort(ip, port) if ip else None


def _plain(text: str) -> str | None:
    """`text` if it is an address alone; an IPv4 address that is written as IPv6, as IPv4."""
    try:  # the ipaddress module takes ten times as long
        packed = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        return None
    return ".".join(map(str, packed[len(_MAPPED) :])) if packed.startswith(_MAPPED) else text
