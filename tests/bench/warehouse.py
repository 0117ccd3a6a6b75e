"""A warehouse of many posts, and how long the dashboard's questions take on it.

python -m tests.bench.warehouse seed FOLDER [--rows 10000000]   make it; adds nothing to a full one
python -m tests.bench.warehouse measure FOLDER [--runs 5]       every question, as JSON lines
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from services.core import warehouse
from services.core.postgres import connect, transaction
from services.dashboard import history
from services.dashboard.history import Filters, Reader, Step
from services.dashboard.queries import Warehouse
from services.local.postgres import Postgres
from tests.bench.rig import texts
from tests.ports import free_port

_CHUNK: Final = 500_000
_SECONDS: Final = 1_800.0
_DAYS: Final = 60
_TOPICS: Final = ("trains", "buses", "coffee", "tea", "football", "weather", "films", "music")

# A third of the posts are of the last day; labels and scores differ by topic; one in a thousand is
# without a score. random() is seeded, so that two machines have the same rows.
_POSTS: Final = """
INSERT INTO posts (source, id, text, language, created_at, author, topics, label, p_negative,
    p_neutral, p_positive, model_name, model_version, kafka_partition, kafka_offset)
SELECT 'bench', lpad(n::text, 12, '0'), texts.text,
    (ARRAY['en', 'en', 'en', 'fr', 'de'])[1 + n %% 5],
    %(end)s - (CASE WHEN n %% 3 = 0 THEN interval '1 day' ELSE interval '60 days' END) * random(),
    md5((n %% 50000)::text),
    CASE WHEN n %% 4 = 0 THEN ARRAY[topic, 'rare'] ELSE ARRAY[topic] END,
    CASE WHEN n %% 1000 > 0 THEN (CASE WHEN u < 0.3 THEN 'negative' WHEN u < 0.65 THEN 'neutral'
        ELSE 'positive' END)::sentiment END,
    CASE WHEN n %% 1000 > 0 THEN CASE WHEN u < 0.3 THEN 0.5 + u ELSE 0.5 - u / 2 END END,
    CASE WHEN n %% 1000 > 0 THEN 0.1 END,
    CASE WHEN n %% 1000 > 0 THEN CASE WHEN u < 0.3 THEN 0.4 - u ELSE 0.4 + u / 2 END END,
    CASE WHEN n %% 1000 > 0 THEN 'sentiment' END, CASE WHEN n %% 1000 > 0 THEN '7' END,
    n %% 6, n / 6
FROM (SELECT n, text, random() AS r, texts.label, (%(topics)s)[1 + n %% %(count)s] AS topic
      FROM generate_series(%(first)s, %(last)s) AS n
      JOIN texts ON number = n %% (SELECT count(*) FROM texts)) AS texts,
LATERAL (SELECT CASE texts.label WHEN 'negative' THEN 0.3 * r WHEN 'neutral' THEN 0.3 + 0.35 * r
    WHEN 'positive' THEN 0.65 + 0.35 * r ELSE r END AS u) AS drawn
"""

_ROLLUP: Final = """
INSERT INTO rollup_minute
SELECT topic, date_trunc('minute', created_at), kafka_partition %% 3, count(*),
    count(*) FILTER (WHERE label = 'negative'), count(*) FILTER (WHERE label = 'neutral'),
    count(*) FILTER (WHERE label = 'positive'), count(*) FILTER (WHERE label IS NULL),
    coalesce(sum(score::numeric), 0), coalesce(sum(score::numeric * score::numeric), 0)
FROM posts, unnest(topics || '{*}'::text[]) AS topic
WHERE created_at >= %(since)s AND created_at < %(until)s
GROUP BY 1, 2, 3
"""


@contextmanager
def running(folder: Path) -> Iterator[Postgres]:
    """PostgreSQL over the folder, with the newest schema."""
    postgres = Postgres(folder, free_port())
    process = postgres.launch()
    try:
        postgres.wait()
        warehouse.upgrade(postgres.settings)
        yield postgres
    finally:
        process.stop()


def execute(postgres: Postgres, *statements: tuple[str, dict[str, Any]]) -> list[tuple[Any, ...]]:
    """In one transaction; the last one's rows."""
    connection = connect(postgres.settings, "bench")
    with transaction(connection, _SECONDS) as cursor:
        for statement, parameters in statements:
            cursor.execute(statement, parameters)
        rows = cursor.fetchall() if cursor.description else []
    connection.close()
    return rows


