"""Local mode without processes: figures, ports, locks, what is shown."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from services.consumer.replay import original_headers, reason_of
from services.local import run
from services.local.demo import NoSpaceError, check_space
from services.local.figures import (
    Published,
    Reading,
    Taken,
    parse_buckets,
    published,
    quantile,
    unaccounted,
)
from services.local.screen import PartState, Screen, State, plain
from services.local.settings import LocalSettings, PortInUseError, check_ports

INFINITY = float("inf")


def _reading(taken: int = 0, appended: int = 0, lag: int = 0) -> Reading:
    return Reading(Taken(stored=taken), appended, lag)


def test_a_quantile_is_interpolated_within_its_bucket() -> None:
    buckets = {0.1: 0, 0.2: 100, INFINITY: 100}

    assert quantile(buckets, 0.5) == pytest.approx(0.15)
    assert quantile(buckets, 0.99) == pytest.approx(0.199)


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert quantile({0.1: 1, 0.2: 2, INFINITY: 100}, 0.99) == 0.2


def test_there_is_no_quantile_of_nothing() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({0.1: 0, INFINITY: 0}, 0.5) is None


@given(st.lists(st.floats(0.001, 0.9), min_size=1), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_is_at_most_one_bucket_away_from_the_exact_one(
    values: list[float], q: float
) -> None:
    bounds = [step / 10 for step in range(1, 11)]
    buckets = {bound: sum(v <= bound for v in values) for bound in bounds}
    exact = sorted(values)[max(0, -(-len(values) * int(q * 100) // 100) - 1)]

    found = quantile(buckets | {INFINITY: len(values)}, q)

    assert found is not None
    assert abs(found - exact) <= 0.1 + 1e-9


def test_the_latency_buckets_are_read_from_the_consumers_metrics() -> None:
    metrics = (
        "# TYPE moodstream_consumer_append_to_commit_seconds histogram\n"
        'moodstream_consumer_append_to_commit_seconds_bucket{le="0.1"} 3\n'
        'moodstream_consumer_append_to_commit_seconds_bucket{le="+Inf"} 4\n'
        "moodstream_consumer_append_to_commit_seconds_count 4\n"
        "moodstream_consumer_append_to_commit_seconds_sum 1.5\n"
        "# TYPE other histogram\n"
        'other_bucket{le="0.1"} 9\n'
    )

    assert parse_buckets(metrics) == {0.1: 3, INFINITY: 4}


def test_what_was_waiting_and_what_was_produced_is_accounted_for_by_the_ledger() -> None:
    before, after = _reading(taken=5, appended=15, lag=10), _reading(taken=115, appended=115)

    assert unaccounted(Published(100), before, after) == 0


@pytest.mark.parametrize(
    ("account", "after", "missing"),
    [
        (Published(100), _reading(taken=99, appended=100, lag=1), 1),
        (Published(100), _reading(taken=99, appended=99), 1),
        (Published(100), _reading(taken=101, appended=100), -1),
        (Published(100), _reading(taken=100, appended=103), 3),
        (None, _reading(taken=98, appended=100), 2),
    ],
    ids=["waiting", "lost by Kafka", "counted twice", "appended by others", "producer cut short"],
)
def test_what_the_ledger_does_not_have_is_unaccounted_for(
    account: Published | None, after: Reading, missing: int
) -> None:
    assert unaccounted(account, _reading(), after) == missing


def test_duplicates_and_dead_letters_are_accounted_for() -> None:
    after = Reading(Taken(stored=7, duplicates=2, dead_lettered=1), appended=10, lag=0)

    assert unaccounted(Published(10), _reading(), after) == 0


def test_the_producers_account_is_the_last_one_in_its_log() -> None:
    log = "\n".join(
        [
            "not json: producer.finished",
            json.dumps({"event": "producer.finished", "published": 1}),
            json.dumps({"event": "producer.finished", "published": 9, "dropped": 2}),
            json.dumps({"event": "service.stopped"}),
        ]
    )

    assert published(log) == Published(published=9, dropped=2)
    assert published('{"event": "service.started"}') is None


def test_every_taken_port_is_named_with_its_part_and_its_variable() -> None:
    with socket.socket() as first, socket.socket() as second:
        for taken in (first, second):
            taken.bind(("127.0.0.1", 0))
            taken.listen()
        kafka, consumer = first.getsockname()[1], second.getsockname()[1]
        settings = LocalSettings(kafka_port=kafka, consumer_port=consumer - 1)

        with pytest.raises(PortInUseError) as caught:
            check_ports(settings, consumers=2)

    message = str(caught.value)
    assert f"port {kafka} for kafka (set MOODSTREAM_LOCAL_KAFKA_PORT" in message
    assert f"port {consumer} for consumer" in message
    assert "MOODSTREAM_LOCAL_CONSUMER_PORT" in message


def test_two_parts_with_the_same_port_are_told_so() -> None:
    settings = LocalSettings(kafka_port=19999, mlflow_port=19999)

    with pytest.raises(PortInUseError, match="port 19999 for mlflow"):
        check_ports(settings, consumers=1)


def test_a_full_disk_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(100, 99, 10**9))

    with pytest.raises(NoSpaceError, match=r"0\.9 GB of disk left"):
        check_space(tmp_path)


def test_a_second_platform_in_a_folder_is_refused_and_told_which_process_has_it(
    tmp_path: Path,
) -> None:
    program = (
        "import sys; from pathlib import Path; from services.local import run\n"
        "with run.locked(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()

        assert run.is_running(tmp_path)
        with (
            pytest.raises(run.AlreadyRunningError, match=f"process {holder.pid}"),
            run.locked(tmp_path),
        ):
            pass
        holder.kill()
        holder.wait()

    assert not run.is_running(tmp_path)


def test_a_platform_is_found_only_while_it_holds_its_folder(tmp_path: Path) -> None:
    described = run.Run(
        pid=os.getpid(),
        environment={},
        ready={},
        urls={},
        began_at=datetime(2026, 3, 1, tzinfo=UTC),
    )

    with run.locked(tmp_path):
        run.publish(tmp_path, described)
        # The lock belongs to the open file, so this process sees it as any other would.
        during = run.find(tmp_path)

    assert during == described
    assert run.find(tmp_path) is None


def _state() -> State:
    return State(
        seconds=12.0,
        parts=[PartState("kafka", "up"), PartState("consumer", "up", rate=49.6, lag=3)],
        labels={"negative": 1, "neutral": 2, "positive": 3},
        newest=[],
    )


def test_outside_a_terminal_the_state_is_one_plain_line_every_few_seconds() -> None:
    output = StringIO()
    screen = Screen(Console(file=output), steps=1)

    with screen.live():
        screen.show(_state())
        screen.show(_state())

    assert output.getvalue() == plain(_state()) + "\n"
    assert "consumer 50/s lag 3" in output.getvalue()


def test_a_part_that_waits_says_what_for() -> None:
    waiting = replace(_state(), parts=[PartState("producer", "Bluesky: no such host", rate=0.0)])

    assert plain(waiting).endswith("producer waits: Bluesky: no such host")
    assert "waits" not in plain(_state())


def test_without_colour_nothing_but_text_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    output = StringIO()
    screen = Screen(Console(file=output, force_terminal=True, width=100), steps=1)

    with screen.live():
        screen.show(_state())

    assert not re.search(r"\x1b\[(3\d|9\d)m", output.getvalue())


def test_a_post_with_markup_is_shown_as_it_was_written() -> None:
    output = StringIO()

    Screen(Console(file=output), steps=1).say("[red]not markup[/] [/nor this]")

    assert output.getvalue() == "[red]not markup[/] [/nor this]\n"


def test_a_terminal_that_nobody_reads_holds_up_nobody_who_has_something_to_say() -> None:
    unread, terminal = os.pipe()
    os.set_blocking(terminal, False)
    with suppress(BlockingIOError):
        while True:
            os.write(terminal, bytes(4096))
    os.set_blocking(terminal, True)
    with os.fdopen(terminal, "w") as file:
        screen = Screen(Console(file=file), steps=1)
        stuck = Thread(target=screen.say, args=("stuck",), daemon=True)
        stuck.start()
        said = Thread(target=screen.say_later, args=("version 2 replaces version 1",), daemon=True)
        said.start()
        said.join(5)

        assert (stuck.is_alive(), said.is_alive()) == (True, False)

        os.set_blocking(unread, False)
        shown = b""
        while b"stuck" not in shown:
            with suppress(BlockingIOError):
                shown += os.read(unread, 65_536)
        stuck.join(5)
        screen.show(State(0.0, [], {}, []))
    os.set_blocking(unread, True)
    with os.fdopen(unread) as file:
        assert file.read().startswith("version 2 replaces version 1\n")


def test_a_replayed_record_has_its_own_headers_alone() -> None:
    headers = [
        ("trace", b"1"),
        ("__connect.errors.topic", b"posts"),
        ("__connect.errors.exception.class.name", b"too_large"),
    ]

    assert original_headers(headers) == [("trace", b"1")]
    assert reason_of(headers) == "too_large"
    assert reason_of([]) is None
