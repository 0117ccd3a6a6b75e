"""A real predictor process for the integration tests, serving a model fitted on the sample."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import skops.io

from services.core.model import MODEL_FILE
from services.local.workloads import SAMPLE
from tests.waiting import wait_until
from training.candidates import BASELINE, CANDIDATES
from training.readers import read

_READY_SECONDS = 180


class Predictor:
    """The predictor, to be asked, stopped and started."""

    version = "7"

    def __init__(self, home: Path, port: int, grpc_port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.folder = home / "model"
        self._log = home / "predictor.log"
        self.grpc_port = grpc_port
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        path = self.folder / MODEL_FILE
        path.parent.mkdir(parents=True)
        sample = read(SAMPLE)
        skops.io.dump(CANDIDATES[BASELINE]().fit(list(sample.texts), list(sample.labels)), path)

    def start(self) -> None:
        """Returns when the model is ready."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.predictor"],
                env=os.environ
                | {
                    "MOODSTREAM_PREDICTOR_MODEL_DIR": str(self.folder),
                    "MOODSTREAM_PREDICTOR_MODEL_VERSION": self.version,
                    "MOODSTREAM_PREDICTOR_HTTP_PORT": str(self._port),
                    "MOODSTREAM_PREDICTOR_GRPC_PORT": str(self.grpc_port),
                    "MOODSTREAM_SERVICE_BIND": "127.0.0.1",
                },
                stdout=log,
                stderr=log,
            )
        wait_until(self._ready, _READY_SECONDS, "a ready predictor")

    def stop(self) -> None:
        """Returns when the process has ended."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/v2/models/sentiment/ready") as answer:
                return int(answer.status) == 200
        except OSError:
            return False
