"""The status page in a real browser."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browser import PROGRAM, Browser
from support.command import wait_until
from support.monitoring import Watched, settings_of, watched

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import now_ms

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on PATH (chromium, google-chrome)")

EVIL = "<img/src=x/onerror=alert(1)><script>document.title='taken'</script>"
MINUTE = 60_000
NEVER = threading.Event()
HISTORY = 12


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all of them."""
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A plugin with some minutes' history, of three streams: one is well, one is named like a script, one refused."""
    now = now_ms()
    source = EventSource(start_ms=now - 120 * MINUTE, end_ms=now - MINUTE, per_minute=5)
    passed = [0]
    with SimulatedApi({"one": source, EVIL: source}) as api, SimulatedReceiver(keep=False) as receiver:
        changes: dict[str, Any] = {"jumpcloud__organizations": ("one", EVIL, "missing")}
        settings = settings_of(api.url, tmp_path_factory.mktemp("plugin"), receiver.port, **changes)
        with watched(settings, now_ms=lambda: now_ms() + passed[0]) as seen:
            one, evil, missing = seen.plugin.collectors
            while not (one.caught_up and evil.caught_up):
                one.step(NEVER)
                evil.step(NEVER)
            missing.step(NEVER)
            for minute in range(1, HISTORY + 1):
                one.counters.acknowledged += 20 * minute
                passed[0] += MINUTE
                _wait_for_points(seen, minute)
            yield seen


def _wait_for_points(seen: Watched, count: int) -> None:
    wait_until(lambda: len(seen.get("/status.json").json["history"]) >= count)


def _open(browser: Browser, seen: Watched) -> None:
    browser.troubles.clear()
    browser.open(seen.url)
    browser.wait_for("document.querySelectorAll('#streams tbody tr:not(.why)').length === 3")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_is_silent(browser: Browser, seen: Watched, width: int, dark: bool, tmp_path: Path) -> None:
    """On a phone and on a desk, light and dark: nothing overflows, text can be read, and the console stays silent.

    Where SCREENSHOTS names a folder the pictures are kept there.
    """
    browser.screen(width, dark=dark)
    _open(browser, seen)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask(_TOO_WIDE) == []
    assert browser.ask(_CONTRAST) == []
    picture = Path(os.environ.get("SCREENSHOTS", tmp_path)) / f"{width}-{'dark' if dark else 'light'}.png"
    browser.picture(picture)
    assert picture.stat().st_size > 10_000
    assert browser.troubles == []


_TOO_WIDE = """[...document.querySelectorAll("main *")].filter((each) => each.getBoundingClientRect().right >
  document.documentElement.clientWidth + 0.5).map((each) => each.outerHTML.slice(0, 200))"""
# WCAG 2: 4.5 to 1 for text, against the nearest ground behind it.
_CONTRAST = """(() => {
  const parts = (text) => text.match(/[0-9.]+/g).map(Number);
  const linear = (part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const light = (colour) => {
    const [red, green, blue] = parts(colour).slice(0, 3).map((part) => linear(part / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ground = (one) => {
    const found = getComputedStyle(one).backgroundColor;
    return parts(found)[3] === 0 ? ground(one.parentElement) : found;
  };
  const bad = [];
  for (const one of document.querySelectorAll("h1,h2,h3,p,td,th,span,li,svg text")) {
    if (!one.textContent.trim() || one.children.length) continue;
    const style = getComputedStyle(one), behind = light(ground(one));
    const text = light(one.tagName === "text" ? style.fill : style.color);
    const ratio = (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
    if (ratio < 4.5) bad.push([one.textContent, ratio]);
  }
  return bad;
})()"""


def test_values_are_text(browser: Browser, seen: Watched) -> None:
    """A stream that is called like a script is shown as it is called, and nothing of it runs."""
    browser.screen(1280)
    _open(browser, seen)
    names = browser.ask("[...document.querySelectorAll('#streams tbody th')].map((each) => each.textContent)")
    assert names == ["organization one", f"organization {EVIL}", "organization missing"]
    assert browser.ask("document.title") == "in_jumpcloud"
    assert browser.ask("document.querySelectorAll('main img, main script').length") == 0
    assert browser.troubles == []


def test_what_it_tells(browser: Browser, seen: Watched) -> None:
    """States in words and not by colour alone, the last error, receivers, databases, and a bar for each minute."""
    browser.screen(1280)
    _open(browser, seen)
    assert browser.ask("document.getElementById('ready').textContent") == "✕ not ready"
    badges = browser.ask("[...document.querySelectorAll('#streams .badge')].map((each) => each.textContent)")
    assert badges == ["✓ up to date", "✓ up to date", "✕ refused"]
    assert "Last error: JumpCloud answered 403" in browser.ask("document.querySelector('.why').textContent")
    assert "✓ up" in browser.ask("document.getElementById('receivers').innerText")
    assert "geoip.city" in browser.ask("document.getElementById('databases').innerText")
    assert browser.ask("document.querySelector('#events path').getAttribute('d')").count("M") == HISTORY
    most = max(point[1] for point in seen.get("/status.json").json["history"])
    assert f"at most {most:,}, at " in browser.ask("document.querySelector('#events').getAttribute('aria-label')")


def test_for_those_who_do_not_see_it(browser: Browser, seen: Watched) -> None:
    """Tables have names and headings, also on a phone, where they look like lists; charts have a text."""
    browser.screen(390)
    _open(browser, seen)
    heads = "[...document.querySelectorAll('#streams th[scope=col]')].map((each) => each.getAttribute('role'))"
    assert set(browser.ask(heads)) == {"columnheader"}
    assert browser.ask("document.querySelectorAll('table[role=table][aria-labelledby]').length") == 3
    assert browser.ask("[...document.querySelectorAll('tbody td:not([colspan])')].every((each) => each.dataset.label)")
    assert browser.ask("document.documentElement.lang") == "en"
    assert browser.ask("[...document.querySelectorAll('svg')].every((each) => each.getAttribute('aria-label'))")


def test_it_stays_current(browser: Browser, seen: Watched) -> None:
    """What changes is shown without a reload; and when the process is gone, that is said."""
    browser.screen(1280)
    _open(browser, seen)
    seen.plugin.collectors[0].counters.late = 4321
    browser.wait_for("document.getElementById('streams').textContent.includes('4,321')")
    assert browser.ask("document.getElementById('gone').hidden")


def test_it_tells_that_the_process_is_gone(browser: Browser, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """The page says so, and since when, and keeps what it last heard."""
    with watched(settings_of("http://127.0.0.1:1", tmp_path, receiver.port)) as seen:
        browser.screen(390)
        browser.open(seen.url)
        browser.wait_for("document.querySelectorAll('#streams tbody tr').length === 1")
    browser.wait_for("!document.getElementById('gone').hidden")
    assert "what stands below is from then" in browser.ask("document.getElementById('gone').textContent")
    assert browser.ask("document.getElementById('ready').textContent") == "✕ gone"
    assert "own organization" in browser.ask("document.getElementById('streams').textContent")
