"""The settings of who asks JumpCloud, and how it is reached: a key or a service account, a proxy, certificates."""

from __future__ import annotations

from pathlib import Path

import pytest

from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import TOKEN_URLS, JumpCloudSettings
from in_jumpcloud.errors import ConfigError

KEY = "jca_Zw41PqLmN8sT0uV7xY2bC5dE9fG3hJ6kA1rB"
ID = "5f0c1a2b3c4d"


def keyed(text: str = "") -> str:
    """A file whose first section has a key and these lines."""
    return f"jumpcloud:\n  api_key: {KEY}\n" + "".join(f"  {line}\n" for line in text.splitlines())


def load(directory: Path, text: str) -> JumpCloudSettings:
    """The first section of a file of this text."""
    path = directory / "the.yaml"
    path.write_text(text)
    return load_config(path, environ={}).jumpcloud


def problems(directory: Path, text: str) -> list[str]:
    """What is said of a file of this text."""
    with pytest.raises(ConfigError) as raised:
        load(directory, text)
    return [line.partition("the.yaml: ")[2] for line in str(raised.value).splitlines()]


def account(text: str = "") -> str:
    """A file whose first section has a service account and these lines."""
    return f"jumpcloud:\n  client_id: {ID}\n  client_secret: {KEY}\n  organizations: [a]\n" + "".join(
        f"  {line}\n" for line in text.splitlines()
    )


def test_service_account(tmp_path: Path) -> None:
    """A service account stands instead of the key; its secret may lie in a file; its tokens are the region's."""
    (tmp_path / "secret").write_text(f"{KEY}\n")
    for region, url in TOKEN_URLS.items():
        settings = load(tmp_path, account(f"region: {region}"))
        assert (settings.client_id, settings.token_endpoint) == (ID, url)
    text = f"jumpcloud: {{client_id: {ID}, client_secret_file: {tmp_path}/secret, organizations: [a]}}"
    secret = load(tmp_path, text).client_secret
    assert secret is not None
    assert secret.reveal() == KEY
    for url in ("http://127.0.0.1:1/token", "http://localhost/token", "http://[::1]:8/token", "https://e.com/token"):
        text = account(f"url: http://e.com\ntoken_url: '{url}'")
        assert load(tmp_path, text).token_endpoint == url
        assert KEY not in repr(load(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (account(f"api_key: {KEY}"), "client_id: api_key is given too; keep the key or the service account"),
        (
            keyed(f"client_secret: {KEY}\norganizations: [a]"),
            "client_secret: api_key is given too; keep the key or the",
        ),
        (account().replace(f"client_secret: {KEY}", ""), "client_secret: missing; client_id is given"),
        (account().replace(f"client_id: {ID}", ""), "client_id: missing; client_secret is given"),
        (account().replace("[a]", "[]"), "organizations: missing; a service account sees only"),
        (account("provider_id: p"), "provider_id: a service account has no access to a provider's events"),
        (account("url: https://e.com"), "token_url: missing; url is set"),
        (account("token_url: http://e.com/token"), "token_url: must be https"),
        (account("token_url: http://127.e.com/token"), "token_url: must be https"),
        (account("token_url: e.com/token"), "token_url: expected such as https://"),
        (account("token_url: 'https://[x/token'"), "token_url: expected such as https://"),
        (account().replace(ID, "'a:b'"), "client_id: holds a colon"),
        (account().replace(KEY, "'two words'"), "client_secret: is empty, or holds a blank"),
        (keyed("provider_id: 'two words'"), "provider_id: 'two words' is no id"),
        (keyed("proxy: proxy:3128"), "proxy: expected such as http://proxy.example.com:3128"),
        (keyed("proxy: 'http://a:secret@[x'"), "proxy: expected such as http://proxy.example.com:3128"),
    ],
)
def test_who_asks(tmp_path: Path, text: str, said: str) -> None:
    """A key or a whole service account, which names its organizations; no secret goes out unencrypted, or is shown."""
    lines = [line for line in problems(tmp_path, text) if line.startswith(f"jumpcloud.{said}")]
    assert len(lines) == 1, problems(tmp_path, text)
    assert KEY not in lines[0]


def test_ca_file_without_certificates(tmp_path: Path) -> None:
    """A `ca_file` that holds no certificate is refused at the start, not at every poll."""
    (tmp_path / "ca.pem").write_text("no certificate\n")
    (said,) = problems(tmp_path, keyed(f"ca_file: {tmp_path}/ca.pem"))
    assert said.startswith(f"jumpcloud.ca_file: {tmp_path}/ca.pem holds no certificates that can be read: ")
