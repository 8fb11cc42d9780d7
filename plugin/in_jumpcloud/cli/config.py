"""`in-jumpcloud config`: the settings in use with their origins, and the schema of the file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from in_jumpcloud.cli import examples, json_option, settings_options, show
from in_jumpcloud.config.document import Origin
from in_jumpcloud.config.effective import effective_settings
from in_jumpcloud.config.json_schema import json_schema
from in_jumpcloud.config.loader import load_config, read_document
from in_jumpcloud.config.locations import describe_config_file
from in_jumpcloud.file_access import package_file
from in_jumpcloud.text import redact


@click.group("config")
def command() -> None:
    """Show the settings in use, or the schema of the file."""


@command.command(
    "show",
    epilog=examples(
        "in-jumpcloud config show",
        "in-jumpcloud config show -c jumpcloud.yaml | grep -v 'default$'",
        "in-jumpcloud config show --json | jq '.settings[\"forward.tag\"]'",
    ),
)
@settings_options()
@json_option
def show_command(path: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print each setting with its value and where that comes from.

    The origin is the file, an environment variable, -o, or the default. Secrets are not shown. Needs no key.
    """
    config = load_config(path, overrides, needs_key=False)
    document, _ = read_document(path, overrides, os.environ)
    settings = list(effective_settings(config, document, os.environ))
    if as_json:
        printed: dict[str, Any] = {
            key: {"value": value, "origin": origin.kind, "name": origin.name or None} for key, value, origin in settings
        }
        file = str(path.absolute()) if path else None
        click.echo(redact(json.dumps({"file": file, "settings": printed}, indent=2)))
        return
    show(f"# {describe_config_file(path)}")
    rows = [(key, _text(value), _origin(origin)) for key, value, origin in settings]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for key, value, origin in rows:
        show(f"{key:{widths[0]}}  {value:{min(widths[1], 40)}}  {origin}")


@command.command("schema", epilog=examples("in-jumpcloud config schema > jumpcloud.schema.json"))
def schema_command() -> None:
    """Print the JSON schema of the configuration file.

    Editors with a YAML language server use it: name it in the first line of the file, as in
    # yaml-language-server: $schema=jumpcloud.schema.json
    """
    documented = package_file("jumpcloud.yaml", "conf/jumpcloud.yaml").read_text(encoding="utf-8")
    click.echo(json.dumps(json_schema(documented), indent=2, ensure_ascii=False))


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _origin(origin: Origin) -> str:
    return {"option": f"-o {origin.name}", "default": "default"}.get(origin.kind, origin.name)
