"""The Kustomize directories and the values of the Helm charts: valid, safe, and every reference has its target."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import jsonschema
import kubernetes_validate
import psycopg
import pytest
import yaml
from click.testing import CliRunner
from support.checks import recent_events
from support.command import KEY, ROOT, Command
from support.fluent_bit import BINARY, needs_fluent_bit
from support.kustomize import Document, render

from in_jumpcloud.cli import cli
from in_jumpcloud.config.schema import StateSettings
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.receiver import SimulatedReceiver

FOLDER = ROOT / "conf" / "kubernetes"
HELM = ROOT / "conf" / "helm"
DATA = ROOT / "tests" / "data"
BASES = ("standalone", "sidecar")
"""One pod with a volume for its state."""
ALL = (*BASES, "group")
CHARTS = ("fluent-bit", "fluent-bit-aggregator")
DOCKERFILE = (ROOT / "conf" / "docker" / "Dockerfile").read_text()
KUBECTL = shutil.which("kubectl")


@cache
def base(name: str) -> dict[str, Document]:
    """The documents of a directory, by kind and name."""
    return {f"{each['kind']} {each['metadata']['name']}": each for each in render(FOLDER / name)}


def workload(name: str) -> Document:
    """The spec of the StatefulSet or the Deployment."""
    documents = base(name)
    found: Document = documents[f"{'StatefulSet' if name in BASES else 'Deployment'} in-jumpcloud"]["spec"]
    return found


def pods(name: str) -> Iterator[Document]:
    """What it and the CronJob start: labels and spec."""
    documents = base(name)
    yield workload(name)["template"]
    if name in BASES:
        yield documents["CronJob in-jumpcloud-geoip"]["spec"]["jobTemplate"]["spec"]["template"]


@pytest.mark.parametrize("name", ALL)
def test_a_base_is_valid_and_safe(name: str) -> None:
    """Kubernetes accepts it; the image's user, no privileges, and every reference has its target."""
    documents = base(name)
    for each in documents.values():
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
    spec = workload(name)
    assert spec["replicas"] == (1 if name in BASES else 3)
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == documents["Service in-jumpcloud"]["spec"]["selector"] == labels
    claims = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
    for template in pods(name):
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is False
        user, group = pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]
        assert f"USER {user}:{group}\n" in DOCKERFILE
        volumes = {volume["name"] for volume in pod["volumes"]} | claims
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            security = container["securityContext"]
            assert (security["readOnlyRootFilesystem"], security["allowPrivilegeEscalation"]) == (True, False)
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            ports = {port["name"] for port in container.get("ports", [])}
            assert {value["httpGet"]["port"] for key, value in container.items() if key.endswith("Probe")} <= ports
        for volume in pod["volumes"]:
            if "configMap" in volume:
                data = documents[f"ConfigMap {volume['configMap']['name']}"]["data"]
                assert {item["key"] for item in volume["configMap"].get("items", [])} <= data.keys()
            if "persistentVolumeClaim" in volume:
                assert f"PersistentVolumeClaim {volume['persistentVolumeClaim']['claimName']}" in documents


