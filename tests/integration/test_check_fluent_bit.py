"""`in-jumpcloud check --fluent-bit`: one line for each setting that loses or duplicates events, and no other line."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from support.checks import Report
from support.command import ROOT, invoke

from in_jumpcloud.checks.fluent_bit_rules import rules

CONF = ROOT / "conf"
SHIPPED = [*CONF.glob("fluent-bit*"), *CONF.glob("outputs/*.yaml"), CONF / "docker" / "fluent-bit.yaml"]
MISTAKES = ROOT / "tests" / "data" / "fluent_bit_mistakes.csv"
TLS_FILES = ("ca_file", "cert_file", "key_file")


@pytest.fixture(autouse=True)
def no_fluent_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on PATH in which a test can put a `fluent-bit`; no other is found."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def check(path: Path, *arguments: object, **environ: str) -> Report:
    """Run the command on a configuration of Fluent Bit."""
    return Report(invoke("check", "--fluent-bit", path, *arguments, stdin=b"", **environ))


def write(directory: Path, text: str, name: str = "fluent-bit.yaml") -> Path:
    """A configuration."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


class Mistake(NamedTuple):
    """A shipped configuration in which `text` is replaced, and what must be said of it."""

    file: str
    text: str
    instead: str
    key: str
    result: str

    def write(self, directory: Path) -> Path:
        """The wrong configuration."""
        text = (CONF / self.file).read_text()
        assert self.text in text
        return write(directory, text.replace(self.text, self.instead, 1), self.file)


def mistakes() -> list[Mistake]:
    """Every row of the table."""
    return [Mistake(*row) for row in list(csv.reader(MISTAKES.read_text().splitlines(keepends=True)))[1:]]


def ours(directory: Path, name: str) -> Path:
    """The configuration of in_jumpcloud in the comment of a shipped file, without the certificates."""
    comment = re.search(r"^#   forward:\n(?:#     .*\n)+", (CONF / name).read_text(), re.MULTILINE)
    assert comment
    document: dict[str, Any] = yaml.safe_load(comment[0].replace("#   ", "").replace("${", "$${"))
    document = json.loads(json.dumps(document).replace("$${", "${"))
    for key in TLS_FILES if "tls" in document["forward"] else ():
        document["forward"]["tls"].pop(key)
    path = directory / "jumpcloud.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_shipped_files_have_no_mistake() -> None:
    """Nothing is said of any file in conf/ but that it has no mistake."""
    assert len(SHIPPED) > 15
    for path in SHIPPED:
        report = check(path)
        assert report.lines == [f"ok       Fluent Bit     {path}: no setting loses or duplicates events"]
        assert report.code == 0


def test_one_mistake_is_one_line(tmp_path: Path) -> None:
    """It names the file, the line, the setting and what to do; the table of rules has no row without a mistake."""
    for number, mistake in enumerate(mistakes()):
        path = mistake.write(tmp_path / str(number))
        report = check(path)
        (line,) = report.lines
        match = re.fullmatch(rf"(\w+) +Fluent Bit +{re.escape(str(path))}:(\d+): (.*?: )?(\S+)( .*)?; .*", line)
        assert match, line
        assert match[1] == mistake.result, line
        assert f": {mistake.key}" in line, line
        assert report.code == (2 if mistake.result == "FAILED" else 0)
    tried = {(mistake.key, mistake.result) for mistake in mistakes()}
    compared = {"ours"}
    assert {(each.key, each.severity) for each in rules() if each.rule not in compared} - tried == {
        ("version", "FAILED"),
        ("version", "warning"),
    }


