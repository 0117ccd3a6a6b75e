"""The challenger in shadow: two real predictors of different versions beside a real consumer, and
challengers and tables that fail.
"""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from services.consumer.shadow import Sampled, Seconds, ShadowStore, is_sampled
from services.core.inference import Scored
from services.core.postgres import connect, transaction
from tests.integration import test_consumer
from tests.integration.conftest import KafkaHandle, PostgresHandle, Predictor
from tests.integration.test_consumer import post, posts
from tests.ports import free_port
from tests.waiting import status, wait_until

SECONDS = 60


class Rig(test_consumer.Rig):
    """The consumer's rig, and a look at the shadow's tables."""

    def shadowed(self) -> int:
        """Rows that the challenger has."""
        return int(self.query("SELECT count(*) FROM shadow_predictions")[0][0])

    def log_says(self, event: str) -> bool:
        """Whether one of the consumers has logged it."""
        return any(event in log.read_text() for log in self.logs.glob("consumer-*.log"))

    def execute(self, *statements: str) -> None:
        """Runs them, each in a transaction of its own."""
        connection = connect(self.postgres.settings, "test")
        for statement in statements:
            with transaction(connection, 30) as cursor:
                cursor.execute(statement)
        connection.close()

    @contextmanager
    def locked(self, table: str) -> Iterator[None]:
        """Nobody else reads or writes the table meanwhile."""
        connection = connect(self.postgres.settings, "test")
        with connection.cursor() as cursor:
            cursor.execute("SET idle_in_transaction_session_timeout = 0")
            cursor.execute(f"LOCK TABLE {table}")
            yield
        connection.close()

    @property
    def logs(self) -> Path:
        """Folder of the consumers' logs."""
        return self._logs


@pytest.fixture
def rig(
    kafka: KafkaHandle, postgres: PostgresHandle, predictor: Predictor, tmp_path: Path
) -> Iterator[Rig]:
    """Everything but a consumer runs."""
    rig = Rig(kafka, postgres, predictor, tmp_path)
    yield rig
    for consumer in rig.consumers:
        consumer.kill()
        consumer.wait(30)


@pytest.fixture(scope="module")
def challenger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    """A second predictor, of another version."""
    server = Predictor(tmp_path_factory.mktemp("challenger"), free_port(), free_port())
    server.version = "8"
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_the_challenger_scores_its_share_of_the_posts_beside_the_champion(
    rig: Rig, challenger: Predictor
) -> None:
    values = [*posts(1_000), post(1_000, "quelle belle journée", language="fr")]
    sampled = {f"{i:07d}" for i in range(1_000) if is_sampled(f"replay/{i:07d}".encode(), 0.5)}
    consumer = rig.start(CHALLENGER_URL=challenger.url, CONSUMER_SHADOW_SHARE="0.5")
    wait_until(lambda: rig.log_says("partition.placed"), SECONDS)
    rig.send(values)
    rig.wait_for(1_001)
    wait_until(lambda: rig.shadowed() == len(sampled), SECONDS, "a shadow of every sampled post")
    consumer.terminate()
    assert consumer.wait(30) == 0

    rows = rig.query(
        "SELECT shadow.id, champion_version, shadow.model_name, shadow.model_version, "
        "champion_label = posts.label, abs(champion_score - posts.score) < 0.0001, "
        "shadow.label = posts.label FROM shadow_predictions AS shadow JOIN posts USING (source, id)"
    )
    assert {row[0] for row in rows} == sampled
    assert {row[1:] for row in rows} == {("7", "sentiment", "8", True, True, True)}
    assert len(rows) == len(sampled)
    timed = rig.query(
        "SELECT champion_version, challenger_version, champion_seconds, challenger_seconds "
        "FROM shadow_batches"
    )
    assert {row[:2] for row in timed} == {("7", "8")}
    assert all(0 < seconds < 5 for row in timed for seconds in row[2:])
    assert rig.query("SELECT posts, agreed FROM model_comparison") == [(len(sampled),) * 2]
    rig.check()


