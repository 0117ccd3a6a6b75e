"""The inference client against a real HTTP server that answers well, badly and not at all."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from services.core.errors import TemporaryError
from services.core.inference import FailedTextsError, InferenceClient, RejectedTextsError
from services.core.settings import InferenceSettings


class Answer:
    """What the server under test answers."""

    status = 200
    body: bytes = b""
    seen: Any = None


def v2(data: list[float], rows: int, **changes: Any) -> bytes:
    answer = {
        "model_name": "sentiment",
        "model_version": "7",
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [rows, 3], "data": data}
        ],
    }
    return json.dumps(answer | changes).encode()


@pytest.fixture(name="answer")
def _answer() -> Answer:
    return Answer()


@pytest.fixture(name="client")
def _client(answer: Answer) -> Iterator[InferenceClient]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            answer.seen = (self.path, json.loads(self.rfile.read(length)))
            self.reply()

        do_GET: Callable[..., None] = reply

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    yield InferenceClient(
        InferenceSettings(url=f"http://127.0.0.1:{server.server_address[1]}", timeout_seconds=2)
    )
    server.shutdown()
    server.server_close()


def test_texts_go_out_as_one_v2_request_and_come_back_as_rows(
    client: InferenceClient, answer: Answer
) -> None:
    answer.body = v2([0.1, 0.2, 0.7, 0.8, 0.1, 0.1], 2)

    scored = client.score(["good", "bad"])

    path, request = answer.seen
    assert path == "/v2/models/sentiment/infer"
    assert request["inputs"] == [
        {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["good", "bad"]}
    ]
    assert request["outputs"] == [{"name": "probabilities"}]
    assert scored.probabilities.tolist()[1] == pytest.approx([0.8, 0.1, 0.1])
    assert (scored.model_name, scored.model_version) == ("sentiment", "7")


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_the_texts_fault(
    client: InferenceClient, answer: Answer, status: int
) -> None:
    answer.status, answer.body = status, b"row 3 is empty"

    with pytest.raises(RejectedTextsError, match="row 3"):
        client.score(["x"])


def test_a_500_may_be_anybodys_fault(client: InferenceClient, answer: Answer) -> None:
    answer.status = 500

    with pytest.raises(FailedTextsError):
        client.score(["x"])


@pytest.mark.parametrize("status", [302, 404, 429, 502, 503, 504])
def test_a_busy_or_missing_server_is_worth_waiting_for(
    client: InferenceClient, answer: Answer, status: int
) -> None:
    answer.status = status

    with pytest.raises(TemporaryError):
        client.score(["x"])


@pytest.mark.parametrize(
    "body",
    [
        b"<html>ok</html>",
        b"[]",
        v2([0.1, 0.2, 0.7], 1, outputs=[]),
        v2([0.1, 0.2], 1),
        v2([0.1, 0.2, 0.7] * 2, 2),
        v2([float("nan"), 0.5, 0.5], 1),
        v2([0.9, 0.9, 0.9], 1),
        v2([-0.5, 0.5, 1.0], 1),
        v2(["a", "b", "c"], 1),  # type: ignore[list-item]  # garbage on purpose
    ],
)
def test_a_200_with_garbage_is_never_taken_for_a_prediction(
    client: InferenceClient, answer: Answer, body: bytes
) -> None:
    answer.body = body

    with pytest.raises(TemporaryError):
        client.score(["x"])


def test_a_server_that_is_away_is_worth_waiting_for() -> None:
    client = InferenceClient(InferenceSettings(url="http://127.0.0.1:9", timeout_seconds=1))

    with pytest.raises(TemporaryError, match="does not answer"):
        client.score(["x"])
    assert not client.ready()


def test_the_version_is_what_the_metadata_says(client: InferenceClient, answer: Answer) -> None:
    answer.body = json.dumps({"name": "sentiment", "versions": ["7"]}).encode()

    assert client.version() == "7"


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b"{}"), (200, b"{}"), (200, b'{"versions": []}'), (200, b"[]"), (200, b"what")],
)
def test_metadata_that_names_no_version_is_a_fault_of_the_server(
    client: InferenceClient, answer: Answer, status: int, body: bytes
) -> None:
    answer.status, answer.body = status, body

    with pytest.raises(TemporaryError):
        client.version()
