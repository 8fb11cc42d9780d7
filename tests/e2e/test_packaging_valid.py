"""Every YAML file of conf/ and every workflow has a validator, and what stops the plugin leaves it enough time."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from support.command import ROOT
from support.fluent_bit import BINARY
from support.kustomize import render

from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config, ForwardSettings
from in_jumpcloud.config.types import Duration
from in_jumpcloud.errors import ConfigError

CONF = ROOT / "conf"
HERE = Path(__file__).parent


def settings(path: Path) -> None:
    """The plugin loads it; only files that are not here may be missing."""
    try:
        load_config(path, environ={"JUMPCLOUD_API_KEY": "key"})
    except ConfigError as error:
        if not error.may_pass:
            raise


def schema(name: str) -> Callable[[Path], None]:
    """It has the shape of this schema of check-jsonschema."""

    def validate(path: Path) -> None:
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{name}", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        assert done.returncode == 0, done.stdout + done.stderr

    return validate


def kubernetes(path: Path) -> None:
    """Kubernetes accepts its documents."""
    for each in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)


def kustomization(path: Path) -> None:
    """Every key is known and every file that it names exists; test_packaging_kubernetes.py validates the result."""
    assert render(path.parent)


def part_of_a_kustomization(path: Path) -> None:
    """The kustomization.yaml of its directory uses it."""
    assert path.name in (path.parent / "kustomization.yaml").read_text()


def fluent_bit(path: Path) -> None:
    """Fluent Bit accepts it; without a Fluent Bit, it has its sections, and every plugin has a name."""
    document = yaml.safe_load(path.read_text())
    assert document.keys() <= {"env", "includes", "parsers", "pipeline", "service"}
    assert all(each["name"] for plugins in document["pipeline"].values() for each in plugins)
    if BINARY:
        done = subprocess.run([BINARY, "--dry-run", "-c", path], capture_output=True, text=True, check=False)  # noqa: S603
        assert done.returncode == 0, done.stdout + done.stderr


def in_its_own_test(module: str) -> Callable[[Path], None]:
    """A test in this module uses the file."""

    def validate(path: Path) -> None:
        text = (HERE / module).read_text()
        assert path.name in text or path.stem in text or f'"{path.parent.name}"' in text, module

    return validate


VALIDATORS: dict[str, Callable[[Path], None]] = {
    "jumpcloud.yaml": settings,
    "*/jumpcloud.yaml": settings,
    "systemd/jumpcloud-ha.yaml": settings,
    "systemd/jumpcloud-tls.yaml": in_its_own_test("test_packaging_files.py"),
    "fluent-bit*.yaml": fluent_bit,
    "docker/fluent-bit.yaml": fluent_bit,
    "kubernetes/*/fluent-bit.yaml": fluent_bit,
    "outputs/*.yaml": in_its_own_test("test_conf_outputs.py"),
    "monitoring/alerts*.yaml": in_its_own_test("test_packaging_monitoring.py"),
    "docker/compose.yaml": schema("compose-spec"),
    "kubernetes/*/kustomization.yaml": kustomization,
    "kubernetes/*/*.yaml": part_of_a_kustomization,
    "helm/in-jumpcloud.yaml": kubernetes,
    "helm/fluent-bit*.yaml": in_its_own_test("test_packaging_kubernetes.py"),
}
"""Pattern of paths in conf/ → validator. The first that matches is used."""
WITHOUT = {"receivers/otel-collector.yaml", "receivers/vector.yaml"}
"""Their programs alone can check them; they are only parsed."""


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_every_yaml_is_valid(path: Path) -> None:
    """Its validator accepts it, and there is one."""
    name = str(path.relative_to(CONF))
    assert list(yaml.safe_load_all(path.read_text()))
    if name not in WITHOUT:
        next(validate for pattern, validate in VALIDATORS.items() if fnmatch.fnmatch(name, pattern))(path)


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").iterdir()), ids=lambda path: path.name)
def test_every_workflow_is_valid(path: Path) -> None:
    """GitHub's schema accepts it; every job has a time limit, and only those that need it may write."""
    schema("github-workflows")(path)
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert [name for name, job in workflow["jobs"].items() if "timeout-minutes" not in job] == []


def test_the_release_publishes_everything_with_attestations() -> None:
    """Wheel, sdist, packages and image: each is built, attested and published, the packages only after their trial."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    steps = {name: "\n".join(str(step) for step in job["steps"]) for name, job in jobs.items()}
    assert all(command in steps["build"] for command in ("make test", "make dist", "make deb"))
    for job in ("build", "image"):
        assert "actions/attest-build-provenance@" in steps[job]
        assert jobs[job]["permissions"]["attestations"] == "write"
    assert "'attestations': True" in steps["pypi"]
    assert "package_trial.sh" in steps["package"]
    assert all("package" in jobs[job]["needs"] for job in ("pypi", "image"))
    assert "gh release create" in steps["release"]


def stop_timeouts() -> Iterator[tuple[str, float]]:
    """How long each deployment waits, in seconds, after SIGTERM for the container or the service to stop."""
    unit = re.search(r"^TimeoutStopSec=(.*)$", (CONF / "systemd" / "in-jumpcloud.service").read_text(), re.MULTILINE)
    assert unit
    yield "unit", Duration.parse(unit[1])
    for name, service in yaml.safe_load((CONF / "docker" / "compose.yaml").read_text())["services"].items():
        if name in {"in-jumpcloud", "fluent-bit"}:
            yield f"compose {name}", Duration.parse(service["stop_grace_period"])
    for base in ("standalone", "sidecar", "group"):
        (pod,) = (
            each["spec"]["template"]["spec"]
            for each in render(CONF / "kubernetes" / base)
            if each["kind"] in {"StatefulSet", "Deployment"}
        )
        yield base, pod["terminationGracePeriodSeconds"]
    for chart in CONF.glob("helm/fluent-bit*.yaml"):
        yield chart.stem, yaml.safe_load(chart.read_text())["terminationGracePeriodSeconds"]


def test_a_stop_has_enough_time() -> None:
    """Every timeout is above forward.stop_timeout, and above the grace of the Fluent Bit that is stopped with it."""
    shipped = [yaml.safe_load(path.read_text()) for path in CONF.rglob("jumpcloud*.yaml") if "schema" not in path.name]
    longest = max(Duration.parse(each.get("forward", {}).get("stop_timeout", "0s")) for each in shipped)
    needed = max(longest, Config().forward.stop_timeout, ForwardSettings().stop_timeout)
    (grace,) = {
        int(each)
        for path in CONF.rglob("fluent-bit*.yaml")
        for each in re.findall(r"(?i)^ *grace:? +(\d+)", path.read_text(), re.MULTILINE)
    }
    found = dict(stop_timeouts())
    assert len(found) == 8
    assert {name: value for name, value in found.items() if value <= needed} == {}
    with_fluent_bit = [name for name in found if name not in {"unit", "standalone", "group", "compose in-jumpcloud"}]
    assert {name: found[name] for name in with_fluent_bit if found[name] <= grace} == {}