@pytest.mark.parametrize("name", BASES)
def test_geoip_is_there_by_default(name: str) -> None:
    """An init container that cannot hold up the start, and a job on the same node, write what the settings name."""
    documents = base(name)
    plugin, job = (template["spec"] for template in pods(name))
    first = next(each for each in plugin["initContainers"] if each["name"] == "geoip")
    (later,) = job["containers"]
    assert first["args"] == [*later["args"], "--may-fail"]
    assert first["env"] == later["env"]
    settings = yaml.safe_load(documents["ConfigMap in-jumpcloud"]["data"]["jumpcloud.yaml"])["geoip"]
    (directory,) = (each["value"] for each in first["env"] if each["name"] == "GEOIPUPDATE_DB_DIR")
    assert {Path(path).parent for path in settings.values()} == {Path(directory)}
    for container in (first, later, plugin["containers"][0]):
        assert directory in {mount["mountPath"] for mount in container["volumeMounts"]}
    (term,) = job["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    labels = documents["StatefulSet in-jumpcloud"]["spec"]["template"]["metadata"]["labels"]
    assert term["labelSelector"]["matchLabels"] == labels
    template = documents["CronJob in-jumpcloud-geoip"]["spec"]["jobTemplate"]["spec"]["template"]
    assert template["metadata"]["labels"] != labels  # the StatefulSet would take its pods for its own
    environ = {each["name"]: each.get("value") for each in first["env"]} | {"GEOIPUPDATE_CONF_FILE": None}
    done = CliRunner().invoke(cli, first["args"], env=environ)  # without an account, as without the secret
    assert (done.exit_code, done.output.count("\n")) == (0, 1), done.output
    assert "GEOIPUPDATE_ACCOUNT_ID" in done.output


@pytest.mark.parametrize("name", [*ALL, "helm"])
def test_a_changed_config_map_is_reloaded(name: str) -> None:
    """The plugin looks after its configuration, in a volume that Kubernetes updates, and no pod restarts for it."""
    if name == "helm":
        documents = list(yaml.safe_load_all((HELM / "in-jumpcloud.yaml").read_text()))
        values = yaml.safe_load((HELM / "fluent-bit.yaml").read_text())
        (container,), volumes = values["extraContainers"], values["extraVolumes"]
    else:
        documents = list(base(name).values())
        pod = next(pods(name))["spec"]
        (container,), volumes = pod["containers"], pod["volumes"]
    text = next(
        each["data"]["jumpcloud.yaml"]
        for each in documents
        if (each["kind"], each["metadata"]["name"]) == ("ConfigMap", "in-jumpcloud")
    )
    assert yaml.safe_load(text)["reload"] == "auto"
    (mount,) = (each for each in container["volumeMounts"] if each["mountPath"] == "/etc/in-jumpcloud")
    assert "subPath" not in mount  # it is never updated
    (volume,) = (each for each in volumes if each["name"] == mount["name"])
    assert volume["configMap"] == {"name": "in-jumpcloud"}


@pytest.mark.parametrize("name", ALL)
def test_the_network_policies_let_through_what_is_needed(name: str) -> None:
    """They select the pods, name their ports, and let out names, HTTPS and, where Fluent Bit is elsewhere, forward."""
    documents = base(name)
    policy = documents["NetworkPolicy in-jumpcloud"]["spec"]
    template, *jobs = pods(name)
    assert policy["podSelector"]["matchLabels"] == template["metadata"]["labels"]
    containers = [*template["spec"]["initContainers"], *template["spec"]["containers"]]
    ports = {port["name"] for container in containers for port in container.get("ports", [])}
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports
    settings = yaml.safe_load(documents["ConfigMap in-jumpcloud"]["data"]["jumpcloud.yaml"])
    outside = [server["port"] for server in settings["forward"]["servers"] if "port" in server]
    outside += [urlsplit(settings["state"]["url"]).port or 5432] if "state" in settings else []
    out = {port["port"] for rule in policy.get("egress", []) for port in rule["ports"]}
    assert out == ({53, 443, *outside} if outside else set())
    assert ("Egress" in policy["policyTypes"]) == bool(outside)
    for job in jobs:
        other = documents["NetworkPolicy in-jumpcloud-geoip"]["spec"]
        assert other["podSelector"]["matchLabels"] == job["metadata"]["labels"]
        assert {port["port"] for rule in other["egress"] for port in rule["ports"]} == {53, 443}


def test_a_group_survives_the_loss_of_a_pod_or_a_node() -> None:
    """One pod at a time is stopped, they are spread, and none has a volume that lasts."""
    spec = workload("group")
    labels = spec["template"]["metadata"]["labels"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
    budget = base("group")["PodDisruptionBudget in-jumpcloud"]["spec"]
    assert (budget["maxUnavailable"], budget["selector"]["matchLabels"]) == (1, labels)
    pod = spec["template"]["spec"]
    spread = pod["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    assert [each["labelSelector"]["matchLabels"] for each in spread] == [labels, labels]
    assert {tuple(volume)[1] for volume in pod["volumes"]} == {"configMap", "secret", "emptyDir"}
    # The geoip container may fail, as in the other bases.
    (standalone,) = next(pods("standalone"))["spec"]["initContainers"]
    (geoip,) = pod["initContainers"]
    assert geoip == standalone


def test_a_member_starts_as_the_deployment_says(command: Command, state_url: StateSettings, tmp_path: Path) -> None:
    """With the shipped configuration, the variables of the pod, and its secrets in files."""
    (container,) = workload("group")["template"]["spec"]["containers"]
    assert state_url.url
    url = urlsplit(state_url.url.reveal())
    secrets = {"jumpcloud-api-key": KEY, "forward-shared-key": "key", "database-password": unquote(url.password or "")}
    for name, text in secrets.items():
        (tmp_path / name).write_text(text)
    shipped = (FOLDER / "group" / "jumpcloud.yaml").read_text().replace("/run/secrets/in-jumpcloud", str(tmp_path))
    (tmp_path / "jumpcloud.yaml").write_text(shipped)
    pod = {"metadata.name": "in-jumpcloud-7d9f", "status.podIP": "10.0.0.7"}
    environ = {each["name"]: pod[each["valueFrom"]["fieldRef"]["fieldPath"]] for each in container["env"]}
    with SimulatedApi(recent_events()) as api, SimulatedReceiver(keep=False, shared_key="key") as receiver:
        overrides = {
            "jumpcloud.url": api.url,
            "forward.servers": json.dumps([{"host": "127.0.0.1", "port": receiver.port}]),
            "state.url": f"postgresql://{url.username}@{url.hostname}:{url.port}{url.path}",
            "state.schema": state_url.schema,
            "http.listen": "0.0.0.0:0",
            "geoip.city": "null",
            "geoip.asn": "null",
        }
        options = [part for key, value in overrides.items() for part in ("-o", f"{key}={value}")]
        process = command.start("run", "-c", tmp_path / "jumpcloud.yaml", *options, **environ, JUMPCLOUD_API_KEY="")
        assert receiver.wait_for(1, timeout=60), command.log.read_text()
        with psycopg.connect(state_url.url.reveal()) as connection:
            query = f'SELECT name, address FROM "{state_url.schema}".member'  # noqa: S608 - our own
            assert connection.execute(query).fetchall() == [("in-jumpcloud-7d9f", "http://10.0.0.7:2021")]
        process.terminate()
        assert process.wait(30) == 0


def test_the_pod_monitor() -> None:
    """It is valid, and selects the pods and their port."""
    (monitor,) = render(FOLDER / "pod-monitor")
    jsonschema.validate(monitor, json.loads((DATA / "pod_monitor_schema.json").read_text()))
    template = base("standalone")["StatefulSet in-jumpcloud"]["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in template["spec"]["containers"][0]["ports"]}


def test_the_example_sets_the_image_everywhere() -> None:
    """No container has the name that only the bases use."""
    documents = json.dumps(render(FOLDER / "example"))
    assert documents.count("registry.example.com/in-jumpcloud:0.1.0") == 3
    assert '"image": "in-jumpcloud"' not in documents


@pytest.mark.skipif(KUBECTL is None, reason="no kubectl")
@pytest.mark.parametrize("name", [*ALL, "example"])
def test_kubectl_renders_the_same(name: str) -> None:
    """Our rendering is that of Kustomize, except for the order and the hash in the name of a ConfigMap."""
    done = subprocess.run([str(KUBECTL), "kustomize", FOLDER / name], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    # Only what Fluent Bit reads has a hash: it restarts for a change, and in_jumpcloud does not.
    hashed = r"\b(in-jumpcloud-fluent-bit)-[a-z0-9]{10}$"
    assert bool(re.search(hashed, done.stdout, re.MULTILINE)) == (name not in {"standalone", "group"})
    theirs = yaml.safe_load_all(re.sub(hashed, r"\1", done.stdout, flags=re.MULTILINE))

    def ordered(documents: Any) -> list[Document]:
        return sorted(documents, key=lambda each: (each["kind"], each["metadata"]["name"]))

    assert ordered(theirs) == ordered(render(FOLDER / name))


@pytest.mark.parametrize("name", CHARTS)
def test_the_values_are_those_of_the_chart(name: str) -> None:
    """The chart documents every name that is set, and the header gives the version of the chart."""
    text = (HELM / f"{name}.yaml").read_text()
    chart = yaml.safe_load((DATA / "helm_chart_values.yaml").read_text())[name]
    assert f"chart {name} (https://fluent.github.io/helm-charts, {chart['version']})" in text
    known = set(chart["values"])

    def unknown(values: Document, prefix: str = "") -> Iterator[str]:
        for key, value in values.items():
            path = f"{prefix}{key}"
            if path in chart["set_by_the_chart"] or not (path in known or prefix[:-1] in chart["open"]):
                yield path
            elif isinstance(value, dict) and any(each.startswith(f"{path}.") for each in known):
                yield from unknown(value, f"{path}.")

    assert list(unknown(yaml.safe_load(text))) == []


def test_the_pod_of_the_chart_fluent_bit() -> None:
    """Kubernetes accepts what the chart makes of the values, its volumes exist, and the image is safe to run so."""
    values = yaml.safe_load((HELM / "fluent-bit.yaml").read_text())
    documents = list(yaml.safe_load_all((HELM / "in-jumpcloud.yaml").read_text()))
    names = {f"{each['kind']} {each['metadata']['name']}" for each in documents}
    labels = {"app": "fluent-bit"}
    fluent_bit = {
        "name": "fluent-bit",
        "image": "fluent/fluent-bit:5.1.1",
        "securityContext": values["securityContext"],
        "resources": values["resources"],
        "volumeMounts": values["extraVolumeMounts"],
    }
    pod = {
        "securityContext": values["podSecurityContext"],
        "terminationGracePeriodSeconds": values["terminationGracePeriodSeconds"],
        "containers": [fluent_bit, *values["extraContainers"]],
        "volumes": values["extraVolumes"],
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": values["kind"],
        "metadata": {"name": "fluent-bit"},
        "spec": {
            "replicas": values["replicaCount"],
            "strategy": values["updateStrategy"],
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    for each in [deployment, *documents]:
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
    assert (values["replicaCount"], values["updateStrategy"]) == (1, {"type": "Recreate"})
    for volume in values["extraVolumes"]:
        if "persistentVolumeClaim" in volume:
            assert f"PersistentVolumeClaim {volume['persistentVolumeClaim']['claimName']}" in names
        if "configMap" in volume:
            assert f"ConfigMap {volume['configMap']['name']}" in names
    volumes = {volume["name"] for volume in values["extraVolumes"]}
    assert {mount["name"] for each in pod["containers"] for mount in each["volumeMounts"]} <= volumes


def test_the_fluent_bits_of_the_charts_have_the_shipped_settings() -> None:
    """Only paths, the HTTP server and what the chart sets differ from conf/fluent-bit-unix.conf and fluent-bit.yaml."""
    sections = yaml.safe_load((HELM / "fluent-bit.yaml").read_text())["config"]
    ours = [" ".join(line.split()) for section in sections.values() for line in section.splitlines() if line.strip()]
    shipped = (ROOT / "conf" / "fluent-bit-unix.conf").read_text().splitlines()
    theirs = [" ".join(line.split()) for line in shipped if line.strip() and not line.startswith("#")]
    different = ("storage.path", "HTTP_", "Health_Check")
    assert [line for line in ours if not line.startswith(different)] == [
        line for line in theirs if not line.startswith(different)
    ]

    config = yaml.safe_load((HELM / "fluent-bit-aggregator.yaml").read_text())["config"]
    shipped_yaml = yaml.safe_load((ROOT / "conf" / "fluent-bit.yaml").read_text())
    for service in (config["service"], shipped_yaml["service"]):
        for key in ("storage.path", "http_listen"):
            service.pop(key, None)
    for pipeline in (config["pipeline"], shipped_yaml["pipeline"]):
        (forward,) = pipeline["inputs"]
        for key in ("listen", "port", "shared_key", "self_hostname", "empty_shared_key"):
            forward.pop(key, None)
    assert (config["service"], config["pipeline"]) == (shipped_yaml["service"], shipped_yaml["pipeline"])


@needs_fluent_bit
@pytest.mark.parametrize("name", CHARTS)
def test_fluent_bit_accepts_what_the_charts_make_of_the_values(tmp_path: Path, name: str) -> None:
    """A file as the chart writes it, with its variables."""
    values = yaml.safe_load((HELM / f"{name}.yaml").read_text())
    config = values["config"]
    if name == "fluent-bit":
        file = tmp_path / "fluent-bit.conf"
        sections = "\n".join(config[section] for section in ("service", "inputs", "filters", "outputs"))
        file.write_text(sections.replace("{{ .Values.metricsPort }}", "2020"))
    else:
        file = tmp_path / "fluent-bit.yaml"
        document = {
            "env": {"STORAGE_PATH": str(tmp_path), "ADDITIONAL_PORT_0": "24224"},
            "service": {**config["service"], "http_server": True, "storage.path": "${STORAGE_PATH}"},
            "pipeline": config["pipeline"],
        }
        file.write_text(yaml.safe_dump(document))
    environ = {"FORWARD_SHARED_KEY": "key"}
    done = subprocess.run(  # noqa: S603
        [str(BINARY), "--dry-run", "-c", file], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "configuration test is successful" in done.stdout + done.stderr
