"""`in-jumpcloud template` and `in-jumpcloud fields --format markdown`, which print files that are in conf/."""

from __future__ import annotations

import json

from support.command import ROOT, invoke

TEMPLATES = ROOT / "conf" / "index-templates"


def test_the_templates_in_conf_are_what_is_printed() -> None:
    """Byte for byte."""
    for store in ("elasticsearch", "opensearch"):
        done = invoke("template", store)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == (TEMPLATES / f"{store}.json").read_bytes()


def test_options() -> None:
    """Names, indices instead of data streams, and the profile; the page in conf names each option."""
    options = ("--index-pattern", "audit-*", "--index-pattern", "audit", "--no-data-stream", "--profile", "elastic")
    template = json.loads(invoke("template", "opensearch", *options).stdout)
    assert template["index_patterns"] == ["audit-*", "audit"]
    assert "data_stream" not in template
    properties = template["template"]["mappings"]["properties"]
    event = properties["jumpcloud"]["properties"]["event"]["properties"]
    assert "mfa" in event
    assert "category" not in event
    page = (TEMPLATES / "README.md").read_text(encoding="utf-8")
    assert [option for option in options if option.startswith("--") and option not in page] == []


def test_another_store_is_refused() -> None:
    """Exit code 2, with the stores that there are."""
    done = invoke("template", "solr")
    assert done.returncode == 2
    assert b"'elasticsearch', 'opensearch'" in done.stderr


def test_the_page_of_fields_is_what_is_printed() -> None:
    """The page in conf has every field of the table, as the command prints it."""
    done = invoke("fields", "--format", "markdown")
    assert done.stdout == (ROOT / "conf" / "fields.md").read_bytes(), "in-jumpcloud fields --format markdown differs"
    rows = json.loads(invoke("fields", "--format", "json").stdout)
    names = [line.split("`")[1] for line in done.stdout.decode().splitlines() if line.startswith("| `")]
    assert sorted(names) == sorted(row["name"] for row in rows)
