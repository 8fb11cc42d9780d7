"""Event templates of the simulated API: loads templates.yaml, and fills a template in.

templates.yaml describes its notation.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_address
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import msgspec
import yaml

VARIANTS = 509
"""Different bodies that a service has: people and devices recur. A prime, so that other variations are independent."""

_MOST_CHANGES = 6
_ZONES = tuple(timezone(timedelta(minutes=minutes)) for minutes in (-480, -300, 0, 60, 330, 570))
_PLACEHOLDER = re.compile(r"<(\w+)(?: ([\d-]+))?(?::(\w+))?>")


class _Draft:
    """One event in the making: its random numbers, and the values that it repeats, by placeholder."""

    __slots__ = ("labels", "random", "rng")

    def __init__(self, seed: str) -> None:
        self.rng = Random(seed)
        self.random = self.rng.random
        self.labels: dict[str, Any] = {}


_Plan = Callable[[_Draft], Any]


class _OneOf(list[Any]):
    """`!any`."""


class _Some(list[Any]):
    """`!some`."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # one of two base classes
    """Loads YAML with the tags of templates.yaml."""


_Loader.add_constructor("!any", lambda loader, node: _OneOf(loader.construct_sequence(node, deep=True)))
_Loader.add_constructor("!some", lambda loader, node: _Some(loader.construct_sequence(node, deep=True)))


class Service:
    """How one service writes its events."""

    def __init__(self, name: str, fraction_digits: int, provider: str | None, make: _Plan) -> None:
        self.name = name
        self.fraction_digits = fraction_digits
        self.provider = json.dumps(provider)
        self._make = make
        self._body = functools.cache(self._make_body)

    def render(self, timestamp_ms: int, doc_id: str, event_id: str, organization: str) -> bytes:
        """An event's JSON; `doc_id` decides everything that the templates leave open."""
        chance = zlib.crc32(doc_id.encode())
        second, milliseconds = divmod(timestamp_ms, 1000)
        moment = datetime.fromtimestamp(second, UTC)
        fraction, local = f".{milliseconds:03d}", ""
        if self.fraction_digits == 0:
            fraction = ""
        elif self.fraction_digits > 3:  # noqa: PLR2004 - milliseconds
            fraction = f"{fraction}{chance * 7919 % 10**6:06d}".rstrip("0").rstrip(".")
        if self.name == "systems":
            local = f'"system_timestamp":"{moment.astimezone(_ZONES[chance % len(_ZONES)]).isoformat()}",'
        tail = (
            f',"provider":{self.provider},"organization":{json.dumps(organization)},'
            f'"service":"{self.name}","@version":"1","id":"{event_id}",{local}'
            f'"timestamp":"{moment.isoformat()[:19]}{fraction}Z"}}'
        )
        return self._body(chance % VARIANTS) + tail.encode()

    def _make_body(self, variant: int) -> bytes:
        """An event's own fields as JSON, left open for the fields that every event has."""
        return msgspec.json.encode(self._make(_Draft(f"{self.name}:{variant}")))[:-1]


class Templates:
    """Every service with its templates."""

    def __init__(self, text: str) -> None:
        data: dict[str, Any] = yaml.load(text, _Loader)  # noqa: S506 - derived from the safe loader
        networks = [list(_addresses(**network)) for network in data["networks"]]
        self._makers: dict[str, Callable[[str], _Plan]] = {
            "id": lambda _: lambda draft: f"{draft.rng.getrandbits(96):024x}",
            "hex": lambda digits: lambda draft: f"{draft.rng.getrandbits(4 * int(digits)):0{digits}x}",
            "uuid": lambda _: lambda draft: str(UUID(int=draft.rng.getrandbits(128), version=4)),
            "blob": _blob,
            "number": _number,
            "origin": lambda _: lambda draft: _pick(_pick(networks, draft), draft),
            "ip": lambda _: lambda draft: _pick(_pick(networks, draft), draft)["client_ip"],
        }
        for name, options in data["values"].items():
            plan = self._plan(_OneOf(options))
            self._makers[name] = lambda _, plan=plan: plan  # type: ignore[misc]  # binds this round's plan
        self.services = {
            name: Service(name, each["fraction_digits"], each["provider"], self._plan(_OneOf(each["events"])))
            for name, each in data["services"].items()
        }
        self._cumulative = list(accumulate(each["share"] for each in data["services"].values()))
        self._services = list(self.services.values())

    def draw(self, random: Random) -> Service:
        """A service, each as often as its share says."""
        return random.choices(self._services, cum_weights=self._cumulative)[0]

    def _plan(self, template: Any) -> _Plan:
        """The function that fills a template in."""
        if isinstance(template, str):
            return self._text(template)
        if isinstance(template, dict):
            return functools.partial(_fill, [(key, self._plan(value)) for key, value in template.items()])
        if not isinstance(template, list):
            return lambda _: template
        plans = [self._plan(element) for element in template]
        if isinstance(template, _OneOf):
            return lambda draft: _pick(plans, draft)(draft)
        if isinstance(template, _Some):
            return lambda draft: [
                plan(draft) for plan in draft.rng.sample(plans, 1 + int(draft.random() * _MOST_CHANGES))
            ]
        return lambda draft: [plan(draft) for plan in plans]

    def _text(self, template: str) -> _Plan:
        parts = _PLACEHOLDER.split(template)  # text, then for each placeholder its three groups and the text after it
        plans = [self._placeholder(*parts[index : index + 3]) for index in range(1, len(parts), 4)]
        texts = parts[::4]
        if not plans:
            return lambda _: template
        if texts == ["", ""]:
            return plans[0]
        return lambda draft: (
            texts[0] + "".join(f"{plan(draft)}{text}" for plan, text in zip(plans, texts[1:], strict=True))
        )

    def _placeholder(self, kind: str, argument: str | None, label: str | None) -> _Plan:
        plan = self._makers[kind](argument or "")
        if label is None:
            return plan
        key = f"{kind}:{label}"

        def labelled(draft: _Draft) -> Any:
            if key not in draft.labels:
                draft.labels[key] = plan(draft)
            return draft.labels[key]

        return labelled


@functools.cache
def templates() -> Templates:
    """Those of templates.yaml."""
    return Templates(Path(__file__).with_name("templates.yaml").read_text(encoding="utf-8"))


def _pick(options: list[Any], draft: _Draft) -> Any:
    return options[int(draft.random() * len(options))]


def _fill(fields: list[tuple[str, _Plan]], draft: _Draft) -> dict[str, Any]:
    filled: dict[str, Any] = {}
    for key, plan in fields:
        if key[0] == "+":
            filled |= plan(draft)
        else:
            filled[key] = plan(draft)
    return filled


def _addresses(first: str, size: int, geoip: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    place = {"geoip": geoip} if geoip else {}
    return ({"client_ip": str(ip_address(first) + offset), **place} for offset in range(size))


def _blob(size: str) -> _Plan:
    return lambda draft: base64.b64encode(draft.rng.randbytes(int(int(size) * (0.5 + draft.random())))).decode()


def _number(bounds: str) -> _Plan:
    low, high = map(int, bounds.split("-"))
    return lambda draft: low + int(draft.random() * (high - low + 1))
