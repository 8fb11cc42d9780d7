"""`in-jumpcloud geoip update`, against a server that behaves as MaxMind's: account, redirect, digests, releases."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import tarfile
import threading
from base64 import b64encode
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import maxminddb
import pytest
from support.command import invoke
from support.geoip import build, named

ACCOUNT, KEY = "123456", "license-key-of-the-account"
AUTHORIZATION = f"Basic {b64encode(f'{ACCOUNT}:{KEY}'.encode()).decode()}"
EDITIONS = ("GeoLite2-City", "GeoLite2-ASN")


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path))
        _, _, _, name, _ = self.path.removeprefix("/signed").split("/")
        suffix = parse_qs(urlsplit(self.path).query)["suffix"][0]
        if self.path.startswith("/signed"):
            self.server.leaked += "Authorization" in self.headers
            self._send_file(name, suffix)
        elif status := self.server.statuses.get(name):
            self._answer(status, {}, b"no")
        elif self.headers.get("Authorization") != AUTHORIZATION:
            self._answer(401, {}, b"Invalid license key")
        else:  # another host, as far as an address can be one: requests must not send the account there
            self._answer(302, {"Location": f"http://localhost:{self.server.server_port}/signed{self.path}"})

    def _send_file(self, name: str, suffix: str) -> None:
        archive = self.server.archives[name]
        digest = self.server.digests.get(name) or hashlib.sha256(archive).hexdigest()
        content = archive if suffix == "tar.gz" else f"{digest}  {name}_20260101.tar.gz".encode()
        is_cut = name in self.server.cut and suffix == "tar.gz"
        headers = {"Last-Modified": formatdate(self.server.released, usegmt=True)}
        self._answer(200, headers, content, send=len(content) // 2 if is_cut else len(content))

    def _answer(self, status: int, headers: dict[str, str], content: bytes = b"", send: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:send])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class Server(ThreadingHTTPServer):
    """A server with one release of each database. What goes wrong is set by edition."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.released = 1_767_225_600  # 2026-01-01
        self.archives: dict[str, bytes] = {}
        self.statuses: dict[str, int] = {}
        self.digests: dict[str, str] = {}
        self.cut: set[str] = set()
        self.requests: list[tuple[str, str]] = []
        self.leaked = 0
        """Requests to the signed URL that have the account."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with both databases of the city London."""
    with Server() as server:
        for edition in EDITIONS:
            server.archives[edition] = archive(tmp_path, edition, "London")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The directory of the databases, and nothing else in it."""
    folder = tmp_path / "databases"
    folder.mkdir()
    return folder


def archive(tmp_path: Path, edition: str, name: str, kind: str | None = None) -> bytes:
    """An archive as MaxMind's, with a database of one network."""
    database = build(tmp_path / "made.mmdb", {"81.2.69.0/24": named(name)}, kind or edition)
    return packed(
        {f"{edition}_20260101/COPYRIGHT.txt": b"(c)", f"{edition}_20260101/{edition}.mmdb": database.read_bytes()}
    )


def packed(files: dict[str, bytes]) -> bytes:
    """A tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as members:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            members.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def update(server: Server, folder: Path, *options: object, **environ: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command with the account in the environment."""
    account = {"GEOIPUPDATE_ACCOUNT_ID": ACCOUNT, "GEOIPUPDATE_LICENSE_KEY": KEY, **environ}
    url = f"http://127.0.0.1:{server.server_port}"
    return invoke("geoip", "update", "-d", folder, "--url", url, *options, stdin=b"", **account)


def city(path: Path) -> str:
    """The city in a database that `archive` made."""
    with maxminddb.open_database(path) as reader:
        record = reader.get("81.2.69.1")
    assert isinstance(record, dict)
    return str(record["city"]["names"]["en"])  # type: ignore[index, call-overload]


