"""How good a model is on labelled posts: what is logged with a version, what `evaluate` prints, and
what a promotion is decided by. Scores with the code that the predictor runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from services.core.contract import LABELS, Probabilities, labels_of
from services.core.model import SentimentModel
from training.readers import Dataset

CALIBRATION_BINS: Final = 10
_BATCH_TEXTS: Final = 4096


@dataclass(frozen=True)
class LabelMetrics:
    """One label against the others."""

    precision: float
    recall: float
    f1: float
    support: int
    """Rows that have this label."""


@dataclass(frozen=True)
class CalibrationBin:
    """Rows whose likeliest label has a probability between two tenths."""

    confidence: float
    """Mean probability of the likeliest label."""
    accuracy: float
    """Share of rows where it is the right one."""
    rows: int


@dataclass(frozen=True)
class Evaluation:
    """What a model does on one dataset."""

    rows: int
    accuracy: float
    macro_recall: float
    """Mean recall of the three labels; SemEval's measure."""
    macro_f1: float
    calibration_error: float
    """Expected calibration error: how far the probability of the likeliest label is from how often
    it is right, in 0..1.
    """
    per_label: dict[str, LabelMetrics]
    confusion: tuple[tuple[int, ...], ...]
    """Row: the true label, column: the predicted one, both in the order of LABELS."""
    calibration: tuple[CalibrationBin, ...]


def evaluate(model: SentimentModel, data: Dataset) -> Evaluation:
    """The model's figures on every row of the data."""
    batches = [
        model.predict(data.texts[start : start + _BATCH_TEXTS])
        for start in range(0, len(data.texts), _BATCH_TEXTS)
    ]
    return measure(data.labels, np.concatenate(batches))


def measure(labels: Sequence[str], probabilities: Probabilities) -> Evaluation:
    """The figures of given probabilities; a label that does not occur counts as zero."""
    predicted = labels_of(probabilities)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=LABELS, zero_division=0.0
    )
    calibration = _calibration(
        probabilities.max(axis=1), np.asarray(labels) == np.asarray(predicted)
    )
    return Evaluation(
        rows=len(labels),
        accuracy=float(accuracy_score(labels, predicted)),
        macro_recall=float(recall.mean()),
        macro_f1=float(f1.mean()),
        calibration_error=sum(
            abs(part.confidence - part.accuracy) * part.rows / len(labels) for part in calibration
        ),
        per_label={
            label: LabelMetrics(
                float(precision[i]), float(recall[i]), float(f1[i]), int(support[i])
            )
            for i, label in enumerate(LABELS)
        },
        confusion=tuple(
            tuple(row) for row in confusion_matrix(labels, predicted, labels=LABELS).tolist()
        ),
        calibration=calibration,
    )


def _calibration(
    confidence: np.ndarray[tuple[int], np.dtype[np.float32]],
    right: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> tuple[CalibrationBin, ...]:
    places = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return tuple(
        CalibrationBin(
            confidence=float(confidence[places == place].mean()),
            accuracy=float(right[places == place].mean()),
            rows=int((places == place).sum()),
        )
        for place in np.unique(places)
    )
