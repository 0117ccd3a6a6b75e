"""What the promoter tells Prometheus."""

from typing import Final

from prometheus_client import Counter, Gauge

IN_STEP: Final = Gauge(
    "moodstream_promoter_in_step",
    "1 while the predictor serves the version that the alias names, or no version has the alias.",
)
PROMOTIONS: Final = Counter(
    "moodstream_promoter_promotions", "Versions that were set on the InferenceService."
)
FAILED_ROUNDS: Final = Counter(
    "moodstream_promoter_failed_rounds",
    "Rounds that ended early because something was away or said no.",
)
