"""Index templates for Elasticsearch and OpenSearch, made from the field table, with which no record is refused.

A store refuses a record with status 400, and Fluent Bit then sends it again for ever. Therefore only declared fields
are indexed, whose types the mapper guarantees; all others are kept in `_source` only. The mapping never grows, so no
record is refused because of a limit, or because an earlier record had another type.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from in_jumpcloud.ecs import fields
from in_jumpcloud.ecs.coercion import MAX_DEPTH
from in_jumpcloud.ecs.fields import Profile

Dialect = Literal["elasticsearch", "opensearch"]

PATTERNS: dict[Dialect, str] = {"elasticsearch": "logs-jumpcloud.events-*", "opensearch": "jumpcloud-events*"}
"""The default names of the data streams that a template applies to: those in conf/outputs."""

CUSTOM = "in_jumpcloud@custom"
"""The component template in which Elasticsearch looks for the user's settings. It is optional."""

# Higher than `logs` (100), which applies to all names logs-*-*, and than the template of Elastic's JumpCloud
# integration (200), whose pipeline would map a record a second time.
_PRIORITY = 250

_MAX_KEYWORD_LENGTH = 1024  # characters, as in ECS; longer text is kept and not indexed
_MAX_TERM_LENGTH = 8191  # characters; Lucene refuses terms above 32766 bytes, and a character has up to four
_KEYWORD = {"type": "keyword", "ignore_above": _MAX_KEYWORD_LENGTH}

_TYPES: dict[str, dict[str, Any]] = {
    "keyword": _KEYWORD,
    # A constant keyword refuses every other value, and the namespace is a setting that may change. In OpenSearch,
    # values of this type cannot be fetched.
    "constant_keyword": _KEYWORD,
    "wildcard": {"type": "wildcard", "ignore_above": _MAX_TERM_LENGTH},
    "match_only_text": {"type": "match_only_text", "fields": {"keyword": _KEYWORD}},
}
_FLATTENED: dict[Dialect, dict[str, Any]] = {
    "elasticsearch": {"type": "flattened", "ignore_above": _MAX_KEYWORD_LENGTH, "depth_limit": MAX_DEPTH},
    # flat_object has no ignore_above: a value above 32766 bytes would make the store refuse the record.
    "opensearch": {"type": "object", "enabled": False},
}
_FIELDS: dict[Dialect, dict[str, dict[str, Any]]] = {
    "elasticsearch": {
        "data_stream.dataset": {"type": "constant_keyword", "value": "jumpcloud.events"},
        "data_stream.type": {"type": "constant_keyword", "value": "logs"},
    },
    "opensearch": {},
}
_TIME_KEY = "fluent_bit.time"
_NOT_INDEXED = {"type": "keyword", "index": False, "doc_values": False}
_FIELDS_OF_BOTH: dict[str, dict[str, Any]] = {
    # A data stream requires it; the mapper always writes a valid one.
    "@timestamp": {"type": "date", "ignore_malformed": False},
    "event.original": _NOT_INDEXED,
    f"{fields.OWN}.original": _NOT_INDEXED,
    # Not in the record: the outputs in conf/outputs add it (time_key).
    _TIME_KEY: {"type": "date_nanos"},
}


_FORMS = {"extended": "as ECS", "elastic": "as ECS", "raw": "as JumpCloud sends it"}


class TemplateOptions(NamedTuple):
    """The user's choices: `patterns` of names (none: the default of the dialect), and whether they are data streams.

    `profile` is the mapper's. With `elastic`, fields that only `extended` declares can have any type: they are not
    indexed. With `raw`, the fields of the event are at the top level.
    """

    patterns: tuple[str, ...] = ()
    data_stream: bool = True
    profile: Profile = "extended"


def index_template(dialect: Dialect, options: TemplateOptions = TemplateOptions()) -> dict[str, Any]:  # noqa: B008 - immutable
    """The body of `PUT _index_template/in_jumpcloud`."""
    mappings = {"dynamic": False, "properties": _properties(dialect, options.profile)}
    template: dict[str, Any] = {
        "index_patterns": list(options.patterns or [PATTERNS[dialect]]),
        "priority": _PRIORITY,
        "template": {"settings": _settings(), "mappings": mappings},
        "_meta": {"description": f"Records of in_jumpcloud: JumpCloud Directory Insights {_FORMS[options.profile]}."},
    }
    if options.data_stream:
        template["data_stream"] = {}
    if dialect == "elasticsearch":
        template["composed_of"] = template["ignore_missing_component_templates"] = [CUSTOM]
    return template


def _settings() -> dict[str, Any]:
    return {
        "index": {
            "codec": "best_compression",
            "mapping": {
                "ignore_malformed": True,
                # The table needs a quarter of it; the rest is for fields that users map.
                "total_fields": {"limit": 2000},
                # OpenSearch counts the three levels above the event's too.
                "depth": {"limit": MAX_DEPTH + 3},
            },
        }
    }


def _properties(dialect: Dialect, profile: Profile) -> dict[str, Any]:
    types = _TYPES | {"flattened": _FLATTENED[dialect]}
    mapped = {field.name: types.get(field.type, {"type": field.type}) for field in fields.of_profile(profile)}
    special = _FIELDS_OF_BOTH | _FIELDS[dialect]
    mapped |= {name: mapping for name, mapping in special.items() if name in mapped or name == _TIME_KEY}
    properties: dict[str, Any] = {}
    for name, mapping in sorted(mapped.items()):
        *parents, leaf = name.split(".")
        inner = properties
        for parent in parents:
            inner = inner.setdefault(parent, {"properties": {}})["properties"]
        inner[leaf] = mapping
    return properties
