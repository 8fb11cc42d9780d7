"""`in-jumpcloud map` reads events as people have them, and says on which line something is not JSON."""

from __future__ import annotations

import gzip
import json
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.command import ROOT, invoke

from in_jumpcloud.cli.event_files import read_events

TWO_OBJECTS = ROOT / "tests" / "data" / "map-two-objects.json"
ONE, TWO, THREE = '{"id": "1"}', '{"id": "2"}', '{"id": "3"}'


def ids(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    """The event ids of the records that were printed."""
    return [json.loads(line)["event"]["id"] for line in done.stdout.splitlines()]


def errors(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    """The lines on standard error."""
    assert b"Traceback" not in done.stderr
    return done.stderr.decode().splitlines()


SHAPES = {
    "lines": f"{ONE}\n\n{TWO}\n",
    "lines with commas": f"{ONE},\r\n{TWO},\r\n",
    "an array": f"[{ONE}, {TWO}]",
    "an array of lines": f"[\n{ONE},\n{TWO}\n]\n",
    "an indented array": json.dumps([json.loads(ONE), json.loads(TWO)], indent=2),
    "an array for each page": f"[{ONE}]\n[]\n[{TWO}]\n",
    "indented objects": f"{json.dumps(json.loads(ONE), indent=2)}\n{json.dumps(json.loads(TWO), indent=2)}\n",
    "objects on one line": f"{ONE}{TWO}",
    "an object in an object": '{\n"id": "1", "x": [\n{"id": "9"}, {\n"y":\n{}}, "{"]}\n' + TWO,
    "what only a lenient decoder reads": f'{{"id": "1", "x": NaN, "y": "\\ud800", "z": {"[" * 999}{"]" * 999}}}\n{TWO}',
}
ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "UTF-8": lambda text: text.encode(),
    "UTF-8 with a byte order mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 BE": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "gzip": lambda text: gzip.compress(text.encode()),
    "gzip in parts, UTF-16": lambda text: (
        gzip.compress(text.encode("utf-16")[:9]) + gzip.compress(text.encode("utf-16")[9:])
    ),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(tmp_path: Path, shape: str, encoding: str) -> None:
    """Every shape in every encoding gives the same two events, from a file and from standard input."""
    content = ENCODINGS[encoding](SHAPES[shape])
    (tmp_path / "events").write_bytes(content)
    for done in (invoke("map", tmp_path / "events"), invoke("map", "-", stdin=content), invoke("map", stdin=content)):
        assert (done.returncode, ids(done), errors(done)) == (0, ["1", "2"], [])


def test_two_indented_objects() -> None:
    """Two objects on several lines each, as `jq .` writes them, are two records."""
    done = invoke("map", TWO_OBJECTS)
    assert (done.returncode, ids(done)) == (0, ["65c000000000000000090001", "65c000000000000000090002"])
    assert b"pipeline_error" not in done.stdout


@pytest.mark.parametrize(
    ("text", "expected", "lines"),
    [
        (f"{ONE}\nnot JSON\nnot, JSON\n{TWO}\n", ["1", "2"], [2, 3]),
        (f"{ONE}\nFri Nov 27 {TWO}\n{THREE}\n", ["1", "3"], [2]),
        (f'{ONE}\n{{"id": "cut", "mess\n{TWO}\n{THREE}\n', ["1", "2", "3"], [2]),
        (f'{{"id": "cut",\n{TWO}\n{THREE}\n', ["2", "3"], [1]),
        (f'{{"id": "cut", "x": [\n{TWO}\n{THREE}\n', ["2", "3"], [1]),
        (f'{ONE}\n{{"id": "cut", "x": {{', ["1"], [2]),
        (f"{ONE} {TWO}\n{{'id': 3}}\n", ["1", "2"], [2]),
        (f'{ONE}\n{{"id": 1]\n{TWO}\n', ["1", "2"], [2]),
        (f"{ONE}\n]\n{TWO}\n", ["1", "2"], [2]),
        (f'[{ONE}, {{"id', ["1"], [1, 1]),
        (f"[\n{ONE},\n{TWO}\n", ["1", "2"], [1]),
        ('[\n  {\n    "id": 1,\n    "x": {\n  },\n  {\n    "id": "2"\n  }\n]\n', ["2"], [2]),
        (f'{{\n  "id": 1,\n  "x": [\n    {{\n{ONE}\n{TWO}\n', ["1", "2"], [1]),
        (f'[{ONE}, {{"id": "2", "x": nope}}, {THREE}, {THREE}]\n', ["1", "3", "3"], [1]),
        (f'{ONE} {{"id": "2", "x": nope}} {THREE}\n', ["1", "3"], [1]),
        (f'[{ONE}, nope, {{"x": [nope]}}, {THREE}, nope]\n{TWO}\n', ["1", "3", "2"], [1, 1, 1]),
        (f'{{\n"id": "2",\n"x": nope}} {THREE}\n{ONE}\n', ["3", "1"], [1]),
        (f'[{ONE}, {{"id": "2", "x": [}}, {THREE}]\n', ["1"], [1]),
        (f'[{ONE}, {{"id": "2", "x": {{}}, {THREE}]\n[{TWO}]\n', ["1", "2"], [1]),
        (f'[{ONE}, {{"id": "2", "x": "}}, {THREE}]\n{TWO}\n', ["1", "2"], [1]),
    ],
)
def test_what_is_not_json(tmp_path: Path, text: str, expected: list[str], lines: list[int]) -> None:
    """Each value that is not JSON is an error with its line, exit code 1; all others are mapped.

    Of those behind it on its own line this is so if its brackets match, or it is between commas of an array.
    """
    file = tmp_path / "events.json"
    file.write_text(text, encoding="utf-8")
    done = invoke("map", file)
    *reports, summary = errors(done)
    assert (done.returncode, ids(done)) == (1, expected)
    assert [int(line.split(": ")[2].removeprefix("line ")) for line in reports] == lines
    assert all(line.startswith(f"in-jumpcloud: {file}: line ") for line in reports)
    assert (
        summary == f"in-jumpcloud: not everything could be read (errors: {len(lines)}); what could be read was mapped"
    )


def test_a_file_that_cannot_be_read_to_its_end(tmp_path: Path) -> None:
    """A missing file and a cut archive are errors; the events before and in other files are mapped."""
    archive = tmp_path / "cut.gz"
    archive.write_bytes(gzip.compress(f"{ONE}\n{TWO}\n".encode() * 5000)[:-12])
    done = invoke("map", tmp_path / "missing.json", archive, "-", stdin=THREE.encode())
    assert done.returncode == 1
    assert {*ids(done)} == {"1", "2", "3"}
    missing, cut, *_ = errors(done)
    assert missing == f"in-jumpcloud: {tmp_path}/missing.json: cannot be read: No such file or directory"
    assert cut.startswith(f"in-jumpcloud: {archive}: cannot be read to its end: ")


def test_utf_16_that_is_damaged() -> None:
    """A lone surrogate is a problem of its event only; a file that ends within a character is an error."""
    half, rest = '{"id": "1", "x": "'.encode("utf-16"), f'"}}\n{TWO}\n'.encode("utf-16-le")
    done = invoke("map", stdin=half + b"\x00\xd8" + rest)
    assert (done.returncode, ids(done), errors(done)) == (0, ["1", "2"], [])
    assert done.stdout.count(b"pipeline_error") == 1
    done = invoke("map", stdin=(half + rest)[:-3])
    assert (done.returncode, ids(done)) == (1, ["1"])
    assert errors(done)[0].startswith("in-jumpcloud: standard input: cannot be read to its end: ")


def test_many_errors() -> None:
    """Only the first errors are shown; all are counted."""
    done = invoke("map", stdin=b"nothing\n" * 5000 + ONE.encode())
    assert (len(errors(done)), ids(done)) == (21, ["1"])
    assert "(errors: 5000)" in errors(done)[-1]


def test_output_that_can_be_compared() -> None:
    """With fixed ids and a fixed time of collection two runs print the same; without, they do not."""
    options = ("--agent-id", "an id", "--created", "2026-08-14T11:00:00+01:00", TWO_OBJECTS)
    first, second, other = invoke("map", *options), invoke("map", *options), invoke("map", TWO_OBJECTS)
    assert first.stdout == second.stdout != other.stdout
    record = json.loads(first.stdout.splitlines()[0])
    assert (record["agent"]["id"], record["agent"]["ephemeral_id"]) == ("an id", "an id")
    assert record["event"]["created"] == "2026-08-14T10:00:00.000Z"
    done = invoke("map", "--created", "today")
    assert (done.returncode, "'--created': expected a time such as" in errors(done)[-1]) == (2, True)


@pytest.mark.parametrize(
    ("line", "count"), [(ONE, 40_000), ('{"id": "1", "x": {', 300), ('{"id": "1", "x": [{},', 300), ("[[", 300)]
)
def test_memory(tmp_path: Path, line: str, count: int) -> None:
    """A large file of lines is read line by line, also one of lines that do not end."""
    file = tmp_path / "events.gz"
    file.write_bytes(gzip.compress(f"{line}\n".encode() * count, 1))
    reports = 0

    def report(_: str) -> None:
        nonlocal reports
        reports += 1

    tracemalloc.start()
    events = sum(1 for _ in read_events([file], report))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (events, reports > 0) == ((count, False) if line == ONE else (0, True))
    assert peak < 500_000


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(
    st.lists(st.dictionaries(st.text(max_size=5), JSON_VALUES, min_size=1, max_size=4), max_size=4),
    st.sampled_from([None, 0, 1, "\t"]),
    st.booleans(),
    st.booleans(),
)
def test_any_events(values: list[dict[str, Any]], indent: int | str | None, as_array: bool, ascii_only: bool) -> None:
    """Any objects come out as they went in, however they are written, and nothing is reported."""
    documents = [
        json.dumps(each, indent=indent, ensure_ascii=ascii_only) for each in ([values] if as_array else values)
    ]
    text = "\n".join(documents)
    done = invoke("map", stdin=text.encode(errors="surrogatepass"))
    assert (done.returncode, errors(done)) == (0, [])
    assert len(done.stdout.splitlines()) == len(values)


@given(
    st.lists(
        st.tuples(st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=4), st.none() | st.floats(0, 1)),
        max_size=8,
    ),
    st.booleans(),
)
def test_any_lines_that_are_cut(lines: list[tuple[dict[str, Any], float | None]], as_array: bool) -> None:
    """Whatever lines are cut wherever: each of them is reported, and all events of the others are mapped."""
    texts, whole, cut = [], [], []
    for number, (values, at) in enumerate(lines):
        text = json.dumps({**values, "id": str(number)})
        whole += [str(number)] if at is None else []
        cut += [] if at is None else [number + 1 + as_array]
        texts.append(text if at is None else text[: 1 + int(at * (len(text) - 2))])
    content = "[\n" + ",\n".join(texts) + "\n]\n" if as_array else "\n".join(texts)
    done = invoke("map", stdin=content.encode())
    assert ids(done) == whole
    *reports, _ = [*errors(done), ""] if not cut else errors(done)
    assert [int(line.split(": ")[2].removeprefix("line ")) for line in reports] == cut


@given(
    st.lists(st.tuples(st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=4), st.booleans()), max_size=6),
    st.sampled_from(["[%s]\n", "%s\n"]),
    st.sampled_from([", ", " ", ",\n", "\n"]),
    st.sampled_from([None, 0, 2]),
)
def test_any_broken_values(
    events: list[tuple[dict[str, Any], bool]], around: str, between: str, indent: int | None
) -> None:
    """However events are laid out: each that is not JSON, but ends, is reported; all others are mapped."""
    texts = [json.dumps({**values, "id": str(number)}, indent=indent) for number, (values, _) in enumerate(events)]
    broken = [
        text[:-1] + ', "x": nope}' if is_broken else text for text, (_, is_broken) in zip(texts, events, strict=True)
    ]
    done = invoke("map", stdin=(around % between.join(broken)).encode())
    assert ids(done) == [str(number) for number, (_, is_broken) in enumerate(events) if not is_broken]
    assert len(errors(done)[:-1]) == sum(is_broken for _, is_broken in events)
