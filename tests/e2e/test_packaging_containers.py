"""The plugin's container: its entrypoint, health check, probes and stop signal work with the shipped configurations."""

from __future__ import annotations

import json
import re
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.command import KEY, ROOT, Command, wait_until
from support.fluent_bit import free_port
from support.geoip import ASN, CITY
from support.kustomize import render

from in_jumpcloud.config.locations import CONFIG_FILES
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver

DOCKERFILE = (ROOT / "conf" / "docker" / "Dockerfile").read_text()
CONFIGURATION = Path("/etc/in-jumpcloud/jumpcloud.yaml")


def instruction(name: str) -> Any:
    """The JSON value of an instruction of the Dockerfile."""
    match = re.search(rf"^{name}\b.*?(\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert match, name
    return json.loads(match[1])


def manifests(name: str) -> dict[str, Any]:
    """The documents of a Kubernetes directory, by kind and name."""
    return {f"{each['kind']} {each['metadata']['name']}": each for each in render(ROOT / "conf" / "kubernetes" / name)}


@pytest.mark.parametrize("name", ["compose", "sidecar", "standalone"])
def test_the_container_delivers_and_stops(command: Command, tmp_path: Path, name: str) -> None:
    """The image's command finds its configuration, delivers every event, passes its probes, and stops cleanly."""
    probes = ["/healthz", "/readyz"]
    if name == "compose":
        service = yaml.safe_load((ROOT / "conf" / "docker" / "compose.yaml").read_text())["services"]["in-jumpcloud"]
        file = next(Path(each.split(":")[0]) for each in service["volumes"] if f":{CONFIGURATION}:" in each)
        text = (ROOT / "conf" / "docker" / file).read_text()
        mounts = [each.split(":")[1] for each in service["volumes"]]
    else:
        documents = manifests(name)
        text = documents["ConfigMap in-jumpcloud"]["data"]["jumpcloud.yaml"]
        container = documents["StatefulSet in-jumpcloud"]["spec"]["template"]["spec"]["containers"][0]
        assert "command" not in container
        assert "args" not in container
        mounts = [each["mountPath"] for each in container["volumeMounts"]]
        assert str(CONFIGURATION.parent) in mounts
        probes = [value["httpGet"]["path"] for key, value in container.items() if key.endswith("Probe")]
    now_ms = time.time_ns() // 1_000_000
    source = EventSource(start_ms=now_ms - 3_600_000, end_ms=now_ms - 60_000, per_minute=5)
    for secret, value in (("jumpcloud-api-key", KEY), ("forward-shared-key", "the key")):
        (tmp_path / secret).write_text(value)
    socket = None if name == "standalone" else str(tmp_path / "forward.sock")
    shared_key = "the key" if name == "standalone" else ""
    port = free_port()
    with SimulatedApi(source) as api, SimulatedReceiver(unix_path=socket, shared_key=shared_key) as receiver:
        changes = {
            "region: us ": f"url: {api.url} ",
            "host: fluent-bit.logging.svc ": "host: 127.0.0.1 ",
            "port: 24224": f"port: {receiver.port}",
            "/run/fluent-bit/forward.sock": str(socket),
            "/run/secrets/in-jumpcloud": str(tmp_path),
            "/run/secrets": str(tmp_path),
            "/var/lib/GeoIP/GeoLite2-City.mmdb": str(CITY),
            "/var/lib/GeoIP/GeoLite2-ASN.mmdb": str(ASN),
            "0.0.0.0:2021": f"127.0.0.1:{port}",
        }
        for shipped, ours in changes.items():
            text = text.replace(shipped, ours)
        (tmp_path / CONFIGURATION.name).write_text(text)
        # The search order ends with the container's path; here it begins with the working directory.
        assert (Path(CONFIGURATION.name), CONFIGURATION) == CONFIG_FILES
        command.working_directory = tmp_path
        (state,) = re.findall(r"STATE_DIRECTORY=(\S+)", DOCKERFILE)
        assert state in mounts
        command.environ["STATE_DIRECTORY"] = str(tmp_path / "state")
        (tmp_path / "state").mkdir()

        program, *health = instruction("HEALTHCHECK")
        entrypoint, *arguments = instruction("ENTRYPOINT") + instruction("CMD")
        assert program == entrypoint == "in-jumpcloud"
        process = command.start(*arguments)
        expected = source.count(0, now_ms, now_ms=now_ms)
        wait_until(lambda: len(receiver.ids) == expected or process.poll() is not None)
        assert sum(receiver.ids.values()) == len(receiver.ids) == expected, command.log.read_text()
        wait_until(lambda: command(*health).returncode == 0)
        for path in probes:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                assert answer.status == 200, path

        assert [each.name for each in (tmp_path / "state").glob("*.db")] == ["in-jumpcloud.db"]
        process.send_signal(signal.Signals[DOCKERFILE.partition("STOPSIGNAL ")[2].split()[0]])
        assert process.wait(20) == 0, command.log.read_text()
        assert command(*health).returncode == 1
