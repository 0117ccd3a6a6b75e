"""Child processes: start, wait until ready, watch, stop. Nothing is ever signalled but what was
started here: a pid file names each process together with the time it started.

A child has a session of its own, so that Ctrl-C in the terminal reaches the parent alone, which
then stops its children in order.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from services.core.errors import MoodstreamError

_CHILD: Final = Path(__file__).with_name("child.py")
_POLL_SECONDS: Final = 0.05
_STARTED_TOLERANCE_SECONDS: Final = 2.0
"""The system clock may be adjusted between two readings of one start time."""
_GONE_SECONDS: Final = 5.0
_LOG_TAIL_LINES: Final = 8
_LOG_LINE_CHARS: Final = 300
_FRAME: Final = re.compile(r"\s+(at |\.\.\. )")
"""A line of a Java stack trace: many of them push out the lines that say what went wrong."""
_LOG_TAIL_BYTES: Final = 16_384


class PartError(MoodstreamError):
    """A part of the local platform cannot start or has died; the message says what to do."""


@dataclass(frozen=True)
class Identity:
    """The user that a child runs as, when not as ours."""

    uid: int
    capability: int = -1
    """Linux capability to keep; -1: none."""


@dataclass(frozen=True)
class Command:
    """How to run one part."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to ours. Secrets go here, never into the arguments, which everyone can read."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 30.0
    """How long a stop may take before SIGKILL."""
    identity: Identity = Identity(uid=0)
    inherited_fds: tuple[int, ...] = ()
    """File descriptors of ours that it gets, under the same numbers."""


class Process:
    """A running part."""

    def __init__(self, command: Command, home: Path) -> None:
        """Starts it. `home` takes its log and its pid file.

        Must be called in a thread that lives as long as the child should: Linux sends the death
        signal when that thread ends.
        """
        self.command = command
        self.log_path = home / "logs" / f"{command.name}.log"
        self._pid_path = home / "run" / f"{command.name}.pid"
        for path in (self.log_path, self._pid_path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._popen = subprocess.Popen(
                wrapped(command),
                env=os.environ | command.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=command.inherited_fds,
            )
        record = {"pid": self.pid, "started": psutil.Process(self.pid).create_time()}
        self._pid_path.write_text(json.dumps(record))
        self._asked = self._ended = False

    @property
    def name(self) -> str:
        """The part's name."""
        return self.command.name

    @property
    def pid(self) -> int:
        """Process id, which is also its process group."""
        return self._popen.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._popen.poll()

    def log_tail(self) -> str:
        """The last lines it wrote since it was started."""
        telling = [line for line in self.log().splitlines() if not _FRAME.match(line)]
        return "\n".join(line[:_LOG_LINE_CHARS] for line in telling[-_LOG_TAIL_LINES:])

    def log(self) -> str:
        """The end of what it wrote since it was started."""
        with self.log_path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")

    def check(self) -> None:
        """Raises PartError when it has died."""
        if self.exit_status is not None:
            raise PartError(
                f"{self.name} has died ({_describe(self.exit_status)}); its log is "
                f"{self.log_path}, the last lines:\n{self.log_tail()}"
            )

    def wait_ready(self, ready: Callable[[], bool], seconds: float) -> None:
        """Returns when `ready` says so; raises PartError when it dies or the deadline passes."""
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise PartError(
                    f"{self.name} was not ready after {seconds:.0f} s; its log is "
                    f"{self.log_path}, the last lines:\n{self.log_tail()}"
                )
            time.sleep(_POLL_SECONDS)

    def wait_finished(self, seconds: float) -> None:
        """Returns when it has ended well; raises PartError when it fails or the deadline passes."""
        self.wait_ready(self._finished, seconds)

    def _finished(self) -> bool:
        try:
            return self._popen.wait(_POLL_SECONDS) == 0
        except subprocess.TimeoutExpired:
            return False

    def stop(self) -> None:
        """Asks it to stop, waits, and kills what is left of its group, at the deadline at the
        latest.
        """
        if self._ended:
            return
        self.ask_to_stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(self.command.stop_seconds)
        self.kill()

    def ask_to_stop(self) -> None:
        """Sends the stop signal, once, and does not wait."""
        if not self._asked and self.exit_status is None:
            self._asked = True
            self._popen.send_signal(self.command.stop_signal)

    def kill(self) -> None:
        """SIGKILL to its group and to every descendant, as a crash would look; returns when they
        are gone.
        """
        if self._ended:
            return
        # A backend of PostgreSQL leads a group of its own. One that is busy outlives the server,
        # keeps its shared memory and thereby the next server from starting.
        descendants: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            process.suspend()  # it starts no further one meanwhile
            descendants = process.children(recursive=True)
        # Nobody else can have got the group's id while a member lives; with none left, none is hit.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        for descendant in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                descendant.kill()
        self._popen.wait()
        psutil.wait_procs(descendants, _GONE_SECONDS)
        self._ended = True
        self._pid_path.unlink(missing_ok=True)


def wrapped(command: Command) -> list[str]:
    """The argument list that runs `command` tied to our life and under its identity."""
    return [
        sys.executable,
        "-I",
        "-S",
        str(_CHILD),
        str(os.getpid()),
        str(int(command.stop_signal)),
        str(command.identity.uid),
        str(command.identity.capability),
        *command.arguments,
    ]


def stop_leftovers(home: Path, seconds: float) -> list[str]:
    """Stops what an earlier start left running, by its pid files; returns the names."""
    stopped = []
    for path in sorted((home / "run").glob("*.pid")):
        leftover = _running(path)
        if leftover is not None:
            stopped.append(path.stem)
            _end(leftover, seconds)
        path.unlink(missing_ok=True)
    return stopped


def kill_late(home: Path, seconds: float) -> None:
    """Waits for the end of every part that the pid files name, and of its descendants; kills what
    still runs after so many seconds. Asks none to stop.
    """
    parts = [part for path in (home / "run").glob("*.pid") if (part := _running(path)) is not None]
    _, late = psutil.wait_procs([each for part in parts for each in _family(part)], seconds)
    for process in late:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _running(pid_path: Path) -> psutil.Process | None:
    try:
        record = json.loads(pid_path.read_text())
        process = psutil.Process(int(record["pid"]))
        same = abs(process.create_time() - record["started"]) < _STARTED_TOLERANCE_SECONDS
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (ValueError, KeyError, psutil.NoSuchProcess):
        return None


def _end(process: psutil.Process, seconds: float) -> None:
    family = _family(process)
    # SIGINT is a fast shutdown for PostgreSQL, where SIGTERM waits for its clients to leave.
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGINT if "postgres" in process.name() else signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=seconds)
    for member in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


def _family(process: psutil.Process) -> list[psutil.Process]:
    """It and its descendants."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def _describe(exit_status: int) -> str:
    if exit_status >= 0:
        return f"exit status {exit_status}"
    return f"killed by {signal.Signals(-exit_status).name}"
