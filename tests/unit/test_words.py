"""Texts use the words of the field: those that this project once had of its own do not come back."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = [
    path
    for folder in ("plugin", "conf", "geoip", "tests", ".github", ".")
    for path in (ROOT.glob("*") if folder == "." else (ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".md", ".yaml", ".yml", ".conf", ".html", ".toml", ".csv", ".service"}
    and not path.is_relative_to(ROOT / "tests" / "data")
    and path != Path(__file__)
]

AVOID = {
    r"houses?": "resources",
    r"rooms?": "resources, space, margin",
    r"stencils?": "templates",
    r"particulars": "details",
    r"strangers?": "unknown, foreign",
    r"kin": "similar",
    r"anew": "again",
    r"tak(e|es|en|ing) up(?! to)": "resume, apply, use",
    r"took up": "resumed, applied",
    r"(is|are|be) to be had": "available",
    r"of no use": "unusable",
    r"com(e|es|ing) to (its|an|the) end": "ends, finishes",
    r"makes? (itself|himself) known": "identifies itself",
    r"blanks?": "whitespace, empty",
    r"doubled(?! each time)|doubles(?! up)": "duplicated, duplicates",
    r"told": "reported, given",
    r"lies": "is",
    r"stands?(?![- ]ins?\b| for| alone| apart)": "is",
    r"goes on": "recovered, continues",
    r"spelt": "written",
    r"beside": "next to, with",
    r"nobody": "no one, nothing",
    r"of (its|their|our|his) own accord": "by itself",
    r"made ready": "prepared",
    r"can not": "cannot",
}
"""A pattern for whole words, without regard to case, and what to write instead."""


def test_texts_avoid_words_of_our_own() -> None:
    """No code, page, comment or test uses a word that readers would have to learn."""
    pattern = re.compile(rf"\b(?:{'|'.join(AVOID)})\b", re.IGNORECASE)
    offenders = []
    for path in FILES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if found := pattern.search(line):
                offenders.append(f"{path.relative_to(ROOT)}:{number}: {found[0]!r}: {line.strip()[:80]}")

    assert offenders == [], "\n".join(["write instead, see AVOID:", *offenders])
