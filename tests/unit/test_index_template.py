"""The index templates: each field of the table has a mapping that its store knows; the committed copies are true."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from in_jumpcloud.ecs import fields
from in_jumpcloud.ecs.index_template import PATTERNS, Dialect, TemplateOptions, index_template

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = ROOT / "conf" / "outputs"
DIALECTS: tuple[Dialect, ...] = ("elasticsearch", "opensearch")
BUILT_IN_PRIORITIES = (100, 200)  # of `logs`, and of what Elastic installs for its own integrations

OF_BOTH = {
    *("alias", "binary", "boolean", "completion", "constant_keyword", "date", "date_nanos", "date_range", "double"),
    *("double_range", "float", "float_range", "geo_point", "geo_shape", "half_float", "integer", "integer_range", "ip"),
    *("ip_range", "join", "keyword", "long", "long_range", "match_only_text", "nested", "object", "percolator"),
    *("rank_feature", "rank_features", "scaled_float", "search_as_you_type", "short", "byte", "text", "token_count"),
    *("unsigned_long", "wildcard"),
}
KNOWN: dict[Dialect, set[str]] = {
    "elasticsearch": OF_BOTH
    | {
        *(
            "aggregate_metric_double",
            "annotated_text",
            "dense_vector",
            "flattened",
            "histogram",
            "passthrough",
            "point",
        ),
        *("semantic_text", "shape", "sparse_vector", "version"),
    },
    "opensearch": OF_BOTH | {"derived", "flat_object", "knn_vector", "semantic", "star_tree", "xy_point", "xy_shape"},
}
PARAMETERS = {
    "keyword": {"ignore_above", "index", "doc_values"},
    "constant_keyword": {"value"},
    "wildcard": {"ignore_above"},
    "match_only_text": {"fields"},
    "date": {"ignore_malformed"},
    "flattened": {"ignore_above", "depth_limit"},
    "object": {"enabled"},
}
ALLOWED: dict[str, dict[Dialect, set[str]]] = {
    "constant_keyword": {"elasticsearch": {"constant_keyword", "keyword"}, "opensearch": {"keyword"}},
    "flattened": {"elasticsearch": {"flattened"}, "opensearch": {"object"}},
}

for_each_dialect = pytest.mark.parametrize("dialect", DIALECTS)


def mapped(properties: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field with its mapping, without those of a field's own `fields`."""
    for name, mapping in properties.items():
        if "properties" in mapping:
            yield from mapped(mapping["properties"], f"{path}{name}.")
        else:
            yield f"{path}{name}", mapping


def mappings(dialect: Dialect) -> dict[str, dict[str, Any]]:
    """The mapping of each field, by its name."""
    return dict(mapped(index_template(dialect)["template"]["mappings"]["properties"]))


def count(properties: dict[str, Any]) -> int:
    """What a store counts against total_fields.limit: fields, objects, and fields of fields."""
    return sum(
        1 + count(mapping.get("properties", {})) + len(mapping.get("fields", {})) for mapping in properties.values()
    )


def depth(properties: dict[str, Any]) -> int:
    """Levels of objects, the topmost included."""
    return 1 + max(depth(mapping["properties"]) if "properties" in mapping else 0 for mapping in properties.values())


@for_each_dialect
def test_every_row(dialect: Dialect) -> None:
    """Every row of the table has a mapping of its type, or of the one that stands for it in this store."""
    found = mappings(dialect)
    for field in fields.table():
        allowed = ALLOWED.get(field.type, {}).get(dialect, {field.type})
        assert found[field.name]["type"] in allowed, field.name


@for_each_dialect
def test_nothing_else(dialect: Dialect) -> None:
    """Nothing is mapped beside the table but the key that the outputs add."""
    assert mappings(dialect).keys() - {field.name for field in fields.table()} == {"fluent_bit.time"}


@for_each_dialect
def test_known_types(dialect: Dialect) -> None:
    """The store knows every type that the template names, and every parameter is one that the type has."""
    for name, mapping in mappings(dialect).items():
        for each in (mapping, *mapping.get("fields", {}).values()):
            assert each["type"] in KNOWN[dialect], name
            assert each.keys() - {"type"} <= PARAMETERS.get(each["type"], set()), name


@for_each_dialect
def test_no_term_too_long(dialect: Dialect) -> None:
    """No text that is indexed may become a term above 32766 bytes, at up to four bytes a character."""
    limits = [
        (name, each)
        for name, mapping in mappings(dialect).items()
        for each in (mapping, *mapping.get("fields", {}).values())
        if each["type"] in {"keyword", "wildcard", "flattened"} and each.get("index", True)
    ]
    assert len(limits) > 300
    assert [name for name, each in limits if not 0 < each["ignore_above"] * 4 <= 32766] == []


@for_each_dialect
def test_original(dialect: Dialect) -> None:
    """The event's own text is kept, and takes no room in an index."""
    assert mappings(dialect)["event.original"] == {"type": "keyword", "index": False, "doc_values": False}


@for_each_dialect
def test_limits(dialect: Dialect) -> None:
    """The template itself is well within the limits that it sets, and needs no higher one."""
    template = index_template(dialect)["template"]
    properties, limits = template["mappings"]["properties"], template["settings"]["index"]["mapping"]
    assert count(properties) < limits["total_fields"]["limit"] / 2
    assert depth(properties) < limits["depth"]["limit"]
    assert template["mappings"]["dynamic"] is False


@for_each_dialect
def test_priority(dialect: Dialect) -> None:
    """It stands above every template that a store brings along for such names."""
    assert index_template(dialect)["priority"] > max(BUILT_IN_PRIORITIES)


def test_users_settings() -> None:
    """Elasticsearch looks for the user's settings, which need not be there; OpenSearch would insist on them."""
    template = index_template("elasticsearch")
    assert template["composed_of"] == template["ignore_missing_component_templates"] == ["in_jumpcloud@custom"]
    assert not {"composed_of", "ignore_missing_component_templates"} & index_template("opensearch").keys()


@for_each_dialect
def test_options(dialect: Dialect) -> None:
    """A user's choices are in the template, and change nothing else."""
    chosen = index_template(dialect, TemplateOptions(("one-*", "two"), data_stream=False))
    usual = index_template(dialect)
    assert chosen.pop("index_patterns") == ["one-*", "two"]
    assert usual.pop("index_patterns") == [PATTERNS[dialect]]
    assert usual.pop("data_stream") == {}
    assert chosen == usual


@for_each_dialect
def test_committed_copy(dialect: Dialect) -> None:
    """The copy under conf is what the program makes."""
    text = (ROOT / "conf" / "index-templates" / f"{dialect}.json").read_text(encoding="utf-8")
    assert json.loads(text) == index_template(dialect), f"in-jumpcloud template {dialect} makes another"


@pytest.mark.skipif(not OUTPUTS.is_dir(), reason="conf/outputs is not in this checkout")
@for_each_dialect
def test_outputs(dialect: Dialect) -> None:
    """The output under conf writes to an index that the template applies to, as a data stream can be written to."""
    text = (OUTPUTS / f"{dialect}.yaml").read_text(encoding="utf-8")
    (output,) = yaml.safe_load(text)["pipeline"]["outputs"]
    assert fnmatch.fnmatchcase(output["index"], PATTERNS[dialect])
    assert output["write_operation"] == "create"
    assert output["time_key"] in mappings(dialect)
