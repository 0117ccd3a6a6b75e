"""The model contract: what every sentiment model takes and gives, in training, predictor and
consumer alike.

In: texts. Out, for each text: three probabilities in the order of LABELS; the label is the
likeliest of them, the score is positive minus negative, in -1..+1.
"""

from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

LABELS: Final = ("negative", "neutral", "positive")
"""In this order everywhere: columns of probabilities, classes of the model, values of the
database's enum.
"""

MODEL_NAME: Final = "sentiment"
"""Name of the served model and of the registered model in MLflow."""

CHAMPION: Final = "champion"
"""Alias of the version that is served, and the role of what it says."""
CHALLENGER: Final = "challenger"
"""Alias of the version that is served beside the champion and scores a share of the same posts."""


class RolloutState(StrEnum):
    """What became of a version that had one of the two aliases; the tag ROLLOUT_TAG on it."""

    REFUSED = "refused"
    ROLLING_OUT = "rolling out"
    SERVING = "serving"
    ROLLED_BACK = "rolled back"
    REPLACED = "replaced"


ROLLOUT_TAG: Final = "moodstream.rollout"
"""On a model version in MLflow: its RolloutState."""
ROLLOUT_ROLE_TAG: Final = "moodstream.rollout.role"
"""The alias that the state is about."""
ROLLOUT_REASON_TAG: Final = "moodstream.rollout.reason"
"""Why, in a sentence."""
ROLLOUT_AT_TAG: Final = "moodstream.rollout.at"
"""Since when, ISO 8601, UTC."""
VERSION_ANNOTATION: Final = "moodstream.io/model-version"
"""On an InferenceService, handed by KServe to its pods: the version that they say they are."""

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
