"""README, CONTRIBUTING and the other pages name what exists."""

from __future__ import annotations

import re
from pathlib import Path

import click

from in_jumpcloud.cli import cli

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "plugin" / "in_jumpcloud"
PAGES = [*ROOT.glob("*.md"), *(ROOT / "plugin").glob("*.md"), *(ROOT / "conf").rglob("*.md"), *ROOT.glob("geoip/*.md")]


def test_every_link_to_a_file_leads_there() -> None:
    """A page links only to files that exist."""
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]

    assert broken == []


def test_the_readme_lists_every_command() -> None:
    """The table of commands is complete, and names no other."""
    rows = re.findall(r"^\| `in-jumpcloud ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert sorted(rows) == sorted(cli.list_commands(click.Context(cli)))


def test_the_architecture_names_every_module() -> None:
    """Each module and package of in_jumpcloud is in plugin/README.md."""
    text = (ROOT / "plugin" / "README.md").read_text(encoding="utf-8")
    modules = [path.name for path in PACKAGE.glob("[a-z]*.py")]
    packages = [f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")]

    assert [name for name in modules + packages if f"`{name}`" not in text] == []


def test_files_that_pages_name_exist() -> None:
    """A path in CONTRIBUTING.md or plugin/README.md leads to a file, from the root, `tests/` or the package."""
    missing = [
        f"{page.name}: {name}"
        for page in (ROOT / "CONTRIBUTING.md", ROOT / "plugin" / "README.md")
        for name in re.findall(r"`([a-z./-]\w[\w./-]*/[a-z_]+\.\w+)`", page.read_text(encoding="utf-8"))
        if not any((folder / name).exists() for folder in (ROOT, PACKAGE))
    ]

    assert missing == []


def test_every_target_of_make_is_documented() -> None:
    """`make help` names each target that a person calls, and each that CONTRIBUTING.md names exists."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    printed = set(re.findall(r'^\t@echo "make ([a-z-]+)', makefile, re.MULTILINE))
    named = set(
        re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    )

    assert printed == targets - {"help", "lint", "unit"}
    assert named <= targets
