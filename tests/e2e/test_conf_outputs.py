"""What each file of conf/outputs sends to its store, included in the shipped receiver of a real Fluent Bit."""

from __future__ import annotations

import gzip
import json
import queue
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
from support.certificates import Certificates
from support.command import ROOT, wait_until
from support.fluent_bit import BINARY, FluentBit, needs_fluent_bit

from in_jumpcloud.config.schema import ForwardSettings, ServerSettings
from in_jumpcloud.config.types import Secret
from in_jumpcloud.forward import wire
from in_jumpcloud.forward.sender import AckSender

pytestmark = needs_fluent_bit

OUTPUTS = sorted(path.stem for path in (ROOT / "conf" / "outputs").glob("*.yaml"))
PLUGINS = {"elasticsearch": "opensearch"}  # the output plugin, if the file has another name
SECRETS = ["ELASTICSEARCH", "KAFKA", "LOKI", "OPENSEARCH"]
RECORD: dict[str, Any] = json.loads((ROOT / "tests" / "data" / "seed_record.json").read_bytes())
ID = RECORD["event"]["id"]
TIME_NS = 1_673_684_166_495_000_000

Answer = tuple[int, bytes]


class Request(NamedTuple):
    """A request to a store."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Store:
    """An HTTPS endpoint that records its requests; `answers` decides its answers."""

    def __init__(self, certificates: Certificates, answers: Callable[[Request], Answer]) -> None:
        self.requests: queue.Queue[Request] = queue.Queue()
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers["Content-Encoding"] == "gzip":
                    body = gzip.decompress(body)
                request = Request(self.command, self.path, dict(self.headers), body)
                status, answer = answers(request)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
                store.requests.put(request)

            do_PUT = do_POST  # noqa: N815 - the name is the base class's

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = certificates.server_context().wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def next(self) -> Request:
        """The next request."""
        return self.requests.get(timeout=60)


class Receiver(FluentBit):
    """The shipped receiver, with one of the shipped outputs instead of its own."""

    def __init__(self, directory: Path, output: str, changes: dict[str, str] | None = None) -> None:
        (directory / "outputs").mkdir()
        text = (ROOT / "conf" / "outputs" / f"{output}.yaml").read_text().replace("state/", f"{directory}/")
        for place, ours in (changes or {}).items():
            assert place in text
            text = text.replace(place, ours)
        (directory / "outputs" / f"{output}.yaml").write_text(text)
        receiver = (ROOT / "conf" / "fluent-bit.yaml").read_text()
        include = "# includes: [outputs/elasticsearch.yaml]"
        assert include in receiver
        receiver = receiver.replace(include, f"includes: [outputs/{output}.yaml]")
        receiver = receiver[: receiver.index("  outputs:\n")]
        receiver = receiver.replace("flush: 1\n", "flush: 0.1\n")
        super().__init__(directory, receiver.replace("scheduler.cap: 60", "scheduler.cap: 1\n  scheduler.base: 1"))

    def deliver(self, *records: dict[str, Any]) -> None:
        """Deliver these records in one chunk."""
        settings = ForwardSettings(shared_key=Secret(""))  # fluent-bit.yaml has empty_shared_key
        sender = AckSender(ServerSettings(host="127.0.0.1", port=self.port), settings)
        entries = b"".join(wire.pack_entry(TIME_NS, record) for record in records)
        sender.deliver(wire.build_chunk("jumpcloud.events", entries, len(records)), threading.Event())
        sender.close()


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variables that the files use."""
    for name in SECRETS:
        monkeypatch.setenv(f"{name}_USER", "user")
        monkeypatch.setenv(f"{name}_PASSWORD", "password")
    monkeypatch.setenv("SPLUNK_TOKEN", "token")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.fixture
