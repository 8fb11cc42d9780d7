"""The comparison pages under conf/ name a test for every claim."""

from __future__ import annotations

import re
from pathlib import Path

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