def test_differences_from_ours(tmp_path: Path) -> None:
    """With -c: nothing for the settings that a file names in its comment, and one line for each that differs."""
    key = {"FORWARD_SHARED_KEY": "a shared key", "FORWARD_PASSWORD": "a password"}
    for path in CONF.glob("fluent-bit*"):
        if "parsers" in path.name or "once" in path.name:
            continue
        report = check(path, "-c", ours(tmp_path, path.name), **key)
        assert report.lines == [
            f"ok       Fluent Bit     {path}: no setting loses or duplicates events, and it agrees with forward"
        ]
    plain, tls = CONF / "fluent-bit.yaml", CONF / "fluent-bit-tls.yaml"
    unix = '[{"unix": "/run/other.sock"}]'
    for path, override, expected in (
        (plain, 'forward.servers=[{"host": "127.0.0.1", "port": 24225}]', "port is 24224: in_jumpcloud sends to "),
        (plain, f"forward.servers={unix}", "port is 24224: in_jumpcloud sends to unix:/run/other.sock; "),
        (CONF / "fluent-bit-unix.conf", f"forward.servers={unix}", "unix_path is /run/fluent-bit/forward.sock: "),
        (plain, "forward.shared_key=another key", "shared_key: the shared key differs from forward.shared_key; "),
        (plain, "forward.shared_key=null", "shared_key: the shared key differs from forward.shared_key; "),
        (tls, "forward.shared_key=another key", "shared_key: the shared key differs from forward.shared_key; "),
        (tls, "forward.username=other", "security.users: the users differ from forward.username; "),
        (tls, "forward.tls.enabled=false", "tls: it differs from forward.tls.enabled; "),
        (plain, "forward.message_max_bytes=8000000", "buffer_max_size is 8M: "),
        (plain, "forward.tag=other.{service}", "no output matches the tag other.any-service; "),
    ):
        report = check(path, "-c", ours(tmp_path, path.name), "-o", override, **key)
        (line,) = report.lines
        assert expected in line
        assert report.code == 2
        assert "another key" not in report.text
        assert "a shared key" not in report.text


def test_ours_from_the_environment() -> None:
    """Without a file ours is what the environment says, if it says anything."""
    path = CONF / "fluent-bit.yaml"
    assert check(path, IN_JUMPCLOUD_FORWARD__SHARED_KEY="", IN_JUMPCLOUD_FORWARD__TAG="jumpcloud.x").code == 0
    assert "another key" not in check(path, IN_JUMPCLOUD_FORWARD__SHARED_KEY="another key").text
    assert "shared_key: " in check(path, IN_JUMPCLOUD_FORWARD__SHARED_KEY="another key").failure


def test_only_the_input_that_receives_ours(tmp_path: Path) -> None:
    """Another forward input, and outputs that get nothing of ours, may have any settings."""
    text = (CONF / "fluent-bit.yaml").read_text()
    text = text.replace("  inputs:", "  inputs:\n    - {name: forward, port: 24999, tag: other, threaded: true}")
    text += "\n    - {name: http, match: other*}\n    - {name: prometheus_exporter, match: '*'}\n"
    path = write(tmp_path, text)
    assert [line for line in check(path).failures if "threaded is true" in line]
    assert check(path, "-c", ours(tmp_path, "fluent-bit.yaml")).code == 0


@pytest.mark.parametrize("suffix", [".yaml", ".conf"])
def test_includes_and_variables(tmp_path: Path, suffix: str) -> None:
    """Included files count, with their own place; variables come from the configuration, then from the environment."""
    included = {
        ".yaml": "pipeline:\n outputs:\n  - name: http\n    match: ${TAG:-jumpcloud.*}\n    retry_limit: ${RETRIES}\n",
        ".conf": "[OUTPUT]\n  Name http\n  Match ${TAG:-jumpcloud.*}\n  Retry_Limit ${RETRIES}\n",
    }[suffix]
    text = (CONF / f"fluent-bit{suffix}").read_text()
    output = {".yaml": "  outputs:", ".conf": "[OUTPUT]"}[suffix]
    text = text[: text.index(output)]
    own = {
        ".yaml": "env:\n  RETRIES: no_limits\nincludes:\n  - outputs/*.yaml\n",
        ".conf": "@SET RETRIES=no_limits\n@INCLUDE outputs/*.conf\n",
    }[suffix]
    write(tmp_path, included, f"outputs/http{suffix}")
    assert check(write(tmp_path, own + text, f"all{suffix}"), RETRIES="5").code == 0
    own = own.replace("no_limits", "").replace("env:\n  RETRIES: \n", "").replace("@SET RETRIES=\n", "")
    path = write(tmp_path, own + text, f"environment{suffix}")
    assert check(path, RETRIES="no_limits").code == 0
    number = {".yaml": 5, ".conf": 4}[suffix]
    assert f"outputs/http{suffix}:{number}: output http: retry_limit is 5: " in check(path, RETRIES="5").failure
    (line,) = check(path).lines
    assert line.startswith("warning")
    assert "retry_limit depends on ${RETRIES}, which is not set here" in line
    assert "no output matches" in check(path, TAG="other", RETRIES="off").failure


