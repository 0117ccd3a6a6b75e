"""What a running platform leaves in its folder for other commands to find: a lock that says that it
runs, and its addresses.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Final, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic_settings import BaseSettings

from services.core.errors import MoodstreamError
from services.core.settings import load

S = TypeVar("S", bound=BaseSettings)

_LOCK: Final = "lock"
_RUN: Final = "run.json"
_OURS: Final = frozenset(
    {
        *("kafka", "postgres", "mlflow", "producer", "models", "examined", "logs", "run"),
        *("postgres.json", "demo.log", _LOCK, _RUN),
    }
)
"""Everything that the parts keep in the state folder."""


class AlreadyRunningError(MoodstreamError):
    """Another platform runs in the same folder."""


class ForeignFolderError(MoodstreamError):
    """The state folder holds something else."""


class Run(BaseModel):
    """A platform that is up."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    pid: int
    """Of the process that started and watches everything."""
    environment: dict[str, str]
    """Addresses as settings, without secrets."""
    ready: dict[str, str]
    """Part to the address that answers 200 when it is ready."""
    urls: dict[str, str]
    """Name to the address that a person opens."""
    began_at: datetime
    """By the database's clock; posts stored since then are this run's."""


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Holds the folder for one platform. However the process ends, the lock goes with it."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / _LOCK).open("a+") as lock:
        if not _take(lock):
            raise AlreadyRunningError(
                f"a platform is already running in {home} (process {_owner(lock)}): stop it with "
                "Ctrl-C there, or set MOODSTREAM_LOCAL_HOME to another folder"
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield
        finally:
            (home / _RUN).unlink(missing_ok=True)


def publish(home: Path, run: Run) -> None:
    """Tells other commands that everything is up."""
    (home / _RUN).write_text(run.model_dump_json(indent=2))


def remove(home: Path) -> bool:
    """Removes everything that a platform keeps in its folder; False when there was nothing.

    Refuses a folder that holds anything else: the setting may name one by mistake.
    """
    if not home.exists():
        return False
    foreign = sorted(path.name for path in home.iterdir() if path.name not in _OURS)
    if foreign:
        raise ForeignFolderError(
            f"{home} is not removed, because it holds what no platform put there: "
            f"{', '.join(foreign[:5])}; check MOODSTREAM_LOCAL_HOME"
        )
    with locked(home):
        shutil.rmtree(home)
    return True


def is_running(home: Path) -> bool:
    """Whether a platform holds the folder."""
    if not (home / _LOCK).exists():
        return False
    with (home / _LOCK).open("a+") as lock:
        return not _take(lock)


def find(home: Path) -> Run | None:
    """The platform that is up in the folder, or None."""
    path = home / _RUN
    if not is_running(home) or not path.exists():
        return None
    return Run.model_validate(json.loads(path.read_text()))


def settings(run: Run | None, group: type[S]) -> S:
    """A settings group with the addresses of the platform that runs here, else from the
    environment.
    """
    with _environment(run.environment if run else {}):
        return load(group)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _take(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(lock: IO[str]) -> str:
    lock.seek(0)
    return lock.read() or "unknown"
