"""What the producer tells Prometheus, and the totals of its last log line."""

from collections import Counter as Tally
from typing import Final

from prometheus_client import Counter, Gauge

POSTS: Final = Counter(
    "moodstream_producer_posts",
    "Posts by outcome: published (acknowledged by Kafka), refused (can never be a post), failed "
    "(not acknowledged when the process stopped), dropped (Kafka was too slow for the source).",
    ["outcome", "reason"],
)
IN_FLIGHT: Final = Gauge("moodstream_producer_in_flight", "Posts sent and not yet acknowledged.")
CONNECTS: Final = Counter(
    "moodstream_producer_connects", "Connections opened to the source.", ["source"]
)
BUDGET_LEFT: Final = Gauge(
    "moodstream_producer_x_budget_left", "Posts that may still be read from X this month."
)


def totals() -> Tally[str]:
    """Posts by outcome, since the process started."""
    tally: Tally[str] = Tally()
    for family in POSTS.collect():
        for sample in family.samples:
            if sample.name.endswith("_total"):
                tally[sample.labels["outcome"]] += int(sample.value)
    return tally
