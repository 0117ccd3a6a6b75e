"""The demo as a person starts it: one command, real parts, figures at the end."""

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.local.guard import PATIENCE_SECONDS
from services.local.settings import LocalSettings
from tests.ports import free_port
from tests.waiting import wait_until

_START_SECONDS = 300.0
"""The first start trains a model."""
_END_SECONDS = 120.0
_MOODSTREAM = (sys.executable, "-c", "from services.cli import main; main()")


class Demo:
    """A folder with ports of its own, and the command line in it."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "state"
        self._started: list[subprocess.Popen[str]] = []
        ports = [name for name in LocalSettings.model_fields if name.endswith("_port")]
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "MOODSTREAM_LOCAL_HOME": str(self.home),
            "MOODSTREAM_TRAINING_DATA": str(_training_data(folder)),
            "MOODSTREAM_TRAINING_FOLDS": "2",
            # The gate is not what is tested: a few posts teach a model little.
            "MOODSTREAM_GATE_FLOOR": "0",
            "MOODSTREAM_GATE_MAX_DROP": "1",
            **{f"MOODSTREAM_LOCAL_{name.upper()}": str(free_port()) for name in ports},
        }

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """`moodstream` with the arguments, its output to be read."""
        # One that was killed has left its own, which is no sign of this one.
        (self.home / "run.json").unlink(missing_ok=True)
        started = subprocess.Popen(
            [*_MOODSTREAM, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(started)
        return started

    def run(self, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """`moodstream` with the arguments, to its end."""
        return subprocess.run(
            [*_MOODSTREAM, *arguments],
            env=self.environment | more,
            capture_output=True,
            text=True,
            timeout=_START_SECONDS + _END_SECONDS,
            check=False,
        )

    def close(self) -> None:
        """Ends what a failed test has left, and removes the state."""
        for started in self._started:
            started.kill()
            started.communicate()
        self.wait_until_gone(PATIENCE_SECONDS + _END_SECONDS)
        self.run("clean")

    def wait_until_gone(self, seconds: float) -> None:
        """Returns when nothing runs in this folder any more; names what still does after so many
        seconds.
        """
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self.leftovers() == [], seconds, every=0.5)
        assert self.leftovers() == []

    def wait_until_up(self, started: "subprocess.Popen[str]") -> None:
        """Returns when everything runs."""
        wait_until(
            lambda: (self.home / "run.json").exists() or started.poll() is not None, _START_SECONDS
        )
        assert started.poll() is None, started.communicate()[1]

    def status(self) -> dict[str, Any]:
        """What `moodstream status` says."""
        report: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return report

    def status_when(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """What `moodstream status` says once every part answers and it holds."""
        report: dict[str, Any] = {}

        def asked() -> bool:
            report.clear()
            report.update(self.status())
            return "model" in report and all(report["parts"].values()) and holds(report)

        wait_until(asked, _START_SECONDS, "what the status should say")
        return report

    def part(self, name: str) -> psutil.Process:
        """A running part."""
        pid = json.loads((self.home / "run" / f"{name}.pid").read_text())["pid"]
        return psutil.Process(pid)

    def leftovers(self) -> list[str]:
        """What still runs in this folder."""
        lines = [
            " ".join(process.info["cmdline"] or ())
            for process in psutil.process_iter(["cmdline", "environ"])
            if str(self.home) in " ".join(process.info["cmdline"] or ())
            or (process.info["environ"] or {}).get("MOODSTREAM_LOCAL_HOME") == str(self.home)
        ]
        return [line for line in lines if line]


def _training_data(folder: Path) -> Path:
    """A few posts: what is tested is not how good the model is."""
    path = folder / "labelled.csv"
    texts = {"negative": "awful bad day", "neutral": "the train is at", "positive": "great love it"}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows((f"{text} {n}", label) for label, text in texts.items() for n in range(20))
    return path


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """One folder for all tests here: only its first start trains."""
    started = Demo(tmp_path_factory.mktemp("demo"))
    yield started
    started.close()


def test_a_running_demo_answers_refuses_a_second_one_and_drains_at_ctrl_c(demo: Demo) -> None:
    started = demo.start("demo", "--rate", "200", "--json")
    demo.wait_until_up(started)

    status = demo.status_when(
        lambda said: (
            said["stored"] > 0 and None not in (said["model"]["served"], said["model"]["champion"])
        )
    )
    predicted = json.loads(demo.run("predict", "great, love it", "--json").stdout)
    refused = [demo.run("demo"), demo.run("clean")]
    started.send_signal(signal.SIGINT)
    output, errors = started.communicate(timeout=_END_SECONDS)

    served = status["model"]
    assert (served["served"], served["champion"], served["challenger"]) == ("1", "1", None)
    assert served["predictions"]["1"] >= status["stored"]  # counted a moment later
    assert predicted["predictions"][0]["label"] == "positive"
    for second in refused:
        assert second.returncode == 1
        assert f"already running in {demo.home} (process {started.pid})" in second.stderr
    assert started.returncode == 0, errors
    result = json.loads(output.splitlines()[-1])
    assert (result["unaccounted"], result["lag"]) == (0, 0)
    assert result["stored"] >= status["stored"]
    assert demo.leftovers() == []


def test_after_a_kill_of_the_demo_nothing_is_left_and_the_next_start_accounts_for_every_post(
    demo: Demo,
) -> None:
    killed = demo.start("demo", "--rate", "200", "--json")
    demo.wait_until_up(killed)
    # It will not hear that it should stop.
    demo.part("notifier").suspend()

    killed.kill()
    killed.communicate(timeout=_END_SECONDS)
    demo.wait_until_gone(PATIENCE_SECONDS + _END_SECONDS)
    ended = demo.run("demo", "--duration", "20", "--rate", "100", "--json")

    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    accounted = result["stored"] + result["dead_lettered"] + result["duplicates"]
    assert result["produced"] > 100
    assert result["produced"] + result["waiting_at_start"] == accounted
    assert (result["unaccounted"], result["lag"]) == (0, 0)
    assert sum(result["labels"].values()) == result["stored"]
    assert result["predictions"] == {"1": result["stored"]}
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p99"]
    assert result["model"] == {"name": "sentiment", "version": "1"}
    assert demo.leftovers() == []


def test_a_part_that_is_killed_ends_the_demo_with_its_name_and_its_log(demo: Demo) -> None:
    started = demo.start("demo", "--json")
    demo.wait_until_up(started)

    demo.part("kafka").kill()

    output, errors = started.communicate(timeout=_END_SECONDS)
    assert started.returncode == 1
    assert output == ""
    assert "moodstream: kafka has died (killed by SIGKILL)" in errors
    assert str(demo.home / "logs" / "kafka.log") in errors
    assert demo.leftovers() == []


def test_a_taken_port_ends_the_demo_before_anything_starts(demo: Demo) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        ended = demo.run("demo", MOODSTREAM_LOCAL_DASHBOARD_PORT=str(port))

    assert ended.returncode == 1
    assert f"port {port} for dashboard (set MOODSTREAM_LOCAL_DASHBOARD_PORT" in ended.stderr
    assert "PostgreSQL" not in ended.stdout


def test_a_download_that_fails_says_so_in_one_line_and_leaves_nothing_running(
    demo: Demo, tmp_path: Path
) -> None:
    nowhere = {
        "M2_REPO": str(tmp_path / "m2"),
        "JGO_CACHE_DIR": str(tmp_path / "jgo"),
        "HTTPS_PROXY": f"http://127.0.0.1:{free_port()}",
    }

    ended = demo.run("demo", **nowhere)

    assert ended.returncode == 1
    assert "moodstream: cannot download Kafka" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert demo.leftovers() == []
