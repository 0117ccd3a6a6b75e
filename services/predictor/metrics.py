"""What the predictor tells Prometheus."""

from typing import Final

from prometheus_client import Counter, Histogram, Info

TEXTS: Final = Counter("moodstream_predictor_texts", "Texts scored, by likeliest label.", ["label"])
REJECTED: Final = Counter(
    "moodstream_predictor_rejected_requests", "Requests refused, by status.", ["status"]
)
SCORING_SECONDS: Final = Histogram(
    "moodstream_predictor_scoring_seconds",
    "Seconds that the model took for one request, without parsing and waiting.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
MODEL: Final = Info("moodstream_predictor_model", "Name and version of the served model.")
