"""The served model: loads a registered version from its folder and scores texts with it.

Called by the predictor, by evaluation and by training's own check of what it registers, so that all
three run the same code. Loading never runs code from the file: no pickle, and only the types in
TRUSTED_TYPES, whatever the artifact itself says about trust.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import skops.io
import yaml
from sklearn.pipeline import Pipeline

from services.core.contract import LABELS, Probabilities
from services.core.errors import MoodstreamError
from services.core.features import PostFeatures

MODEL_FILE: Final = Path("data", "model.skops")
"""The pipeline, inside the folder of a model version."""
TRUSTED_TYPES: Final = (
    "services.core.features.PostFeatures",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
)
"""Types that a model file may hold besides those that skops trusts itself: numpy's, scipy's and
scikit-learn's public ones.
"""
_MAX_BYTES: Final = 256 * 1024 * 1024
"""What a model file may unpack to."""
_REGISTERED: Final = "registered_model_meta"
"""Written by MLflow beside the artifacts when a registered version is downloaded."""
_MLMODEL: Final = "MLmodel"


class ModelError(MoodstreamError):
    """A model folder cannot be served; the message says why."""


@dataclass(frozen=True)
class SentimentModel:
    """A fitted pipeline with its identity. Not thread-safe: the features keep a cache."""

    pipeline: Pipeline
    version: str

    def predict(self, texts: Sequence[str]) -> Probabilities:
        """Probabilities of each text, in order. Raises TypeError naming the first row that is no
        string.
        """
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"row {row} is {type(text).__name__}, not a string")
        if not texts:
            return np.empty((0, len(LABELS)), np.float32)
        return np.asarray(self.pipeline.predict_proba(texts), dtype=np.float32)


def load(folder: Path, version: str | None = None) -> SentimentModel:
    """The model in a downloaded version's folder, or ModelError.

    Without `version`, it is what the folder itself says: the registered version, else MLflow's
    model id.
    """
    return SentimentModel(load_pipeline(folder / MODEL_FILE), version or _version_of(folder))


def load_pipeline(path: Path) -> Pipeline:
    """The pipeline in a skops file, checked against the contract, or ModelError."""
    if not path.is_file():
        raise ModelError(f"{path} is missing; a model is served from skops files only")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _MAX_BYTES:
            raise ModelError(f"{path} unpacks to {size} bytes, the limit is {_MAX_BYTES}")
        untrusted = sorted(
            set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED_TYPES),
        )
        if untrusted:
            raise ModelError(
                f"{path} holds types that are not trusted: {', '.join(untrusted)}; "
                "train a model of the project's own kinds"
            )
        loaded = skops.io.load(path, trusted=list(TRUSTED_TYPES))
    except ModelError:
        raise
    except zipfile.BadZipFile as exc:
        raise ModelError(f"{path} is no skops file: {exc}") from exc
    except Exception as exc:  # skops raises what its nodes meet in a damaged or foreign file
        raise ModelError(f"{path} cannot be loaded: {type(exc).__name__}: {exc}") from exc
    _check(path, loaded)
    return loaded


def _check(path: Path, loaded: Any) -> None:
    if not isinstance(loaded, Pipeline) or not isinstance(loaded[0], PostFeatures):
        raise ModelError(
            f"{path} holds a {type(loaded).__name__}, not a pipeline from PostFeatures"
        )
    if not hasattr(loaded, "predict_proba"):
        raise ModelError(f"{path}: its classifier gives no probabilities")
    classes = tuple(str(label) for label in loaded.classes_)
    if classes != LABELS:
        raise ModelError(f"{path} knows the classes {classes}, the contract says {LABELS}")


def _version_of(folder: Path) -> str:
    for name, key in ((_REGISTERED, "model_version"), (_MLMODEL, "model_id")):
        path = folder / name
        if path.is_file():
            try:
                content = yaml.safe_load(path.read_text())
            except (yaml.YAMLError, UnicodeDecodeError) as exc:
                raise ModelError(f"{path} is not YAML: {exc}") from exc
            if isinstance(content, dict) and content.get(key):
                return str(content[key])
    raise ModelError(
        f"{folder} does not say which version it is (no {_REGISTERED}, no model_id in {_MLMODEL}); "
        "name the version in the settings"
    )
