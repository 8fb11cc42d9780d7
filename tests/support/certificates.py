"""Certificates for tests, as files of an authority that only the test knows."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, NamedTuple

import trustme

from in_jumpcloud.config.types import NamedFile


class Pair(NamedTuple):
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Certificates:
    """An authority, and the certificates that it issues, below `directory`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._authority = trustme.CA()
        self.ca_file = directory / "ca.pem"
        self._authority.cert_pem.write_to_path(self.ca_file)

    @property
    def trusted(self) -> NamedFile:
        """The authority's certificate, as a setting."""
        return NamedFile(self.ca_file)

    def issue(self, name: str, **options: Any) -> Pair:
        """A certificate for this name; the options are those of trustme."""
        issued = self._authority.issue_cert(name, **options)
        pair = Pair(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        pair.certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        pair.key.write_bytes(issued.private_key_pem.bytes())
        return pair

    def server_context(
        self, name: str = "localhost", *, client_ca: Path | None = None, **options: Any
    ) -> ssl.SSLContext:
        """The receiver's side of TLS; with `client_ca` it asks for a certificate of that authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(name, **options))
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context
