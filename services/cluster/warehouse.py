"""The warehouse's figures, asked in the database's own pod."""

import json
from dataclasses import dataclass
from typing import Final

from services.cluster.command import CommandError, run
from services.cluster.kube import PODS, AwayError, Kube, is_ready
from services.cluster.options import NAMESPACE

_PRIMARY: Final = "cnpg.io/cluster=warehouse,cnpg.io/instanceRole=primary"
_SECONDS: Final = 30.0
_FIGURES: Final = """
SELECT json_build_object(
    'stored', coalesce(sum(stored), 0), 'dead_lettered', coalesce(sum(dead_lettered), 0),
    'newest_age_seconds', (
        SELECT round(extract(epoch FROM clock_timestamp() - max(stored_at))::numeric, 1)
        FROM (SELECT stored_at FROM posts ORDER BY created_at DESC LIMIT 1000) newest),
    'open_alerts', (SELECT count(*) FROM alerts WHERE closed_at IS NULL),
    'undelivered', (SELECT count(*) FROM deliveries WHERE state <> 'delivered'),
    'lake_until', (SELECT max(day) FROM lake_days))
FROM kafka_offsets
"""


@dataclass(frozen=True)
class Figures:
    """What the warehouse holds."""

    stored: int
    """Posts taken in ever, by the ledger."""
    dead_lettered: int
    newest_age_seconds: float | None
    """Since the newest post was stored; None when there is none."""
    open_alerts: int
    undelivered: int
    """Messages about alerts that are on their way or were given up."""
    lake_until: str | None
    """The newest day in the lake; None when there is none."""


def figures(cluster: Kube) -> Figures:
    """Raises AwayError while the database cannot say."""
    pods = [pod for pod in cluster.list(PODS, labels=_PRIMARY) if is_ready(pod)]
    if not pods:
        raise AwayError("the database has no primary")
    try:
        answer = run(
            *("kubectl", "--context", cluster.context, "--namespace", NAMESPACE, "exec"),
            *(pods[0]["metadata"]["name"], "--container", "postgres", "--"),
            *("psql", "--no-psqlrc", "--tuples-only", "--no-align", "--dbname", "moodstream"),
            *("--command", _FIGURES),
            seconds=_SECONDS,
        )
    except CommandError as exc:
        raise AwayError(f"the database does not answer: {exc}") from exc
    return Figures(**json.loads(answer))