def test_files_that_cannot_be_parsed(tmp_path: Path) -> None:
    """One line with the file and the line, and exit code 2."""
    write(tmp_path, "pipeline: [\n", "broken.yaml")
    write(tmp_path, "[INPUT\n", "broken.conf")
    for name, text, expected in (
        ("a.yaml", "service:\n  grace: 30\n pipeline:\n", ":3: not valid YAML: "),
        ("a.yaml", "service:\n  log: \x01\n", ":2: not valid YAML: "),
        ("a.yaml", "pipeline:\n  inputs: &a [*a]\n", ":2: not valid YAML: Fluent Bit takes no aliases"),
        ("a.yaml", "pipeline: " + "[" * 3000, ":1: not valid YAML: "),
        ("a.yaml", "pipeline:\n  - name: forward\n", ":2: expected settings such as `name: forward`"),
        ("a.yaml", "pipeline:\n  input:\n    - name: forward\n", ":2: expected inputs, filters or outputs in pipeline"),
        ("a.yaml", "pipeline:\n  inputs:\n    name: forward\n", ":3: expected a list"),
        ("a.yaml", "# x\nincludes:\n  - missing.yaml\n", ":3: no such file: missing.yaml"),
        ("a.yaml", "includes:\n  - broken.yaml\n", "broken.yaml:2: not valid YAML: "),
        ("a.yaml", "includes:\n  - a.yaml\n", ":2: "),
        ("a.yaml", "jumpcloud:\n  region: eu\n", ":1: not a configuration of Fluent Bit: it has no section of one"),
        ("a.yaml", "", ":1: not a configuration of Fluent Bit"),
        ("a.conf", "[SERVICE]\n    Grace\n", ":2: Grace has no value"),
        ("a.conf", "[SERVICE]\n    Grace 30\n  Flush 1\n", ":3: the indentation differs from that of the lines before"),
        ("a.conf", "[SERVICE]\n    Grace 30\n      Flush 1\n", ":3: the indentation differs"),
        ("a.conf", "[SERVICE]\nGrace 30\n", ":2: expected [SECTION], or a setting that is indented"),
        ("a.conf", "\n    Grace 30\n", ":2: expected a section such as [INPUT] before the first setting"),
        ("a.conf", "[SERVICE]\n[INPUT\n", ":2: a section such as [INPUT] needs a closing bracket"),
        ("a.conf", "@INCLUDE broken.conf\n", "broken.conf:1: a section such as [INPUT] needs a closing bracket"),
    ):
        report = check(write(tmp_path, text, name))
        (line,) = report.lines
        assert expected in line, line
        assert report.code == 2
    assert "nowhere.yaml cannot be read: No such file or directory" in check(tmp_path / "nowhere.yaml").failure
    assert "it has no forward input" in check(write(tmp_path, "pipeline: {inputs: [{name: tail}]}")).failure


def test_the_version(no_fluent_bit: Path) -> None:
    """The `fluent-bit` on PATH: too old for acks, too old for the `exec` input, or one that does not answer."""
    program = no_fluent_bit / "fluent-bit"
    for name, script, expected in (
        (
            "fluent-bit.yaml",
            "echo Fluent Bit v3.1.9",
            "FAILED .*is version 3.1.9: it acknowledges records that it drops",
        ),
        ("fluent-bit.yaml", "echo Fluent Bit v5.0.6", "warning .*is version 5.0.6: "),
        ("fluent-bit-exec.conf", "echo Fluent Bit v5.0.6", "FAILED .*is version 5.0.6: it hangs at SIGTERM"),
        ("fluent-bit-exec.conf", "echo Fluent Bit v5.1.1", "ok .*no setting loses or duplicates events"),
        ("fluent-bit.yaml", "exit 1", "warning .*does not say its version"),
    ):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        (line,) = check(CONF / name).lines
        assert re.match(expected, line), line


def test_the_page_has_every_rule() -> None:
    """conf/delivery.md explains each setting of the table of rules, and no other."""
    page = (CONF / "delivery.md").read_text()
    table = re.findall(r"^\| (.*?)(?:;[^|]*| \(default\))? \|", page, re.MULTILINE)
    explained = [row for row in table if row not in {"setting", "---"}]
    points = re.findall(r"^- \*\*(.*?)\*\*", page, re.MULTILINE)
    settings = {rule.setting for rule in rules() if rule.setting}
    assert set(explained) <= settings
    assert settings - set(explained) - {point.rstrip(".") for point in points} == set()
