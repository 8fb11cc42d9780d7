"""Values that have the right type, but are not valid, or contradict each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.certificates import Certificates

from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import TOKEN_URLS, Config
from in_jumpcloud.config.types import Secret
from in_jumpcloud.errors import ConfigError
from in_jumpcloud.timestamps import parse_rfc3339

KEY = "jca_Zw41PqLmN8sT0uV7xY2bC5dE9fG3hJ6kA1rB"
ID = "5f0c1a2b3c4d"
ACCOUNT = f"client_id: {ID}, client_secret: {KEY}, organizations: [a]"


def load(directory: Path, text: str) -> Config:
    """The configuration in a file with this text."""
    path = directory / "the.yaml"
    path.write_text(text)
    return load_config(path, environ={})


def problems(directory: Path, text: str) -> list[str]:
    """The problems of a file with this text, as `path: text`, without the file's name."""
    try:
        load(directory, text)
    except ConfigError as error:
        return [f"{problem.path}: {problem.text}" for problem in error.problems]
    return []


def check_table(directory: Path, table: list[tuple[str, list[str]]]) -> None:
    """Each text has just the problems that begin so, in this order."""
    for text, expected in table:
        found = problems(directory, text)
        assert len(found) == len(expected), (text, found)
        assert all(map(str.startswith, found, expected)), (text, found)


def test_urls_and_paths() -> None:
    """A URL needs a valid host and port, and must not contain a password, which is not shown; a path names a file."""
    urls = (
        "https://api.example.com?key=sesame",
        "https://api.example.com/#sesame",
        "ftp://api.example.com",
        "http://127.0.0.1:99999",
        "http://[::1",
        "https://user:sesame@api.example.com",
    )
    for override in (*(f"jumpcloud.url={url}" for url in urls), "state.path=/", "dead_letter.path=/"):
        with pytest.raises(ConfigError) as caught:
            load_config(None, ["jumpcloud.api_key=key", override])
        (problem,) = caught.value.problems
        assert problem.path == override.partition("=")[0]
        assert "sesame" not in str(problem)


