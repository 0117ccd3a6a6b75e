"""Retention: since when the posts are complete, and a check of the rollups that looks only there."""

from alembic import op

revision = "0002"
down_revision = "0001"

_SCHEMA = """
-- At most one row: since when the posts are complete. Earlier ones may be deleted, their rollups stay.
CREATE TABLE retention (
    only_row       boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    complete_since timestamptz NOT NULL CHECK (complete_since = date_trunc('minute', complete_since)),
    updated_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""

_VIEW = """
-- Empty, or the rollups are wrong: every minute, of those whose posts are complete, in which they differ from a recount.
CREATE OR REPLACE VIEW rollup_errors AS
WITH complete AS (
    SELECT coalesce((SELECT complete_since FROM retention), '-infinity') AS since
), recount AS (
    SELECT topic, date_trunc('minute', created_at) AS minute, count(*) AS posts,
           count(*) FILTER (WHERE label = 'negative') AS negative,
           count(*) FILTER (WHERE label = 'neutral') AS neutral,
           count(*) FILTER (WHERE label = 'positive') AS positive,
           count(*) FILTER (WHERE label IS NULL) AS unscored,
           coalesce(sum(score::numeric), 0) AS score_sum,
           coalesce(sum(score::numeric * score::numeric), 0) AS score_square_sum
    FROM posts, unnest(topics || '{*}'::text[]) AS topic
    WHERE created_at >= (SELECT since FROM complete)
    GROUP BY 1, 2
), rolled AS (
    SELECT topic, minute, sum(posts) AS posts, sum(negative) AS negative, sum(neutral) AS neutral,
           sum(positive) AS positive, sum(unscored) AS unscored, sum(score_sum) AS score_sum,
           sum(score_square_sum) AS score_square_sum
    FROM rollup_minute
    WHERE minute >= (SELECT since FROM complete)
    GROUP BY 1, 2
)
SELECT topic, minute, to_jsonb(recount) AS expected, to_jsonb(rolled) AS found
FROM recount FULL JOIN rolled USING (topic, minute)
WHERE (recount.posts, recount.negative, recount.neutral, recount.positive, recount.unscored,
       recount.score_sum, recount.score_square_sum)
      IS DISTINCT FROM
      (rolled.posts, rolled.negative, rolled.neutral, rolled.positive, rolled.unscored,
       rolled.score_sum, rolled.score_square_sum);
"""


def upgrade() -> None:
    """Creates the table, then replaces the view."""
    op.execute(_SCHEMA)
    op.execute(_VIEW)
