"""The notifier's settings, and the file that says where messages go."""

from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode

from services.core.errors import SettingsError
from services.core.rules import reasons
from services.core.settings import group

_SCHEMES: Final = frozenset(
    {
        *("slack", "discord", "msteams", "workflows", "gchat", "webex", "zulip", "tgram"),
        *("mailto", "mailtos", "matrix", "matrixs", "rocket", "rockets", "mmost", "mmosts"),
        *("pover", "ntfys"),
    }
)
"""Services for people that apprise may be asked to tell. Not among them: json, xml, form, syslog,
file and whatever else can be pointed at any address.
"""


class NotifierSettings(BaseSettings):
    """How the notifier looks and sends."""

    model_config = group("MOODSTREAM_NOTIFIER_")

    channels: Path | None = None
    """YAML file that names the channels: where messages go, with the keys for it. Unset: alerts are
    on the dashboard alone.
    """
    judge_seconds: float = Field(default=10.0, gt=0)
    """How often the rules are judged."""
    gap_seconds: float = Field(default=60.0, ge=0)
    """Time between two messages to a channel; what happens meanwhile comes as one message."""
    send_seconds: float = Field(default=15.0, gt=0, le=60)
    """Deadline of one try."""
    allowed_hosts: Annotated[frozenset[str], NoDecode] = frozenset()
    """Comma-separated names of hosts that a webhook may reach although their address is private,
    and without TLS: receivers in the same cluster.
    """
    dashboard_url: str = ""
    """Address of the dashboard, for links in messages."""

    @model_validator(mode="before")
    @classmethod
    def _split(cls, values: object) -> object:
        if isinstance(values, dict) and isinstance(hosts := values.get("allowed_hosts"), str):
            named = frozenset(host.strip().lower() for host in hosts.split(",") if host.strip())
            return values | {"allowed_hosts": named}
        return values


class Channel(BaseModel):
    """One place where messages go: a webhook for machines, or an apprise address for people."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    webhook: SecretStr | None = None
    """Address that takes a POST: Zapier, Make, n8n, or a program of yours. It is a secret: who
    knows it can write there.
    """
    secret: SecretStr | None = None
    """Key of the signature, `whsec_` and base64 of 24 to 64 bytes (Standard Webhooks)."""
    apprise: SecretStr | None = None
    """Address as apprise has it: slack://..., discord://..., mailtos://..."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.webhook is None) == (self.apprise is None):
            raise ValueError("a channel has either webhook or apprise")
        if self.webhook is not None:
            parts = urlsplit(self.webhook.get_secret_value())
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError("webhook: an address begins with https://")
        if self.apprise is not None:
            scheme = self.apprise.get_secret_value().partition(":")[0].lower()
            if scheme not in _SCHEMES:
                raise ValueError(f"apprise: {scheme} is not one of {', '.join(sorted(_SCHEMES))}")
            if "attach=" in self.apprise.get_secret_value():
                raise ValueError("apprise: attachments are not sent")
        return self

    @property
    def kind(self) -> str:
        """webhook or apprise."""
        return "apprise" if self.webhook is None else "webhook"


def read_channels(path: Path | None) -> dict[str, Channel]:
    """The channels by name. Raises SettingsError naming the channel and what is wrong, never what
    it holds.
    """
    if path is None:
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"MOODSTREAM_NOTIFIER_CHANNELS: {exc}") from None
    except yaml.YAMLError:
        raise SettingsError(f"MOODSTREAM_NOTIFIER_CHANNELS: {path} is not YAML") from None
    listed = found.get("channels") if isinstance(found, dict) else None
    if not isinstance(listed, dict):
        raise SettingsError(f"MOODSTREAM_NOTIFIER_CHANNELS: {path} needs a mapping under channels")
    channels = {}
    for name, each in listed.items():
        try:
            channels[str(name)] = Channel.model_validate(each)
        except ValidationError as exc:
            raise SettingsError(
                f"MOODSTREAM_NOTIFIER_CHANNELS: channel {name}: {reasons(exc)}"
            ) from None
    return channels
