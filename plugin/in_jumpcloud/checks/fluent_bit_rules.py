"""The settings of Fluent Bit that lose or duplicate events (data: fluent_bit_settings.csv); see conf/delivery.md.

A row is about a setting (`key`) of each section of that kind and plugin: empty is any plugin, `- s3` any but s3. With
`if` it applies only where another setting has a value; nothing after `=`: where it is not set. The rule compares the
setting, or `default` where it is not set, with `value`:

    is, is_not             one of several, separated by |; `on` stands for true and yes, `off` for false and no
    at_least, at_most, above  a number, a size (5M is 5,000,000) or, where `value` ends in s, a duration
    absent                 it must not be set
    has                    it must contain `value`
    routed                 an output must match the tag of the input
    ours                   it must agree with the configuration of in_jumpcloud

`{name}` in `value`, `problem` and `advice` stands for a fact of the caller. `setting` is how conf/delivery.md names it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import NamedTuple

from in_jumpcloud.checks.fluent_bit_file import Section

_SWITCH = {"true": "on", "yes": "on", "false": "off", "no": "off"}
_NUMBER = re.compile(r"(\d+(?:\.\d*)?)\s*([a-z]*)")
_SIZES = {"": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class Rule(NamedTuple):
    """A row of the table; the module's docstring describes the columns."""

    section: str
    plugin: str
    key: str
    rule: str
    value: str
    default: str
    condition: str
    severity: str
    problem: str
    advice: str
    setting: str

    def applies(self, section: Section) -> bool:
        """Whether it is about a setting of this section."""
        if section.kind != self.section:
            return False
        excluded = self.plugin.removeprefix("- ")
        if self.plugin and (section.plugin == excluded) == (self.plugin != excluded):
            return False
        key, _, wanted = self.condition.partition("=")
        value = section.get(key)
        return not key or (value is None if not wanted else switch(section.text(key)) == wanted)

    def holds(self, given: str, facts: Mapping[str, object]) -> bool:
        """Whether the value of a setting is as the rule demands. A number that is none is not."""
        value = self.value.format(**facts)
        if self.rule in {"is", "is_not"}:
            return (switch(given) in value.split("|")) == (self.rule == "is")
        if self.rule == "has":
            return value in given
        if self.rule == "absent":
            return False
        units = _SECONDS if value.endswith("s") else _SIZES
        number, limit = _number(given, units), _number(value, units)
        if number is None or limit is None:
            return False
        return {"at_least": number >= limit, "at_most": number <= limit, "above": number > limit}[self.rule]


@cache
def rules() -> tuple[Rule, ...]:
    """Every row, in the order of the file."""
    text = resources.files(__package__).joinpath("fluent_bit_settings.csv").read_text(encoding="utf-8")
    return tuple(Rule(*row) for row in list(csv.reader(text.splitlines()))[1:])


def switch(text: str) -> str:
    """A value in lower case, and `on` or `off` for a boolean."""
    text = text.lower()
    return _SWITCH.get(text, text)


def _number(text: str, units: Mapping[str, int]) -> float | None:
    match = _NUMBER.fullmatch(text.lower())
    return float(match[1]) * units[match[2]] if match and match[2] in units else None
