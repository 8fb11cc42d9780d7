"""`in-jumpcloud geoip`: gets databases for IP addresses."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import click

from in_jumpcloud.cli import examples, show, show_error
from in_jumpcloud.ecs.geoip_account import read_account
from in_jumpcloud.ecs.geoip_update import URL, Downloads
from in_jumpcloud.errors import InJumpCloudError
from in_jumpcloud.timestamps import rfc3339


@click.group("geoip")
def command() -> None:
    """Get the databases for client.geo and client.as."""


@command.command(
    "update",
    epilog=examples(
        "in-jumpcloud geoip update                                  # the account is in /etc/GeoIP.conf",
        "GEOIPUPDATE_ACCOUNT_ID=123456 GEOIPUPDATE_LICENSE_KEY_FILE=key in-jumpcloud geoip update -d .",
    ),
)
@click.option(
    *("-f", "--account-file", "file"),
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file GeoIP.conf of geoipupdate.  [default: /etc/GeoIP.conf]",
)
@click.option(
    *("-d", "--directory"),
    metavar="DIRECTORY",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the databases are.  [default: /var/lib/GeoIP]",
)
@click.option(
    *("-e", "--edition", "editions"),
    metavar="NAME",
    multiple=True,
    help="A database. Repeatable.  [default: GeoLite2-City and GeoLite2-ASN]",
)
@click.option("--url", metavar="URL", default=URL, show_default=True, help="Where to download from.")
@click.option("--may-fail", is_flag=True, help="Exit with 0 in any case: for a container that must not wait for this.")
def update(file: Path | None, directory: Path | None, editions: tuple[str, ...], url: str, may_fail: bool) -> None:
    """Download MaxMind's databases where there is a newer release.

    A running plugin uses a replaced database within seconds. A database whose download fails stays as it is.

    The account is that of MaxMind's own program geoipupdate: GEOIPUPDATE_ACCOUNT_ID and GEOIPUPDATE_LICENSE_KEY, or
    GEOIPUPDATE_LICENSE_KEY_FILE, of the environment, or AccountID and LicenseKey in GeoIP.conf.

    Exit code: 0 all are up to date, 2 no account or wrong usage, 3 the account was refused, 1 anything else.
    """
    failures: list[InJumpCloudError] = []
    try:
        account = read_account(file, os.environ)
        account = account._replace(editions=editions or account.editions, directory=directory or account.directory)
        with closing(Downloads(account, url)) as downloads:
            for edition in account.editions:
                try:
                    done = downloads.update(edition)
                except InJumpCloudError as error:
                    failures.append(error)
                else:
                    what = "updated to the" if done.replaced else "up to date, the"
                    show(f"{done.path}: {what} release of {rfc3339(done.built * 1000)[:10]}")
    except InJumpCloudError as error:
        failures.append(error)
    for failure in failures:
        show_error(failure)
    if failures and not may_fail:
        click.get_current_context().exit(failures[0].exit_code)
