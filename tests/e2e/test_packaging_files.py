"""The Dockerfile, compose.yaml and conf/README.md are valid and fit together."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from click import Context
from support.command import ROOT

from in_jumpcloud.cli import cli
from in_jumpcloud.config.loader import load_config

CONF = ROOT / "conf"
DOCKER = CONF / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint")
def test_the_dockerfile_is_valid() -> None:
    """Hadolint accepts it."""
    done = subprocess.run([str(HADOLINT), DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_build_has_every_source_of_the_wheel() -> None:
    """The Dockerfile copies every file that pyproject.toml names, and the ignore file lets it through."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = ["pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]]
    needed += [*wheel["packages"], *wheel["force-include"]]
    build_stage = DOCKERFILE.split("\nFROM ")[1]
    copied = [source for line in re.findall(r"^COPY (.*) \S+$", build_stage, re.MULTILINE) for source in line.split()]
    lines = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    included = [line[1:] for line in lines if line.startswith("!")]

    assert "*" in lines
    assert wheel["force-include"]["conf/jumpcloud.yaml"] == "in_jumpcloud/jumpcloud.yaml"  # `init` reads it there
    for path in needed:
        assert (ROOT / path).exists(), path
        assert any(path == source or path.startswith(f"{source}/") for source in copied), path
        assert any(fnmatch.fnmatch(path, each) or path.startswith(f"{each}/") for each in included), path


def test_the_services_of_compose_are_safe() -> None:
    """They have no capabilities and a read-only root; every mounted file, volume, secret and build file exists."""
    for name in ("in-jumpcloud", "fluent-bit"):
        service = COMPOSE["services"][name]
        assert (service["cap_drop"], service["read_only"]) == (["ALL"], True), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    for service in COMPOSE["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (DOCKER / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"], volume
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()
    build = COMPOSE["services"]["in-jumpcloud"]["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).samefile(DOCKER / "Dockerfile")


def test_the_settings_of_the_service_for_tls_load(tmp_path: Path) -> None:
    """With the credentials that its drop-in names. Other tests start the plugin with the other configurations."""
    drop_in = (CONF / "systemd" / "in-jumpcloud-tls.conf").read_text()
    text = (CONF / "systemd" / "jumpcloud-tls.yaml").read_text()
    authority = trustme.CA()
    client = authority.issue_cert("edge.example.com")
    credentials = ["jumpcloud-api-key", *re.findall(r"^LoadCredential=([^:]+):", drop_in, re.MULTILINE)]
    for name in credentials:
        (tmp_path / name).write_text("unused\n")
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    client.cert_chain_pems[0].write_to_path(tmp_path / "client.crt")
    client.private_key_pem.write_to_path(tmp_path / "client.key")
    (tmp_path / "jumpcloud.yaml").write_text(text.replace(": /etc/in-jumpcloud/", f": {tmp_path}/"))

    settings = load_config(tmp_path / "jumpcloud.yaml", environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})

    assert settings.forward.tls.enabled
    assert settings.state.path == Path("/var/lib/in-jumpcloud/in-jumpcloud.db")
    assert set(re.findall(r"CREDENTIALS_DIRECTORY:-/etc/in-jumpcloud}/(\S+)", text)) == set(credentials)


def test_fluent_bit_has_the_shipped_settings() -> None:
    """Only paths and the HTTP server differ from conf/fluent-bit-unix.yaml."""
    shipped = yaml.safe_load((CONF / "fluent-bit-unix.yaml").read_text())
    for text in (
        (DOCKER / "fluent-bit.yaml").read_text(),
        (CONF / "kubernetes" / "sidecar" / "fluent-bit.yaml").read_text(),
    ):
        copy = yaml.safe_load(text)
        for service in (copy["service"], shipped["service"]):
            for key in ("storage.path", "http_server", "http_listen", "http_port"):
                service.pop(key, None)
        assert copy == shipped


def test_the_page_is_right() -> None:
    """Every link and path of conf/README.md exists, a shell parses its commands, and the plugin has each of its own."""
    text = (CONF / "README.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    paths = [path for block in blocks for path in re.findall(r"conf/[\w./-]+", block)]
    commands = re.findall(r"in-jumpcloud (\w+)(?: -c /etc/in-jumpcloud/jumpcloud.yaml)?$", text, re.MULTILINE)

    assert min(len(links), len(paths), len(commands)) >= 3
    assert [link for link in links if not (CONF / link.partition("#")[0]).exists()] == []
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert set(commands) <= set(cli.list_commands(Context(cli)))
    for block in blocks:
        done = subprocess.run(["sh", "-n"], input=block, capture_output=True, text=True, check=False)  # noqa: S607
        assert done.returncode == 0, done.stderr
