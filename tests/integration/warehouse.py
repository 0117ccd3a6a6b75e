"""Posts with their rollups, put into a warehouse as the consumer would have, for tests of what is
done with stored posts.
"""

from collections.abc import Sequence
from datetime import datetime

from services.core.postgres import connect, transaction
from services.core.settings import PostgresSettings

_POSTS = """
WITH numbers AS (
    SELECT n, %(first)s + n AS number,
           %(since)s + n * %(span)s::interval / %(posts)s AS created_at,
           CASE WHEN n %% 10 = 9 THEN NULL ELSE (n %% 7 + 1) / 10.0 END AS p_negative
    FROM generate_series(0, %(posts)s - 1) AS n
), inserted AS (
    INSERT INTO posts (source, id, text, language, created_at, author, topics, label, p_negative,
                       p_neutral, p_positive, model_name, model_version, kafka_partition,
                       kafka_offset)
    SELECT 'replay', number::text, (%(texts)s::text[])[1 + n %% cardinality(%(texts)s)], 'en',
           created_at, 'hash',
           CASE n %% 3 WHEN 0 THEN '{}' WHEN 1 THEN '{rail}' ELSE '{rail,strike}' END::text[],
           CASE WHEN p_negative IS NULL THEN NULL WHEN p_negative > 0.5 THEN 'negative'
                ELSE 'positive' END::sentiment,
           p_negative, CASE WHEN p_negative IS NOT NULL THEN 0.05 END, 0.95 - p_negative,
           CASE WHEN p_negative IS NOT NULL THEN 'sentiment' END,
           CASE WHEN p_negative IS NOT NULL THEN '1' END, n %% 4, number
    FROM numbers
    RETURNING topics, created_at, label, score, kafka_partition
)
INSERT INTO rollup_minute AS rollup
SELECT topic, date_trunc('minute', created_at), kafka_partition, count(*),
       count(*) FILTER (WHERE label = 'negative'), count(*) FILTER (WHERE label = 'neutral'),
       count(*) FILTER (WHERE label = 'positive'), count(*) FILTER (WHERE label IS NULL),
       coalesce(sum(score::numeric), 0), coalesce(sum(score::numeric * score::numeric), 0)
FROM inserted, unnest(topics || '*'::text) AS topic
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
ON CONFLICT (topic, minute, shard) DO UPDATE SET
    posts = rollup.posts + excluded.posts, negative = rollup.negative + excluded.negative,
    neutral = rollup.neutral + excluded.neutral, positive = rollup.positive + excluded.positive,
    unscored = rollup.unscored + excluded.unscored,
    score_sum = rollup.score_sum + excluded.score_sum,
    score_square_sum = rollup.score_square_sum + excluded.score_square_sum
"""


def add_posts(
    settings: PostgresSettings,
    since: datetime,
    posts: int,
    first: int = 0,
    span: str = "1 day",
    texts: Sequence[str] = ("What a day!", "Never again.", "The train is late, as always."),
) -> None:
    """So many posts of source replay, evenly over the span, with ids from `first` on; each tenth is
    unscored.
    """
    connection = connect(settings, "test")
    with transaction(connection, 600) as cursor:
        cursor.execute(
            _POSTS,
            {
                "first": first,
                "since": since,
                "span": span,
                "posts": posts,
                "texts": list(texts),
            },
        )
    connection.close()
