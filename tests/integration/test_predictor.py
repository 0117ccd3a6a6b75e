"""The real predictor as a process: both protocols over REST, gRPC, hostile requests, probes,
metrics, and how it starts and stops.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
import urllib3
from sklearn.preprocessing import FunctionTransformer
from threadpoolctl import threadpool_limits

from services.core.contract import LABELS, MAX_TEXT_CHARS
from services.core.inference import InferenceClient, RejectedTextsError
from services.core.model import MODEL_FILE
from services.core.model import load as load_model
from services.core.settings import InferenceSettings
from tests.ports import free_port
from tests.waiting import status, wait_until
from training.candidates import BASELINE, CANDIDATES
from training.readers import read
from training.settings import SAMPLE

with warnings.catch_warnings():
    # kserve and what it imports use what newer libraries deprecate.
    warnings.simplefilter("ignore")
    import grpc
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

START_SECONDS = 120
STOP_SECONDS = 20
VERSION = "41"


class Predictor:
    """A predictor process and how to talk to it."""

    def __init__(
        self,
        model: Path,
        log: Path,
        *arguments: str,
        listening: socket.socket | None = None,
        **environment: str,
    ) -> None:
        self.port, self.grpc_port, self.log = free_port(), free_port(), log
        handed = () if listening is None else (listening.fileno(),)
        if listening is not None:
            self.port = listening.getsockname()[1]
        settings = {
            "MOODSTREAM_PREDICTOR_MODEL_DIR": str(model),
            "MOODSTREAM_PREDICTOR_HTTP_PORT": str(self.port),
            "MOODSTREAM_PREDICTOR_GRPC_PORT": str(self.grpc_port),
            "MOODSTREAM_PREDICTOR_SOCKET_FDS": json.dumps(handed),
            "MOODSTREAM_SERVICE_BIND": "127.0.0.1",
        }
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.predictor", *arguments],
                env=os.environ | settings | environment,
                stderr=file,
                stdout=file,
                pass_fds=handed,
            )
        self._pool = urllib3.PoolManager(retries=False, timeout=30)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if self.get("/v2/models/sentiment/ready").status == 200:
                    return
            except urllib3.exceptions.HTTPError:
                time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def wait_listening(self) -> None:
        wait_until(lambda: status(f"http://127.0.0.1:{self.port}/livez") != 0, START_SECONDS)

    def get(self, path: str) -> urllib3.BaseHTTPResponse:
        return self._pool.request("GET", f"http://127.0.0.1:{self.port}{path}")

    def post(self, path: str, body: bytes, **headers: str) -> urllib3.BaseHTTPResponse:
        url = f"http://127.0.0.1:{self.port}{path}"
        return self._pool.request("POST", url, body=body, headers=headers)

    def infer(self, texts: list[Any], **fields: Any) -> urllib3.BaseHTTPResponse:
        tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
        body = json.dumps({"inputs": [tensor], **fields}).encode()
        return self.post("/v2/models/sentiment/infer", body)

    def client(self) -> InferenceClient:
        return InferenceClient(InferenceSettings(url=f"http://127.0.0.1:{self.port}"))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    data = read(SAMPLE)
    with threadpool_limits(1):
        pipeline = CANDIDATES[BASELINE]().fit(data.texts, data.labels)
    (folder / MODEL_FILE).parent.mkdir()
    skops.io.dump(pipeline, folder / MODEL_FILE)
    (folder / "registered_model_meta").write_text(f"model_version: '{VERSION}'\n")
    return folder


@pytest.fixture(scope="module")
def predictor(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    running = Predictor(model_dir, tmp_path_factory.mktemp("predictor") / "log")
    running.wait_ready()
    yield running
    running.process.kill()
    running.process.wait()


@pytest.fixture
def stub(predictor: Predictor) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{predictor.grpc_port}") as channel:
        yield GRPCInferenceServiceStub(channel)


def test_the_consumers_client_gets_what_the_model_itself_says(
    predictor: Predictor, model_dir: Path
) -> None:
    texts = [*read(SAMPLE).texts[:256], "", "\U0001f600 \u2028 \x00"]

    scored = predictor.client().score(texts)

    assert (scored.model_name, scored.model_version) == ("sentiment", VERSION)
    np.testing.assert_allclose(
        scored.probabilities, load_model(model_dir).predict(texts), atol=1e-6
    )


def test_v2_answers_label_probabilities_and_score_that_agree(predictor: Predictor) -> None:
    response = predictor.infer(["I love it, great!", "awful, hate it"], id="abc")

    answer = response.json()
    label, probabilities, score = answer["outputs"]
    assert (response.status, answer["id"], answer["model_version"]) == (200, "abc", VERSION)
    assert label["data"] == ["positive", "negative"]
    rows = np.asarray(probabilities["data"]).reshape(probabilities["shape"])
    assert rows.sum(axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert [LABELS[i] for i in rows.argmax(axis=1)] == label["data"]
    assert score["data"] == pytest.approx(rows[:, 2] - rows[:, 0], abs=1e-5)


def test_v2_answers_only_the_outputs_asked_for(predictor: Predictor) -> None:
    answer = predictor.infer(["fine"], outputs=[{"name": "score"}]).json()

    assert [output["name"] for output in answer["outputs"]] == ["score"]


def test_v1_answers_the_same_as_v2(predictor: Predictor) -> None:
    body = json.dumps({"instances": ["I love it", {"text": "awful"}]}).encode()

    response = predictor.post("/v1/models/sentiment:predict", body)

    answer = response.json()
    _, _, score = predictor.infer(["I love it", "awful"]).json()["outputs"]
    assert (answer["model_name"], answer["model_version"]) == ("sentiment", VERSION)
    assert [row["label"] for row in answer["predictions"]] == ["positive", "negative"]
    assert [row["score"] for row in answer["predictions"]] == pytest.approx(score["data"], abs=1e-5)
    assert set(answer["predictions"][0]["probabilities"]) == set(LABELS)


def test_grpc_answers_the_same_as_rest(
    predictor: Predictor, stub: GRPCInferenceServiceStub
) -> None:
    texts = ["I love it", "awful \U0001f600"]
    request = pb.ModelInferRequest(model_name="sentiment", id="7")
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[2])
    tensor.contents.bytes_contents.extend(text.encode() for text in texts)

    answer = stub.ModelInfer(request)

    expected = predictor.client().score(texts).probabilities
    label, probabilities, _ = answer.outputs
    assert (answer.model_name, answer.model_version, answer.id) == ("sentiment", VERSION, "7")
    assert list(label.contents.bytes_contents) == [b"positive", b"negative"]
    assert list(probabilities.contents.fp32_contents) == pytest.approx(expected.ravel(), abs=1e-5)


def test_grpc_takes_raw_contents_and_answers_only_the_outputs_asked_for(
    stub: GRPCInferenceServiceStub,
) -> None:
    request = pb.ModelInferRequest(model_name="sentiment")
    request.inputs.add(name="text", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(len(b"love it").to_bytes(4, "little") + b"love it")
    request.outputs.add(name="label")

    answer = stub.ModelInfer(request)

    (label,) = answer.outputs
    assert (label.name, list(label.contents.bytes_contents)) == ("label", [b"positive"])


@pytest.mark.parametrize(
    ("contents", "raw", "shape", "reason"),
    [
        ([b"fine", b"\xff"], b"", [2], "row 1: not UTF-8"),
        ([b"a" * (MAX_TEXT_CHARS + 1)], b"", [1], "row 0: 10001 characters"),
        ([b"a"], b"", [2], r"its shape must be \[1\]"),
        ([], b"\xff\xff\xff\x7fabc", [1], "raw contents are no BYTES tensor"),
        ([], b"\x01", [1], "raw contents are no BYTES tensor"),
        ([], b"", [0], "no texts"),
    ],
)
def test_grpc_refuses_a_bad_request_with_its_reason(
    stub: GRPCInferenceServiceStub, contents: list[bytes], raw: bytes, shape: list[int], reason: str
) -> None:
    request = pb.ModelInferRequest(model_name="sentiment")
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=shape)
    if raw:
        request.raw_input_contents.append(raw)
    else:
        tensor.contents.bytes_contents.extend(contents)

    with pytest.raises(grpc.RpcError, match=reason) as caught:
        stub.ModelInfer(request)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["fine", 7], "row 1: expected a string, got int"),
        (["fine", "a" * (MAX_TEXT_CHARS + 1)], "row 1: 10001 characters, the limit is 10000"),
        ([], "no texts"),
        (["a"] * 4097, "4097 texts in the request, the limit is 4096"),
    ],
)
def test_a_bad_row_is_a_400_that_names_it(
    predictor: Predictor, texts: list[Any], reason: str
) -> None:
    response = predictor.infer(texts)

    assert response.status == 400
    assert reason in response.json()["error"]


@pytest.mark.parametrize("path", ["/v2/models/sentiment/infer", "/v1/models/sentiment:predict"])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"[" * 10_000, b"null", b"[]", b'{"inputs": 1, "instances": 1}'],
)
def test_a_hostile_body_is_a_400_with_a_reason(
    predictor: Predictor, path: str, body: bytes
) -> None:
    response = predictor.post(path, body, **{"Content-Type": "application/json"})

    assert response.status == 400
    assert response.json()["error"]


def test_the_clients_400_says_that_the_texts_are_at_fault(predictor: Predictor) -> None:
    with pytest.raises(RejectedTextsError, match="row 0"):
        predictor.client().score(["a" * (MAX_TEXT_CHARS + 1)])


def test_an_announced_body_over_the_limit_is_a_413_before_it_is_sent(predictor: Predictor) -> None:
    head = (
        b"POST /v2/models/sentiment/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 17000000\r\n\r\n"
    )

    with socket.create_connection(("127.0.0.1", predictor.port), timeout=30) as connection:
        connection.sendall(head)
        answer = connection.recv(4096)

    assert answer.startswith(b"HTTP/1.1 413")


def test_a_body_that_grows_over_the_limit_is_a_413(predictor: Predictor) -> None:
    with socket.create_connection(("127.0.0.1", predictor.port), timeout=30) as connection:
        connection.sendall(
            b"POST /v2/models/sentiment/infer HTTP/1.1\r\nHost: x\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        connection.sendall(chunk * 17)
        answer = connection.recv(4096)

    assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/other/infer",
        "/v1/models/other:predict",
        "/v2/repository/models/sentiment/unload",
        "/v2/repository/models/sentiment/load",
        "/v1/models/sentiment:explain",
    ],
)
def test_other_models_and_the_sdks_own_controls_are_a_404(predictor: Predictor, path: str) -> None:
    response = predictor.post(path, b'{"instances": ["a"]}')

    assert response.status == 404
    assert predictor.infer(["still served"]).status == 200


def test_grpc_cannot_unload_the_model(stub: GRPCInferenceServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="sentiment"))

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert stub.ModelReady(pb.ModelReadyRequest(name="sentiment")).ready


def test_binary_tensor_data_is_refused_with_a_reason(predictor: Predictor) -> None:
    response = predictor.post(
        "/v2/models/sentiment/infer", b"{}", **{"Inference-Header-Content-Length": "2"}
    )

    assert response.status == 400
    assert "send the data as JSON" in response.json()["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/livez",
        "/readyz",
        "/v1/models/sentiment",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/sentiment/ready",
    ],
)
def test_every_probe_answers_200_while_the_model_is_served(predictor: Predictor, path: str) -> None:
    assert predictor.get(path).status == 200


def test_the_metadata_describes_the_tensors(predictor: Predictor) -> None:
    metadata = predictor.get("/v2/models/sentiment").json()

    assert (metadata["name"], metadata["versions"]) == ("sentiment", [VERSION])
    assert metadata["platform"] == "sklearn_skops"
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert {output["name"]: output["shape"] for output in metadata["outputs"]} == {
        "label": [-1],
        "probabilities": [-1, 3],
        "score": [-1],
    }


def test_the_metrics_count_texts_and_refusals_and_name_the_version(predictor: Predictor) -> None:
    def total(name: str) -> float:
        lines = predictor.get("/metrics").data.decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    texts = total("moodstream_predictor_texts_total")
    refused = total('moodstream_predictor_rejected_requests_total{status="400"}')
    scorings = total("moodstream_predictor_scoring_seconds_count")

    predictor.infer(["one", "two", "three"])
    predictor.infer([])

    assert total("moodstream_predictor_texts_total") == texts + 3
    assert total('moodstream_predictor_rejected_requests_total{status="400"}') == refused + 1
    assert total("moodstream_predictor_scoring_seconds_count") == scorings + 1
    info = 'moodstream_predictor_model_info{name="sentiment",version="41"}'
    assert total(info) == 1


def test_arguments_as_kserve_passes_them_win_and_sigterm_is_a_clean_stop(
    model_dir: Path, tmp_path: Path
) -> None:
    running = Predictor(
        model_dir,
        tmp_path / "log",
        "--model_name=sentiment",
        f"--model_dir={model_dir}",
        "--protocol=v2",
        MOODSTREAM_PREDICTOR_MODEL_DIR="/nowhere",
        MOODSTREAM_PREDICTOR_MODEL_VERSION="from-the-promoter",
    )
    running.wait_ready()

    scored = running.client().score(["fine"])
    status = running.stop()

    assert scored.model_version == "from-the-promoter"
    assert status == 0, running.log.read_text()
    events = [json.loads(line)["event"] for line in running.log.read_text().splitlines()]
    assert (events[0], events[-1]) == ("service.started", "service.stopped")


def test_a_request_that_is_under_way_at_sigterm_is_still_answered(
    model_dir: Path, tmp_path: Path
) -> None:
    running = Predictor(model_dir, tmp_path / "log")
    running.wait_ready()
    body = b'{"instances": ["love it"]}'
    head = f"POST /v1/models/sentiment:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"

    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + body[:10])
        running.get("/livez")  # answered after what was sent before it has been taken in
        running.process.send_signal(signal.SIGTERM)
        wait_refused(running.port)
        connection.sendall(body[10:])
        answer = connection.recv(4096)

    assert answer.startswith(b"HTTP/1.1 200")
    assert running.process.wait(STOP_SECONDS) == 0


def test_a_predictor_that_is_told_to_stop_first_sends_its_callers_elsewhere(
    model_dir: Path, tmp_path: Path
) -> None:
    running = Predictor(model_dir, tmp_path / "log", MOODSTREAM_PREDICTOR_LEAVE_SECONDS="15")
    running.wait_ready()
    before = running.infer(["love it"])

    running.process.send_signal(signal.SIGTERM)
    wait_until(lambda: running.get("/readyz").status == 503, STOP_SECONDS)
    leaving = [running.infer(["love it"]), running.get("/livez"), running.get("/v2/models/x")]

    assert "connection" not in before.headers
    assert [answer.headers["connection"] for answer in leaving] == ["close"] * 3
    assert [answer.status for answer in leaving] == [200, 200, 404]
    assert running.process.wait(15 + STOP_SECONDS) == 0, running.log.read_text()


def test_on_a_socket_of_its_parents_a_predictor_leaves_new_connections_to_others_at_once(
    model_dir: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        leaving = Predictor(model_dir, tmp_path / "old", listening=listening)
        leaving.wait_ready()
        body = b'{"instances": ["love it"]}'
        head = (
            b"POST /v1/models/sentiment:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 26\r\n\r\n"
        )

        with socket.create_connection(listening.getsockname(), timeout=30) as connection:
            connection.sendall(head)
            leaving.get("/livez")  # answered after what was sent before it has been taken in
            leaving.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "predictor.leaving" in leaving.log.read_text(), STOP_SECONDS)
            with socket.create_connection(listening.getsockname(), START_SECONDS) as later:
                later.sendall(head + body)
                connection.sendall(body)
                answer = connection.recv(4096)
                status = leaving.process.wait(STOP_SECONDS)
                staying = Predictor(model_dir, tmp_path / "new", listening=listening)
                later_answer = later.recv(4096)
        staying.stop()

    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer
    assert status == 0, leaving.log.read_text()
    assert later_answer.startswith(b"HTTP/1.1 200")


def test_a_predictor_that_would_never_drain_is_told_so(model_dir: Path, tmp_path: Path) -> None:
    wrong = Predictor(
        model_dir,
        tmp_path / "log",
        MOODSTREAM_PREDICTOR_LEAVE_SECONDS="20",
        MOODSTREAM_SERVICE_DRAIN_SECONDS="20",
    )

    assert wrong.process.wait(START_SECONDS) == 2
    assert "MOODSTREAM_PREDICTOR_LEAVE_SECONDS" in wrong.log.read_text()


def wait_refused(port: int) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return
        time.sleep(0.02)
    raise AssertionError(f"port {port} still accepts connections")


def test_a_model_with_an_untrusted_type_never_becomes_ready(tmp_path: Path) -> None:
    data = read(SAMPLE)
    pipeline = CANDIDATES[BASELINE]().fit(data.texts[:100], data.labels[:100])
    pipeline.steps.insert(1, ("evil", FunctionTransformer(os.system)))
    (tmp_path / MODEL_FILE).parent.mkdir()
    skops.io.dump(pipeline, tmp_path / MODEL_FILE)
    (tmp_path / "MLmodel").write_text("model_id: m-1\nskops_trusted_types: [posix.system]\n")

    refusing = Predictor(tmp_path, tmp_path / "log")

    assert refusing.process.wait(START_SECONDS) == 1
    assert "posix.system" in refusing.log.read_text()


@pytest.mark.parametrize("exists", [False, True])
def test_a_predictor_without_a_model_waits_alive_and_not_ready_until_sigterm(
    exists: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    if exists:
        folder.mkdir()
    waiting = Predictor(folder, tmp_path / "log")
    waiting.wait_listening()

    statuses = {path: waiting.get(path).status for path in ("/livez", "/readyz", "/metrics")}
    reason = waiting.get("/readyz").data.decode()
    model_ready = waiting.get("/v2/models/sentiment/ready").status
    client_ready = waiting.client().ready()
    exit_status = waiting.stop()

    assert statuses == {"/livez": 200, "/readyz": 503, "/metrics": 200}
    assert reason == f"no model was set yet: there is nothing in {folder}\n"
    assert model_ready != 200
    assert not client_ready
    assert exit_status == 0, waiting.log.read_text()
    events = [json.loads(line) for line in waiting.log.read_text().splitlines()]
    assert [event["event"] for event in events] == [
        "service.started",
        "model.unset",
        "service.stopped",
    ]
    assert "storageUri" in events[1]["fix"]


def test_a_folder_that_holds_no_model_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "wrong"
    folder.mkdir()
    (folder / "notes.txt").write_text("no model")

    refusing = Predictor(folder, tmp_path / "log")

    assert refusing.process.wait(START_SECONDS) == 1
    assert "model.skops is missing" in refusing.log.read_text()
