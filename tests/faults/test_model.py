"""Faults of the served model, and of the way to it."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import orjson
import pytest

from services.core.contract import PROBABILITIES_OUTPUT
from services.local.net import ADDRESS, accepts
from tests.faults.proxy import Proxy
from tests.faults.scene import Consumer, Scene
from tests.integration.conftest import PARTITIONS
from tests.waiting import wait_until

Answer = tuple[int, bytes]
EVEN = [0.2, 0.3, 0.5]


def predictor_port(scene: Scene) -> int:
    return int(scene.rig.predictor.url.rpartition(":")[2])


@dataclass
class Stub:
    """What stands on the model's port and how often it was asked."""

    answer: Callable[[int], Answer]
    """Given how many texts are asked for."""
    is_ready: bool = True
    asked: int = 0


@contextmanager
def stub_in_place_of_the_model(scene: Scene, answer: Callable[[int], Answer]) -> Iterator[Stub]:
    """Stops the predictor, answers on its port, and brings it back."""
    stub = Stub(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200 if stub.is_ready else 503, b"{}")

        def do_POST(self) -> None:
            body = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
            stub.asked += 1
            self._send(*stub.answer(body["inputs"][0]["shape"][0]))

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """What is asked is counted, not printed."""

    scene.rig.predictor.stop()
    server = ThreadingHTTPServer((ADDRESS, predictor_port(scene)), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        scene.rig.predictor.start()


def v2(rows: list[list[float]], name: str = PROBABILITIES_OUTPUT) -> bytes:
    """An answer of the Open Inference Protocol."""
    data = [value for row in rows for value in row]
    tensor = {"name": name, "shape": [len(rows), 3], "datatype": "FP32", "data": data}
    return json.dumps(
        {"model_name": "sentiment", "model_version": "8", "outputs": [tensor]}
    ).encode()


def waits(consumer: Consumer) -> None:
    wait_until(lambda: consumer.waits("score"), 60, "a score stage that waits", 0.2)


@pytest.mark.fault(19, "the model is killed", "the consumer waits; no dead letter; goes on")
def test_a_killed_model_is_waited_for(scene: Scene) -> None:
    consumer = scene.consume()
    scene.load()
    scene.take(300)

    predictor = scene.rig.predictor
    assert predictor._process is not None
    predictor._process.kill()
    predictor._process.wait(30)
    try:
        assert not accepts(predictor_port(scene))
        waits(consumer)
        alive = consumer.status("/livez")
    finally:
        predictor.start()
    scene.healed()

    scene.recovered("waited, alive; no dead letter")
    scene.invariants([consumer])
    assert alive == 200


@pytest.mark.fault(
    20, "the model never answers", "the request ends at its deadline; no partition is given away"
)
def test_a_model_that_hangs_costs_nothing(scene: Scene) -> None:
    with Proxy(predictor_port(scene)) as proxy:
        consumer = scene.consume(
            INFERENCE_URL=f"http://{ADDRESS}:{proxy.port}", INFERENCE_TIMEOUT_SECONDS="3"
        )
        scene.load()
        scene.take(300)

        proxy.hang()
        passed = proxy.passed
        waits(consumer)
        before = consumer.metric('retries_total{stage="score"}')
        wait_until(
            lambda: consumer.metric('retries_total{stage="score"}') > before + 2, 60, "more tries"
        )
        silent = proxy.passed == passed
        proxy.heal()
        scene.healed()

        scene.recovered("each request ended after its 3 s; no partition given away")
        scene.invariants([consumer])
    assert silent
    assert consumer.count("partition.placed") == PARTITIONS


@pytest.mark.fault(20, "the model trickles its answer", "the request ends at its deadline")
def test_a_model_that_trickles_is_given_up_at_the_deadline(scene: Scene) -> None:
    with Proxy(predictor_port(scene)) as proxy:
        consumer = scene.consume(
            INFERENCE_URL=f"http://{ADDRESS}:{proxy.port}", INFERENCE_TIMEOUT_SECONDS="3"
        )
        scene.load()
        scene.take(300)

        proxy.trickle(0.5)
        passed = proxy.passed
        wait_until(lambda: proxy.passed > passed + 4, 30, "bytes that trickle")
        try:
            wait_until(lambda: consumer.waits("score"), 20, "a request given up", 0.2)
        finally:
            proxy.heal()
        scene.healed()

        scene.recovered("given up after 3 s, tried again")
        scene.invariants([consumer])


@pytest.mark.fault(
    21, "the model answers 503, 429, or 500 while unready", "waited for; blamed on no record"
)
def test_errors_of_the_model_are_waited_for(scene: Scene) -> None:
    consumer = scene.consume()
    scene.load()
    scene.take(300)

    with stub_in_place_of_the_model(scene, lambda count: (503, b"busy")) as stub:
        for status in (503, 429, 500, 502):
            stub.is_ready = status != 500
            stub.answer = lambda count, status=status: (status, b"not now")  # type: ignore[misc]
            before = stub.asked
            wait_until(lambda before=before: stub.asked > before + 1, 60, "tries")  # type: ignore[misc]
        waits(consumer)
        taken = scene.taken()
        wait_until(lambda: stub.asked > before + 3, 60, "another try")
        stood = scene.taken() == taken
    scene.healed()

    scene.recovered("503, 429, 500 and 502 waited for; no dead letter")
    scene.invariants([consumer])
    assert stood


BAD_ANSWERS: dict[str, Callable[[int], bytes]] = {
    "a row short": lambda count: v2([EVEN] * (count - 1)),
    "NaN": lambda count: v2([[math.nan, 0.5, 0.5]] * count),
    "no probabilities": lambda count: v2([[5.0, -3.0, -1.0]] * count),
    "an unknown output": lambda count: v2([EVEN] * count, "moods"),
    "HTML": lambda count: b"<html><body>200 OK</body></html>",
    "nothing": lambda count: b"",
}


@pytest.mark.fault(
    22, "the model's answer is no answer", "the batch is not written; asked again; no dead letter"
)
def test_an_invalid_answer_is_never_written(scene: Scene) -> None:
    consumer = scene.consume()
    scene.load()
    scene.take(300)

    with stub_in_place_of_the_model(scene, lambda count: (503, b"")) as stub:
        waits(consumer)
        taken = scene.taken()
        for make in BAD_ANSWERS.values():
            stub.answer = lambda count, make=make: (200, make(count))  # type: ignore[misc]
            before = stub.asked
            wait_until(lambda before=before: stub.asked > before + 1, 60, "tries")  # type: ignore[misc]
        stood = scene.taken() == taken
    scene.healed()

    scene.recovered(f"{', '.join(BAD_ANSWERS)}: not one row written")
    scene.invariants([consumer])
    assert stood
    assert scene.rig.query("SELECT count(*) FROM posts WHERE model_version = '8'") == [(0,)]
