"""The champion of the model registry, in a folder that the predictor can load."""

import sys
from dataclasses import dataclass
from pathlib import Path

from services.core.contract import MODEL_NAME
from services.local.process import Command

TRAINING_SECONDS = 900.0
"""How long training on the project's sample may take on a slow machine."""


@dataclass(frozen=True)
class Champion:
    """A version of the model on this machine."""

    name: str
    version: str
    folder: Path


def training(mlflow_url: str) -> Command:
    """Trains a model and registers it; the first of a registry becomes the champion."""
    return Command(
        "training", [sys.executable, "-m", "training"], {"MOODSTREAM_MLFLOW_URL": mlflow_url}
    )


def fetch(home: Path, mlflow_url: str, selector: str) -> Champion:
    """The version that a number or an alias names, in a folder under `home`; downloaded if it is
    not there yet.
    """
    models = home.absolute() / "models"
    folder = models / selector
    if not folder.exists():
        # It takes seconds to import, and later starts do not need it.
        from training.registry import Registry

        folder = Registry(mlflow_url).fetch(selector, models)
    return Champion(MODEL_NAME, folder.name, folder)
