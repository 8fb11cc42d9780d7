"""The mapping alone: split pages, identify and map each event, and pack its record, without network and state.

Prints the number of records, and the CPU seconds.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from bench.events import EventFile

from in_jumpcloud.config.schema import EcsSettings
from in_jumpcloud.ecs.encoder import RecordEncoder
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.insights.event import parse_event
from in_jumpcloud.insights.pages import split_page

PAGE = 1000


def mapper() -> Mapper:
    """The mapper with default settings."""
    city = Path(__file__).parents[2] / "geoip" / "demo-city.mmdb"
    return Mapper(EcsSettings(), GeoIPLookup(city, None, extended=True), agent_id="agent", ephemeral_id="process")


def read_page(events: EventFile, begin: int) -> tuple[bytes, Sequence[bytes | msgspec.Raw]]:
    """The page of events from this index on, and its events."""
    page = events.page(begin, min(begin + PAGE, events.count))
    return page, split_page(page)


def main() -> None:
    """Map all events of a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    events = EventFile(parser.parse_args().path)
    encode, records, cpu = RecordEncoder(mapper()).encode, 0, 0.0
    gc.freeze()
    gc.set_threshold(20_000)  # as `run` does
    for begin in range(0, events.count, PAGE):
        page = events.page(begin, min(begin + PAGE, events.count))
        began = time.process_time()
        for raw in split_page(page):
            encode(parse_event(raw), 0)
            records += 1
        cpu += time.process_time() - began
    print(json.dumps({"records": records, "cpu": cpu}))  # noqa: T201 - the parent process reads this


if __name__ == "__main__":
    main()
