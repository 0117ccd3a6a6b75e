"""The dashboard's own settings."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from services.core.settings import group


class DashboardSettings(BaseSettings):
    """Who may write through the dashboard."""

    model_config = group("MOODSTREAM_DASHBOARD_")

    corrections_token: SecretStr | None = Field(default=None, min_length=16)
    """Bearer token that a correction must carry, at least 16 characters. Unset: corrections are
    taken from the machine that the dashboard runs on, and from nowhere else.
    """
