"""Durations, sizes and beginnings, as people spell them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from in_jumpcloud.config.types import Duration, Size, Start


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("1h30m", 5400), ("15d", 1_296_000), ("2w", 1_209_600), ("250ms", 0.25), ("1.5h", 5400)],
)
def test_duration(text: str, seconds: float) -> None:
    """A duration is the sum of its parts, in seconds and in whole milliseconds."""
    assert Duration.parse(text) == pytest.approx(seconds)
    assert Duration.parse(f" {text} ").ms == round(seconds * 1000)


@pytest.mark.parametrize("value", ["", "30", "s", "-5s", "5 m", "1h,30m", "5M", 30, None, True, "9" * 400 + "d"])
def test_no_duration(value: object) -> None:
    """Anything else, also a number without its unit or one beyond measure, is refused."""
    with pytest.raises(ValueError, match="expected a duration"):
        Duration.parse(value)


@pytest.mark.parametrize(
    ("value", "size"),
    [(0, 0), (1_000_000, 1_000_000), ("16MiB", 16 << 20), ("64 kB", 64_000), ("1.5GiB", 3 << 29), ("7B", 7)],
)
def test_size(value: object, size: int) -> None:
    """A size is bytes, plain or with a unit of a thousand or of 1024."""
    assert Size.parse(value) == size


@pytest.mark.parametrize("value", ["", "MiB", "16mib", "-1", "1 MiB 2", True, None, [1], "9" * 400])
def test_no_size(value: object) -> None:
    """Anything else, also a unit in the wrong case, is refused."""
    with pytest.raises(ValueError, match="expected a size"):
        Size.parse(value)


NOW = 1_790_000_000_000


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("now", NOW),
        ("1d", NOW - 86_400_000),
        ("2026-09-01", 1_788_220_800_000),
        ("2026-09-01T00:00:00Z", 1_788_220_800_000),
        ("2026-09-01T02:00:00.250+02:00", 1_788_220_800_250),
        (datetime(2026, 9, 1, tzinfo=UTC), 1_788_220_800_000),
        ("36000d", 0),
        ("0001-01-01", 0),
    ],
)
def test_start(value: object, moment: int) -> None:
    """A stream begins a duration before now, at a date (UTC where it names no zone), or now; never before 1970."""
    assert Start(value).resolve(NOW) == moment


@pytest.mark.parametrize("value", ["", "yesterday", "2026-02-30", "-1d", True, "9" * 400 + "d"])
def test_no_start(value: object) -> None:
    """A day that no calendar has, and anything else, is refused."""
    with pytest.raises(ValueError, match="expected a duration back from now"):
        Start(value)
