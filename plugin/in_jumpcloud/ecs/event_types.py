"""The table of event types: the ECS category and type of each (data: event_types.csv).

A row has categories (`event.category`) and types (`event.type`), or the reason why no category fits. Elastic's
integration gives some event types a category and the type `info`: those come first.

The origin says who names the event type: `documented` by JumpCloud or its tools, `live` (seen in a tenant only), or
`both`; `rule` if only a published detection rule does. The service is empty if it is unknown.

The subject is the kind of object that an event is about. It is the type of the event's `resource` if the event does not
state one. Empty: no single object. The kinds:

    account       an account in an application that people use
    admin         an administrator
    alert         an alert
    application   an application that people sign in to
    asset         an entry of asset management
    association   two objects, connected or disconnected; the event's `association` names them
    certificate   a certificate or its authority
    command       a command for devices, or its result
    credential    an item of the password manager or the password vault
    file          a file, backup or invoice
    folder        a folder of the password manager or the password vault
    group         a group of users, devices or policies
    integration   a connection to another directory, product or domain
    notification  a notification to people
    organization  an organization or a managed service provider
    policy        a policy for devices, access or sharing
    report        a report or its schedule
    rule          a rule that raises alerts
    server        a RADIUS or MCP server
    session       a remote assistance session, a session of the AI gateway, a chat
    setting       settings, features and channels of the organization
    software      software on devices
    system        a device
    user          a user
    workflow      a workflow
"""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources
from typing import NamedTuple


class EventType(NamedTuple):
    """A row of the table; the module's docstring describes the columns.

    It has either `categories` and `types`, or a `reason`.
    """

    service: str
    name: str
    categories: tuple[str, ...]
    types: tuple[str, ...]
    subject: str
    origin: str
    description: str
    reason: str


@cache
def table() -> tuple[EventType, ...]:
    """Every row, in the order of the file."""
    text = resources.files(__package__).joinpath("event_types.csv").read_text(encoding="utf-8")
    return tuple(
        EventType(
            service=row["service"],
            name=row["event_type"],
            categories=_split(row["category"]),
            types=_split(row["type"]),
            subject=row["subject"],
            origin=row["origin"],
            description=row["description"],
            reason=row["reason"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def lookup(service: str | None, event_type: str) -> EventType | None:
    """The row of an event type; None if there is none.

    Service names have several spellings, and event types move between services: if the service (or None) has no row
    of that name, the first row of that name is used.
    """
    rows = _rows()
    return rows.get((service, event_type)) or rows.get((None, event_type))


@cache
def _rows() -> dict[tuple[str | None, str], EventType]:
    """Rows by service and name; under None, the first row of each name."""
    rows: dict[tuple[str | None, str], EventType] = {}
    for row in table():
        rows[row.service, row.name] = row
        rows.setdefault((None, row.name), row)
    return rows


def _split(cell: str) -> tuple[str, ...]:
    return tuple(cell.split(";")) if cell else ()
