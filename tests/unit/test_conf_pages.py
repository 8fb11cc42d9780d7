"""The comparison pages under conf/ name a test for every claim; the arithmetic of scale.md is the program's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from in_jumpcloud.app import required_load
from in_jumpcloud.config.schema import Config

ROOT = Path(__file__).parents[2]
PAGES = ("forward.md", "from-elastic.md")


def test_every_claim_has_a_test() -> None:
    """Each row of a comparison ends with the name of a test, and each test exists."""
    sources = [(path.name, path.read_text()) for path in (ROOT / "tests").rglob("test_*.py")]
    missing = []
    for page in PAGES:
        lines = (ROOT / "conf" / page).read_text().splitlines()
        rows = [line for line in lines if line.startswith("| ") and not line.startswith("| |")]
        assert len(rows) >= 14, page
        missing += [row for row in rows if not re.search(r"`test_\w+\.py(::\w+)*` \|$", row)]
        for file, names in re.findall(r"`(test_\w+\.py)((?:::\w+)*)`", "\n".join(lines)):
            texts = [text for name, text in sources if name == file]
            for name in names.split("::")[1:]:
                texts = [text for text in texts if re.search(rf"(?:def|class) {name}\b", text)]
            missing += [] if texts else [f"{file}{names}"]
    assert missing == []


def test_the_arithmetic_of_scale() -> None:
    """What so many organizations need, which interval is kept with the default limit, and the comparisons a day."""
    text = (ROOT / "conf" / "scale.md").read_text()
    rows = re.findall(r"^\| ([\d,]+) \| (\S+) \| (\S+) \| (\d+) s \|", text, re.MULTILINE)
    assert len(rows) == 3
    for count, needed, at_rest, kept in rows:
        load = required_load(Config(), int(count.replace(",", "")))
        assert (load.interval, load.per_second) == (30, 5)
        assert f"(1 / interval + {load.comparisons_per_day:.0f} /" in text
        quiet = load._replace(interval_max=300.0)
        assert [load.needed, quiet.needed] == pytest.approx([float(needed), float(at_rest)], rel=0.01)
        assert round(load.kept) == int(kept)
