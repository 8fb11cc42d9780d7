"""Checks a configuration of Fluent Bit: what in it loses or duplicates events, and where it differs from ours."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from in_jumpcloud.checks.fluent_bit_file import Section, Value, read_configuration
from in_jumpcloud.checks.fluent_bit_rules import Rule, rules, switch
from in_jumpcloud.checks.result import CONFIGURATION, CheckResult, failed, ok, warning
from in_jumpcloud.config.schema import ForwardSettings
from in_jumpcloud.tags import TagTemplate

_CHECK = "Fluent Bit"
_PROGRAM = "fluent-bit"
_VERSION_SECONDS = 10
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")
_OUR_COMMAND = re.compile(r"(?:^|[\s/'\"])in[-_]jumpcloud(?:\s|$)")
_ANY_SERVICE, _ANY_ORGANIZATION = "any-service", "any-organization"
"""Stand for those of an event in its tag."""
_TAKES_NO_LOGS = {"prometheus_exporter", "prometheus_remote_write", "calyptia"}


def check_fluent_bit(path: Path, ours: ForwardSettings | None, environ: Mapping[str, str]) -> Iterator[CheckResult]:
    """Check the configuration at `path`; without `ours`, only for what is wrong whatever ours is.

    Raises:
        ConfigError: it cannot be read or parsed.
    """
    found = False
    for result in _Judge(path, read_configuration(path, environ), ours).results():
        found = True
        yield result
    if not found:
        compared = ", and it agrees with forward" if ours else ""
        yield ok(_CHECK, f"{path}: no setting loses or duplicates events{compared}")


class _Judge:
    def __init__(self, path: Path, sections: list[Section], ours: ForwardSettings | None) -> None:
        self._path = path
        self._ours = ours
        inputs = [section for section in sections if section.kind == "input"]
        self._has_inputs = bool(inputs)
        self._filters = [section for section in sections if section.kind == "filter"]
        self._outputs = [section for section in sections if section.kind == "output"]
        self._is_one_to_one = len(inputs) == len(self._outputs) == 1
        services = [section for section in sections if section.kind == "service"]
        self._service = Section("service", services[0].place if services else str(path))
        for service in services:
            self._service.values |= service.values
        self._execs = [each for each in inputs if each.plugin == "exec" and _OUR_COMMAND.search(each.text("command"))]
        forwards = [each for each in inputs if each.plugin == "forward"]
        self._forwards = [each for each in forwards if self._is_ours(each)] or forwards
        settings = ours or ForwardSettings()
        self._tag = TagTemplate(settings.tag).of(_ANY_SERVICE, _ANY_ORGANIZATION)
        self._facts = {"message_max_bytes": int(settings.message_max_bytes)}

    def results(self) -> Iterator[CheckResult]:
        """What is wrong."""
        yield from self._check_version()
        if self._has_inputs and not self._forwards:
            yield failed(_CHECK, f"{self._path}: it has no forward input, so it receives no events", code=CONFIGURATION)
        if self._forwards:
            yield from self._check_section(self._service)
        for section in (*self._forwards, *self._execs):
            yield from self._check_section(section)
        tags = [self._tag_of(each) for each in self._forwards] or [self._tag]
        for section in self._filters:
            if any(self._matches(section, tag) for tag in tags):
                yield from self._check_section(section)
                tags += _new_tags(section)
        named = {text for each in self._forwards for text in _texts(each, "routes")}
        for section in self._outputs:
            if any(self._matches(section, tag) for tag in tags) or _is_named(section, named):
                yield from self._check_section(section)

    def _check_section(self, section: Section) -> Iterator[CheckResult]:
        for rule in rules():
            if not rule.applies(section):
                continue
            if rule.rule == "routed":
                yield from self._check_route(rule, section)
            elif rule.rule == "ours":
                yield from self._compare(rule, section)
            else:
                yield from self._check_value(rule, section)

    def _check_value(self, rule: Rule, section: Section) -> Iterator[CheckResult]:
        value = section.get(rule.key)
        if value and value.text is None:
            yield self._unknown(rule, section, value)
        elif value and value.text is not None:
            if not rule.holds(value.text, self._facts):
                # A command may contain a secret.
                given = f"has no {rule.value}" if rule.rule == "has" else f"is {value.text}"
                yield self._result(rule, section, given, value)
        elif rule.rule != "absent" and not rule.holds(self._default(rule), self._facts):
            default = self._default(rule)
            yield self._result(rule, section, "is not set" + (f" (default {default})" if default else ""))

    def _default(self, rule: Rule) -> str:
        if rule.key == "storage.type" and switch(self._service.text("storage.inherit")) == "on":
            return self._service.text("storage.type", rule.default).lower()
        return rule.default

    def _check_route(self, rule: Rule, section: Section) -> Iterator[CheckResult]:
        tag = self._tag_of(section)
        is_renamed = any(each.plugin == "rewrite_tag" and self._matches(each, tag) for each in self._filters)
        if is_renamed or "routes" in section.values or any(self._matches(each, tag) for each in self._outputs):
            return
        yield self._result(rule, section, "", section.get(rule.key), {"tag": tag})

    def _tag_of(self, section: Section) -> str:
        if section.plugin != "forward":
            return section.text("tag", f"{section.plugin}.0")
        prefix = section.text("tag_prefix")
        return prefix + self._tag if prefix else section.text("tag", self._tag)

    def _matches(self, section: Section, tag: str) -> bool:
        """Whether an output or a filter takes a tag. A pattern that is not known here, or not for Python, does."""
        if section.plugin in _TAKES_NO_LOGS:
            return False
        pattern, regex = section.get("match"), section.get("match_regex")
        if pattern is None and regex is None:
            return section.kind == "output" and self._is_one_to_one
        if (pattern and pattern.text is None) or (regex and regex.text is None):
            return True
        try:
            if regex and re.match(regex.text or "", tag):
                return True
        except re.error:
            return True
        parts = (pattern.text or "").split("*") if pattern else []
        return bool(parts) and bool(re.fullmatch(".*".join(map(re.escape, parts)), tag, re.DOTALL))

    # Ours

    def _is_ours(self, section: Section) -> bool:
        """Whether in_jumpcloud sends to this forward input."""
        path, port = section.get("unix_path"), _port(section)
        servers = self._ours.servers if self._ours else ()
        if path:
            return any(path.text in {None, str(server.unix)} for server in servers if server.unix)
        return any(port in {None, str(server.port)} for server in servers if server.host)

    def _compare(self, rule: Rule, section: Section) -> Iterator[CheckResult]:
        if self._ours is None or self._agrees(rule.key, section, self._ours):
            return
        given = {"port": f"is {_port(section)}", "unix_path": f"is {section.text('unix_path')}"}.get(rule.key, "")
        servers = ", ".join(map(str, self._ours.servers))
        yield self._result(rule, section, given, section.get(rule.key), {"servers": servers})

    def _agrees(self, key: str, section: Section, ours: ForwardSettings) -> bool:
        if key == "port":
            return self._is_ours(section) or "unix_path" in section.values
        if key == "unix_path":
            return self._is_ours(section) or "unix_path" not in section.values
        if key == "tls":
            return (switch(section.text("tls", "off")) == "on") == ours.tls.enabled
        if key == "security.users":
            users = section.values.get("security.users", [])
            names = {(user.text or "").partition(" ")[0] for user in users}
            is_known = all(user.text is not None for user in users)
            return bool(users) == bool(ours.username) and (not is_known or not users or ours.username in names)
        key_value = section.get("shared_key")
        if key_value is None:
            theirs = "" if switch(section.text("empty_shared_key")) == "on" else None
        elif key_value.text is None:
            return bool(ours.shared_key and ours.shared_key.reveal())
        else:
            theirs = key_value.text
        return theirs == (ours.shared_key.reveal() if ours.shared_key is not None else None)

    # Results

    def _check_version(self) -> Iterator[CheckResult]:
        program = shutil.which(_PROGRAM)
        if not program or not self._forwards:
            return
        version = _version_of(program)
        if version is None:
            yield warning(_CHECK, f"{program} --version does not say its version", "see that it is 5.1.0 or later")
            return
        for rule in rules():
            is_about = rule.section == "version" and (rule.plugin != "exec" or self._execs)
            if is_about and version < tuple(map(int, rule.value.split("."))):
                text = f"{program} is version {'.'.join(map(str, version))}: {rule.problem}"
                yield _with_severity(rule, text, rule.advice)
                return

    def _result(
        self,
        rule: Rule,
        section: Section,
        given: str,
        value: Value | None = None,
        facts: Mapping[str, object] | None = None,
    ) -> CheckResult:
        facts = {**self._facts, **(facts or {})}
        place = value.place if value else section.place
        subject = f"{place}: {section}: {rule.key} {given}".rstrip()
        return _with_severity(rule, f"{subject}: {rule.problem.format(**facts)}", rule.advice.format(**facts))

    def _unknown(self, rule: Rule, section: Section, value: Value) -> CheckResult:
        text = f"{value.place}: {section}: {rule.key} depends on ${{{value.variable}}}, which is not set here"
        return warning(_CHECK, text, f"set {value.variable} as Fluent Bit has it, and check again")


def _with_severity(rule: Rule, text: str, advice: str) -> CheckResult:
    if rule.severity == "FAILED":
        return failed(_CHECK, text, advice, CONFIGURATION)
    return warning(_CHECK, text, advice)


def _version_of(program: str) -> tuple[int, ...] | None:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, timeout=_VERSION_SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(done.stdout.decode(errors="replace"))
    return tuple(map(int, match.groups())) if match else None


def _texts(section: Section, key: str) -> list[str]:
    return [value.text for value in section.values.get(key, []) if value.text]


def _new_tags(section: Section) -> list[str]:
    """The tags that a rewrite_tag filter gives, except for those it makes of others. A rule is `KEY REGEX TAG KEEP`."""
    rules_of_it = [text.split() for text in _texts(section, "rule")] if section.plugin == "rewrite_tag" else []
    return [words[-2] for words in rules_of_it if len(words) > 3 and "$" not in words[-2]]  # noqa: PLR2004 - as above


def _is_named(output: Section, names: set[str]) -> bool:
    return bool(names & {output.text("alias"), output.text("name")} - {""})


def _port(section: Section) -> str | None:
    """The port of a forward input; None if it is not known here."""
    value = section.get("port")
    return value.text if value else "24224"
