"""The model contract: what every sentiment model takes and gives, in training, predictor and
consumer alike.

In: texts. Out, for each text: three probabilities in the order of LABELS; the label is the
likeliest of them, the score is positive minus negative, in -1..+1.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

LABELS: Final = ("negative", "neutral", "positive")
"""In this order everywhere: columns of probabilities, classes of the model, values of the
database's enum.
"""

MODEL_NAME: Final = "sentiment"
"""Name of the served model and of the registered model in MLflow."""

INPUT_NAME: Final = "text"
"""V2 input tensor: BYTES [n], UTF-8 texts."""
LABEL_OUTPUT: Final = "label"
"""V2 output tensor: BYTES [n]."""
PROBABILITIES_OUTPUT: Final = "probabilities"
"""V2 output tensor: FP32 [n, 3], columns in the order of LABELS."""
SCORE_OUTPUT: Final = "score"
"""V2 output tensor: FP32 [n], in -1..+1."""

MAX_TEXT_CHARS: Final = 10_000
"""Longest text that is a post and that the model scores, in characters; X's longest is 25,000 but
reads as an article.
"""
MAX_TEXTS_PER_REQUEST: Final = 4_096
"""Most texts in one inference request."""

Probabilities = npt.NDArray[np.float32]
"""Shape [n, 3], columns in the order of LABELS, rows summing to 1."""


def labels_of(probabilities: Probabilities) -> list[str]:
    """The likeliest label of each row."""
    return [LABELS[i] for i in probabilities.argmax(axis=1)]


def scores_of(probabilities: Probabilities) -> npt.NDArray[np.float32]:
    """Positive minus negative probability of each row, in -1..+1."""
    return probabilities[:, 2] - probabilities[:, 0]
