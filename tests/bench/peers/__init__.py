"""What people would pick instead, each in an environment of its own: made once, kept for the next
run in the user's cache.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import joblib
import mlflow.pyfunc

from services.core.model import MODEL_FILE, load_pipeline
from services.core.postgres import connect
from tests.bench.rig import Rig
from tests.ports import free_port

_HERE: Final = Path(__file__).parent
_PROJECT: Final = _HERE.parents[2]
_CACHE: Final = Path.home() / ".cache" / "moodstream-bench"
_READY_SECONDS: Final = 120.0
_MOST_SECONDS: Final = 240.0


def environment(name: str) -> Path:
    """The interpreter of a peer's environment; installs what requirements-NAME.txt names."""
    wanted = (_HERE / f"requirements-{name}.txt").read_text()
    folder, mark = _CACHE / name, _CACHE / name / "installed.txt"
    python = folder / "bin" / "python"
    if not mark.exists() or mark.read_text() != wanted:
        sys.stderr.write(f"installing {name}, once\n")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "-r", _HERE / f"requirements-{name}.txt"],
            check=True,
        )
        mark.write_text(wanted)
    return python


def pipelines(rig: Rig, model: Path, posts: int, ours: float) -> dict[str, Any]:
    """Posts per second of the textbook pipeline and of a Quix Streams application, into the same
    table of the same database, and how many times as fast ours is.
    """
    result = {}
    for name, script, count in (
        ("textbook", "textbook.py", min(posts, 5_000)),
        ("quix_streams", "quix.py", min(posts, 20_000)),
    ):
        rate = _pipeline(rig, model, script, count)
        result[name] = {"posts_per_second": round(rate), "ours_is_faster": round(ours / rate, 1)}
    return result


def _pipeline(rig: Rig, model: Path, script: str, posts: int) -> float:
    """From the first stored post to the last one."""
    rig.topic(1)
    rig.execute("TRUNCATE posts CASCADE")
    rig.fill(posts)
    postgres, kafka = rig.postgres.settings, rig.kafka.settings
    python = environment("quix") if script == "quix.py" else Path(sys.executable)
    variables = {
        "PYTHONPATH": str(_PROJECT),
        "OMP_NUM_THREADS": "1",
        "BROKERS": kafka.bootstrap_servers,
        "TOPIC": kafka.posts_topic,
        "MODEL": str(model / MODEL_FILE),
        "PGHOST": postgres.host,
        "PGPORT": str(postgres.port),
        "PGDATABASE": postgres.database,
        "PGUSER": postgres.user,
        "PGPASSWORD": postgres.password.get_secret_value() if postgres.password else "",
    }
    with (rig.home / f"{script}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(python), str(_HERE / script)],
            env=os.environ | variables,
            stdout=log,
            stderr=log,
            cwd=rig.home,
        )
    connection = connect(postgres, "bench")
    connection.autocommit = True
    cursor = connection.cursor()

    def stored() -> int:
        cursor.execute("SELECT count(*) FROM posts")
        return int(cursor.fetchall()[0][0])

    deadline = time.monotonic() + _MOST_SECONDS
    try:
        while not (first := stored()):
            _alive(process, deadline, rig.home / f"{script}.log")
            time.sleep(0.01)
        started = time.perf_counter()
        while (now := stored()) < posts:
            _alive(process, deadline, rig.home / f"{script}.log")
            time.sleep(0.05)
        return (now - first) / (time.perf_counter() - started)
    finally:
        process.terminate()
        process.wait(60)
        connection.close()


def _alive(process: "subprocess.Popen[bytes]", deadline: float, log: Path) -> None:
    if process.poll() is not None or time.monotonic() > deadline:
        raise SystemExit(f"it ended or is too slow: {log.read_text()[-1_000:]}")


@dataclass(frozen=True)
class Server:
    """A model server to compare with."""

    name: str
    prepare: Callable[[Path, Path, int], tuple[list[str], Mapping[str, str]]]
    """Writes what it serves into a folder, of a model's folder, for a port: command and
    environment.
    """
    ready: str
    ask: str

    @contextmanager
    def running(self, folder: Path, model: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
        """The process and the address that scores."""
        port = free_port()
        folder.mkdir()
        command, variables = self.prepare(folder, model, port)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(_PROJECT), **variables},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _READY_SECONDS
        try:
            while not _answers(f"http://127.0.0.1:{port}{self.ready}"):
                _alive(process, deadline, folder / "log")
                time.sleep(0.2)
            yield process, f"http://127.0.0.1:{port}{self.ask}"
        finally:
            process.terminate()
            process.wait(60)


def _mlflow(folder: Path, model: Path, port: int) -> tuple[list[str], Mapping[str, str]]:
    mlflow.pyfunc.save_model(
        path=str(folder / "model"),
        loader_module="training.pyfunc",
        data_path=str(model / MODEL_FILE),
        pip_requirements=[],
    )
    # What `mlflow models serve --env-manager local` starts, without the shell in between.
    command = [
        *(sys.executable, "-m", "uvicorn", "--workers", "1", "--host", "127.0.0.1"),
        *("--port", str(port), "mlflow.pyfunc.scoring_server.app:app"),
    ]
    return command, {"__pyfunc_model_path__": str(folder / "model")}


def _mlserver(folder: Path, model: Path, port: int) -> tuple[list[str], Mapping[str, str]]:
    python = environment("mlserver")
    joblib.dump(load_pipeline(model / MODEL_FILE), folder / "model.joblib")
    (folder / "settings.json").write_text(
        json.dumps(
            {
                "host": "127.0.0.1",
                "http_port": port,
                "grpc_port": free_port(),
                "metrics_port": free_port(),
                "parallel_workers": 0,
                "debug": False,
            }
        )
    )
    (folder / "model-settings.json").write_text(
        json.dumps(
            {
                "name": "sentiment",
                "implementation": "mlserver_sklearn.SKLearnModel",
                "parameters": {"uri": "./model.joblib", "version": "1"},
            }
        )
    )
    return [str(python.parent / "mlserver"), "start", str(folder)], {}


MLFLOW: Final = Server("mlflow", _mlflow, "/ping", "/invocations")
MLSERVER: Final = Server(
    "mlserver", _mlserver, "/v2/models/sentiment/ready", "/v2/models/sentiment/infer"
)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return int(answer.status) == 200
    except OSError:
        return False
