"""Promotions, the challenger's predictions, people's corrections, drift, and their views."""

from alembic import op

revision = "0003"
down_revision = "0002"

_SCHEMA = """
-- Each change of state of a model version under an alias, as its tags in MLflow said it; rows are only added.
CREATE TABLE promotions (
    id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alias    text        NOT NULL CHECK (alias IN ('champion', 'challenger')),
    version  text        NOT NULL,
    state    text        NOT NULL CHECK (state IN ('refused', 'rolling out', 'serving', 'rolled back', 'replaced')),
    reason   text        NOT NULL,
    checks   jsonb       NOT NULL DEFAULT '[]',
    at       timestamptz NOT NULL,
    UNIQUE (alias, version, state, at)
);
CREATE INDEX promotions_at ON promotions (at);

-- The challenger's prediction of a post that the champion has scored, and the champion's beside it.
CREATE TABLE shadow_predictions (
    source           text        NOT NULL,
    id               text        NOT NULL,
    champion_version text        NOT NULL,
    champion_label   sentiment   NOT NULL,
    champion_score   real        NOT NULL,
    model_name       text        NOT NULL,
    model_version    text        NOT NULL,
    label            sentiment   NOT NULL,
    p_negative       real        NOT NULL,
    p_neutral        real        NOT NULL,
    p_positive       real        NOT NULL,
    score            real        GENERATED ALWAYS AS (p_positive - p_negative) STORED,
    stored_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source, id, model_version)
);
CREATE INDEX shadow_predictions_stored_at ON shadow_predictions (stored_at);

-- How long champion and challenger took for the posts of one sampled batch.
CREATE TABLE shadow_batches (
    id                 bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    champion_version   text        NOT NULL,
    challenger_version text        NOT NULL,
    posts              integer     NOT NULL CHECK (posts > 0),
    champion_seconds   real        NOT NULL,
    challenger_seconds real        NOT NULL,
    stored_at          timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX shadow_batches_stored_at ON shadow_batches (stored_at);

-- What a person says a post's label is. It goes when the post goes.
CREATE TABLE corrections (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source          text        NOT NULL,
    post_id         text        NOT NULL,
    label           sentiment   NOT NULL,
    predicted_label sentiment,
    model_version   text,
    corrected_by    text        NOT NULL CHECK (corrected_by <> ''),
    corrected_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    FOREIGN KEY (source, post_id) REFERENCES posts (source, id) ON DELETE CASCADE
);
CREATE INDEX corrections_post ON corrections (source, post_id, id);

-- How far a day's posts are from those before it: population stability index of the champion's scores
-- and of the share of a post's words that the champion knows.
CREATE TABLE drift (
    day           date             NOT NULL,
    model_version text             NOT NULL,
    measure       text             NOT NULL CHECK (measure IN ('score', 'vocabulary')),
    posts         bigint           NOT NULL,
    mean          double precision NOT NULL,
    psi           double precision,
    computed_at   timestamptz      NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (day, model_version, measure)
);
"""

_VIEWS = """
-- A post's newest correction.
CREATE VIEW corrected_posts AS
SELECT DISTINCT ON (source, post_id) source, post_id AS id, posts.text, posts.language, corrections.label, predicted_label,
       corrections.model_version, corrected_by, corrected_at
FROM corrections JOIN posts USING (source)
WHERE posts.id = post_id
ORDER BY source, post_id, corrections.id DESC;

CREATE VIEW predictions_by_role AS
SELECT 'champion' AS role, source, id, label, p_negative, p_neutral, p_positive, score, model_name, model_version, stored_at
FROM predictions
UNION ALL
SELECT 'challenger', source, id, label, p_negative, p_neutral, p_positive, score, model_name, model_version, stored_at
FROM shadow_predictions;

-- Champion and challenger on the same posts of the last 24 hours: how often they agree, what each says, how long each takes.
CREATE VIEW model_comparison AS
WITH labels AS (
    SELECT champion_version, model_version AS challenger_version, count(*) AS posts,
           count(*) FILTER (WHERE label = champion_label) AS agreed,
           count(*) FILTER (WHERE champion_label = 'negative') AS champion_negative,
           count(*) FILTER (WHERE champion_label = 'neutral') AS champion_neutral,
           count(*) FILTER (WHERE champion_label = 'positive') AS champion_positive,
           count(*) FILTER (WHERE label = 'negative') AS challenger_negative,
           count(*) FILTER (WHERE label = 'neutral') AS challenger_neutral,
           count(*) FILTER (WHERE label = 'positive') AS challenger_positive,
           avg(champion_score) AS champion_average_score, avg(score) AS challenger_average_score,
           min(stored_at) AS first_at, max(stored_at) AS last_at
    FROM shadow_predictions
    WHERE stored_at > now() - interval '1 day'
    GROUP BY 1, 2
), seconds AS (
    SELECT champion_version, challenger_version,
           percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY champion_seconds) AS champion,
           percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY challenger_seconds) AS challenger
    FROM shadow_batches
    WHERE stored_at > now() - interval '1 day'
    GROUP BY 1, 2
)
SELECT labels.*, champion[1] AS champion_p50_seconds, champion[2] AS champion_p99_seconds,
       challenger[1] AS challenger_p50_seconds, challenger[2] AS challenger_p99_seconds
FROM labels LEFT JOIN seconds USING (champion_version, challenger_version);
"""


def upgrade() -> None:
    """Creates the tables, then the views."""
    op.execute(_SCHEMA)
    op.execute(_VIEWS)
