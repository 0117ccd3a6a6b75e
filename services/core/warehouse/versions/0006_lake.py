"""The lake's days, deletion notices, daily aggregates with what disagrees, and backfills."""

from alembic import op

revision = "0006"
down_revision = "0005"

_SCHEMA = """
-- At most one row, made by the first run: where the lake is. While it is there, a post leaves this database only
-- after the lake has it.
CREATE TABLE lake (
    only_row       boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    uri            text        NOT NULL,
    complete_since date        NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One file of the lake: the posts created on that day, UTC.
CREATE TABLE lake_days (
    day              date        PRIMARY KEY,
    posts            bigint      NOT NULL,
    -- Of these, how many posts are still here as well. More or fewer are here: the file is out of date.
    in_warehouse     bigint      NOT NULL CHECK (in_warehouse BETWEEN 0 AND posts),
    -- A post that the file holds has been deleted.
    stale            boolean     NOT NULL DEFAULT false,
    bytes            bigint      NOT NULL,
    revision         bigint      NOT NULL,
    checked_revision bigint,
    written_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Posts that must go, and must not come back. applied_at is set once they are gone from this database and from the
-- counts; the lake's file is written anew after that.
CREATE TABLE deletion_notices (
    source       text        NOT NULL,
    id           text        NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_at   timestamptz,
    PRIMARY KEY (source, id)
);
CREATE INDEX deletion_notices_waiting ON deletion_notices (source, id) WHERE applied_at IS NULL;

-- Counted from the lake's files.
CREATE TABLE daily_aggregates (
    day           date             NOT NULL,
    topic         text             NOT NULL,
    posts         bigint           NOT NULL,
    negative      bigint           NOT NULL,
    neutral       bigint           NOT NULL,
    positive      bigint           NOT NULL,
    unscored      bigint           NOT NULL,
    average_score double precision,
    PRIMARY KEY (day, topic)
);

-- Where the rollups said something else at the moment of the count; null: nothing at all.
CREATE TABLE aggregate_differences (
    day      date        NOT NULL,
    topic    text        NOT NULL,
    lake     jsonb,
    rollups  jsonb,
    found_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (day, topic)
);

-- The past scored anew by one model version: pieces of work, an hour of created_at each.
CREATE TABLE backfill_chunks (
    id            integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_name    text        NOT NULL,
    model_version text        NOT NULL,
    hour          timestamptz NOT NULL,
    -- Scored posts of that hour, as the rollups have it.
    expected      bigint      NOT NULL,
    -- The last post that was read; what comes after it is still to do.
    at_created    timestamptz,
    at_source     text,
    at_id         text,
    read          bigint      NOT NULL DEFAULT 0,
    rejected      bigint      NOT NULL DEFAULT 0,
    done_at       timestamptz,
    UNIQUE (model_name, model_version, hour)
);

-- What another model version says of posts that are stored already.
CREATE TABLE rescored_predictions (
    source        text        NOT NULL,
    id            text        NOT NULL,
    model_name    text        NOT NULL,
    model_version text        NOT NULL,
    created_at    timestamptz NOT NULL,
    label         sentiment   NOT NULL,
    p_negative    real        NOT NULL,
    p_neutral     real        NOT NULL,
    p_positive    real        NOT NULL,
    score         real        GENERATED ALWAYS AS (p_positive - p_negative) STORED,
    stored_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source, id, model_name, model_version)
);
CREATE INDEX rescored_predictions_stored_at ON rescored_predictions (stored_at);
"""

_VIEWS = """
-- How far each backfill is.
CREATE VIEW backfill_progress AS
SELECT model_name, model_version, min(hour) AS first_hour, max(hour) AS last_hour, count(*) AS hours,
       count(done_at) AS hours_done, sum(expected) AS posts, sum(read) AS posts_read, sum(rejected) AS rejected,
       CASE WHEN count(*) = count(done_at) THEN max(done_at) END AS finished_at
FROM backfill_chunks
GROUP BY model_name, model_version;

-- Champion's and other version's word on the same post.
CREATE VIEW rescored_posts AS
SELECT source, id, posts.created_at, topics, posts.label AS champion_label, posts.score AS champion_score,
       posts.model_version AS champion_version, rescored.model_version, rescored.label, rescored.score
FROM rescored_predictions AS rescored JOIN posts USING (source, id);
"""


def upgrade() -> None:
    """Creates the tables, then the views."""
    op.execute(_SCHEMA)
    op.execute(_VIEWS)
