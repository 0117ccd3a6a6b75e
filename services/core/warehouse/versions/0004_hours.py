"""Rollups by hour, so that days and years are read as fast as the last minutes are."""

from alembic import op

revision = "0004"
down_revision = "0003"

_COUNTS = ("posts", "negative", "neutral", "positive", "unscored", "score_sum", "score_square_sum")

_TABLE = """
-- As rollup_minute, by hour of created_at.
CREATE TABLE rollup_hour (
    topic            text        NOT NULL,
    hour             timestamptz NOT NULL,
    shard            integer     NOT NULL,
    posts            bigint      NOT NULL,
    negative         bigint      NOT NULL,
    neutral          bigint      NOT NULL,
    positive         bigint      NOT NULL,
    unscored         bigint      NOT NULL,
    score_sum        numeric     NOT NULL,
    score_square_sum numeric     NOT NULL,
    PRIMARY KEY (topic, hour, shard)
);

-- Nobody may add to the minutes between this count and the triggers.
LOCK TABLE rollup_minute IN SHARE ROW EXCLUSIVE MODE;
INSERT INTO rollup_hour
SELECT topic, date_trunc('hour', minute, 'UTC'), shard, sum(posts), sum(negative), sum(neutral), sum(positive),
       sum(unscored), sum(score_sum), sum(score_square_sum)
FROM rollup_minute
GROUP BY 1, 2, 3;
"""

# The hours follow the minutes, whoever writes those: also a consumer that does not know of hours yet.
# Once for each statement; hours are locked in key order, as the minutes are.
_TRIGGER = """
CREATE FUNCTION roll_up_hours_on_{event}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO rollup_hour AS rollup (topic, hour, shard, {names})
    SELECT topic, date_trunc('hour', minute, 'UTC'), shard, {sums}
    FROM ({changed}) AS changed
    GROUP BY 1, 2, 3
    ORDER BY 1, 2, 3
    ON CONFLICT (topic, hour, shard) DO UPDATE SET {added};
    RETURN NULL;
END $$;
CREATE TRIGGER roll_up_hours_on_{event} AFTER {event} ON rollup_minute REFERENCING {tables}
    FOR EACH STATEMENT EXECUTE FUNCTION roll_up_hours_on_{event}();
"""

_VIEWS = """
CREATE VIEW sentiment_by_hour AS
SELECT topic, hour, sum(posts) AS posts, sum(negative) AS negative, sum(neutral) AS neutral, sum(positive) AS positive,
       sum(unscored) AS unscored, sum(score_sum) / nullif(sum(posts - unscored), 0) AS average_score,
       sqrt(greatest(sum(score_square_sum) / nullif(sum(posts - unscored), 0)
                     - (sum(score_sum) / nullif(sum(posts - unscored), 0)) ^ 2, 0)
            / nullif(sum(posts - unscored), 0)) AS standard_error
FROM rollup_hour
GROUP BY topic, hour
HAVING sum(posts) > 0;

CREATE OR REPLACE VIEW sentiment_by_day AS
SELECT topic, (hour AT TIME ZONE 'UTC')::date AS day, sum(posts) AS posts, sum(negative) AS negative,
       sum(neutral) AS neutral, sum(positive) AS positive, sum(unscored) AS unscored,
       sum(score_sum) / nullif(sum(posts - unscored), 0) AS average_score,
       sqrt(greatest(sum(score_square_sum) / nullif(sum(posts - unscored), 0)
                     - (sum(score_sum) / nullif(sum(posts - unscored), 0)) ^ 2, 0)
            / nullif(sum(posts - unscored), 0)) AS standard_error
FROM rollup_hour
GROUP BY topic, day
HAVING sum(posts) > 0;

-- Empty, or the rollups are wrong: every minute, of those whose posts are complete, in which they differ from a recount,
-- and every hour that is not the sum of its minutes.
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
), minutes AS (
    SELECT topic, date_trunc('hour', minute, 'UTC') AS hour, sum(posts) AS posts, sum(negative) AS negative,
           sum(neutral) AS neutral, sum(positive) AS positive, sum(unscored) AS unscored, sum(score_sum) AS score_sum,
           sum(score_square_sum) AS score_square_sum
    FROM rollup_minute
    GROUP BY 1, 2
), hours AS (
    SELECT topic, hour, sum(posts) AS posts, sum(negative) AS negative, sum(neutral) AS neutral,
           sum(positive) AS positive, sum(unscored) AS unscored, sum(score_sum) AS score_sum,
           sum(score_square_sum) AS score_square_sum
    FROM rollup_hour
    GROUP BY 1, 2
    HAVING sum(posts) <> 0
)
SELECT topic, minute, to_jsonb(recount) AS expected, to_jsonb(rolled) AS found
FROM recount FULL JOIN rolled USING (topic, minute)
WHERE (recount.posts, recount.negative, recount.neutral, recount.positive, recount.unscored,
       recount.score_sum, recount.score_square_sum)
      IS DISTINCT FROM
      (rolled.posts, rolled.negative, rolled.neutral, rolled.positive, rolled.unscored,
       rolled.score_sum, rolled.score_square_sum)
UNION ALL
SELECT topic, hour, to_jsonb(minutes), to_jsonb(hours)
FROM minutes FULL JOIN hours USING (topic, hour)
WHERE (minutes.posts, minutes.negative, minutes.neutral, minutes.positive, minutes.unscored,
       minutes.score_sum, minutes.score_square_sum)
      IS DISTINCT FROM
      (hours.posts, hours.negative, hours.neutral, hours.positive, hours.unscored,
       hours.score_sum, hours.score_square_sum);
"""


def upgrade() -> None:
    """Creates the table with what the minutes hold, its triggers, then the views."""
    op.execute(_TABLE)
    before = f"SELECT topic, minute, shard, {', '.join(f'-{name} AS {name}' for name in _COUNTS)} FROM before_change"  # noqa: S608 - constant columns
    after = f"SELECT topic, minute, shard, {', '.join(_COUNTS)} FROM after_change"  # noqa: S608 - constant columns
    for event, tables, changed in (
        ("insert", "NEW TABLE AS after_change", after),
        (
            "update",
            "OLD TABLE AS before_change NEW TABLE AS after_change",
            f"{before} UNION ALL {after}",
        ),
        ("delete", "OLD TABLE AS before_change", before),
    ):
        op.execute(
            _TRIGGER.format(
                event=event,
                tables=tables,
                changed=changed,
                names=", ".join(_COUNTS),
                sums=", ".join(f"sum({name})" for name in _COUNTS),
                added=", ".join(f"{name} = rollup.{name} + excluded.{name}" for name in _COUNTS),
            )
        )
    op.execute(_VIEWS)
