"""The containers of compose.yaml and sidecar.yaml, with their settings, mounts and read-only root, at work.

Bubblewrap stands in for the container's engine, this machine's Python and Fluent Bit for those of the images.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from support.command import KEY, ROOT, wait_until
from support.fluent_bit import BINARY, free_port, needs_fluent_bit

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource

BWRAP = shutil.which("bwrap")
DOCKERFILE = (ROOT / "conf" / "docker" / "Dockerfile").read_text()
COMMAND_PATH = "/opt/in-jumpcloud"
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
FLUENT_BIT = "/fluent-bit/bin/fluent-bit"  # where it is in its image


def _bubblewrap_works() -> bool:
    probe = [str(BWRAP), "--unshare-user", "--uid", "10001", "--ro-bind", "/", "/", "true"]
    return BWRAP is not None and subprocess.run(probe, capture_output=True, check=False).returncode == 0  # noqa: S603


pytestmark = [
    needs_fluent_bit,
    pytest.mark.skipif(not _bubblewrap_works(), reason="no bwrap (package bubblewrap), or it may not make namespaces"),
]


class Container(NamedTuple):
    """One container: what it runs, what is mounted where, and what is asked of it."""

    name: str
    arguments: list[str]
    volumes: dict[str, str]  # path in the container: name
    files: dict[str, str]  # path in the container: text
    probes: list[tuple[int, str]]  # port, path


def _instruction(name: str) -> Any:
    """The value of an instruction in the Dockerfile that has it as JSON."""
    found = re.search(rf"^{name}\b.*?(\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert found, name
    return json.loads(found[1])


def _of_compose() -> list[Container]:
    folder = ROOT / "conf" / "docker"
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    containers = []
    for name in ("fluent-bit", "in-jumpcloud"):
        service = compose["services"][name]
        mounts = [volume.split(":") for volume in service["volumes"]]
        arguments = service.get("command") or _instruction("CMD")
        files = {target: (folder / source).read_text() for source, target, *_ in mounts if source.startswith(".")}
        files |= {f"/run/secrets/{secret}": KEY for secret in service.get("secrets", [])}
        volumes = {target: source for source, target, *_ in mounts if not source.startswith(".")}
        containers.append(Container(name, arguments, volumes, files, []))
    return containers


def _of_pod() -> list[Container]:
    documents = list(yaml.safe_load_all((ROOT / "conf" / "kubernetes" / "sidecar.yaml").read_text()))
    texts = next(each["data"] for each in documents if each["kind"] == "ConfigMap")
    pod = next(each for each in documents if each["kind"] == "StatefulSet")["spec"]["template"]["spec"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    containers = []
    for each in pod["initContainers"] + pod["containers"]:
        files, kept = {}, {}
        for mount in each["volumeMounts"]:
            volume = volumes.get(mount["name"], {})  # a claim is not among them
            for item in volume.get("configMap", {}).get("items", []):
                files[f"{mount['mountPath']}/{item['path']}"] = texts[item["key"]]
            if "secret" in volume:
                files[f"{mount['mountPath']}/jumpcloud-api-key"] = KEY
            if not volume.keys() & {"configMap", "secret"}:
                kept[mount["mountPath"]] = mount["name"]
        ports = {port["name"]: port["containerPort"] for port in each["ports"]}
        asked = [each[probe]["httpGet"] for probe in PROBES if probe in each]
        probes = [(ports[get["port"]], get["path"]) for get in asked]
        containers.append(Container(each["name"], each.get("args") or _instruction("CMD"), kept, files, probes))
    return containers


class Running(NamedTuple):
    """A container that runs; `pid` is of the process in it, which is the first one there."""

    sandbox: subprocess.Popen[bytes]
    pid: int

    def stop(self) -> int:
        """Ask it to end, and wait for the exit code."""
        os.kill(self.pid, getattr(signal, DOCKERFILE.partition("STOPSIGNAL ")[2].split()[0]))
        return self.sandbox.wait(40)


class Engine:
    """Runs containers in a sandbox: their own files, no other place to write to than their volumes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, container: Container) -> Running:
        """Start one; what it prints goes to `log`."""
        program = [FLUENT_BIT] if container.name == "fluent-bit" else _instruction("ENTRYPOINT")
        read, write = os.pipe()
        sandbox = self._sandbox(container, ["--info-fd", str(write)], [*program, *container.arguments])
        with open(read) as info, self.log(container.name).open("wb") as log:  # noqa: PTH123 - a pipe
            process = subprocess.Popen(sandbox, stdout=log, stderr=log, pass_fds=[write])  # noqa: S603 - ours
            self._processes.append(process)
            os.close(write)
            return Running(process, json.load(info)["child-pid"])

    def run(self, container: Container, arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
        """Run a command beside it, such as its health check."""
        sandbox = self._sandbox(container, [], arguments)
        return subprocess.run(sandbox, capture_output=True, timeout=60, check=False)  # noqa: S603 - ours

    def log(self, name: str) -> Path:
        """What a container printed."""
        return self._directory / f"{name}.log"

    def kill(self) -> None:
        """End what is left."""
        for process in self._processes:
            process.kill()
            process.wait()

    def _sandbox(self, container: Container, more: list[str], arguments: list[str]) -> list[str]:
        options = [str(BWRAP), *more, "--unshare-user", "--uid", "10001", "--gid", "10001"]
        options += ["--unshare-pid", "--as-pid-1", "--die-with-parent"]
        options += [
            "--clearenv",
            "--setenv",
            "PATH",
            f"{COMMAND_PATH}/bin:/usr/bin",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
        ]
        for path in ("/usr", "/etc/ssl"):
            options += ["--ro-bind", path, path]
        for link in ("bin", "lib", "lib64"):
            options += ["--ro-bind-try", f"/{link}", f"/{link}"]
        for path in dict.fromkeys((sys.base_prefix, sys.prefix, str(ROOT / "plugin"))):
            options += ["--ro-bind", path, path]
        options += ["--ro-bind", sys.prefix, COMMAND_PATH, "--ro-bind", str(BINARY), FLUENT_BIT]
        for number, (target, text) in enumerate(container.files.items()):
            file = self._directory / f"{container.name}-{number}"
            file.write_text(text)
            options += ["--ro-bind", str(file), target]
        for target, volume in container.volumes.items():
            source = self._directory / "volumes" / volume
            source.mkdir(parents=True, exist_ok=True)
            options += ["--bind", str(source), target]
        home = "/var/lib/in-jumpcloud" if container.name == "in-jumpcloud" else "/"
        return [*options, "--remount-ro", "/", "--chdir", home, "--", *arguments]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine; what it started is ended with the test."""
    engine = Engine(tmp_path)
    yield engine
    engine.kill()


def _get(port: int, path: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return int(answer.status)


@pytest.mark.parametrize("shipped", [_of_compose(), _of_pod()], ids=["compose", "pod"])
def test_the_containers_deliver_report_and_end(engine: Engine, shipped: list[Container]) -> None:
    """As shipped they write only to their volumes, deliver every event, answer their probes, and end when asked."""
    now_ms = time.time_ns() // 1_000_000
    source = EventSource(seed=3, start_ms=now_ms - 3_600_000, end_ms=now_ms - 60_000, per_minute=5)
    ports = {2021: free_port(), 2020: free_port()}
    with SimulatedApi(source) as api:
        changes = {
            "region: us ": f"url: {api.url} ",
            "listen: 0.0.0.0:2021": f"listen: 127.0.0.1:{ports[2021]}",
            "http_listen: 0.0.0.0": "http_listen: 127.0.0.1",
            "http_port: 2020": f"http_port: {ports[2020]}",
        }
        fluent_bit, plugin = (_changed(each, changes) for each in shipped)
        receiving = engine.start(fluent_bit)
        running = engine.start(plugin)

        def delivered() -> set[str]:
            for process, container in ((running, plugin), (receiving, fluent_bit)):
                assert process.sandbox.poll() is None, engine.log(container.name).read_text()
            lines = engine.log(fluent_bit.name).read_text().splitlines(keepends=True)
            return {json.loads(line)["event"]["id"] for line in lines if line.startswith("{") and line.endswith("}\n")}

        expected = source.count(0, now_ms, now_ms=now_ms)
        wait_until(lambda: len(delivered()) == expected > 0)
        health = engine.run(plugin, _instruction("HEALTHCHECK"))
        assert health.returncode == 0, health
        for port, path in plugin.probes + fluent_bit.probes:
            assert _get(ports[port], path) == HTTPStatus.OK, path

        assert running.stop() == 0, engine.log(plugin.name).read_text()

        assert engine.run(plugin, _instruction("HEALTHCHECK")).returncode == 1
        assert receiving.stop() == 0, engine.log(fluent_bit.name).read_text()


def _changed(container: Container, changes: dict[str, str]) -> Container:
    files = {}
    for path, text in container.files.items():
        for theirs, ours in changes.items():
            text = text.replace(theirs, ours)  # noqa: PLW2901 - one change after the other
        files[path] = text
    return container._replace(files=files)
