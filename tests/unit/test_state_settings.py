"""The URL of a database: what of it is secret, and where it comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.types import DatabaseUrl
from in_jumpcloud.errors import ConfigError
from in_jumpcloud.text import redact

PASSWORD = "p@ss-4Hd88sN-word"  # noqa: S105 - of the test
QUOTED = PASSWORD.replace("@", "%40")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        (
            f"postgresql://us:{QUOTED}@a.example,b.example:77/db?sslmode=require",
            "postgresql://a.example,b.example:77/db",
        ),
        (f"postgres://us@[::1]/db?password={QUOTED}", "postgresql://[::1]/db"),
        (f"postgresql:///db?host=/run&sslpassword={QUOTED}", "postgresql:///db"),
    ],
)
def test_a_password_is_never_shown(url: str, place: str) -> None:
    """Wherever it is in the URL; the rest of the URL is no secret."""
    secret = DatabaseUrl(url)
    assert secret.has_password
    assert secret.place == place
    for text in (url, f"said {PASSWORD}", f"said {QUOTED}"):
        assert PASSWORD not in redact(text)
        assert QUOTED not in redact(text)
    assert redact(place) == place


def test_files(tmp_path: Path) -> None:
    """The URL and the password may each be in a file, and the environment may name these."""
    (tmp_path / "url").write_text("postgresql://us@db.example/name\n")
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    file = tmp_path / "jumpcloud.yaml"
    file.write_text("jumpcloud: {api_key: k}\nstate: {url_file: url, path: null}\n")
    state = load_config(file, environ={"IN_JUMPCLOUD_STATE__PASSWORD_FILE": str(tmp_path / "password")}).state
    assert state.url == DatabaseUrl("postgresql://us@db.example/name")
    assert state.password is not None
    assert state.password.reveal() == PASSWORD
    assert state.place == "postgresql://db.example/name, schema in_jumpcloud"
    with pytest.raises(ConfigError, match=r"state\.path: .*state\.url_file is set too"):
        load_config(file, ["state.path=here.db"], environ={})
