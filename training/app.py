"""Training as a process of its own, for a Kubernetes Job: settings from the environment, the result
as one JSON line on standard output.
"""

from dataclasses import asdict
from typing import Any

from services.core import lifecycle
from services.core.gate import GateSettings
from services.core.settings import MLflowSettings, PostgresSettings, load
from training.registry import Registry
from training.settings import TrainingSettings
from training.train import train


def main() -> None:
    """Exits with 0 when a version is registered, whether the gate passed or refused it, else with
    one line that says what to do.
    """
    lifecycle.job("training", _train)


def _train() -> dict[str, Any]:
    settings, mlflow = load(TrainingSettings), load(MLflowSettings)
    gate, postgres = load(GateSettings), load(PostgresSettings)
    return asdict(train(settings, Registry(mlflow.url), gate, postgres))
