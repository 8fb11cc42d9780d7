"""Certificates of an authority that nobody else knows, as files."""

from __future__ import annotations

import ssl
from functools import cached_property
from pathlib import Path

import trustme


class Certificates:
    """An authority, a receiver's certificate for 127.0.0.1, a client's."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        self.authority = directory / "authority.pem"
        authority.cert_pem.write_to_path(self.authority)
        self.receiver, self.receiver_key = self._issued(authority, directory, "127.0.0.1")
        self.client, self.client_key = self._issued(authority, directory, "client.test")

    @staticmethod
    def _issued(authority: trustme.CA, directory: Path, name: str) -> tuple[Path, Path]:
        issued = authority.issue_cert(name)
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(certificate, append=number > 0)
        issued.private_key_pem.write_to_path(key)
        return certificate, key

    @cached_property
    def of_a_receiver(self) -> ssl.SSLContext:
        """The receiver's side of TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.receiver, self.receiver_key)
        return context

    @cached_property
    def of_a_client(self) -> ssl.SSLContext:
        """The client's side of TLS."""
        return ssl.create_default_context(cafile=self.authority)
