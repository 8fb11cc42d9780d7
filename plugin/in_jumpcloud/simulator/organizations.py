"""The simulated API's lists of organizations: those of the key (API v1), and those of a provider (API v2)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from urllib.parse import parse_qs, unquote

import msgspec

from in_jumpcloud.simulator.query import Answer, Refusal

PATH = "/api/organizations"
_OF_PROVIDER = re.compile(r"/api/v2/providers/([^/]+)/organizations")
_DEFAULT_LIMIT, _MAX_LIMIT = 10, 100
PROVIDER_PREFIX = "provider:"


def is_path(path: str) -> bool:
    """Whether it is one of the two lists."""
    return path == PATH or _OF_PROVIDER.fullmatch(path) is not None


def answer(path: str, query: str, sources: Collection[str], names: Mapping[str, str]) -> Answer:
    """One page of the list. `sources` are the IDs of organizations, and PROVIDER_PREFIX with those of providers.

    `names` are those of organizations that do not have the usual one.

    Raises:
        Refusal: the query is wrong, or there is no such provider.
    """
    match = _OF_PROVIDER.fullmatch(path)
    if match and PROVIDER_PREFIX + unquote(match[1]) not in sources:
        raise Refusal(403, message="You must be associated with the provider")
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    limit, skip = (_number(options, name, default) for name, default in (("limit", _DEFAULT_LIMIT), ("skip", 0)))
    if not 1 <= limit <= _MAX_LIMIT:
        raise Refusal(400, message=f"limit must be from 1 to {_MAX_LIMIT}")
    if options.get("sort", "") not in ("", "id" if match else "_id"):
        raise Refusal(400, message="unknown sort")
    ids = sorted(each for each in list(sources) if not each.startswith(PROVIDER_PREFIX))
    keys = ("id", "name") if match else ("_id", "displayName")
    shown = [(each, names.get(each, f"Organization {each}")) for each in ids[skip : skip + limit]]
    results = [dict(zip(keys, each, strict=True)) for each in shown]
    return Answer(200, msgspec.json.encode({"totalCount": len(ids), "results": results}))


def _number(options: dict[str, str], name: str, default: int) -> int:
    text = options.get(name, str(default))
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise Refusal(400, message=f"{name} must be a number")
    return int(text)
