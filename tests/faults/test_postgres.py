"""Faults of PostgreSQL, and of the way to it."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from services.local.net import accepts
from services.local.postgres import Postgres
from tests.faults.proxy import Proxy
from tests.faults.scene import Consumer, Scene
from tests.faults.small import Disk, small_disk
from tests.waiting import wait_until

COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
"""The message of the PostgreSQL protocol."""
BACKENDS = """
    SELECT pid FROM pg_stat_activity
    WHERE application_name = 'moodstream-consumer' AND datname = current_database()
"""


def as_superuser(server: Postgres, *statements: str) -> list[Any]:
    """The last statement's rows, if any. Works while the server is read-only."""
    settings = server.settings_of("postgres", "postgres")
    assert settings.password is not None
    connection = psycopg2.connect(
        host=settings.host,
        port=settings.port,
        dbname=settings.database,
        user=settings.user,
        password=settings.password.get_secret_value(),
        options="-c default_transaction_read_only=off",
    )
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def waits(consumer: Consumer) -> None:
    wait_until(lambda: consumer.waits("store"), 90, "a store stage that waits", 0.2)


@pytest.mark.fault(12, "PostgreSQL restarts at once", "the batch is written again; nothing twice")
def test_an_immediate_restart_costs_nothing(scene: Scene) -> None:
    consumer = scene.consume()
    scene.load()
    scene.take(500)

    postgres = scene.rig.postgres
    os.kill(postgres.process.pid, signal.SIGQUIT)
    postgres.stop()
    assert not accepts(postgres.settings.port)
    waits(consumer)
    postgres.start()
    scene.healed()

    scene.recovered("the consumer waited, then went on")
    scene.invariants([consumer])


@pytest.mark.fault(12, "backends are ended (pg_terminate_backend)", "as a restart")
def test_ended_backends_cost_nothing(scene: Scene) -> None:
    consumer = scene.consume()
    load = scene.load()
    scene.take(300)

    for _ in range(5):
        load.burst(1_000)
        scene.take(200)
        ended = scene.rig.query(f"SELECT pg_terminate_backend(pid) FROM ({BACKENDS}) AS b")  # noqa: S608
        assert (True,) in ended
    scene.healed()

    scene.recovered("5 times ended under load; written again each time")
    scene.invariants([consumer])
    assert consumer.metric('retries_total{stage="store"}') > 0


@pytest.mark.fault(
    14,
    "PostgreSQL loses its last transactions (an old copy of its files comes back)",
    "the ledger rewinds with the rows; the posts come again",
)
def test_a_database_that_forgets_is_filled_again(scene: Scene, platform_home: Path) -> None:
    consumer = scene.consume()
    scene.load()
    scene.take(500)
    data = platform_home / "postgres" / "data"
    copy = data.with_name("copy")

    scene.rig.postgres.stop()
    kept = subprocess.run(["cp", "-a", str(data), str(copy)], check=False)  # noqa: S607
    scene.rig.postgres.start()
    assert kept.returncode == 0
    scene.take(1_500)
    known = scene.taken()
    scene.rig.postgres.kill()
    shutil.rmtree(data)
    copy.rename(data)
    scene.rig.postgres.start()
    lost = known - scene.taken()
    scene.healed()

    scene.recovered(f"at least {max(lost, 0)} records forgotten, all of them taken in again")
    scene.invariants([consumer])
    assert consumer.metric("resets_total") > 0


