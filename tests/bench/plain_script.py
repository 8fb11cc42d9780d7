"""The baseline: a script that one can write in an afternoon to send Directory Insights to Fluent Bit.

It polls, maps some fields, looks up the address and sends, record by record, without acks and without state.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import maxminddb
import requests
from fluent.sender import FluentSender

LIMIT = 1000


def events(url: str, key: str, ca: str) -> Iterator[dict[str, Any]]:
    """Every event of the last 15 days."""
    session = requests.Session()
    session.headers.update({"x-api-key": key, "Accept": "application/json"})
    now = datetime.now(UTC)
    query: dict[str, Any] = {
        "service": ["all"],
        "start_time": (now - timedelta(days=15)).isoformat(),
        "end_time": now.isoformat(),
        "limit": LIMIT,
        "sort": "ASC",
    }
    while True:
        response = session.post(f"{url}/insights/directory/v1/events", json=query, verify=ca, timeout=60)
        response.raise_for_status()
        page = response.json()
        yield from page
        if len(page) < LIMIT:
            return
        query["search_after"] = json.loads(response.headers["X-Search_after"])


def to_ecs(event: dict[str, Any], city: maxminddb.Reader) -> dict[str, Any]:
    """About 15 fields of the Elastic Common Schema."""
    record: dict[str, Any] = {
        "@timestamp": event["timestamp"],
        "ecs": {"version": "8.11.0"},
        "event": {
            "id": event["id"],
            "action": event["event_type"],
            "module": event["service"],
            "dataset": "jumpcloud.events",
            "outcome": "success" if event.get("success") else "failure",
        },
        "jumpcloud": {"event": event},
        "tags": ["forwarded"],
    }
    actor = event.get("initiated_by")
    if isinstance(actor, dict):
        user = {"id": actor.get("id"), "email": actor.get("email"), "name": actor.get("username")}
        record["source"] = {"user": user}
    if "username" in event:
        record["user"] = {"name": event["username"]}
    if "message" in event:
        record["message"] = event["message"]
    agent = event.get("useragent")
    if isinstance(agent, dict):
        record["user_agent"] = {"name": agent.get("name"), "version": agent.get("version")}
    address = event.get("client_ip")
    if address:
        record["client"] = {"ip": address}
        place = city.get(address)
        if isinstance(place, dict):
            record["client"]["geo"] = geo(place)
    return record


def geo(place: dict[str, Any]) -> dict[str, Any]:
    """A record of the database as ECS fields."""
    return {
        "city_name": place.get("city", {}).get("names", {}).get("en"),
        "country_name": place.get("country", {}).get("names", {}).get("en"),
        "country_iso_code": place.get("country", {}).get("iso_code"),
        "location": {
            "lat": place.get("location", {}).get("latitude"),
            "lon": place.get("location", {}).get("longitude"),
        },
    }


def main() -> None:
    """Send every event."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--city", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    sender = FluentSender("jumpcloud.events", host="127.0.0.1", port=arguments.port, nanosecond_precision=True)
    with maxminddb.open_database(arguments.city) as city:
        for event in events(arguments.url, arguments.key, arguments.ca):
            moment = datetime.fromisoformat(event["timestamp"]).timestamp()
            if not sender.emit_with_time(None, moment, to_ecs(event, city)):
                sys.exit(f"not sent: {sender.last_error}")
    sender.close()


if __name__ == "__main__":
    main()
