"""Posts with their prediction, minute rollups, the ledger of Kafka offsets, dead letters, the
outbox, and the views.
"""

from alembic import op

revision = "0001"
down_revision = None

_SCHEMA = """
CREATE TYPE sentiment AS ENUM ('negative', 'neutral', 'positive');

-- A post and the champion's prediction are one row: they are written at once and read at once.
CREATE TABLE posts (
    source          text        NOT NULL,
    id              text        NOT NULL,
    text            text        NOT NULL,
    language        text,
    created_at      timestamptz NOT NULL,
    author          text,
    topics          text[]      NOT NULL,
    label           sentiment,
    p_negative      real,
    p_neutral       real,
    p_positive      real,
    score           real        GENERATED ALWAYS AS (p_positive - p_negative) STORED,
    model_name      text,
    model_version   text,
    kafka_partition integer     NOT NULL,
    kafka_offset    bigint      NOT NULL,
    stored_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source, id),
    CHECK (num_nulls(label, p_negative, p_neutral, p_positive, model_name, model_version) IN (0, 6))
);
CREATE INDEX posts_created_at ON posts (created_at);

-- Counts and exact sums by minute of created_at. Topic '*' is every post, so a post with two topics counts once there.
-- Each writer adds to a shard of its own (its lowest Kafka partition), so that consumers never wait for each other.
CREATE TABLE rollup_minute (
    topic            text        NOT NULL,
    minute           timestamptz NOT NULL,
    shard            integer     NOT NULL,
    posts            bigint      NOT NULL,
    negative         bigint      NOT NULL,
    neutral          bigint      NOT NULL,
    positive         bigint      NOT NULL,
    unscored         bigint      NOT NULL,
    score_sum        numeric     NOT NULL,
    score_square_sum numeric     NOT NULL,
    PRIMARY KEY (topic, minute, shard)
);

-- The ledger: how far each Kafka partition has been taken in, and what became of every single record.
CREATE TABLE kafka_offsets (
    consumer_group  text        NOT NULL,
    kafka_topic     text        NOT NULL,
    kafka_partition integer     NOT NULL,
    start_offset    bigint      NOT NULL,
    next_offset     bigint      NOT NULL,
    stored          bigint      NOT NULL DEFAULT 0,
    duplicates      bigint      NOT NULL DEFAULT 0,
    dead_lettered   bigint      NOT NULL DEFAULT 0,
    skipped         bigint      NOT NULL DEFAULT 0,
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer_group, kafka_topic, kafka_partition),
    CONSTRAINT every_record_is_accounted_for
        CHECK (next_offset - start_offset = stored + duplicates + dead_lettered + skipped)
);

-- Why a record was set aside. The record itself is in the dead-letter Kafka topic.
CREATE TABLE dead_letters (
    kafka_topic     text        NOT NULL,
    kafka_partition integer     NOT NULL,
    kafka_offset    bigint      NOT NULL,
    reason          text        NOT NULL,
    detail          text        NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (kafka_topic, kafka_partition, kafka_offset)
);

-- What happened and is still to be told, written in the transaction in which it happened.
CREATE TABLE outbox (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text        NOT NULL,
    payload      jsonb       NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    delivered_at timestamptz
);
CREATE INDEX outbox_undelivered ON outbox (id) WHERE delivered_at IS NULL;
"""

_VIEWS = """
CREATE VIEW sentiment_by_minute AS
SELECT topic, minute, sum(posts) AS posts, sum(negative) AS negative, sum(neutral) AS neutral, sum(positive) AS positive,
       sum(unscored) AS unscored, sum(score_sum) / nullif(sum(posts - unscored), 0) AS average_score
FROM rollup_minute
GROUP BY topic, minute;

CREATE VIEW sentiment_by_day AS
SELECT topic, (minute AT TIME ZONE 'UTC')::date AS day, sum(posts) AS posts, sum(negative) AS negative,
       sum(neutral) AS neutral, sum(positive) AS positive, sum(unscored) AS unscored,
       sum(score_sum) / nullif(sum(posts - unscored), 0) AS average_score,
       sqrt(greatest(sum(score_square_sum) / nullif(sum(posts - unscored), 0)
                     - (sum(score_sum) / nullif(sum(posts - unscored), 0)) ^ 2, 0)
            / nullif(sum(posts - unscored), 0)) AS standard_error
FROM rollup_minute
GROUP BY topic, day;

CREATE VIEW predictions AS
SELECT source, id, label, p_negative, p_neutral, p_positive, score, model_name, model_version, stored_at
FROM posts
WHERE label IS NOT NULL;

CREATE VIEW dead_letters_by_reason AS
SELECT reason, count(*) AS records, min(created_at) AS first_at, max(created_at) AS last_at
FROM dead_letters
GROUP BY reason;

-- Empty, or the rollups are wrong: every minute in which they differ from a recount of the posts.
CREATE VIEW rollup_errors AS
WITH recount AS (
    SELECT topic, date_trunc('minute', created_at) AS minute, count(*) AS posts,
           count(*) FILTER (WHERE label = 'negative') AS negative,
           count(*) FILTER (WHERE label = 'neutral') AS neutral,
           count(*) FILTER (WHERE label = 'positive') AS positive,
           count(*) FILTER (WHERE label IS NULL) AS unscored,
           coalesce(sum(score::numeric), 0) AS score_sum,
           coalesce(sum(score::numeric * score::numeric), 0) AS score_square_sum
    FROM posts, unnest(topics || '{*}'::text[]) AS topic
    GROUP BY 1, 2
), rolled AS (
    SELECT topic, minute, sum(posts) AS posts, sum(negative) AS negative, sum(neutral) AS neutral,
           sum(positive) AS positive, sum(unscored) AS unscored, sum(score_sum) AS score_sum,
           sum(score_square_sum) AS score_square_sum
    FROM rollup_minute
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
    """Creates the tables, then the views."""
    op.execute(_SCHEMA)
    op.execute(_VIEWS)