@pytest.mark.fault(
    15, "a backend is frozen", "the consumer cuts the call off itself, stays alive and goes on"
)
def test_a_frozen_backend_is_cut_off(scene: Scene) -> None:
    consumer = scene.consume()
    scene.load()
    scene.take(500)

    pids = [pid for (pid,) in scene.rig.query(BACKENDS)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert pids
        waits(consumer)
        alive = consumer.status("/livez")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    scene.healed()

    scene.recovered("the hanging call was ended by the consumer's own deadline; no restart")
    scene.invariants([consumer])
    assert alive == 200


@pytest.mark.fault(
    16, "the connection is cut during COMMIT", "the repeated transaction changes nothing"
)
@pytest.mark.parametrize("forward", [True, False], ids=["after the commit", "before it"])
def test_a_commit_whose_answer_is_lost_is_repeated_harmlessly(scene: Scene, forward: bool) -> None:
    with Proxy(scene.rig.postgres.settings.port) as proxy:
        consumer = scene.consume(POSTGRES_PORT=str(proxy.port))
        scene.load()
        scene.take(300)

        for cut in range(1, 4):
            proxy.cut(COMMIT, forward=forward)
            wait_until(lambda cut=cut: proxy.cuts == cut, 30, "a cut")  # type: ignore[misc]
            scene.take(200)
        scene.healed()

        scene.recovered(
            "3 commits done, their answers lost: fenced by the ledger, nothing twice"
            if forward
            else "3 commits lost: written again"
        )
        scene.invariants([consumer])
        assert consumer.metric('retries_total{stage="store"}') > 0
        assert (consumer.metric("resets_total") > 0) == forward


@pytest.fixture
def writable_again(postgres_server: Postgres) -> Iterator[None]:
    """Whatever happens, later tests find a server that takes writes."""
    yield
    as_superuser(
        postgres_server,
        "ALTER SYSTEM RESET default_transaction_read_only",
        "SELECT pg_reload_conf()",
    )


@pytest.mark.fault(17, "PostgreSQL is read-only", "the consumer waits; no dead letter; goes on")
def test_a_read_only_database_is_waited_for(
    scene: Scene, postgres_server: Postgres, writable_again: None
) -> None:
    consumer = scene.consume()
    scene.load()
    scene.take(300)

    as_superuser(
        postgres_server,
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    )
    waits(consumer)
    ready, alive = consumer.status("/readyz"), consumer.status("/livez")
    as_superuser(
        postgres_server,
        "ALTER SYSTEM RESET default_transaction_read_only",
        "SELECT pg_reload_conf()",
    )
    scene.healed()

    scene.recovered("unready and alive while it lasted; no dead letter")
    scene.invariants([consumer])
    assert (ready, alive) == (503, 200)


@contextmanager
def moved_to_a_small_disk(
    server: Postgres, database: str, folder: Path, owner: str
) -> Iterator[Disk]:
    """The database's tables on a disk of their own; the write-ahead log stays where it is. The
    database is gone afterwards.
    """
    with small_disk(folder, 64) as disk:
        place = folder / "tablespace"
        place.mkdir()
        shutil.chown(place, user=owner)
        as_superuser(server, f"CREATE TABLESPACE small LOCATION '{place}'")
        as_superuser(server, f'ALTER DATABASE "{database}" SET TABLESPACE small')
        try:
            yield disk
        finally:
            as_superuser(server, f'DROP DATABASE "{database}" WITH (FORCE)')
            as_superuser(server, "DROP TABLESPACE small")


@pytest.mark.fault(17, "PostgreSQL's disk is full", "the consumer waits; no dead letter; goes on")
def test_a_full_disk_is_waited_for(
    scene: Scene, postgres_server: Postgres, platform_home: Path, tmp_path: Path
) -> None:
    database = scene.rig.postgres.settings.database
    owner = (platform_home / "postgres").owner()
    with moved_to_a_small_disk(postgres_server, database, tmp_path / "small", owner) as disk:
        consumer = scene.consume()
        load = scene.load()
        scene.take(300)

        disk.fill()
        assert disk.left() == 0
        load.burst(20_000)
        waits(consumer)
        why, alive = consumer.log.read_text(), consumer.status("/livez")
        disk.free()
        scene.healed()

        scene.recovered("no space left: waited, then went on; no dead letter")
        scene.invariants([consumer])
    assert alive == 200
    assert "No space left" in why


@pytest.mark.fault(
    32,
    "no way to PostgreSQL: refused, then silent",
    "the consumer waits, keeps its partitions, goes on",
)
def test_a_partition_from_the_database_heals(scene: Scene) -> None:
    with Proxy(scene.rig.postgres.settings.port) as proxy:
        consumer = scene.consume(POSTGRES_PORT=str(proxy.port))
        scene.load(100)
        scene.take(200)

        proxy.down()
        assert not accepts(proxy.port)
        waits(consumer)
        proxy.heal()
        scene.take(200)
        proxy.hang()
        passed = proxy.passed
        waits(consumer)
        silent = proxy.passed == passed
        alive = consumer.status("/livez")
        proxy.heal()
        scene.healed()

        scene.recovered("refused and silent ways waited for")
        scene.invariants([consumer])
    assert silent
    assert alive == 200
