"""Drift: how far a day's posts are from those of the week before, in what the champion says about
them and in how many of their words it knows. `python -m training.drift` writes the table `drift`;
running it again corrects the same rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from services.core import lifecycle
from services.core.contract import CHAMPION
from services.core.model import SentimentModel
from services.core.model import load as load_model
from services.core.postgres import Connection, connect, transaction
from services.core.settings import MLflowSettings, PostgresSettings, load
from training.registry import Registry
from training.settings import DriftSettings
from training.stability import Floats, psi

MAX_POSTS_PER_DAY: Final = 5_000
MIN_POSTS: Final = 200
"""In the day and in its reference. Below it the index is mostly noise: between equal samples of n
and m posts it averages 9 * (1/n + 1/m).
"""
REFERENCE_DAYS: Final = 7
SCORE: Final = "score"
VOCABULARY: Final = "vocabulary"

_APPLICATION: Final = "moodstream drift"
_TRANSACTION_SECONDS: Final = 300.0

# The same posts each time, and no kind of post more likely than another.
_SAMPLE: Final = """
SELECT text, score, model_version FROM posts
WHERE created_at >= %(day)s::date AND created_at < %(day)s::date + 1 AND label IS NOT NULL
ORDER BY hashtextextended(source || ' ' || id, 0), source, id
LIMIT %(limit)s
"""

_STORE: Final = """
INSERT INTO drift (day, model_version, measure, posts, mean, psi)
VALUES (%(day)s, %(model_version)s, %(measure)s, %(posts)s, %(mean)s, %(psi)s)
ON CONFLICT (day, model_version, measure) DO UPDATE
    SET posts = excluded.posts, mean = excluded.mean, psi = excluded.psi,
        computed_at = clock_timestamp()
"""


@dataclass(frozen=True)
class Drift:
    """One measure of one day, a row of the table."""

    day: date
    model_version: str
    measure: str
    """SCORE: positive minus negative, of the posts that the champion has scored. VOCABULARY: share
    of a post's words that the champion knows, of all scored posts.
    """
    posts: int
    """Posts of the day that were measured: a sample, at most MAX_POSTS_PER_DAY."""
    mean: float
    psi: float | None
    """Against the reference; None where there are fewer than MIN_POSTS on either side."""


def main() -> None:
    """Measures the last days of the warehouse with the registry's champion."""
    lifecycle.job("drift", _drift)


def _drift() -> Mapping[str, Any]:
    settings, postgres = load(DriftSettings), load(PostgresSettings)
    registry = Registry(load(MLflowSettings).url)
    with TemporaryDirectory() as home:
        champion = load_model(registry.fetch(CHAMPION, Path(home)))
    found = drift(postgres, champion, days_before(datetime.now(UTC).date(), settings.days))
    return {"model_version": champion.version, "drift": [asdict(each) for each in found]}


def days_before(today: date, count: int) -> list[date]:
    """The last complete days, oldest first."""
    return [today - timedelta(days=back) for back in range(count, 0, -1)]


def drift(
    settings: PostgresSettings, champion: SentimentModel, days: Iterable[date]
) -> list[Drift]:
    """Measures the days and stores what it finds; days without posts are left out. Raises
    TemporaryError when the database is away.
    """
    connection = connect(settings, _APPLICATION)
    try:
        known: dict[date, Mapping[str, Floats]] = {}
        found: list[Drift] = []
        for day in sorted(days):
            week = [day - timedelta(days=back) for back in range(1, REFERENCE_DAYS + 1)]
            for each in (day, *week):
                if each not in known:
                    known[each] = _measured(connection, champion, each)
            found += measure(day, champion.version, known[day], [known[each] for each in week])
        with transaction(connection, _TRANSACTION_SECONDS) as cursor:
            cursor.executemany(_STORE, [asdict(each) for each in found])
    finally:
        connection.close()
    return found


def measure(
    day: date,
    version: str,
    values: Mapping[str, Floats],
    reference: Sequence[Mapping[str, Floats]],
) -> list[Drift]:
    """A day's rows: one for each measure of which it has values, by name."""
    rows = []
    for name, actual in values.items():
        expected = np.concatenate([each[name] for each in reference])
        enough = min(len(actual), len(expected)) >= MIN_POSTS
        if len(actual):
            rows.append(
                Drift(
                    day=day,
                    model_version=version,
                    measure=name,
                    posts=len(actual),
                    mean=float(actual.mean()),
                    psi=psi(expected, actual) if enough else None,
                )
            )
    return rows


def _measured(connection: Connection, champion: SentimentModel, day: date) -> Mapping[str, Floats]:
    with transaction(connection, _TRANSACTION_SECONDS) as cursor:
        cursor.execute(_SAMPLE, {"day": day, "limit": MAX_POSTS_PER_DAY})
        posts = cursor.fetchall()
    own = [score for _, score, version in posts if version == champion.version]
    coverage: Floats = champion.pipeline[0].coverage(text for text, _, _ in posts)
    return {SCORE: np.array(own, dtype=np.float64), VOCABULARY: coverage}


if __name__ == "__main__":
    main()
