"""Training as a process of its own, for a Kubernetes Job: settings from the environment, the result
as one JSON line on standard output.
"""

import json
import sys
from dataclasses import asdict

from services.core import logs
from services.core.errors import MoodstreamError
from services.core.settings import load
from training.registry import Registry
from training.settings import MLflowSettings, TrainingSettings
from training.train import train


def main() -> None:
    """Exits with 0 when a version is registered, else with 1 and one line that says what to do."""
    logs.configure("INFO", "training")
    try:
        settings, mlflow = load(TrainingSettings), load(MLflowSettings)
        result = train(settings, Registry(mlflow.url))
    except MoodstreamError as exc:
        sys.stderr.write(f"training: {exc}\n")
        raise SystemExit(1) from None
    sys.stdout.write(f"{json.dumps(asdict(result))}\n")
