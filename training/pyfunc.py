"""A registered version as MLflow loads it: a frame with a column `text` in, label, probabilities
and score out. MLflow imports this by the name that is written into each version, so `_load_pyfunc`
keeps its name and its place.
"""

from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]  # no stubs

from services.core.contract import (
    INPUT_NAME,
    LABEL_OUTPUT,
    LABELS,
    SCORE_OUTPUT,
    labels_of,
    scores_of,
)
from services.core.model import SentimentModel, load_pipeline


class TextFrameModel:
    """The model for people who hold data frames."""

    def __init__(self, model: SentimentModel) -> None:
        self._model = model

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row for each row of the frame."""
        probabilities = self._model.predict(frame[INPUT_NAME].tolist())
        return pd.DataFrame(
            {LABEL_OUTPUT: labels_of(probabilities)}
            | {label: probabilities[:, i] for i, label in enumerate(LABELS)}
            | {SCORE_OUTPUT: scores_of(probabilities)},
            index=frame.index,
        )


def _load_pyfunc(path: str) -> TextFrameModel:
    return TextFrameModel(SentimentModel(load_pipeline(Path(path)), version="unknown"))
