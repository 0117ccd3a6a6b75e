"""The predictor's figures, over REST and gRPC, beside MLflow's and MLServer's servers of the same
model; each server is held to one core, the client to the others.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import orjson
import urllib3
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from tests.bench.peers import MLFLOW, MLSERVER
from tests.bench.rig import Rig, texts

BATCHES: Final = (1, 32, 256, 1024)
_TEXTS: Final = 4096
_REQUESTS: Final = 256
"""Most requests of one run: of single texts, not all are sent."""

Request = Callable[[Sequence[str]], None]


def serving(rig: Rig, runs: int) -> dict[str, Any]:
    """Texts per second and milliseconds of a request, by protocol and batch."""
    with _on_one_core(rig.predictor.pid):
        with _rest(f"http://127.0.0.1:{rig.predictor_port}/v2/models/sentiment/infer", v2) as ask:
            rest = measure(ask, runs)
        with grpc.insecure_channel(f"127.0.0.1:{rig.predictor_grpc_port}") as channel:
            stub = GRPCInferenceServiceStub(channel)

            def infer(batch: Sequence[str]) -> None:
                request = ModelInferRequest(model_name="sentiment")
                tensor = request.inputs.add(name="text", datatype="BYTES", shape=[len(batch)])
                tensor.contents.bytes_contents.extend(text.encode() for text in batch)
                request.outputs.add(name="probabilities")
                stub.ModelInfer(request)

            return {"rest": rest, "grpc": measure(infer, runs)}


def peers(folder: Path, model: Path, runs: int) -> dict[str, Any]:
    """The same of MLflow's and MLServer's servers, each as its documentation starts it."""
    result = {}
    for server, body in ((MLFLOW, _dataframe), (MLSERVER, _v2_strings)):
        with (
            server.running(folder / server.name, model) as (process, url),
            _on_one_core(process.pid),
            _rest(url, body) as ask,
        ):
            result[server.name] = measure(ask, runs)
    return result


def measure(ask: Request, runs: int) -> dict[str, Any]:
    """Texts per second (median of the runs) and p50 and p99 of a request, by batch."""
    found = texts()
    result: dict[str, Any] = {}
    for size in BATCHES:
        batches = [
            [found[(start + i) % len(found)] for i in range(size)]
            for start in range(0, _TEXTS, size)
        ][:_REQUESTS]
        for batch in batches[: max(1, len(batches) // 4)]:
            ask(batch)
        rates, seconds = [], []
        for _ in range(runs):
            started = time.perf_counter()
            for batch in batches:
                asked = time.perf_counter()
                ask(batch)
                seconds.append(time.perf_counter() - asked)
            rates.append(size * len(batches) / (time.perf_counter() - started))
        seconds.sort()
        result[f"batch_{size}"] = {
            "texts_per_second": round(statistics.median(rates)),
            "p50_ms": round(seconds[len(seconds) // 2] * 1000, 2),
            "p99_ms": round(seconds[int(len(seconds) * 0.99)] * 1000, 2),
        }
    return result


@contextmanager
def _rest(url: str, body: Callable[[Sequence[str]], Any]) -> Iterator[Request]:
    pool = urllib3.PoolManager(maxsize=1)

    def ask(batch: Sequence[str]) -> None:
        answer = pool.request(
            "POST", url, body=orjson.dumps(body(batch)),
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        if answer.status != 200:
            raise SystemExit(f"{url} answered {answer.status}: {answer.data[:300]!r}")
        orjson.loads(answer.data)

    yield ask
    pool.clear()


def v2(batch: Sequence[str]) -> Any:
    """A request as the consumer sends it."""
    tensor = {"name": "text", "shape": [len(batch)], "datatype": "BYTES", "data": batch}
    return {"inputs": [tensor], "outputs": [{"name": "probabilities"}]}


def _v2_strings(batch: Sequence[str]) -> Any:
    tensor = {"name": "text", "shape": [len(batch)], "datatype": "BYTES", "data": batch}
    return {
        "parameters": {"content_type": "str"},
        "inputs": [tensor],
        "outputs": [{"name": "predict_proba"}],
    }


def _dataframe(batch: Sequence[str]) -> Any:
    return {"dataframe_split": {"columns": ["text"], "data": [[text] for text in batch]}}


@contextmanager
def _on_one_core(pid: int) -> Iterator[None]:
    """The server and its threads on the first core, this client on the others."""
    cores = sorted(os.sched_getaffinity(0))
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {cores[0]})
    os.sched_setaffinity(0, set(cores[1:]) or {cores[0]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, set(cores))
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), set(cores))