def receiver(tmp_path: Path, certificates: Certificates) -> Iterator[Callable[[str, int], Receiver]]:
    """Starts a receiver with this output, with the store at this port."""
    started = []

    def start(output: str, port: int) -> Receiver:
        host, usual = {
            "elasticsearch": ("elasticsearch.example.com", 9200),
            "opensearch": ("opensearch.example.com", 9200),
            "loki": ("loki.example.com", 3100),
            "splunk": ("splunk.example.com", 8088),
        }[output]
        changes = {host: "localhost", f"port: {usual}": f"port: {port}", SYSTEM_CERTIFICATES: str(certificates.ca_file)}
        receiver = Receiver(tmp_path, output, changes)
        started.append(receiver)
        receiver.start()
        return receiver

    yield start
    for each in started:
        each.__exit__()


SYSTEM_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def bulk(request: Request) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The actions and documents of a bulk request. A duplicate key is an error, as in the store."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), [key for key, _ in pairs]
        return dict(pairs)

    lines = [json.loads(line, object_pairs_hook=unique) for line in request.body.splitlines()]
    return list(zip(lines[::2], lines[1::2], strict=True))


def bulk_answer(statuses: list[int]) -> Answer:
    """The answer of a store to a bulk request whose actions have these statuses."""
    items = [{"create": {"status": status}} for status in statuses]
    errors = any(status >= 400 for status in statuses)
    return 200, json.dumps({"took": 1, "errors": errors, "items": items}).encode()


@pytest.mark.parametrize("output", OUTPUTS)
def test_fluent_bit_takes_every_option(output: str, tmp_path: Path) -> None:
    """Every option of the shipped file exists."""
    _needs(output)
    assert _dry_run(Receiver(tmp_path, output)) == 0


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_misspelt_option_would_be_found(output: str, tmp_path: Path) -> None:
    """Fluent Bit's dry run knows every output's options."""
    _needs(output)
    assert _dry_run(Receiver(tmp_path, output, {"      match:": "      misspelt: 1\n      match:"})) != 0


@pytest.mark.parametrize(
    ("output", "index"), [("elasticsearch", "logs-jumpcloud.events-default"), ("opensearch", "jumpcloud-events")]
)
def test_a_record_delivered_twice_is_one_document(
    output: str, index: str, certificates: Certificates, receiver: Callable[[str, int], Receiver]
) -> None:
    """The document has the event's id. The second time the store has it, which counts as delivered."""
    ids: set[str] = set()

    def answers(request: Request) -> Answer:
        statuses = []
        for action, _ in bulk(request):
            statuses.append(409 if action["create"]["_id"] in ids else 201)
            ids.add(action["create"]["_id"])
        return bulk_answer(statuses)

    with Store(certificates, answers) as store:
        fluent_bit = receiver(output, store.port)
        fluent_bit.deliver(RECORD)
        first = store.next()
        fluent_bit.deliver(RECORD)
        second = store.next()
        fluent_bit.deliver(RECORD | {"event": {"id": "last"}})
        third = store.next()

    ((action, document),) = bulk(first)
    assert first.path == "/_bulk"
    assert action == {"create": {"_index": index, "_id": ID}}
    assert document == RECORD | {"fluent_bit.time": "2023-01-14T08:16:06.495000000Z"}
    assert bulk(second) == bulk(first)
    assert [each["create"]["_id"] for each, _ in bulk(third)] == ["last"]  # it was not sent a third time
    assert fluent_bit.log_count("failed to flush chunk") == 0


@pytest.mark.parametrize("output", ["elasticsearch", "opensearch"])
def test_a_rejected_record_among_others_is_sent_again(
    output: str, certificates: Certificates, receiver: Callable[[str, int], Receiver]
) -> None:
    """An overloaded store accepts one and rejects the other. In the end it has both, each once."""
    taken: list[str] = []
    refused = iter([429])

    def answers(request: Request) -> Answer:
        statuses = []
        for action, _ in bulk(request):
            name = action["create"]["_id"]
            status = 409 if name in taken else next(refused, 201) if name == "two" else 201
            taken.extend([name] if status == 201 else [])
            statuses.append(status)
        return bulk_answer(statuses)

    with Store(certificates, answers) as store:
        fluent_bit = receiver(output, store.port)
        fluent_bit.deliver({"event": {"id": "one"}}, {"event": {"id": "two"}})
        store.next()
        assert taken == ["one"]
        store.next()

    assert taken == ["one", "two"]