def test_a_post_that_comes_again_keeps_what_the_challenger_said_first(
    postgres: PostgresHandle,
) -> None:
    post_1, post_2 = (Sampled("replay", i, "text", "7", "neutral", 0.0) for i in "12")
    first = Scored(np.array([[0.5, 0.3, 0.2]], dtype=np.float32), "sentiment", "8")
    again = Scored(np.array([[0.1, 0.2, 0.7]] * 2, dtype=np.float32), "sentiment", "8")
    store = ShadowStore(postgres.settings)

    store.write([post_1], first, Seconds(0.1, 0.2))
    store.write([post_2, post_1], again, None)
    store.write(
        [post_1],
        dataclasses.replace(again, probabilities=again.probabilities[:1], model_version="9"),
        None,
    )
    store.close()

    connection = connect(postgres.settings, "test")
    with transaction(connection, 30) as cursor:
        cursor.execute("SELECT id, model_version, label FROM shadow_predictions ORDER BY 2, 1")
        rows = cursor.fetchall()
    connection.close()
    assert rows == [("1", "8", "negative"), ("2", "8", "positive"), ("1", "9", "positive")]


def test_a_challenger_that_comes_later_is_found(rig: Rig, challenger: Predictor) -> None:
    challenger.stop()
    rig.start(CHALLENGER_URL=challenger.url, CONSUMER_SHADOW_SHARE="1")
    rig.send(posts(100))
    rig.wait_for(100)

    challenger.start()

    def arrived() -> bool:
        rig.send([post(rig.sent)])
        return rig.shadowed() > 0

    wait_until(arrived, SECONDS, "a shadow prediction", every=0.5)
    rig.wait_for(rig.sent)
    rig.check()


@contextmanager
def misbehaving(how: str) -> Iterator[str]:
    """Address of a challenger that is ready and then hangs, answers 500, 400 or garbage."""
    end = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, b"{}")

        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            self.rfile.read(size)
            if how == "hangs":
                end.wait()
            elif how == "nonsense":
                rows = [[9.0, -9.0, 1.0]]
                tensor = {"name": "probabilities", "shape": [1, 3], "data": rows}
                self.answer(200, json.dumps({"outputs": [tensor]}).encode())
            elif how == "garbage":
                self.answer(200, b"\xff<html>")
            else:
                self.answer(int(how), b"no")

        def answer(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        end.set()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("how", ["hangs", "500", "400", "garbage", "nonsense"])
def test_a_challenger_that_fails_costs_the_champion_nothing(rig: Rig, how: str) -> None:
    port = free_port()
    with misbehaving(how) as url:
        consumer = rig.start(CHALLENGER_URL=url, CONSUMER_SHADOW_SHARE="1", SERVICE_PORT=str(port))
        rig.send(posts(5_000))

        ledger = rig.wait_for(5_000)
        ready = status(f"http://127.0.0.1:{port}/readyz")
        consumer.terminate()

        assert consumer.wait(30) == 0
    assert ledger["stored"] == 5_000
    assert ready == 200
    assert rig.shadowed() == 0
    rig.check()


def test_a_challenger_that_is_away_costs_the_champion_nothing(
    rig: Rig,
) -> None:
    consumer = rig.start(
        CHALLENGER_URL=f"http://127.0.0.1:{free_port()}", CONSUMER_SHADOW_SHARE="1"
    )
    rig.send(posts(2_000))

    ledger = rig.wait_for(2_000)
    consumer.terminate()

    assert consumer.wait(30) == 0
    assert ledger["stored"] == 2_000
    rig.check()


def test_tables_that_refuse_the_shadow_cost_the_champion_nothing(
    rig: Rig, challenger: Predictor
) -> None:
    rig.execute(
        "ALTER TABLE shadow_predictions ADD CHECK (model_version <> '8')",
        "ALTER TABLE shadow_batches RENAME TO shadow_batches_gone",
    )
    consumer = rig.start(CHALLENGER_URL=challenger.url, CONSUMER_SHADOW_SHARE="1")
    wait_until(lambda: rig.log_says("partition.placed"), SECONDS)
    rig.send(posts(2_000))

    ledger = rig.wait_for(2_000)
    wait_until(lambda: rig.log_says("shadow.failed"), SECONDS)
    consumer.terminate()

    assert consumer.wait(30) == 0
    assert ledger["stored"] == 2_000
    assert rig.shadowed() == 0
    rig.check()


def test_a_table_that_is_locked_for_long_does_not_hold_up_the_champion(
    rig: Rig, challenger: Predictor
) -> None:
    consumer = rig.start(CHALLENGER_URL=challenger.url, CONSUMER_SHADOW_SHARE="1")
    wait_until(lambda: rig.log_says("partition.placed"), SECONDS)

    with rig.locked("shadow_predictions"):
        rig.send(posts(5_000))
        ledger = rig.wait_for(5_000)
        consumer.terminate()
        assert consumer.wait(30) == 0

    assert ledger["stored"] == 5_000
    rig.check()
