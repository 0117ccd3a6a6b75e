"""The promise of the whole project, as the demo keeps it: an alias that is set in MLflow rolls a
model out without failing a request or losing a post, and a broken one is refused with its reason.
"""

import json
import logging
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.core.model import MODEL_FILE
from services.local.models import Models, Version
from tests.integration.load import Load
from tests.integration.test_demo import Demo
from tests.waiting import wait_until

log = logging.getLogger(__name__)

_SECONDS = 300.0
_END_SECONDS = 120.0
_REGISTER = """
import sys
from importlib.metadata import version
from pathlib import Path
from training.candidates import BASELINE, CANDIDATES
from training.readers import read
from training.registry import Registry, Run
data = read(Path(sys.argv[2]))
pipeline = CANDIDATES[BASELINE]().fit(list(data.texts), list(data.labels))
pins = tuple(f"{name}=={version(name)}" for name in ("numpy", "scikit-learn", "scipy", "skops"))
print(Registry(sys.argv[1]).register(Run("test", {}, {}, {}, pins, {}), pipeline))
"""


class MLflow:
    """The demo's MLflow, as a browser talks to it."""

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self._artifacts = home / "mlflow" / "artifacts"
        self._models = Models(url)

    def register(self, data: Path) -> str:
        """A version that learned from the data."""
        # Not in this process: importing MLflow warns, and warnings are errors here.
        arguments = [sys.executable, "-c", _REGISTER, self.url, str(data)]
        return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.strip()

    def promote(self, version: str) -> None:
        """Sets the alias champion."""
        body = {"name": "sentiment", "alias": "champion", "version": version}
        request = urllib.request.Request(
            f"{self.url}/api/2.0/mlflow/registered-models/alias",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30):
            pass

    def version(self, number: str) -> Version:
        """With what the promoter has said about it."""
        return next(each for each in self._models.versions() if each.version == number)

    def description(self, number: str) -> str:
        """What the page of the version says."""
        return str(self._get("get", number)["model_version"]["description"])

    def break_files(self, number: str) -> None:
        """Ruins the model of the version where it is stored."""
        uri = self._get("get-download-uri", number)["artifact_uri"]
        path = self._artifacts / urllib.parse.urlsplit(uri).path.lstrip("/") / MODEL_FILE
        path.write_bytes(path.read_bytes()[:1000])

    def _get(self, path: str, number: str) -> Any:
        query = urllib.parse.urlencode({"name": "sentiment", "version": number})
        address = f"{self.url}/api/2.0/mlflow/model-versions/{path}?{query}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            return json.load(answer)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """A folder of its own."""
    made = Demo(tmp_path)
    yield made
    made.close()


def test_a_promoted_model_takes_over_without_a_failed_request_and_a_broken_one_is_refused(
    demo: Demo,
) -> None:
    started = demo.start("demo", "--rate", "50", "--json")
    demo.wait_until_up(started)
    run = json.loads((demo.home / "run.json").read_text())["environment"]
    mlflow = MLflow(run["MOODSTREAM_MLFLOW_URL"], demo.home)
    data = Path(demo.environment["MOODSTREAM_TRAINING_DATA"])
    second, third = mlflow.register(data), mlflow.register(data)
    mlflow.break_files(third)

    with Load(run["MOODSTREAM_INFERENCE_URL"]) as load:
        wait_until(lambda: load.versions["1"] > 100, _SECONDS)
        asked = time.monotonic()
        mlflow.promote(second)
        wait_until(lambda: mlflow.version(second).state not in (None, "rolling out"), _SECONDS)
        became = mlflow.version(second)
        assert became.state == "serving", became
        seconds = load.first[second] - asked
        before = demo.status_when(
            lambda said: (
                mlflow_states(said) == (second, second)
                and said["model"]["predictions"].get(second, 0) > 100
            )
        )

        refused = demo.run("promote", third, "--json")
        said = mlflow.version(third)
        # What its page says is written after its state.
        wait_until(lambda: "refused as champion" in mlflow.description(third), _SECONDS)
        back = demo.run("rollback", "--json")
        wait_until(lambda: load.versions[second] > 100, _SECONDS)
        after = demo.status_when(lambda said: mlflow_states(said) == (second, second))

    started.send_signal(signal.SIGINT)
    output, errors = started.communicate(timeout=_END_SECONDS)

    log.info("%.1f s from the alias to the first prediction", seconds)
    assert load.failures == []
    assert set(load.versions) == {"1", second}
    assert load.last["1"] < load.last[second]
    first_count = before["model"]["predictions"]["1"]
    assert after["model"]["predictions"]["1"] == first_count
    assert refused.returncode == 1
    assert f"version {third} is refused: artifact" in refused.stderr
    assert (said.state, said.role) == ("refused", "champion")
    assert back.returncode == 0, back.stderr
    assert started.returncode == 0, errors
    result = json.loads(output.splitlines()[-1])
    assert (result["unaccounted"], result["lag"]) == (0, 0)
    assert result["model"]["version"] == second
    assert list(result["predictions"]) == ["1", second]
    assert sum(result["predictions"].values()) == result["stored"]
    assert f"model: version {second} replaces version 1" in errors
    assert demo.leftovers() == []


def mlflow_states(status: dict[str, Any]) -> tuple[str, str]:
    """What serves, and what has the alias."""
    return status["model"]["served"], status["model"]["champion"]
