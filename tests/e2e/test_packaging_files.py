"""The Dockerfile, compose.yaml and the Kubernetes files fit the project and the specifications."""

from __future__ import annotations

import fnmatch
import json
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

DOCKER = ROOT / "conf" / "docker"
KUBERNETES = ROOT / "conf" / "kubernetes"
MANIFESTS = sorted(path.name for path in KUBERNETES.glob("*.yaml"))
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def _documents(name: str) -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all((KUBERNETES / name).read_text())}


def _pod(name: str) -> dict[str, Any]:
    pod: dict[str, Any] = _documents(name)["StatefulSet"]["spec"]["template"]["spec"]
    return pod


def _containers(name: str) -> list[dict[str, Any]]:
    pod = _pod(name)
    return [*pod.get("initContainers", []), *pod["containers"]]


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint")
def test_hadolint_finds_nothing_wrong() -> None:
    """The Dockerfile keeps to its rules."""
    done = subprocess.run([str(HADOLINT), DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)  # noqa: S603

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_build_is_given_all_that_the_wheel_is_made_of() -> None:
    """Every file that pyproject.toml names is copied, is there, and is not held back by the ignore file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = ["pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]]
    needed += [*wheel["packages"], *wheel["force-include"]]
    first = DOCKERFILE.split("\nFROM ")[1]
    copied = [source for line in re.findall(r"^COPY (.*) \S+$", first, re.MULTILINE) for source in line.split()]
    lines = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = [line[1:] for line in lines if line.startswith("!")]

    assert "*" in lines
    for path in needed:
        assert (ROOT / path).exists(), path
        assert any(path == source or path.startswith(f"{source}/") for source in copied), path
        assert any(fnmatch.fnmatch(path, each) or path.startswith(f"{each}/") for each in let_in), path


def test_the_image_is_what_the_others_expect_of_it() -> None:
    """User, port, state and configuration have the same place in the image, compose.yaml and the Kubernetes files."""
    assert "USER 10001:10001" in DOCKERFILE
    state = re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.MULTILINE)
    assert f"state:{state[0]}" in COMPOSE["services"]["in-jumpcloud"]["volumes"]
    for name in MANIFESTS:
        assert _pod(name)["securityContext"]["runAsUser"] == 10001
        mounted = {mount["mountPath"]: mount["name"] for mount in _containers(name)[-1]["volumeMounts"]}
        assert mounted[state[0]] == "state"
        assert mounted["/etc/in-jumpcloud"] == "config"


def test_compose_takes_the_file() -> None:
    """It keeps to the Compose specification."""
    compose_spec = pytest.importorskip("compose_spec", reason="no compose_spec (from the package index)")
    compose_spec.PyCompose.from_json(json.dumps(COMPOSE))  # PyYAML has resolved the anchors


def test_the_services_of_compose_are_confined() -> None:
    """No capability, no new privilege, a read-only root, and a limit of memory and processes each."""
    for name in ("in-jumpcloud", "fluent-bit"):
        service = COMPOSE["services"][name]
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"], name
        assert service["restart"] == "unless-stopped", name
        assert service["mem_limit"], name
        assert service["pids_limit"], name


def test_compose_names_only_what_is_there() -> None:
    """Every mounted file, volume, secret and build file exists or is declared."""
    for service in COMPOSE["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (DOCKER / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"], volume
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()
    build = COMPOSE["services"]["in-jumpcloud"]["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).samefile(DOCKER / "Dockerfile")


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_takes_the_manifest(name: str) -> None:
    """Every document is valid in the newest version that the validator knows, without a key too many."""
    validator = pytest.importorskip("kubernetes_validate", reason="no kubernetes_validate (from the package index)")
    for document in _documents(name).values():
        validator.validate(document, validator.latest_version(), strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_pod_is_confined_and_alone(name: str) -> None:
    """One replica, no root, no capability, a read-only root, no token, and limits."""
    assert _documents(name)["StatefulSet"]["spec"]["replicas"] == 1
    pod = _pod(name)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in _containers(name):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_manifest_names_only_what_is_there(name: str) -> None:
    """Every mount has a volume or a claim, every probe a port, the service the pod, the volumes their ConfigMap."""
    documents, pod = _documents(name), _pod(name)
    stateful = documents["StatefulSet"]["spec"]
    volumes = {each["name"] for each in [*pod["volumes"], *(c["metadata"] for c in stateful["volumeClaimTemplates"])]}
    for container in _containers(name):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        ports = {port["name"] for port in container["ports"]}
        asked = {container[probe]["httpGet"]["port"] for probe in container if probe.endswith("Probe")}
        assert asked <= ports
    labels = stateful["template"]["metadata"]["labels"]
    assert stateful["selector"]["matchLabels"] == documents["Service"]["spec"]["selector"] == labels
    assert stateful["serviceName"] == documents["Service"]["metadata"]["name"]
    for volume in pod["volumes"]:
        wanted = volume.get("configMap", {})
        assert wanted.get("name", "in-jumpcloud") == documents["ConfigMap"]["metadata"]["name"]
        assert {item["key"] for item in wanted.get("items", [])} <= documents["ConfigMap"]["data"].keys()


def _plugin_texts() -> dict[str, str]:
    texts = {f"kubernetes/{name}": _documents(name)["ConfigMap"]["data"]["jumpcloud.yaml"] for name in MANIFESTS}
    paths = ("docker/jumpcloud.yaml", "systemd/jumpcloud.yaml")
    return texts | {path: (ROOT / "conf" / path).read_text() for path in paths}


@pytest.mark.parametrize("name", _plugin_texts())
def test_the_plugin_takes_the_settings(tmp_path: Path, name: str) -> None:
    """They load as they are, but for where the secrets lie; and the state is kept where the volume is."""
    text = _plugin_texts()[name]
    for directory in ("/run/secrets/in-jumpcloud", "/run/secrets"):
        text = text.replace(directory, str(tmp_path))
    for secret in ("jumpcloud-api-key", "forward-shared-key"):
        (tmp_path / secret).write_text("of-no-use\n")
    (tmp_path / "jumpcloud.yaml").write_text(text)

    settings = load_config(tmp_path / "jumpcloud.yaml", environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})

    assert settings.state.path == Path("/var/lib/in-jumpcloud/in-jumpcloud.db")
    assert settings.dead_letter.path.parent == settings.state.path.parent
    assert settings.jumpcloud.api_key is not None
    assert settings.geoip.city is None


def test_the_plugin_takes_the_settings_for_tls(tmp_path: Path) -> None:
    """Those of an edge box load with the credentials that its drop-in names, and certificates of ours."""
    drop_in = (ROOT / "conf" / "systemd" / "in-jumpcloud-tls.conf").read_text()
    authority = trustme.CA()
    client = authority.issue_cert("edge.example.com")
    credentials = ["jumpcloud-api-key", *re.findall(r"^LoadCredential=([^:]+):", drop_in, re.MULTILINE)]
    for name in credentials:
        (tmp_path / name).write_text("of-no-use\n")
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    client.cert_chain_pems[0].write_to_path(tmp_path / "client.crt")
    client.private_key_pem.write_to_path(tmp_path / "client.key")
    text = (ROOT / "conf" / "systemd" / "jumpcloud-tls.yaml").read_text()
    (tmp_path / "jumpcloud.yaml").write_text(text.replace(": /etc/in-jumpcloud/", f": {tmp_path}/"))

    settings = load_config(tmp_path / "jumpcloud.yaml", environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})

    assert settings.forward.tls.enabled
    assert set(re.findall(r"CREDENTIALS_DIRECTORY:-/etc/in-jumpcloud}/(\S+)", text)) == set(credentials)


@pytest.mark.parametrize("name", ["docker", "kubernetes"])
def test_fluent_bit_is_set_as_in_the_receiver_that_is_shipped(name: str) -> None:
    """Only paths and the HTTP server differ from conf/fluent-bit-unix.yaml: what delivery rests on cannot drift."""
    texts = {
        "docker": (DOCKER / "fluent-bit.yaml").read_text(),
        "kubernetes": _documents("sidecar.yaml")["ConfigMap"]["data"]["fluent-bit.yaml"],
    }
    ours = yaml.safe_load(texts[name])
    shipped = yaml.safe_load((ROOT / "conf" / "fluent-bit-unix.yaml").read_text())
    for service in (ours["service"], shipped["service"]):
        for key in ("storage.path", "http_server", "http_listen", "http_port"):
            service.pop(key, None)

    assert ours == shipped


COMMANDS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "conf" / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_the_page_names_only_what_is_there() -> None:
    """Every link and every path of ours in conf/README.md leads to a file."""
    text = (ROOT / "conf" / "README.md").read_text()
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    paths = [path for block in COMMANDS for path in re.findall(r"conf/[\w./-]+", block)]

    assert len(links) > 10
    assert len(paths) > 10
    assert [link for link in links if not (ROOT / "conf" / link).exists()] == []
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: block.split("\n")[0][:40])
def test_the_commands_of_the_page_are_a_shell_s(block: str) -> None:
    """A POSIX shell takes each block, and the plugin knows each of its commands that stands there."""
    done = subprocess.run(["sh", "-n"], input=block, capture_output=True, text=True, check=False)  # noqa: S607

    assert done.returncode == 0, done.stderr
    for command in re.findall(r"in-jumpcloud (check|status|run|health) -c /etc/in-jumpcloud/jumpcloud.yaml", block):
        assert command in cli.list_commands(Context(cli))
    assert not re.findall(r"in-jumpcloud (?!check|status|run|health)\w+ -c", block)
