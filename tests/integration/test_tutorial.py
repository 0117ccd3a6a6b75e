"""The tutorial, and what other pages tell to try beside a demo, as a reader follows them: their
commands, copied, in a folder with a real demo.
"""

import csv
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services.cluster.options import HOST_PORTS
from services.local.settings import LocalSettings
from tests import pages
from tests.pages import Block
from tests.ports import free_port
from tests.tools import ROOT
from tests.waiting import wait_until

_TUTORIAL = ROOT / "docs" / "tutorial.md"
_START_SECONDS = 300.0
_READY_SECONDS = 60.0
_COMMAND_SECONDS = 180.0
_END_SECONDS = 120.0
_ELSEWHERE = {".git", ".moodstream", "build"}


class Reader:
    """A clone of the project with ports of its own, and a shell in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "moodstream"
        self.folder.mkdir()
        for path in ROOT.iterdir():
            if path.name not in _ELSEWHERE:
                (self.folder / path.name).symlink_to(path)
        (self.folder / ".curlrc").write_text("fail\n")  # an answer that is an error is one
        ports = {
            name: str(free_port()) for name in LocalSettings.model_fields if name.endswith("_port")
        }
        self._ports = {
            str(LocalSettings.model_fields[name].default): port for name, port in ports.items()
        }
        inherited = {name: value for name, value in os.environ.items() if "MOODSTREAM" not in name}
        self.environment = {
            **inherited,
            "COLUMNS": "100",
            "CURL_HOME": str(self.folder),
            # As good a model in a third of the time.
            "MOODSTREAM_TRAINING_FOLDS": "2",
            **{f"MOODSTREAM_LOCAL_{name.upper()}": port for name, port in ports.items()},
        }
        self.started: subprocess.Popen[str] | None = None

    def start(self, command: str) -> None:
        """Leaves it running in a terminal of its own, and returns when the platform is up."""
        self.started = self._shell(command)
        running = self.folder / ".moodstream" / "run.json"
        wait_until(
            lambda: running.exists() or self.started is None or self.started.poll() is not None,
            _START_SECONDS,
        )
        assert self.started.poll() is None, self.started.communicate()[0]
        # The producer is started last, and a reader is not as quick as a test.
        wait_until(self._is_ready, _READY_SECONDS)

    def type(self, command: str) -> str:
        """What a command prints that ends well; the ports in it are the usual ones."""
        shell = self._shell(re.sub(r"(?<=127\.0\.0\.1:)\d+", self._port, command))
        output, _ = shell.communicate(timeout=_COMMAND_SECONDS)
        assert shell.returncode == 0, f"{command}\n{output}"
        return output

    def stop(self) -> str:
        """Ctrl-C, and all that the terminal then shows."""
        assert self.started is not None
        run = json.loads((self.folder / ".moodstream" / "run.json").read_text())
        psutil.Process(run["pid"]).send_signal(signal.SIGINT)
        output, _ = self.started.communicate(timeout=_END_SECONDS)
        assert self.started.returncode == 0, output
        return output

    def close(self) -> None:
        """Ends what a failed test has left, and removes the state."""
        if self.started is not None and self.started.poll() is None:
            os.killpg(self.started.pid, signal.SIGTERM)
            self.started.communicate(timeout=_END_SECONDS)
        self.type("make demo-clean")

    def _port(self, usual: re.Match[str]) -> str:
        return self._ports[usual[0]]

    def _is_ready(self) -> bool:
        shell = self._shell(".venv/bin/moodstream status")
        shell.communicate(timeout=_COMMAND_SECONDS)
        return shell.returncode == 0

    def _shell(self, command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["/bin/bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """Somebody who knows nothing."""
    made = Reader(tmp_path)
    yield made
    made.close()


def test_the_tutorial_works_by_copy_and_paste_to_its_end(reader: Reader) -> None:
    steps = list(_steps())
    outputs = []

    for command, shown in steps:
        if command == "make demo":
            reader.start(command)
            continue
        if command == "make demo-clean":
            outputs.append((_drained(), reader.stop()))
        outputs.append((shown, reader.type(command)))

    assert len(steps) > 10
    assert (reader.folder / "trains.csv").exists()
    assert not (reader.folder / ".moodstream").exists()
    for shown, output in outputs:
        assert _first_words(shown) - _first_words(output) == set(), f"{shown}\n---\n{output}"
    trained = [(shown, output) for shown, output in outputs if "learned from" in shown]
    assert [_first_words(output) - _first_words(shown) for shown, output in trained] == [set()] * 2


def test_the_addresses_of_the_tutorial_are_those_of_the_demo() -> None:
    ports = {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", _TUTORIAL.read_text())}

    assert ports == {HOST_PORTS["dashboard"], HOST_PORTS["MLflow"]}


def test_what_other_pages_tell_to_try_beside_a_demo_works(reader: Reader) -> None:
    for name, posts in (
        ("reviews", None),
        ("other_reviews", 300),
        ("more", 300),
        ("held-out", 300),
    ):
        _write_posts(reader.folder / f"{name}.csv", posts)
    reader.start("make demo")

    commands = [command for page in _BESIDE_A_DEMO for command in _commands(page)]
    for command in commands:
        reader.type(command)
    reader.stop()

    assert len(commands) > 15
    assert {path.name for path in reader.folder.glob("posts*.*")} >= {"posts.xlsx", "posts.csv"}


_BESIDE_A_DEMO = ("README.md", "docs/how-to/train-on-your-csv.md", "docs/exports.md")
_CALLS_BESIDE_A_DEMO = re.compile(r"(\.venv/bin/moodstream (?!demo)|curl ).*")


def _commands(page: str) -> Iterator[str]:
    for block in pages.blocks(ROOT / page):
        if block.language == "sh":
            yield from filter(_CALLS_BESIDE_A_DEMO.fullmatch, block.text.splitlines())


def _write_posts(path: Path, most: int | None) -> None:
    """As people have them: a text and a label; all that the sample has, or so many."""
    with (ROOT / "training" / "sample" / "posts.csv").open() as file:
        posts = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *posts[:most]])


def _steps() -> Iterator[tuple[str, str]]:
    """Each command and what the page shows below it."""
    blocks = pages.blocks(_TUTORIAL)
    for block, after in zip(blocks, (*blocks[1:], Block("sh", "")), strict=True):
        if block.language == "sh":
            yield block.text, after.text if after.language == "text" else ""


def _drained() -> str:
    """What the page shows after Ctrl-C."""
    return next(block.text for block in pages.blocks(_TUTORIAL) if block.text.startswith("drain"))


def _first_words(text: str) -> set[str]:
    """Of each line that begins at the margin: names and labels, which do not change."""
    return {line.split()[0] for line in text.splitlines() if line[:2].strip()}
