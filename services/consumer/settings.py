"""The consumer's own settings."""

from pydantic import Field
from pydantic_settings import BaseSettings

from services.core.contract import MAX_TEXTS_PER_REQUEST
from services.core.settings import group


class ConsumerSettings(BaseSettings):
    """How the consumer reads, batches and scores."""

    model_config = group("MOODSTREAM_CONSUMER_")

    group: str = "moodstream-consumer"
    """Kafka consumer group; also the ledger's key in PostgreSQL."""
    batch_records: int = Field(default=2000, ge=1, le=MAX_TEXTS_PER_REQUEST)
    """Most records in one batch, which is one inference request and one transaction."""
    languages: str = "en"
    """Comma-separated ISO 639 codes that the model was trained on; other posts are stored
    unscored.
    """
    session_timeout_ms: int = Field(default=45_000, ge=6_000)
    """Silence, in milliseconds, after which Kafka gives this consumer's partitions to others."""
    shadow_share: float = Field(default=0.1, ge=0, le=1)
    """Share of the scored posts that the challenger scores too; 0: none. It only matters while
    MOODSTREAM_CHALLENGER_URL is set.
    """


class DeadLettersSettings(BaseSettings):
    """Which dead letters a replay publishes again (`python -m services.consumer.replay`)."""

    model_config = group("MOODSTREAM_DEAD_LETTERS_")

    reason: str | None = Field(default=None, min_length=1)
    """Only records set aside for this reason. Unset: all."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many records. Unset: all."""
