"""What the promoter tells Prometheus. `role` is champion or challenger."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from services.core.contract import RolloutState

IN_STEP: Final = Gauge(
    "moodstream_promoter_in_step",
    "1 while the version that the alias names is served, or is one that is not to be served.",
    ["role"],
)
STATE: Final = Gauge(
    "moodstream_promoter_state",
    "1 for the state of the version that the alias names, 0 for every other state.",
    ["role", "state"],
)
PROMOTIONS: Final = Counter(
    "moodstream_promoter_promotions", "Versions that were set to be served.", ["role"]
)
REFUSED: Final = Counter("moodstream_promoter_refused", "Versions that the gate refused.", ["role"])
ROLLED_BACK: Final = Counter(
    "moodstream_promoter_rolled_back",
    "Versions that were set and taken back because they did not answer right in time.",
    ["role"],
)
ALIAS_TO_SERVING: Final = Histogram(
    "moodstream_promoter_alias_to_serving_seconds",
    "From seeing the alias on a version to its being served, examination included.",
    ["role"],
    buckets=(2, 5, 10, 15, 30, 45, 60, 90, 120, 180, 300, 600),
)
EXAMINATIONS: Final = Counter(
    "moodstream_promoter_examinations", "Versions whose files were examined."
)
LEADER: Final = Gauge(
    "moodstream_promoter_leader", "1 in the promoter that acts, 0 in one that stands by."
)
FAILED_ROUNDS: Final = Counter(
    "moodstream_promoter_failed_rounds",
    "Rounds that ended early because something was away or said no.",
)


def state(role: str, current: RolloutState | None) -> None:
    """Sets the role's STATE; None for an alias on no version, or on one nothing was said about."""
    for each in RolloutState:
        STATE.labels(role, each.value).set(each is current)
