"""The pages under conf/ say what is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("forward.md", "from-elastic.md")
PROOFS = [
    proof for page in PAGES for proof in re.findall(r"`(test_\w+\.py)((?:::\w+)*)`", (ROOT / "conf" / page).read_text())
]


@pytest.mark.parametrize("page", PAGES)
def test_every_row_names_its_proof(page: str) -> None:
    """No row of a comparison is without a test."""
    lines = (ROOT / "conf" / page).read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| |")]
    assert len(rows) >= 14
    assert all(re.search(r"`test_\w+\.py(::\w+)*` \|$", row) for row in rows)


@pytest.mark.parametrize(("file", "names"), PROOFS, ids=lambda part: part.strip(":"))
def test_the_proof_is_there(file: str, names: str) -> None:
    """Each test that is named exists."""
    texts = [path.read_text() for path in (ROOT / "tests").rglob(file)]
    for name in names.split("::")[1:]:
        texts = [text for text in texts if re.search(rf"(?:def|class) {name}\b", text)]
    assert texts, f"there is no {file}{names}"
