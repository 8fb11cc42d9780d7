"""The status page: its HTML, policy and colours; and, where Chromium is installed, what it shows."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from support.command import wait_until
from support.monitoring import PAGES, Watched, catch_up, settings_of, watched

from in_jumpcloud.config.schema import MembersSettings, StateSettings
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS, now_ms

PAGE = resources.files("in_jumpcloud.monitoring").joinpath("page.html").read_text()
SCRIPT = PAGE.partition("<script>")[2].partition("</script>")[0]
EVIL = "<img/src=x/onerror=alert(1)><script>document.title='taken'</script>"
HISTORY = 12
VOID = {"meta", "link", "br", "img", "input", "hr"}
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")


class Document(HTMLParser):
    """Parses HTML strictly: each element is closed in order. `text` has each element's text, by tag or by id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self._open: list[tuple[str, str | None]] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open an element."""
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), attrs
        if tag not in VOID:
            self._open.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag: str) -> None:
        """Close it."""
        assert self._open.pop()[0] == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        """Add text to each open element."""
        for tag, id_ in self._open:
            self.text[id_ or tag] = self.text.get(id_ or tag, "") + data

    def attributes(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [value for _, attributes in self.elements for key, value in attributes.items() if key == name and value]


def test_html() -> None:
    """Elements are nested correctly; ids are unique, and those that script and labels refer to exist.

    Tables and charts have a label for screen readers, and the links lead to the endpoints.
    """
    page = Document(PAGE)
    ids = page.attributes("id")
    assert len(set(ids)) == len(ids)
    assert {*re.findall(r'byId\("([\w-]+)"\)', SCRIPT), *page.attributes("aria-labelledby")} <= set(ids)
    assert page.elements[0] == ("html", {"lang": "en"})
    for tag, attributes in page.elements:
        if tag in {"table", "section", "svg"}:
            assert {"aria-labelledby", "aria-label"} & set(attributes), (tag, attributes)
    assert {f"/{link}" for link in page.attributes("href")} == set(PAGES) - {"/"}


def test_the_page_is_self_contained_and_shows_values_as_text(tmp_path: Path) -> None:
    """The policy allows the page's own style and script only. Nothing in the script turns a value into HTML or code."""
    with watched(settings_of("http://127.0.0.1:1", tmp_path, 1)) as seen:
        response = seen.get("/")
    policy = response.headers["content-security-policy"]
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", response.body, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"\son\w+\s*=\s*[\"']|javascript:|\sstyle=|\ssrc=", PAGE)
    assert set(re.findall(r"\w+://[^\s\"')]+", PAGE)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextual|eval|Function", SCRIPT
    )
    assert SCRIPT.count("createElement") == SCRIPT.count("node.textContent = text") == 2


def test_colours_have_contrast() -> None:
    """Text has a contrast of at least 4.5 to 1 (WCAG 2, AA) in the light and in the dark scheme."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    blocks = re.findall(r":root \{(.*?)\}", PAGE, re.DOTALL)
    schemes = [dict(re.findall(r"--([\w-]+): #(\w{6})", block)) for block in blocks]
    assert len(schemes) == 2
    pairs = [(text, ground) for text in ("text", "soft") for ground in ("ground", "card")]
    pairs += [("bad", "card"), *((kind, f"{kind}-ground") for kind in ("good", "bad", "wait"))]
    for scheme in schemes:
        for text, ground in pairs:
            dark, light = sorted((luminance(scheme[text]), luminance(scheme[ground])))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def rendered(url: str, directory: Path) -> Document:
    """The page after its script has run; the console must be silent."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={directory}"]
    options += ["--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom"]
    command = [str(CHROMIUM), *options, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)  # noqa: S603
    assert "CONSOLE" not in done.stderr, done.stderr
    return Document(done.stdout)