def test_loki_gets_the_id_as_structured_metadata(
    certificates: Certificates, receiver: Callable[[str, int], Receiver]
) -> None:
    """With few labels, the event's time, and the other fields in the line. A second delivery is identical."""
    with Store(certificates, lambda _: (204, b"")) as store:
        fluent_bit = receiver("loki", store.port)
        fluent_bit.deliver(RECORD)
        first = store.next()
        fluent_bit.deliver(RECORD)
        second = store.next()

    assert first.path == "/loki/api/v1/push"
    (stream,) = json.loads(first.body)["streams"]
    assert stream["stream"] == {"job": "jumpcloud", "event_module": RECORD["event"]["module"]}
    ((time, line, metadata),) = stream["values"]
    assert time == str(TIME_NS)
    assert metadata == {"event_id": ID}
    event = {key: value for key, value in RECORD["event"].items() if key not in {"id", "module"}}
    assert json.loads(line) == RECORD | {"event": event}
    assert second.body == first.body


def test_splunk_gets_the_id_as_an_indexed_field(
    certificates: Certificates, receiver: Callable[[str, int], Receiver]
) -> None:
    """With the event's time, and the whole record as the event."""
    with Store(certificates, lambda _: (200, b'{"text":"Success","code":0}')) as store:
        receiver("splunk", store.port).deliver(RECORD)
        request = store.next()

    assert request.path == "/services/collector/event"
    assert request.headers["Authorization"] == "Splunk token"
    event = json.loads(request.body)
    assert event["fields"] == {"event_id": ID}
    assert event["event"] == RECORD
    assert event["time"] == pytest.approx(TIME_NS / 1e9, abs=1e-6)


def test_s3_gets_files_left_by_a_kill(certificates: Certificates, tmp_path: Path) -> None:
    """Files in store_dir at the kill are uploaded after the next start, with the first new record."""
    with Store(certificates, lambda _: (200, b"")) as store:
        at = f"endpoint: https://localhost:{store.port}\n      tls.ca_file: {certificates.ca_file}"
        receiver = Receiver(tmp_path, "s3", {"region: eu-west-1": f"region: eu-west-1\n      {at}"})
        buffered = tmp_path / "fluent-bit-s3"
        with receiver:
            receiver.deliver(RECORD)
            wait_until(lambda: any(ID.encode() in path.read_bytes() for path in buffered.rglob("*") if path.is_file()))
        with receiver:
            receiver.deliver({"event": {"id": "new"}})
            request = store.next()

    assert request.method == "PUT"
    assert re.fullmatch(r"/example-jumpcloud-events/jumpcloud/jumpcloud\.events/[\d/]{13}/\w+\.json\.gz", request.path)
    assert [json.loads(line) for line in request.body.splitlines()] == [RECORD]


def _needs(output: str) -> None:
    plugin = PLUGINS.get(output, output)
    assert BINARY is not None
    known = subprocess.run([BINARY, "--help"], capture_output=True, text=True, timeout=60, check=True)  # noqa: S603
    outputs = known.stdout.partition("Outputs")[2]
    if not any(line.split()[:1] == [plugin] for line in outputs.splitlines()):
        pytest.skip(f"this Fluent Bit is built without the output {plugin}")


def _dry_run(receiver: Receiver) -> int:
    assert BINARY is not None
    command = [BINARY, "--dry-run", "-c", str(receiver.settings)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode  # noqa: S603
