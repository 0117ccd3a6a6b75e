"""MLflow's tracking server and model registry as a local process; its artifacts are files that it
serves itself.
"""

import json
import sys
from pathlib import Path
from typing import Final

from services.core.contract import MODEL_NAME
from services.core.postgres import sqlalchemy_url
from services.core.settings import PostgresSettings
from services.local.net import ADDRESS, fetch, responds
from services.local.process import Command, Process

_READY_SECONDS: Final = 120.0


class MLflow:
    """One server; its database and its artifacts survive a stop."""

    def __init__(self, home: Path, port: int, postgres: PostgresSettings) -> None:
        self.url = f"http://{ADDRESS}:{port}"
        self.artifacts = home.absolute() / "mlflow" / "artifacts"
        """What the server keeps its artifacts in."""
        self._home = home
        self._port = port
        self._postgres = postgres
        self.process: Process
        """Since `launch`."""

    def start(self) -> None:
        """Returns when the server answers."""
        self.launch()
        self.wait()

    def wait(self) -> None:
        """Returns when what was launched is ready; raises PartError when it dies or is late."""
        self.process.wait_ready(lambda: responds(f"{self.url}/health"), _READY_SECONDS)

    def launch(self) -> Process:
        """The server comes up on its own."""
        self.artifacts.mkdir(parents=True, exist_ok=True)
        command = Command(
            "mlflow",
            [
                *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
                *("--host", ADDRESS, "--port", str(self._port)),
                *("--artifacts-destination", self.artifacts.as_uri()),
            ],
            {
                "MLFLOW_BACKEND_STORE_URI": sqlalchemy_url(self._postgres).render_as_string(
                    hide_password=False
                ),
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
        )
        self.process = Process(command, self._home)
        return self.process


def alias_version(url: str, alias: str) -> str | None:
    """The version that has the alias; None when there is none.

    Asked over REST: importing MLflow takes seconds.
    """
    answer = fetch(f"{url}/api/2.0/mlflow/registered-models/alias?name={MODEL_NAME}&alias={alias}")
    return None if answer is None else str(json.loads(answer)["model_version"]["version"])
