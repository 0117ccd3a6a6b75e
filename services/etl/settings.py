"""Settings of the lake's jobs."""

from datetime import UTC, datetime

from pydantic import AwareDatetime, Field, SecretStr
from pydantic_settings import BaseSettings

from services.core.settings import group


class LakeSettings(BaseSettings):
    """Where the lake is."""

    model_config = group("MOODSTREAM_LAKE_")

    uri: str | None = Field(default=None, pattern=r"^(file:///|s3://)[^?#]+$")
    """file:///folder or s3://bucket/prefix. Unset: there is no lake; deletions and backfills then
    know only the warehouse.
    """
    s3_endpoint: str | None = Field(default=None, pattern=r"^https?://[^/]+/?$")
    """Address of an object store that is not Amazon's, as http://host:port."""


class AwsSettings(BaseSettings):
    """Keys of the object store, under the names that every S3 client reads; they may be files.
    Unset: what the S3 client finds by itself.
    """

    model_config = group("AWS_")

    access_key_id: str | None = None
    """Access key."""
    secret_access_key: SecretStr | None = None
    """Its secret."""
    default_region: str | None = None
    """Region of the bucket."""


class BackfillSettings(BaseSettings):
    """What is scored anew, and how hard."""

    model_config = group("MOODSTREAM_BACKFILL_")

    model_version: str | None = None
    """Version that must be served at MOODSTREAM_INFERENCE_URL; unset: the one that is."""
    since: AwareDatetime = datetime(2000, 1, 1, tzinfo=UTC)
    """Posts created from then on, in whole hours, UTC."""
    until: AwareDatetime | None = None
    """Posts created before then, in whole hours; unset: before the current hour."""
    share: float = Field(default=0.25, gt=0, le=1)
    """Share of the time that a worker keeps predictor and database busy; it rests for the others,
    so that whatever slows it down slows its pace as well.
    """
