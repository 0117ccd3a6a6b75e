"""Settings of the maintenance jobs."""

from pydantic import Field
from pydantic_settings import BaseSettings

from services.core.settings import group


class MaintenanceSettings(BaseSettings):
    """What the maintenance jobs have in common."""

    model_config = group("MOODSTREAM_MAINTENANCE_")

    wait_seconds: float = Field(default=60.0, ge=0)
    """How long `migrate` and `check` wait for what does not answer yet."""
    dashboard_role: str | None = None
    """Role that `migrate` lets write corrections and rules: the dashboard's, where that one is not
    the owner.
    """


class RetentionSettings(BaseSettings):
    """What `prune` deletes."""

    model_config = group("MOODSTREAM_RETENTION_")

    days: int = Field(ge=1)
    """Age in days from which posts, dead letters, past alerts and sent messages are
    deleted. The rollups stay.
    """


class CheckSettings(BaseSettings):
    """What `check` asks besides PostgreSQL, Kafka and the predictor."""

    model_config = group("MOODSTREAM_CHECK_")

    urls: str = ""
    """Comma-separated HTTP addresses that must answer a GET with success."""
