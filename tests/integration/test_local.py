"""The local parts are the real ones, and survive what a laptop does to them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from kafka import KafkaAdminClient, TopicPartition

from services.core.kafka import make_consumer, make_producer
from services.core.postgres import Connection, connect, transaction
from services.local.postgres import _identity
from services.local.process import Command, PartError, Process, stop_leftovers
from tests.integration.conftest import PARTITIONS, KafkaHandle, PostgresHandle
from tests.waiting import wait_until


@pytest.mark.parametrize("fault", ["restart", "kill"])
def test_what_kafka_acknowledged_is_there_after_a_restart_and_a_kill(
    kafka: KafkaHandle, fault: str
) -> None:
    producer = make_producer(kafka.settings)
    producer.send(kafka.settings.posts_topic, b"kept").get(20)
    producer.close()

    kafka.restart() if fault == "restart" else (kafka.kill(), kafka.start())

    consumer = make_consumer(kafka.settings, group="reader")
    consumer.subscribe([kafka.settings.posts_topic])
    values: list[bytes | None] = []
    try:
        # A killed broker is let back in once its old session is over: 9 s.
        wait_until(lambda: values.extend(_values(consumer)) or len(values) > 0, 90)
    finally:
        consumer.close()
    assert values == [b"kept"]


def _values(consumer: object) -> list[bytes | None]:
    batches = consumer.poll(timeout_ms=200)  # type: ignore[attr-defined]
    return [record.value for records in batches.values() for record in records]


def test_a_rebalance_that_outlasts_a_poll_still_ends_with_partitions(kafka: KafkaHandle) -> None:
    """New partitions set off a rebalance, and no poll waits long enough to see its end."""
    topic = kafka.settings.posts_topic
    consumer = make_consumer(kafka.settings, group="impatient")
    consumer.subscribe([topic])

    def holds(partitions: int, *, poll_milliseconds: int) -> bool:
        consumer.poll(timeout_ms=poll_milliseconds)
        return len(consumer.assignment()) == partitions

    try:
        wait_until(lambda: holds(PARTITIONS, poll_milliseconds=1_000), 60, "the first assignment")
        admin = KafkaAdminClient(bootstrap_servers=kafka.settings.bootstrap_servers)
        admin.create_partitions({topic: PARTITIONS + 1})
        admin.close()

        wait_until(
            lambda: holds(PARTITIONS + 1, poll_milliseconds=3),
            90,
            "the new partition's assignment",
        )
    finally:
        consumer.close()


def test_a_header_key_that_is_no_text_is_read_as_the_java_client_reads_it(
    kafka: KafkaHandle,
) -> None:
    topic = kafka.settings.posts_topic
    producer = make_producer(kafka.settings)
    for value, headers in ((b"1", None), (b"2", [(BrokenKey("x"), b"\xff")]), (b"3", [("y", b"")])):
        producer.send(topic, value, headers=headers, partition=0)
    producer.close()

    consumer = make_consumer(kafka.settings, group=None)
    consumer.assign([TopicPartition(topic, 0)])
    read: list[Any] = []
    wait_until(
        lambda: read.extend(*consumer.poll(timeout_ms=200).values()) or len(read) == 3,
        30,
        "three records",
    )
    consumer.close()

    assert [(record.value, record.headers) for record in read] == [
        (b"1", []),
        (b"2", [("\ufffd\ufffd", b"\xff")]),
        (b"3", [("y", b"")]),
    ]


class BrokenKey(str):
    """A header's key whose bytes are no UTF-8."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"\xff\xfe"


@pytest.mark.parametrize("fault", ["restart", "kill"])
def test_what_postgresql_committed_is_there_after_a_restart_and_a_kill(
    postgres: PostgresHandle, fault: str
) -> None:
    connection = connect(postgres.settings, "test")
    with transaction(connection, 10) as cursor:
        cursor.execute("INSERT INTO outbox (kind, payload) VALUES ('kept', '{}')")

    postgres.restart() if fault == "restart" else (postgres.kill(), postgres.start())

    with transaction(connect(postgres.settings, "test"), 10) as cursor:
        cursor.execute("SELECT kind FROM outbox")
        assert cursor.fetchall() == [("kept",)]


def test_postgresql_starts_at_once_after_a_kill_with_busy_backends(
    postgres: PostgresHandle,
) -> None:
    connection = connect(postgres.settings, "test")
    endless = threading.Thread(target=_run_until_killed, args=[connection], daemon=True)
    endless.start()
    wait_until(lambda: any("SELECT" in line for line in _argument_lists()), 10)

    postgres.kill()
    postgres.start()

    connect(postgres.settings, "test").close()


def _run_until_killed(connection: Connection) -> None:
    with contextlib.suppress(psycopg2.OperationalError), connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM generate_series(1, 10000000000)")