def test_a_start_in_the_future(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused; but not by a clock that is certainly wrong, such as one at 1970."""
    starts = ("2026-01-01", "2026-01-01T00:00:01Z", "0s", "now", "15d")
    text = "jumpcloud: {{api_key: key, start: {}}}"
    for now in ("2026-01-01T00:00:00Z", "1970-01-02T00:00:00Z"):
        now_ns = parse_rfc3339(now)
        monkeypatch.setattr("time.time_ns", lambda now_ns=now_ns: now_ns)
        refused = [start for start in starts if problems(tmp_path, text.format(start))]
        assert refused == (["2026-01-01T00:00:01Z"] if now > "2026" else [])
    monkeypatch.setattr("time.time_ns", lambda: parse_rfc3339("2026-01-01T00:00:00Z"))
    check_table(
        tmp_path,
        [(text.format("2026-01-02"), ["jumpcloud.start: must not be in the future (got 2026-01-02T00:00:00.000Z; "])],
    )


def test_all_at_once(tmp_path: Path) -> None:
    """Every invalid value of every section is reported, each with its path."""
    text = f"""
jumpcloud:
  url: api.example.com
  organizations: [a, b, a, 'two words', 組織]
  overlap: 1h
  window: 1h
  ca_file: {tmp_path}/ca.pem
forward:
  servers: [{{host: a, unix: /b}}, {{port: 1}}]
  tag: jumpcloud.{{event}}
  chunk_bytes: 7MB
http: {{listen: '2021'}}
reconcile: {{reach: 23h}}
"""
    invalid = "is not a valid ID: it contains whitespace or an invalid character"
    expected = [
        "jumpcloud.api_key: missing; set api_key, api_key_file or the variable JUMPCLOUD_API_KEY, or client_id",
        "jumpcloud.url: expected a base URL without a user and a query, such as https://api.eu.jumpcloud.com",
        f"jumpcloud.organizations[3]: 'two words' {invalid}",
        f"jumpcloud.organizations[4]: '組織' {invalid}",
        "jumpcloud.organizations[2]: duplicate ID 'a'",
        "jumpcloud.window: must be longer than jumpcloud.overlap",
        f"jumpcloud.ca_file: no such file: {tmp_path}/ca.pem",
        "forward.servers[0]: expected either host (and port) or unix",
        "forward.servers[1]: expected either host (and port) or unix",
        "forward.tag: ",
        "forward.chunk_bytes: must be at most forward.message_max_bytes",
        "http.listen: expected host and port",
        "reconcile.reach: must be from 1d to 90d",
    ]
    check_table(tmp_path, [(text, expected)])


def test_service_account(tmp_path: Path) -> None:
    """A service account replaces the key; its secret may be in a file; its tokens come from its region or token_url."""
    (tmp_path / "secret").write_text(f"{KEY}\n")
    for region, url in TOKEN_URLS.items():
        settings = load(tmp_path, f"jumpcloud: {{{ACCOUNT}, region: {region}}}").jumpcloud
        assert (settings.client_id, settings.token_endpoint) == (ID, url)
    text = f"jumpcloud: {{client_id: {ID}, client_secret_file: {tmp_path}/secret, organizations: [a]}}"
    assert load(tmp_path, text).jumpcloud.client_secret == Secret(KEY)
    for url in ("http://127.0.0.1:1/token", "http://localhost/token", "http://[::1]:8/token", "https://e.com/token"):
        settings = load(tmp_path, f"jumpcloud: {{{ACCOUNT}, url: 'https://e.com', token_url: '{url}'}}").jumpcloud
        assert settings.token_endpoint == url
        assert KEY not in repr(settings)


def test_account(tmp_path: Path) -> None:
    """A key or a complete service account; nothing that HTTP cannot carry; no secret goes out unencrypted."""
    secret = f"client_secret: {KEY}"
    table = {
        f"api_key: {KEY}, {ACCOUNT}": "client_id: api_key is set too",
        f"api_key: {KEY}, {secret}, organizations: [a]": "client_secret: api_key is set too",
        f"client_id: {ID}, organizations: [a]": "client_secret: missing",
        f"{secret}, organizations: [a]": "client_id: missing",
        f"client_id: {ID}, {secret}": "organizations: missing",
        f"{ACCOUNT}, provider_id: p": "provider_id: a service account cannot",
        f"{ACCOUNT}, url: 'https://e.com'": "token_url: missing",
        f"{ACCOUNT}, token_url: 'http://e.com/token'": "token_url: http: would send the key unencrypted to e.com",
        f"{ACCOUNT}, token_url: 'http://127.e.com/token'": "token_url: http: would send the key",
        f"{ACCOUNT}, token_url: 'https://u:secret@e.com/'": "token_url: expected a URL without a user",
        f"{ACCOUNT}, token_url: e.com/token": "token_url: expected a URL",
        f"{ACCOUNT}, token_url: 'https://[x/token'": "token_url: expected a URL",
        ACCOUNT.replace(ID, "'a:b'"): "client_id: is not a valid ID",
        ACCOUNT.replace(KEY, "'two words'"): "client_secret: is not a valid key",
        f"api_key: {KEY}, provider_id: 'two words'": "provider_id: 'two words' is not a valid ID",
        f"api_key: {KEY}, proxy: 'proxy:3128'": "proxy: expected a URL",
        f"api_key: {KEY}, proxy: 'http://a:secret@[x'": "proxy: expected a URL",
        "api_key: ''": "api_key: must not be empty",
        **{f'api_key: "{key}"': "api_key: is not a valid key" for key in (" ", "a b", r"a\nb", "schlüssel", r"\x7f")},
    }
    found = {text: problems(tmp_path, f"jumpcloud: {{{text}}}") for text in table}
    wrong = {text: lines for text, lines in found.items() if not any(table[text] in line for line in lines)}
    assert wrong == {}
    assert {
        text: lines for text, lines in found.items() if len(lines) != 1 and "client_secret: api" not in lines[0]
    } == {}
    assert not any(secret in str(list(found.values())) for secret in ("secret@", KEY))


def test_plain_http(tmp_path: Path) -> None:
    """The key goes out unencrypted only to this machine, over no proxy elsewhere, unless a setting allows it."""
    advice = "use https:, or set jumpcloud.allow_plain_http: true if the network is trusted"
    remote, local = "http://proxy.example.com:3128", "http://127.0.0.1:3128"
    for host in ("127.0.0.1", "127.1.2.3:8080", "localhost", "LOCALHOST:1", "[::1]:8080"):
        for proxy in ("null", local):
            assert problems(tmp_path, f"jumpcloud: {{api_key: {KEY}, url: 'http://{host}', proxy: {proxy}}}") == []
        (found,) = problems(tmp_path, f"jumpcloud: {{api_key: {KEY}, url: 'http://{host}', proxy: '{remote}'}}")
        assert found.startswith("jumpcloud.proxy: would receive the key unencrypted")
        assert found.endswith(advice)
    for host in ("api.jumpcloud.com", "10.0.0.1", "127.0.0.1.example.com", "[::2]", "localhost.example.com"):
        text = f"api_key: {KEY}, url: 'http://{host}'"
        name = host.strip("[]")
        expected = f"jumpcloud.url: http: would send the key unencrypted to {name}; {advice}"
        assert problems(tmp_path, f"jumpcloud: {{{text}}}") == [expected]
        assert problems(tmp_path, f"jumpcloud: {{{text}, allow_plain_http: true, proxy: '{remote}'}}") == []
    assert problems(tmp_path, f"jumpcloud: {{api_key: {KEY}, proxy: '{remote}'}}") == []  # a tunnel


def test_forward(tmp_path: Path) -> None:
    """Handshake, TLS and tags: each contradiction is reported, and nothing else is."""
    table: list[tuple[str, list[str]]] = [
        ("{username: u}", ["forward.password: missing", "forward.shared_key: missing"]),
        ("{password: p}", ["forward.username: missing"]),
        ("{self_hostname: h}", ["forward.shared_key: missing"]),
        ("{shared_key: '', username: u, password: p}", []),
        ("{shared_key: k, self_hostname: h}", []),
        (f"{{shared_key: k, self_hostname: {'h' * 601}}}", ["forward.username: must be at most 600 bytes"]),
        ("{compress: zstd}", ["forward.compress: must be one of none, gzip"]),
        ("{servers: [{host: a}, {host: b}, {host: a, port: 24224}]}", ["forward.servers[2]: duplicate receiver a"]),
        ("{servers: [{unix: /s}], tls: {enabled: true}}", ["forward.tls.server_name: missing"]),
        ("{servers: [{unix: /s}], tls: {enabled: true, verify: false}}", []),
        (
            "{tls: {key_file: k}}",
            ["forward.tls.enabled: must be true", "forward.tls.cert_file: m", "forward.tls.key_file: n"],
        ),
        ("{tls: {enabled: true, ca_file: /none}}", ["forward.tls.ca_file: no such file: /none"]),
        ("{tag: 'a b'}", ["forward.tag: "]),
        ("{tag: 'a{b'}", ["forward.tag: "]),
        (f"{{tag: {'t' * 1025}}}", ["forward.tag: "]),
        ("{tag: '{service}.{organization}'}", []),
    ]
    check_table(tmp_path, [(f"jumpcloud: {{api_key: k}}\nforward: {text}\n", lines) for text, lines in table])


def test_certificates(tmp_path: Path, certificates: Certificates) -> None:
    """A file without certificates, or with those of another key, is reported at the start, not at every poll."""
    certificates.issue("one")
    certificates.issue("two")
    directory = certificates.ca_file.parent

    def tls(**files: str) -> str:
        named = ", ".join(f"{name}: {directory / file}" for name, file in files.items())
        return f"jumpcloud: {{api_key: k}}\nforward: {{tls: {{enabled: true, {named}}}}}"

    table: list[tuple[str, list[str]]] = [
        (tls(ca_file="ca.pem", cert_file="one.pem", key_file="one.key"), []),
        (tls(cert_file="one.pem", key_file="two.key"), [f"forward.tls.cert_file: {directory / 'one.pem'} and "]),
        (tls(cert_file="one.pem"), [f"forward.tls.cert_file: {directory / 'one.pem'} does not contain"]),
        (tls(ca_file="one.key"), ["forward.tls.ca_file: "]),
        (f"jumpcloud: {{api_key: k, ca_file: {directory / 'one.key'}}}", ["jumpcloud.ca_file: "]),
    ]
    check_table(tmp_path, table)


def test_organizations(tmp_path: Path) -> None:
    """They are listed, found or read from a file; what is different for one names one of those."""
    key = f"jumpcloud: {{api_key: {KEY}, "
    check_table(
        tmp_path,
        [
            (key + "organizations: all, discover: {every: 1h, exclude: ['Test *']}, overrides: {x: {tag: t}}}", []),
            (key + "organizations_file: o.txt, overrides: {x: {services: [sso], start: 1d}}}", []),
            (key + "organizations: every}", ["jumpcloud.organizations: expected a list, got text; or all"]),
            (
                key + "organizations: all, organizations_file: o.txt}",
                ["jumpcloud.organizations_file: organizations is"],
            ),
            (key + "organizations: [a], discover: {every: 1h}}", ["jumpcloud.discover: has no effect without"]),
            (key + "organizations: [a], overrides: {b: {tag: t}}}", ["jumpcloud.overrides.b: 'b' is not one of"]),
            (
                key + "organizations: [a], overrides: {a: {tag: 'a b', service: [x]}}}",
                ["jumpcloud.overrides.a.service"],
            ),
            (key + "organizations: [a], overrides: {a: {tag: 'a b'}}}", ["jumpcloud.overrides.a.tag: contains white"]),
            (key + "interval: 1m, interval_max: 30s}", ["jumpcloud.interval_max: must be at least"]),
            (key + "workers: 300}", ["jumpcloud.workers: must be between 1 and 256 (got 300); or auto"]),
            (key + "workers: many}", ["jumpcloud.workers: expected a whole number, got text; or auto"]),
        ],
    )
    settings = load(tmp_path, key + "organizations: all, requests_per_second: 40}")
    assert (settings.jumpcloud.organizations, settings.jumpcloud.worker_count) == ("all", 40)
    assert settings.forward.connection_count(settings.jumpcloud.worker_count) == 3
    assert load_config(
        None, [f"jumpcloud.api_key={KEY}"], environ={"IN_JUMPCLOUD_JUMPCLOUD__ORGANIZATIONS": "all"}
    ) == (load_config(None, [f"jumpcloud.api_key={KEY}", "jumpcloud.organizations=all"], environ={}))


def test_members(tmp_path: Path) -> None:
    """They share a server, have a lease in bounds, and an address that others can reach."""
    start = "jumpcloud: {api_key: key}\nstate: {url: 'postgresql://us@db/x'}\n"
    useless = "members.address: cannot be reached: http.listen is"
    check_table(
        tmp_path,
        [
            (start, []),
            ("jumpcloud: {api_key: key}\nmembers: {lease: 20s}", ["members: needs state.url"]),
            (f"{start}members: {{lease: 4s}}", ["members.lease: must be from 5s to 5m"]),
            (f"{start}members: {{lease: 301s}}", ["members.lease: must be from 5s to 5m"]),
            (f"{start}members: {{address: 'http://one:2021'}}", [f"{useless} 127.0.0.1:2021; set it to 0.0.0.0:2021"]),
            (f"{start}members: {{address: 'one:2021'}}\nhttp: {{listen: null}}", [f"{useless} off"]),
            (f"{start}members: {{address: 'http://one:2021'}}\nhttp: {{listen: '0.0.0.0:2021'}}", []),
            (f"{start}members: {{address: 'http://127.0.0.1:2021'}}", []),
            (f"{start}members: {{address: '[::1]:2021'}}", []),
            (f"{start}members: {{address: one}}\nhttp: {{listen: one}}", ["http.listen: expected host and port"]),
        ],
    )
