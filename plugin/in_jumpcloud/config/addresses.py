"""Where the status page listens, and where those who ask for it find it."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"([^\[\]:\s]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})", re.ASCII)
_LAST_PORT = 65_535
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of such as `127.0.0.1:2021` or `[::1]:2021`; ValueError where it is none."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[2]) > _LAST_PORT:
        raise ValueError(f"expected host and port such as 127.0.0.1:2021 or [::1]:2021, got {text!r}")
    return match[1].strip("[]"), int(match[2])


def format_address(host: str, port: int) -> str:
    """The address, as `parse` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local_address(text: str) -> tuple[str, int]:
    """Where to ask on this machine whoever listens at `text`; ValueError where it is none."""
    host, port = parse_address(text)
    return _ANY.get(host, host), port
