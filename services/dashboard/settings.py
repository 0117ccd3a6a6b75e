"""The dashboard's own settings."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode

from services.core.settings import group


class DashboardSettings(BaseSettings):
    """Who may look at the dashboard, and who may write through it."""

    model_config = group("MOODSTREAM_DASHBOARD_")

    reading: Literal["local", "open"] = "local"
    """Who may read without a token: `local`, the machine that the dashboard runs on; `open`,
    everybody who reaches it.
    """
    viewer_token: SecretStr | None = Field(default=None, min_length=16)
    """Token that lets its holder read, at least 16 characters."""
    editor_token: SecretStr | None = Field(default=None, min_length=16)
    """Token that lets its holder read, correct labels and change rules, at least 16 characters.
    Unset: the machine that the dashboard runs on may, and nobody else but a proxy's editors.
    """
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    """Comma-separated networks of proxies that sign people in (oauth2-proxy, for one). From there,
    and only from there, X-Forwarded-User and X-Forwarded-Groups, or X-Auth-Request-User and
    X-Auth-Request-Groups, are believed.
    """
    editor_group: str = ""
    """Group whose members may write, of those that a trusted proxy names. Empty: none."""

    client_seconds: float = Field(default=60, gt=0)
    """How long a client may take to send a request, and may take nothing of an answer. After that
    its connection is closed.
    """

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value
