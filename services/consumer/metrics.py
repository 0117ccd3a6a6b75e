"""What the consumer tells Prometheus."""

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Final

import numpy as np
from prometheus_client import REGISTRY, Counter, Gauge
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

POSTS: Final = Counter(
    "moodstream_consumer_posts",
    "Records taken in, by outcome: stored, duplicates, dead_lettered.",
    ["outcome"],
)
DEAD_LETTERS: Final = Counter(
    "moodstream_consumer_dead_letters", "Dead letters by stage and reason.", ["stage", "reason"]
)
UNSCORED: Final = Counter(
    "moodstream_consumer_unscored_posts", "Posts in languages that the model was not trained on."
)
STAGE_SECONDS: Final = Counter(
    "moodstream_consumer_stage_seconds", "Seconds spent working in each stage.", ["stage"]
)
RETRIES: Final = Counter(
    "moodstream_consumer_retries", "Tries repeated because a dependency was away.", ["stage"]
)
RESETS: Final = Counter(
    "moodstream_consumer_resets",
    "Times the ledger had moved on and batches were dropped unwritten.",
)
WAITING: Final = Gauge(
    "moodstream_consumer_waiting", "1 while a stage waits for a dependency.", ["stage"]
)
SHADOW_POSTS: Final = Counter(
    "moodstream_consumer_shadow_posts", "Posts that the challenger has scored too."
)
SHADOW_DROPPED: Final = Counter(
    "moodstream_consumer_shadow_dropped_posts",
    "Posts sampled for the challenger and let go, by reason: busy, challenger, database.",
    ["reason"],
)

_LATENCY_BUCKETS: Final = (
    *(0.001 * 1.25**step for step in range(40)),
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0, 900.0, 3600.0,
)  # fmt: skip
"""Upper bounds in seconds, 25 % apart up to 6 s, so that an interpolated quantile is at most that
far off.
"""


class BulkHistogram(Collector):
    """A Prometheus histogram that takes thousands of observations in one call."""

    def __init__(self, name: str, help_text: str, bounds: Sequence[float]) -> None:
        self._name, self._help = name, help_text
        self._bounds = np.asarray(bounds)
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._sum = 0.0
        self._lock = Lock()

    def observe(self, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
        """Adds the values, in the unit of the bounds."""
        counts = np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._bounds) + 1)
        with self._lock:
            self._counts += counts
            self._sum += float(values.sum())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Prometheus' view: cumulative counts up to each bound."""
        with self._lock:
            running, total = self._counts.cumsum(), self._sum
        names = [*(f"{bound:.6g}" for bound in self._bounds), "+Inf"]
        family = HistogramMetricFamily(self._name, self._help)
        family.add_metric([], list(zip(names, running.tolist(), strict=True)), sum_value=total)
        yield family


APPEND_TO_COMMIT: Final = BulkHistogram(
    "moodstream_consumer_append_to_commit_seconds",
    "From a record's append in Kafka to the commit of its row in PostgreSQL.",
    _LATENCY_BUCKETS,
)
REGISTRY.register(APPEND_TO_COMMIT)