@pytest.fixture
def seen(tmp_path: Path) -> Iterator[Watched]:
    """A plugin with a history and three streams: one is healthy, one has a name like a script, one is refused."""
    now = now_ms()
    source = EventSource(start_ms=now - 120 * MINUTE_MS, end_ms=now - MINUTE_MS, per_minute=5)
    passed = [0]
    with SimulatedApi({"one": source, EVIL: source}) as api, SimulatedReceiver(keep=False) as receiver:
        changes: dict[str, Any] = {"jumpcloud__organizations": ("one", EVIL, "missing")}
        settings = settings_of(api.url, tmp_path, receiver.port, **changes)
        with watched(settings, now_ms=lambda: now_ms() + passed[0]) as seen:
            one, evil, missing = seen.plugin.collectors
            catch_up(one, evil)
            missing.step(threading.Event())
            for minute in range(1, HISTORY + 1):
                one.counters.acknowledged += 20 * minute
                passed[0] += MINUTE_MS
                wait_until(lambda: len(seen.get("/status.json").json["history"]) >= minute)  # noqa: B023
            yield seen


@needs_chromium
def test_what_the_page_shows(seen: Watched, tmp_path: Path) -> None:
    """Streams by name, their states in words, the last error, receivers, databases, and a bar for each minute."""
    page = rendered(seen.url, tmp_path / "profile")

    assert page.text["title"] == "in_jumpcloud"
    assert "img" not in [tag for tag, _ in page.elements]
    assert page.text["ready"] == "✕ not ready"
    streams = page.text["streams"]
    assert streams.index("organization one") < streams.index(f"organization {EVIL}") < streams.index("missing")
    assert [streams.count(state) for state in ("✓ up to date", "✕ refused")] == [2, 1]
    assert re.search(r"Last error: JumpCloud answered 403.* \(failing since \d{4}-", streams)
    assert "refused: organization missing: JumpCloud answered 403" in page.text["reasons"]
    assert "✓ up" in page.text["receivers"]
    assert "geoip.city" in page.text["databases"]
    assert ("section", "hidden") in {
        (tag, name) for tag, each in page.elements if each.get("id") == "group-section" for name in each
    }
    (bars,) = (attributes["d"] for tag, attributes in page.elements if attributes.get("class") == "events" and tag)
    assert (bars or "").count("M") == HISTORY
    peak = max(point[1] for point in seen.get("/status.json").json["history"])
    assert any(f": peak {peak:,} at " in label for label in page.attributes("aria-label"))


@needs_chromium
def test_a_group(tmp_path: Path, state_url: StateSettings, postgres_url: str) -> None:
    """Its members by name, what they say of themselves as text, and links to the pages of the others."""
    settings = msgspec.structs.replace(
        settings_of("http://127.0.0.1:1", tmp_path, 1), state=state_url, members=MembersSettings(name="this one")
    )
    with watched(settings) as seen, psycopg.connect(postgres_url, autocommit=True) as connection:
        for name, address, able in (
            ("other", "http://other.example.com:2021/", True),
            (EVIL, "javascript:alert(1)", False),
        ):
            connection.execute(
                f'INSERT INTO "{state_url.schema}".member (id, name, version, address, lease, able, settings_hash) '  # noqa: S608 - our own
                "VALUES (gen_random_uuid(), %s, '0.0.9', %s, interval '1 hour', %s, 'others')",
                (name, address, able),
            )
        wait_until(lambda: len(seen.get("/status.json").json["group"]["members"]) == 3)
        page = rendered(seen.url, tmp_path / "profile")

    members = page.text["members"]
    assert members.index(EVIL) < members.index("other") < members.index("this one")
    assert [members.count(text) for text in ("✓ able", "✕ not able", "0.0.9", "others")] == [2, 1, 2, 2]
    assert "javascript:alert(1)" in members
    links = [attributes.get("href") for tag, attributes in page.elements if tag == "a"]
    assert [link for link in links if f"/{link}" not in PAGES] == ["http://other.example.com:2021/"]
    assert "img" not in [tag for tag, _ in page.elements]
    assert re.search(r"1 streams?, 0 of them without a member; this member has [01], and", page.text["group-streams"])
    assert f"unable: member {EVIL} does not reach" in page.text["warnings"]


@needs_chromium
def test_the_page_says_when_the_process_does_not_answer(tmp_path: Path) -> None:
    """The page shows a notice, and tries again later."""
    fail = threading.Event()

    def clock() -> int:
        return now_ms() // (not fail.is_set())

    with watched(settings_of("http://127.0.0.1:1", tmp_path, 1), now_ms=clock) as seen:
        fail.set()
        page = rendered(seen.url, tmp_path / "profile")

    assert page.text["ready"] == "✕ unreachable"
    assert "does not answer" in page.text["gone"]
