"""Counts each day anew from the lake's file and compares it with the rollups: two ways to the same
figures, one over the stored posts, one over what the consumer added up as they came.
"""

import json
import logging
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from services.core.contract import LABELS
from services.core.errors import MoodstreamError
from services.core.events import ALL_TOPICS
from services.core.postgres import Connection, transaction
from services.etl.files import Files
from services.etl.lake import bounds

log = logging.getLogger(__name__)

_DAY_SECONDS: Final = 600.0
_AVERAGE_TOLERANCE: Final = 1e-5
"""The rollups sum scores of six digits, the file holds them as 32-bit floats."""
_UNSCORED: Final = "unscored"
_SHOWN: Final = 20
"""Most differences that a message names; the table has them all."""

# The file says what the rollups must say only while it holds exactly the day's posts.
_CURRENT: Final = """
SELECT revision FROM lake_days
WHERE day = %s AND NOT stale
    AND in_warehouse = (SELECT count(*) FROM posts WHERE created_at >= %s AND created_at < %s)
"""
_ROLLUPS: Final = """
SELECT topic, sum(posts)::bigint, sum(negative)::bigint, sum(neutral)::bigint,
       sum(positive)::bigint, sum(unscored)::bigint,
       (sum(score_sum) / nullif(sum(posts - unscored), 0))::double precision
FROM rollup_hour WHERE hour >= %s AND hour < %s
GROUP BY topic HAVING sum(posts) <> 0
"""


@dataclass(frozen=True)
class Aggregate:
    """A topic's day."""

    posts: int
    negative: int
    neutral: int
    positive: int
    unscored: int
    average_score: float | None

    def agrees(self, other: "Aggregate | None") -> bool:
        """Whether both say the same: counts exactly, the average within rounding."""
        if other is None:
            return False
        mine, yours = asdict(self), asdict(other)
        average, their_average = mine.pop("average_score"), yours.pop("average_score")
        if average is None or their_average is None:
            return mine == yours and average is their_average
        return mine == yours and math.isclose(average, their_average, abs_tol=_AVERAGE_TOLERANCE)


class DifferencesError(MoodstreamError):
    """Rollups and lake disagree."""


def check(connection: Connection, files: Files, *, everything: bool) -> Mapping[str, Any]:
    """Counts the days that were written since their last count, or every day, and keeps counts and
    differences. `connection` holds the lake's lock.

    Raises DifferencesError, after all days, when a rollup is wrong.
    """
    with transaction(connection, _DAY_SECONDS) as cursor:
        cursor.execute(
            "SELECT day FROM lake_days, lake WHERE day >= complete_since "
            "AND (%s OR checked_revision IS DISTINCT FROM revision) ORDER BY day",
            (everything,),
        )
        days = [day for (day,) in cursor.fetchall()]
    checked = [day for day in days if _check_day(connection, files, day)]
    with transaction(connection, _DAY_SECONDS) as cursor:
        cursor.execute(
            "SELECT day, topic, lake, rollups FROM aggregate_differences ORDER BY day, topic"
        )
        wrong = [
            f"{day} {topic}: the lake says {_said(lake)}, the rollups say {_said(rollups)}"
            for day, topic, lake, rollups in cursor.fetchall()
        ]
    if wrong:
        more = f"\n... and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise DifferencesError(
            f"{len(wrong)} daily aggregates differ from the rollups (table aggregate_differences; "
            "view rollup_errors names the minutes):\n" + "\n".join(wrong[:_SHOWN]) + more
        )
    return {
        "days_checked": len(checked),
        "days_still_changing": sorted(day.isoformat() for day in set(days) - set(checked)),
        "differences": 0,
    }


def _said(values: Mapping[str, Any] | None) -> str:
    if values is None:
        return "nothing"
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _check_day(connection: Connection, files: Files, day: date) -> bool:
    """Counts one day; False when its posts have changed since the file was written."""
    with transaction(connection, _DAY_SECONDS) as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute(_CURRENT, (day, *bounds(day)))
        current = cursor.fetchone()
        if current is None:
            return False
        cursor.execute(_ROLLUPS, bounds(day))
        rolled = {topic: Aggregate(*rest) for topic, *rest in cursor.fetchall()}
    counted = count(files, day)
    wrong = [
        topic
        for topic in counted.keys() | rolled.keys()
        if topic not in counted or not counted[topic].agrees(rolled.get(topic))
    ]
    with transaction(connection, _DAY_SECONDS) as cursor:
        cursor.execute("DELETE FROM daily_aggregates WHERE day = %s", (day,))
        cursor.executemany(
            "INSERT INTO daily_aggregates VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            [(day, topic, *asdict(each).values()) for topic, each in counted.items()],
        )
        cursor.execute("DELETE FROM aggregate_differences WHERE day = %s", (day,))
        cursor.executemany(
            "INSERT INTO aggregate_differences (day, topic, lake, rollups) VALUES (%s, %s, %s, %s)",
            [(day, topic, _json(counted.get(topic)), _json(rolled.get(topic))) for topic in wrong],
        )
        cursor.execute(
            "UPDATE lake_days SET checked_revision = %s WHERE day = %s", (current[0], day)
        )
    log.info("aggregates.day", extra={"day": day, "topics": len(counted), "wrong": len(wrong)})
    return True


def _json(aggregate: Aggregate | None) -> str | None:
    return json.dumps(asdict(aggregate)) if aggregate else None


def count(files: Files, day: date) -> dict[str, Aggregate]:
    """A day's file, counted by topic."""
    posts: dict[tuple[str, str], int] = defaultdict(int)
    scores: dict[str, float] = defaultdict(float)
    for batch in files.read(day, ("topics", "label", "score")):
        topics = batch.column("topics")
        rows = pa.table(
            {
                "label": pc.fill_null(batch.column("label"), _UNSCORED),
                "score": pc.fill_null(batch.column("score").cast(pa.float64()), 0.0),
            }
        )
        of_topics = rows.take(pc.list_parent_indices(topics)).append_column(
            "topic", pc.list_flatten(topics)
        )
        of_all = rows.append_column("topic", pa.repeat(ALL_TOPICS, rows.num_rows))
        groups = (
            pa.concat_tables([of_topics, of_all], promote_options="permissive")
            .group_by(["topic", "label"])
            .aggregate([([], "count_all"), ("score", "sum")])
        )
        for group in groups.to_pylist():
            posts[group["topic"], group["label"]] += group["count_all"]
            scores[group["topic"]] += group["score_sum"]
    return {topic: _aggregate(topic, posts, scores[topic]) for topic in scores}


def _aggregate(topic: str, posts: Mapping[tuple[str, str], int], score: float) -> Aggregate:
    negative, neutral, positive = (posts.get((topic, label), 0) for label in LABELS)
    unscored = posts.get((topic, _UNSCORED), 0)
    scored = negative + neutral + positive
    average = score / scored if scored else None
    return Aggregate(scored + unscored, negative, neutral, positive, unscored, average)