def seed(
    postgres: Postgres,
    rows: int,
    written: Sequence[str],
    labels: Sequence[str] | None = None,
    without: str = "",
) -> None:
    """Posts of these texts and their rollups, with these labels or random ones; those that the SQL
    condition `without` is true of are left out.
    """
    ((present,),) = execute(postgres, ("SELECT count(*) FROM posts", {}))
    if present:
        sys.exit(f"the warehouse has {present:,} posts already: measure it, or take another folder")
    end = datetime.now(UTC)
    prepare = (
        "CREATE TEMPORARY TABLE texts AS SELECT text, label, ordinality - 1 AS number "
        "FROM unnest(%(texts)s::text[], %(labels)s::text[]) "
        "WITH ORDINALITY AS given (text, label, ordinality)",
        {"texts": list(written), "labels": list(labels) if labels else None},
    )
    for first in range(0, rows, _CHUNK):
        last = min(first + _CHUNK, rows) - 1
        parameters = {
            "first": first,
            "last": last,
            "end": end,
            "topics": list(_TOPICS),
            "count": len(_TOPICS),
        }
        seeded = ("SELECT setseed(%(seed)s)", {"seed": 0.5 / (1 + first / _CHUNK)})
        execute(postgres, prepare, seeded, (_POSTS, parameters))
        sys.stderr.write(f"{last + 1:,} posts\n")
    if without:
        execute(postgres, (f"DELETE FROM posts WHERE {without}", {}))  # noqa: S608 - our own SQL
    for day in range(-1, _DAYS + 1):
        until = end.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=day)
        execute(postgres, (_ROLLUP, {"since": until - timedelta(days=1), "until": until}))
    connection = connect(postgres.settings, "bench")
    connection.autocommit = True
    connection.cursor().execute("VACUUM ANALYZE")
    connection.close()


def questions(postgres: Postgres) -> dict[str, Callable[[], object]]:
    """Everything that the page asks, by name."""
    reader, now = Reader(postgres.settings), datetime.now(UTC)
    snapshots = Warehouse(postgres.settings, max_age_seconds=0)
    month = now - timedelta(days=_DAYS)

    def series(topic: str, since: datetime, step: Step, zone: str = "UTC") -> Callable[[], object]:
        return lambda: history.series(reader, topic, since, None, step, zone)

    def posts(order: Any = "newest", **filters: Any) -> Callable[[], object]:
        return lambda: history.posts(reader, Filters(**filters), order, None, 50)

    return {
        "snapshot": snapshots.snapshot,
        "now": lambda: history.now(reader, "*"),
        "series: 2 hours by minute": series("*", now - timedelta(hours=2), Step.MINUTE),
        "series: 7 days by hour": series("*", now - timedelta(days=7), Step.HOUR),
        "series: 60 days by day": series("*", month, Step.DAY),
        "series: 60 days by day, one topic, Paris": series("rare", month, Step.DAY, "Europe/Paris"),
        "series: 60 days by day, Kolkata": series("*", month, Step.DAY, "Asia/Kolkata"),
        "topics: a day": lambda: history.topics(reader, None, None),
        "topics: 60 days": lambda: history.topics(reader, month, None),
        "posts: newest": posts(),
        "posts: a topic and a label": posts(topic="tea", label="negative"),
        "posts: a word": posts(text="happy"),
        "posts: a word that nobody wrote": posts(text="zzyzx"),
        "posts: an old day": posts(since=month, until=month + timedelta(days=1), text="zzyzx"),
        "posts: most telling": posts("telling"),
        "posts: most telling of a topic": posts("telling", topic="tea"),
        "pipeline": lambda: history.pipeline(reader),
    }


def measure(postgres: Postgres, runs: int) -> list[dict[str, Any]]:
    """Milliseconds of each question: the first time, the median and the slowest of so many more."""
    ((rows,),) = execute(postgres, ("SELECT count(*) FROM posts", {}))
    found = []
    for name, ask in questions(postgres).items():
        taken = []
        for _ in range(runs + 1):
            started = time.perf_counter()
            ask()
            taken.append(1000 * (time.perf_counter() - started))
        first, *rest = taken
        found.append(
            {
                "question": name,
                "rows": rows,
                "first_ms": round(first, 1),
                "median_ms": round(statistics.median(rest), 1),
                "slowest_ms": round(max(rest), 1),
            }
        )
    return found


def main() -> None:
    """One of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["seed", "measure"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with running(arguments.folder.absolute()) as postgres:
        if arguments.command == "seed":
            seed(postgres, arguments.rows, texts())
            return
        for line in measure(postgres, arguments.runs):
            sys.stdout.write(f"{json.dumps(line)}\n")


if __name__ == "__main__":
    main()
