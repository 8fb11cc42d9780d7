"""Spans of time as people write them: what each means, and what is refused with which words."""

from __future__ import annotations

import pytest

from in_jumpcloud.cli.spans import Span, choose_streams, read_span
from in_jumpcloud.config.schema import Config, JumpCloudSettings
from in_jumpcloud.errors import ConfigError
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS

NOW = 1_767_225_600_000
"""2026-01-01T00:00:00Z."""


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        ("7d", None, (NOW - 7 * DAY_MS, NOW)),
        ("1h30m", "15m", (NOW - 90 * MINUTE_MS, NOW - 15 * MINUTE_MS)),
        ("2025-12-31T00:00:00Z", "2025-12-31T12:00:00.250Z", (NOW - DAY_MS, NOW - 12 * HOUR_MS + 250)),
        ("2025-12-31T01:00:00+01:00", "0s", (NOW - DAY_MS, NOW)),
        ("2025-12-31t00:00z", "2026-01-01 00:00:00Z", (NOW - DAY_MS, NOW)),
        ("2025-12-31Z", "2026-01-01+02:00", (NOW - DAY_MS, NOW - 2 * HOUR_MS)),
        ("1900-01-01Z", None, (0, NOW)),
    ],
)
def test_spans(since: str, until: str | None, expected: tuple[int, int]) -> None:
    """Times with a zone, days with a zone, and durations before now."""
    assert read_span(since, until, NOW) == Span(*expected)


@pytest.mark.parametrize(
    ("since", "until", "message"),
    [
        ("1h", "2h", "--until: the span ends before it begins: 2025-12-31T23:00:00.000Z to 2025-12-31T22:00:00.000Z"),
        ("1h", "1h", "--until: the span is empty: "),
        ("0s", None, "--since: the span is empty: "),
        ("2026-01-01T00:00:01Z", None, "--since: 2026-01-01T00:00:01.000Z is in the future; it is 2026-01-01T00:0"),
        ("1h", "2030-01-01Z", "--until: 2030-01-01T00:00:00.000Z is in the future"),
        ("2025-12-31", None, "--since: the time has no zone; write 2025-12-31T00:00:00Z for UTC, or an offset"),
        ("1h", "2025-12-31T12:00:00", "--until: the time has no zone; write 2025-12-31T12:00:00Z"),
        ("yesterday", None, "--since: expected a time with a zone, such as 2026-01-31T00:00:00Z, or a duration"),
        ("2025-02-30T00:00:00Z", None, "--since: expected a time with a zone"),
        ("", None, "--since: expected a time with a zone"),
    ],
)
def test_spans_that_are_refused(since: str, until: str | None, message: str) -> None:
    """One line that names the option, and what to write."""
    with pytest.raises(ConfigError) as raised:
        read_span(since, until, NOW)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_streams() -> None:
    """By name or by ID, in the order of the configuration; an unknown one is refused with those that there are."""
    settings = Config(jumpcloud=JumpCloudSettings(organizations=("a1", "b2"), provider_id="p3"))
    table = {
        (): ["organization a1", "organization b2", "provider p3"],
        ("p3", "organization a1"): ["organization a1", "provider p3"],
        ("b2", "b2"): ["organization b2"],
    }
    assert {names: [each.name for each in choose_streams(settings, names)] for names in table} == table
    assert [each.name for each in choose_streams(Config(), ("default",))] == ["default"]
    with pytest.raises(ConfigError, match=r"--stream: there is no stream 'c4'; .*: organization a1, organization b2, "):
        choose_streams(settings, ("a1", "c4"))
