"""`in-jumpcloud check` and TLS to the receiver: each problem is named, and so is a certificate that expires soon."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from support.checks import Report, check, jumpcloud
from support.command import Command

from in_jumpcloud.simulator.receiver import SimulatedReceiver

CheckTls = Callable[..., Report]
AUTHORITY = trustme.CA()


def _server(authority: trustme.CA = AUTHORITY, days: float = 90) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    not_after = datetime.now(UTC) + timedelta(days=days)
    authority.issue_cert("127.0.0.1", not_after=not_after).configure_cert(context)
    return context


@pytest.fixture
def check_tls(command: Command) -> CheckTls:
    """Check a receiver with this TLS context, with these settings of forward.tls."""
    AUTHORITY.cert_pem.write_to_path(command.directory / "authority.pem")

    def run(context: ssl.SSLContext | None, *options: str, **tls: object) -> Report:
        settings = {"enabled": True, "ca_file": str(command.directory / "authority.pem"), **tls}
        with jumpcloud() as api, SimulatedReceiver(tls=context) as receiver:
            return check(*options, *command.settings(api, receiver, forward__tls=settings))

    return run


def test_certificates(check_tls: CheckTls) -> None:
    """A trusted certificate passes; one that expires within two weeks, or is not verified, is a warning."""
    trusted = check_tls(_server(), "--probe")
    assert "certificate is trusted, and valid until " in trusted.text
    assert "connected, TLSv1.3, a message without records acknowledged" in trusted.text
    assert "certificate expires in 3 days" in check_tls(_server(days=3.1)).text
    unverified = check_tls(_server(), verify=False)
    assert "certificate not verified" in unverified.text
    assert trusted.code == unverified.code == 0


def test_problems(check_tls: CheckTls) -> None:
    """An unknown authority, a receiver without TLS, and one with TLS where the settings have none; exit code 4."""
    unknown = check_tls(_server(trustme.CA()))
    plain_receiver = check_tls(None)
    plain_settings = check_tls(_server(), "--probe", enabled=False, ca_file=None)
    assert "forward.tls.ca_file" in unknown.failure
    assert "TLS" in plain_receiver.failure
    assert "forward.tls.enabled" in plain_settings.failure
    assert unknown.code == plain_receiver.code == plain_settings.code == 4
