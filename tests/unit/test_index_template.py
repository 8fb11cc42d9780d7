"""The index templates: each field has a mapping that its store supports; the committed copies are up to date."""

from __future__ import annotations

import fnmatch
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
BUILT_IN_PRIORITIES = (100, 200)  # of `logs`, and of Elastic's integrations

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
        *("aggregate_metric_double", "annotated_text", "dense_vector", "flattened", "histogram", "passthrough"),
        *("point", "semantic_text", "shape", "sparse_vector", "version"),
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


def mappings_of_fields(dialect: Dialect) -> list[tuple[str, dict[str, Any]]]:
    """Name and mapping of each field, and of each field's own `fields`."""
    return [
        (name, each)
        for name, mapping in mappings(dialect).items()
        for each in (mapping, *mapping.get("fields", {}).values())
    ]


def count(properties: dict[str, Any]) -> int:
    """The number that a store compares with total_fields.limit: fields, objects, and fields of fields."""
    return sum(
        1 + count(mapping.get("properties", {})) + len(mapping.get("fields", {})) for mapping in properties.values()
    )


def depth(properties: dict[str, Any]) -> int:
    """Levels of objects, including the first."""
    return 1 + max(depth(mapping["properties"]) if "properties" in mapping else 0 for mapping in properties.values())


@for_each_dialect
def test_fields(dialect: Dialect) -> None:
    """Every field of the table has a mapping with its type, or the store's substitute; nothing else is mapped.

    The store supports every type and parameter. The original event is kept and not indexed.
    """
    found = mappings(dialect)
    for field in fields.table():
        allowed = ALLOWED.get(field.type, {}).get(dialect, {field.type})
        assert found[field.name]["type"] in allowed, field.name
    assert found.keys() - {field.name for field in fields.table()} == {"fluent_bit.time"}  # the outputs add it
    for name, each in mappings_of_fields(dialect):
        assert each["type"] in KNOWN[dialect], name
        assert each.keys() - {"type"} <= PARAMETERS.get(each["type"], set()), name
    assert found["event.original"] == {"type": "keyword", "index": False, "doc_values": False}


@for_each_dialect
def test_limits(dialect: Dialect) -> None:
    """The template is well within the limits that it sets, and has priority over the built-in ones.

    No indexed text can become a term above 32766 bytes, at up to four bytes a character.
    """
    template = index_template(dialect)
    assert template["priority"] > max(BUILT_IN_PRIORITIES)
    properties = template["template"]["mappings"]["properties"]
    limits = template["template"]["settings"]["index"]["mapping"]
    assert count(properties) < limits["total_fields"]["limit"] / 2
    assert depth(properties) < limits["depth"]["limit"]
    assert template["template"]["mappings"]["dynamic"] is False
    texts = [
        (name, each)
        for name, each in mappings_of_fields(dialect)
        if each["type"] in {"keyword", "wildcard", "flattened"} and each.get("index", True)
    ]
    assert len(texts) > 300
    assert [name for name, each in texts if not 0 < each["ignore_above"] * 4 <= 32766] == []


@for_each_dialect
def test_options(dialect: Dialect) -> None:
    """The options of the user are in the template, and change nothing else.

    The user's settings are optional in Elasticsearch; OpenSearch would require them, so its template has none.
    """
    chosen = index_template(dialect, TemplateOptions(("one-*", "two"), data_stream=False))
    default = index_template(dialect)
    assert chosen.pop("index_patterns") == ["one-*", "two"]
    assert default.pop("index_patterns") == [PATTERNS[dialect]]
    assert default.pop("data_stream") == {}
    assert chosen == default
    of_user = ["in_jumpcloud@custom"] if dialect == "elasticsearch" else None
    assert default.get("composed_of") == default.get("ignore_missing_component_templates") == of_user


@for_each_dialect
def test_outputs(dialect: Dialect) -> None:
    """The output in conf writes to an index that the template applies to, with the operation of a data stream."""
    text = (OUTPUTS / f"{dialect}.yaml").read_text(encoding="utf-8")
    (output,) = yaml.safe_load(text)["pipeline"]["outputs"]
    assert fnmatch.fnmatchcase(output["index"], PATTERNS[dialect])
    assert output["write_operation"] == "create"
    assert output["time_key"] in mappings(dialect)
