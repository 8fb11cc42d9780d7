"""`in-jumpcloud template` and `in-jumpcloud fields --format markdown`, as users have them."""

from __future__ import annotations

import json

import pytest
from support.command import ROOT, Command

TEMPLATES = ROOT / "conf" / "index-templates"


@pytest.mark.parametrize("store", ["elasticsearch", "opensearch"])
def test_the_copy_under_conf_is_what_is_printed(command: Command, store: str) -> None:
    """Who loads the file loads what the program prints, byte for byte."""
    done = command("template", store)

    assert done.returncode == 0, done.stderr
    assert done.stdout == (TEMPLATES / f"{store}.json").read_bytes()
    assert done.stderr == b""


def test_options(command: Command) -> None:
    """Names, indices in place of data streams, and the profile are for the user to choose."""
    options = ("--index-pattern", "audit-*", "--index-pattern", "audit", "--no-data-stream", "--profile", "elastic")
    done = command("template", "opensearch", *options)

    template = json.loads(done.stdout)
    assert template["index_patterns"] == ["audit-*", "audit"]
    assert "data_stream" not in template
    properties = template["template"]["mappings"]["properties"]
    event = properties["jumpcloud"]["properties"]["event"]["properties"]
    assert "mfa" in event
    assert "category" not in event


def test_another_store_is_refused_with_the_names_of_those_there_are(command: Command) -> None:
    """A mistyped store: exit code 2, and what it can be."""
    done = command("template", "solr")

    assert done.returncode == 2
    assert b"'elasticsearch', 'opensearch'" in done.stderr


def test_the_page_of_fields_is_what_is_printed(command: Command) -> None:
    """The page under conf has every field of the table, as the program prints it."""
    done = command("fields", "--format", "markdown")

    assert done.returncode == 0, done.stderr
    assert done.stdout == (ROOT / "conf" / "fields.md").read_bytes(), "in-jumpcloud fields --format markdown differs"
    rows = json.loads(command("fields", "--format", "json").stdout)
    lines = done.stdout.decode().splitlines()
    named = [line.split("`")[1] for line in lines if line.startswith("| `")]
    assert sorted(named) == sorted(row["name"] for row in rows)


def test_the_page_beside_the_templates_names_every_option(command: Command) -> None:
    """Every option that the command has stands in the page that tells how to use it."""
    usage = command("template", "--help").stdout.decode()
    page = (TEMPLATES / "README.md").read_text(encoding="utf-8")

    for option in ("--index-pattern", "--no-data-stream", "--profile"):
        assert option in usage
        assert option in page
