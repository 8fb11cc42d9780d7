"""Durations, sizes and start times, as people write them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from in_jumpcloud.config.types import Duration, Size, Start

NOW = 1_790_000_000_000


def test_duration() -> None:
    """A duration is the sum of its parts; a number without a unit, or more than 100 years, is refused."""
    durations = {"30s": 30, "5m": 300, "1h30m": 5400, "15d": 1_296_000, "2w": 1_209_600, "250ms": 0.25, "1.5h": 5400}
    assert {text: Duration.parse(text) for text in durations} == durations
    assert {text: Duration.parse(f" {text} ").ms / 1000 for text in durations} == durations
    for value in ("", "30", "s", "-5s", "5 m", "1h,30m", "5M", 30, None, True, "9" * 400 + "d"):
        with pytest.raises(ValueError, match="expected a duration"):
            Duration.parse(value)


def test_size() -> None:
    """A size is a number of bytes, or has a decimal or binary unit, in the right case."""
    sizes = {0: 0, 1_000_000: 1_000_000, "16MiB": 16 << 20, "64 kB": 64_000, "1.5GiB": 3 << 29, "7B": 7}
    assert {value: Size.parse(value) for value in sizes} == sizes
    for value in ("", "MiB", "16mib", "-1", "1 MiB 2", True, None, [1], "9" * 400):
        with pytest.raises(ValueError, match="expected a size"):
            Size.parse(value)


def test_start() -> None:
    """A start is a duration before now, a date (in UTC, unless it has a zone), or now; never before 1970."""
    moments: dict[object, int] = {
        "now": NOW,
        "1d": NOW - 86_400_000,
        "2026-09-01": 1_788_220_800_000,
        "2026-09-01T00:00:00Z": 1_788_220_800_000,
        "2026-09-01T02:00:00.250+02:00": 1_788_220_800_250,
        datetime(2026, 9, 1, tzinfo=UTC): 1_788_220_800_000,
        "36000d": 0,
        "0001-01-01": 0,
    }
    assert {value: Start(value).resolve(NOW) for value in moments} == moments
    for value in ("", "yesterday", "2026-02-30", "-1d", True, "9" * 400 + "d"):
        with pytest.raises(ValueError, match="expected a duration before now"):
            Start(value)
