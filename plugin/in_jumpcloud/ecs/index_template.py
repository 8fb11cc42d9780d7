"""An index template for Elasticsearch or OpenSearch, made from the field table, under which a store refuses no record.

A store that refuses a record answers 400, and Fluent Bit sends it again for ever. So only what the table declares is
indexed, which the mapper has given its type; everything else stays in `_source`, unread. Nothing is ever added to the
mapping, so neither a limit nor the type that a field had first can turn a later record away.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from in_jumpcloud.ecs import fields
from in_jumpcloud.ecs.coercion import MAX_DEPTH

Dialect = Literal["elasticsearch", "opensearch"]
Profile = Literal["extended", "elastic"]

PATTERNS: dict[Dialect, str] = {"elasticsearch": "logs-jumpcloud.events-*", "opensearch": "jumpcloud-events*"}
"""The names of data streams that a template applies to, unless another is asked for: those of conf/outputs."""

CUSTOM = "in_jumpcloud@custom"
"""The component template in which Elasticsearch looks for the user's own settings; there need not be one."""

# Above `logs` (100), which would map and process whatever is named logs-*-*, and above what Elastic installs for its
# own JumpCloud integration (200), which would take a record for a raw event and map it a second time.
_PRIORITY = 250

_LONGEST_KEYWORD = 1024  # characters; ECS's own. What is longer is kept and not indexed.
_LONGEST_TERM = 8191  # characters; Lucene refuses terms above 32766 bytes, and a character has up to four
_KEYWORD = {"type": "keyword", "ignore_above": _LONGEST_KEYWORD}

_TYPES: dict[str, dict[str, Any]] = {
    "keyword": _KEYWORD,
    # A constant keyword refuses every other value. The namespace is a setting, and may change; and in OpenSearch the
    # values of this type cannot be fetched.
    "constant_keyword": _KEYWORD,
    "wildcard": {"type": "wildcard", "ignore_above": _LONGEST_TERM},
    "match_only_text": {"type": "match_only_text", "fields": {"keyword": _KEYWORD}},
}
_FLATTENED: dict[Dialect, dict[str, Any]] = {
    "elasticsearch": {"type": "flattened", "ignore_above": _LONGEST_KEYWORD, "depth_limit": MAX_DEPTH},
    # Its counterpart flat_object knows no ignore_above: one value above 32766 bytes, and the record is refused.
    "opensearch": {"type": "object", "enabled": False},
}
_FIELDS: dict[Dialect, dict[str, dict[str, Any]]] = {
    "elasticsearch": {
        "data_stream.dataset": {"type": "constant_keyword", "value": "jumpcloud.events"},
        "data_stream.type": {"type": "constant_keyword", "value": "logs"},
    },
    "opensearch": {},
}
_FIELDS_OF_BOTH: dict[str, dict[str, Any]] = {
    # A data stream insists on it; the mapper always writes a valid one.
    "@timestamp": {"type": "date", "ignore_malformed": False},
    "event.original": {"type": "keyword", "index": False, "doc_values": False},
    # Not of the record: the outputs in conf/outputs add it (time_key).
    "fluent_bit.time": {"type": "date_nanos"},
}


class TemplateOptions(NamedTuple):
    """What a user may choose: the `patterns` of names (none: the dialect's own), and whether they are data streams.

    `profile` is the mapper's. What only `extended` declares has any type with `elastic`, and so is not indexed.
    """

    patterns: tuple[str, ...] = ()
    data_stream: bool = True
    profile: Profile = "extended"


def index_template(dialect: Dialect, options: TemplateOptions = TemplateOptions()) -> dict[str, Any]:  # noqa: B008 - it is immutable
    """The body of `PUT _index_template/in_jumpcloud`."""
    mappings = {"dynamic": False, "properties": _properties(dialect, options.profile)}
    template: dict[str, Any] = {
        "index_patterns": list(options.patterns or [PATTERNS[dialect]]),
        "priority": _PRIORITY,
        "template": {"settings": _settings(), "mappings": mappings},
        "_meta": {"description": "Records of in_jumpcloud: JumpCloud Directory Insights as ECS."},
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
                # The table fills a quarter of it; the rest is for what users map themselves.
                "total_fields": {"limit": 2000},
                # OpenSearch counts the levels of the record too: the event's, and the three above them.
                "depth": {"limit": MAX_DEPTH + 3},
            },
        }
    }


def _properties(dialect: Dialect, profile: Profile) -> dict[str, Any]:
    types = _TYPES | {"flattened": _FLATTENED[dialect]}
    rows = [field for field in fields.table() if profile == "extended" or field.origin != "jumpcloud"]
    mapped = {field.name: types.get(field.type, {"type": field.type}) for field in rows}
    mapped |= _FIELDS_OF_BOTH | _FIELDS[dialect]
    properties: dict[str, Any] = {}
    for name, mapping in sorted(mapped.items()):
        *parents, leaf = name.split(".")
        inner = properties
        for parent in parents:
            inner = inner.setdefault(parent, {"properties": {}})["properties"]
        inner[leaf] = mapping
    return properties
