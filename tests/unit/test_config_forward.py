"""The settings of the receivers: tags, handshake, certificates."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from in_jumpcloud.config.loader import load_config
from in_jumpcloud.errors import ConfigError
from in_jumpcloud.tags import TagTemplate


def problems(text: str, tmp_path: Path) -> list[str]:
    """What is wrong with a `forward:` section."""
    file = tmp_path / "c.yaml"
    file.write_text(f"jumpcloud: {{api_key: k}}\nforward: {text}\n")
    try:
        load_config(file, environ={})
    except ConfigError as error:
        return [line.removeprefix(f"{file}: ") for line in str(error).splitlines()]
    return []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{username: u}", ["forward.password: missing", "forward.shared_key: missing"]),
        ("{password: p}", ["forward.username: missing"]),
        ("{self_hostname: h}", ["forward.shared_key: missing"]),
        ("{shared_key: '', username: u, password: p}", []),
        ("{shared_key: k, self_hostname: h}", []),
        (f"{{shared_key: k, self_hostname: {'h' * 601}}}", ["forward.username: is longer than 600 bytes"]),
        ("{compress: zstd}", ["forward.compress: invalid enum value 'zstd'"]),
        ("{servers: [{host: a}, {host: b}, {host: a, port: 24224}]}", ["forward.servers[2]: a:24224 stands twice"]),
        ("{servers: [{unix: /s}], tls: {enabled: true}}", ["forward.tls.server_name: missing"]),
        ("{servers: [{unix: /s}], tls: {enabled: true, verify: false}}", []),
        (
            "{tls: {key_file: k}}",
            ["forward.tls.enabled: is false", "forward.tls.cert_file: m", "forward.tls.key_file: n"],
        ),
        ("{tls: {enabled: true, ca_file: /none}}", ["forward.tls.ca_file: no such file: /none"]),
        ("{tag: 'a b'}", ["forward.tag: holds a blank"]),
        ("{tag: 'a{b'}", ["forward.tag: the placeholders are"]),
        ("{tag: '{service}.{organization}'}", []),
        (f"{{tag: {'t' * 1025}}}", ["forward.tag: is longer than 1024 bytes"]),
    ],
)
def test_contradictions(tmp_path: Path, text: str, told: list[str]) -> None:
    """What does not fit together is told with its path, and nothing else is."""
    found = problems(text, tmp_path)
    assert len(found) == len(told)
    assert all(line.startswith(begin) for line, begin in zip(found, told, strict=True)), found


def test_certificates(tmp_path: Path) -> None:
    """A certificate goes with its key, and without a passphrase: another pair, or no certificate at all, is told."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("one", "two"):
        issued = authority.issue_cert("localhost")
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))

    def told(**files: str) -> list[str]:
        named = ", ".join(f"{name}: {tmp_path / file}" for name, file in files.items())
        return problems(f"{{tls: {{enabled: true, {named}}}}}", tmp_path)

    assert told(ca_file="ca.pem", cert_file="one.pem", key_file="one.key") == []
    for pair in ({"cert_file": "one.pem", "key_file": "two.key"}, {"cert_file": "one.pem"}):
        (line,) = told(**pair)
        assert line.startswith("forward.tls.cert_file: ")
        assert "hold no certificate with its key" in line
    (line,) = told(ca_file="one.key")
    assert line.startswith("forward.tls.ca_file: ")


class TestTag:
    """The tag of a record."""

    def test_fixed(self) -> None:
        """Without a placeholder every record has the same tag."""
        tag = TagTemplate("jumpcloud.events")
        assert (tag.varies, tag.of("sso", "o")) == (False, "jumpcloud.events")

    @pytest.mark.parametrize(
        ("service", "organization", "expected"),
        [
            ("sso", "5f", "jc.sso.5f"),
            ("a.b c\n*", "ä/ö", "jc.a_b_c_._"),
            ("", None, "jc.unknown.unknown"),
            ({"x": 1}, 5, "jc.unknown.unknown"),
            ("s" * 500, "{service}", f"jc.{'s' * 128}._service_"),
        ],
    )
    def test_filled(self, service: object, organization: object, expected: str) -> None:
        """Whatever an event holds there, the tag is valid text of as many parts as the pattern has, and bounded."""
        tag = TagTemplate("jc.{service}.{organization}")
        assert tag.of(service, organization) == expected
        assert len(expected.encode()) <= tag.most_bytes
