"""Rules, the alerts that they raised, and what was sent about them."""

from alembic import op

revision = "0005"
down_revision = "0004"

_SCHEMA = """
-- What people want to be told about; `rule` is the whole of it, as the API and the YAML have it.
CREATE TABLE rules (
    name       text        PRIMARY KEY,
    rule       jsonb       NOT NULL,
    changed_by text,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- A time in which a rule held. At most one is open for each rule.
CREATE TABLE alerts (
    id        bigint           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rule      text             NOT NULL,
    kind      text             NOT NULL,
    topic     text             NOT NULL,
    value     double precision,
    usual     double precision,
    posts     bigint           NOT NULL,
    summary   text             NOT NULL,
    opened_at timestamptz      NOT NULL,
    closed_at timestamptz
);
CREATE UNIQUE INDEX alerts_one_open ON alerts (rule) WHERE closed_at IS NULL;
CREATE INDEX alerts_opened_at ON alerts (opened_at);

-- Where messages can go, as the notifier's file says it, without its secrets.
CREATE TABLE channels (
    name       text        PRIMARY KEY,
    kind       text        NOT NULL CHECK (kind IN ('webhook', 'apprise')),
    refused_at timestamptz,
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One message to one channel. Its id never changes, so that a receiver can tell a repetition.
CREATE TABLE deliveries (
    id            uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    channel       text        NOT NULL,
    kind          text        NOT NULL,
    payload       jsonb       NOT NULL,
    state         text        NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    tries         integer     NOT NULL DEFAULT 0,
    next_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    delivered_at  timestamptz
);
CREATE INDEX deliveries_pending ON deliveries (next_at) WHERE state = 'pending';
CREATE INDEX deliveries_created_at ON deliveries (created_at);

CREATE TABLE delivery_attempts (
    delivery uuid        NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    status   integer,
    problem  text,
    seconds  real        NOT NULL
);
CREATE INDEX delivery_attempts_delivery ON delivery_attempts (delivery, at);
"""


def upgrade() -> None:
    """Creates the tables."""
    op.execute(_SCHEMA)