def test_a_newer_release_replaces_both(server: Server, folder: Path, tmp_path: Path) -> None:
    """A second run downloads nothing, a newer release is put in place whole, and the account goes to MaxMind only."""
    done = update(server, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().count("updated to the release of") == 2
    assert sorted(path.name for path in folder.iterdir()) == ["GeoLite2-ASN.mmdb", "GeoLite2-City.mmdb"]
    path = folder / "GeoLite2-City.mmdb"
    assert (city(path), stat.S_IMODE(path.stat().st_mode)) == ("London", 0o644)

    del server.requests[:]
    again = update(server, folder)
    assert again.stdout.decode().count("up to date") == 2
    assert {method for method, _ in server.requests} == {"HEAD"}

    server.released += 86_400
    server.archives["GeoLite2-City"] = archive(tmp_path, "GeoLite2-City", "Paris")
    with path.open("rb") as opened:
        assert update(server, folder).returncode == 0
        assert os.fstat(opened.fileno()).st_nlink == 0  # replaced by rename, not overwritten
    assert city(path) == "Paris"
    assert server.leaked == 0

    path.write_bytes(path.read_bytes()[:100])
    os.utime(path, (server.released, server.released))
    assert update(server, folder).returncode == 0
    assert city(path) == "Paris"  # a damaged file is not up to date, whatever its time is


FAILURES = {
    "refused": ("account ID 123456 or its license key is wrong", 3),
    "terms": ("answered 403: this account may not download it", 1),
    "too often": ("answered 429: the account has downloaded too often today; try again tomorrow", 1),
    "unavailable": ("answered 503; try again later", 1),
    "cut": ("no complete answer from 127.0.0.1", 1),
    "wrong digest": ("the archive has another digest than 127.0.0.1", 1),
    "not an archive": ("what arrived is not an archive", 1),
    "damaged archive": ("what arrived is not an archive", 1),
    "no database in it": ("the archive contains no GeoLite2-City.mmdb", 1),
    "not a database": ("is not a database of this type", 1),
    "another database": ("is not a database of this type", 1),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_replaces_nothing(server: Server, folder: Path, tmp_path: Path, case: str) -> None:
    """One line says what is wrong, the old database stays, no file is left, and the other database is updated."""
    edition, other = EDITIONS
    build(folder / f"{edition}.mmdb", {"81.2.69.0/24": named("Old")}, edition)
    statuses = {"refused": 401, "terms": 403, "too often": 429, "unavailable": 503}
    archives = {
        "not an archive": b"<html>",
        "damaged archive": server.archives[edition][:-400],
        "no database in it": packed({"GeoLite2-City_20260101/README.txt": b"none"}),
        "not a database": packed({f"{edition}_20260101/{edition}.mmdb": b"none"}),
        "another database": archive(tmp_path, edition, "London", other),
    }
    if case in statuses:
        server.statuses[edition] = statuses[case]
    server.archives[edition] = archives.get(case, server.archives[edition])
    if case == "wrong digest":
        server.digests[edition] = "0" * 64
    if case == "cut":
        server.cut.add(edition)

    done = update(server, folder)
    message, code = FAILURES[case]
    (line,) = done.stderr.decode().splitlines()
    assert message in line
    assert KEY not in line
    assert "signed" not in line
    assert done.returncode == code
    assert city(folder / f"{edition}.mmdb") == "Old"
    assert sorted(path.name for path in folder.iterdir()) == ["GeoLite2-ASN.mmdb", "GeoLite2-City.mmdb"]
    assert update(server, folder, "--may-fail").returncode == 0


def test_the_account(server: Server, folder: Path, tmp_path: Path) -> None:
    """It is that of geoipupdate: the environment, else GeoIP.conf. What is missing, double or wrong is one line."""
    file = tmp_path / "GeoIP.conf"
    file.write_text(
        f"# mine\nAccountID {ACCOUNT}\nLicenseKey {KEY}   # secret\nEditionIDs GeoLite2-ASN\nParallelism 1\n"
    )
    nothing = {"GEOIPUPDATE_ACCOUNT_ID": "", "GEOIPUPDATE_LICENSE_KEY": ""}
    done = update(server, folder, "-f", file, **nothing)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.iterdir()] == ["GeoLite2-ASN.mmdb"]
    key = tmp_path / "key"
    key.write_text(f"{KEY}\n")
    in_a_file = {"GEOIPUPDATE_LICENSE_KEY": "", "GEOIPUPDATE_LICENSE_KEY_FILE": str(key)}
    assert update(server, folder, "-e", "GeoLite2-City", **in_a_file).returncode == 0
    assert len(list(folder.iterdir())) == 2

    empty = tmp_path / "empty.conf"
    empty.write_text("")
    for options, environ, message in (
        (("-f", empty), nothing, "no AccountID of a MaxMind account; set GEOIPUPDATE_ACCOUNT_ID or"),
        (("-f", tmp_path / "none"), {}, "none: cannot be read: No such file or directory"),
        (
            (),
            {"GEOIPUPDATE_LICENSE_KEY_FILE": str(key)},
            "GEOIPUPDATE_LICENSE_KEY and GEOIPUPDATE_LICENSE_KEY_FILE are both",
        ),
        ((), {"GEOIPUPDATE_LICENSE_KEY": "two words"}, "LicenseKey of the MaxMind account contains whitespace"),
        (("-e", "../passwd"), {}, "../passwd: is not the name of a database"),
        (("-d", tmp_path / "none"), {}, "none: no such directory; create it, or name another"),
        (("--url", "http://203.0.113.1"), {}, "http://203.0.113.1: must begin with https://"),
    ):
        refused = update(server, folder, *options, **environ)
        (line, *_) = refused.stderr.decode().splitlines()
        assert message in line
        assert refused.returncode == 2
