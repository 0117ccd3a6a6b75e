"""What the notifier tells Prometheus."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

OPEN: Final = Gauge("moodstream_notifier_open_alerts", "Alerts that have begun and not ended.")
OPENED: Final = Counter("moodstream_notifier_alerts", "Alerts that began.", ["kind"])
ATTEMPTS: Final = Counter(
    "moodstream_notifier_attempts", "Tries to send a message.", ["channel", "outcome"]
)
PENDING: Final = Gauge("moodstream_notifier_pending", "Messages that are still to be sent.")
OLDEST_SECONDS: Final = Gauge(
    "moodstream_notifier_oldest_pending_seconds", "Age of the oldest of them; 0 for none."
)
SECONDS: Final = Histogram("moodstream_notifier_attempt_seconds", "How long a try takes.")
LEADER: Final = Gauge(
    "moodstream_notifier_leader", "1 in the notifier that judges, 0 in one that stands by."
)