def test_postgresql_never_runs_as_root_and_its_owner_is_no_superuser(
    postgres: PostgresHandle,
) -> None:
    server = psutil.Process(postgres.process.pid)

    with transaction(connect(postgres.settings, "test"), 10) as cursor:
        cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        rows = cursor.fetchall()

    assert 0 not in (server.uids().effective, server.uids().real)
    assert rows == [(False,)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_as_root_postgresql_keeps_a_capability_only_where_its_files_are_closed_to_others(
    tmp_path: Path,
) -> None:
    open_folder = Path("/tmp/open-to-everyone")  # noqa: S108 - never made, only looked at
    closed_folder = tmp_path / "closed" / "postgres"
    closed_folder.parent.mkdir(mode=0o700)

    capabilities = [_identity(folder).capability for folder in (open_folder, closed_folder)]

    assert capabilities == [-1, 2]


def _argument_lists() -> list[str]:
    """Of this process's descendants; servers start and end some all the time."""
    lines = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            lines.append(" ".join(process.cmdline()))
    return lines


def test_no_secret_is_in_an_argument_list_or_in_a_file_for_others(
    mlflow_url: str, postgres: PostgresHandle, platform_home: Path
) -> None:
    assert postgres.settings.password is not None
    password = postgres.settings.password.get_secret_value()

    arguments = _argument_lists()
    readable = [
        path.name
        for path in platform_home.iterdir()
        if path.is_file() and path.stat().st_mode & 0o077 and password in path.read_text()
    ]

    assert any("mlflow" in line for line in arguments), arguments
    assert [line for line in arguments if password in line] == []
    assert readable == []


def test_mlflow_keeps_its_records_in_postgresql_and_serves_artifacts(mlflow_url: str) -> None:
    request = urllib.request.Request(
        f"{mlflow_url}/api/2.0/mlflow/experiments/create",
        data=json.dumps({"name": "probe"}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        experiment = json.load(answer)["experiment_id"]

    with urllib.request.urlopen(
        f"{mlflow_url}/api/2.0/mlflow/experiments/get?experiment_id={experiment}", timeout=30
    ) as answer:
        location = json.load(answer)["experiment"]["artifact_location"]

    assert location.startswith("mlflow-artifacts:/")


def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from services.local.process import Command, Process\n"
        "p = Process(Command('sleeper', ['/bin/sleep', '300']), Path(sys.argv[1]))\n"
        "print(p.pid, flush=True); time.sleep(300)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()

    def gone() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return child.status() == psutil.STATUS_ZOMBIE
        return True

    wait_until(gone, 20)


def test_a_leftover_is_stopped_and_a_stranger_with_its_process_id_is_not(tmp_path: Path) -> None:
    leftover = Process(Command("leftover", ["/bin/sleep", "300"]), tmp_path)
    stranger = Process(Command("stranger", ["/bin/sleep", "300"]), tmp_path / "elsewhere")
    record = {"pid": stranger.pid, "started": 1.0}
    (tmp_path / "run" / "old.pid").write_text(json.dumps(record))

    stopped = stop_leftovers(tmp_path, seconds=10)

    wait_until(lambda: leftover.exit_status is not None, 20)
    assert stopped == ["leftover"]
    assert stranger.exit_status is None
    assert list((tmp_path / "run").iterdir()) == []
    stranger.stop()


def test_a_leftover_that_ends_while_it_is_looked_at_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leftover = Process(Command("leftover", ["/bin/sleep", "300"]), tmp_path)
    name_of = psutil.Process.name

    def dies(process: psutil.Process) -> str:
        name = name_of(process)
        leftover.kill()
        return name

    monkeypatch.setattr(psutil.Process, "name", dies)

    assert stop_leftovers(tmp_path, seconds=10) == ["leftover"]


def test_a_part_that_ignores_the_stop_signal_is_killed_at_its_deadline(tmp_path: Path) -> None:
    deaf = "trap '' TERM; echo deaf; while :; do sleep 0.05; done"
    part = Process(Command("deaf", ["/bin/sh", "-c", deaf], stop_seconds=0.3), tmp_path)
    part.wait_ready(lambda: "deaf" in part.log_tail(), 10)

    part.stop()

    assert part.exit_status == -signal.SIGKILL


def test_a_part_that_dies_is_named_with_its_last_words_and_its_log(tmp_path: Path) -> None:
    part = Process(Command("mute", ["/bin/sh", "-c", "echo no disk left; exit 3"]), tmp_path)

    with pytest.raises(PartError) as caught:
        part.wait_ready(lambda: False, 10)

    assert "mute has died (exit status 3)" in str(caught.value)
    assert "no disk left" in str(caught.value)
    assert str(part.log_path) in str(caught.value)
