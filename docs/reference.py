"""Writes the reference from the code: `make docs`. Here the page of settings, from their own
docstrings; what is commanded, asked, measured and sent is in docs/interfaces.py.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pydantic import SecretStr
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from docs import interfaces
from services.consumer.settings import ConsumerSettings, DeadLettersSettings
from services.core.gate import GateSettings
from services.core.settings import (
    ChallengerSettings,
    InferenceSettings,
    KafkaSettings,
    MLflowSettings,
    PostgresSettings,
    ServiceSettings,
)
from services.dashboard.settings import DashboardSettings
from services.etl.airtable import AirtableSettings
from services.etl.hyper import HyperSettings
from services.etl.settings import AwsSettings, BackfillSettings, LakeSettings
from services.local.settings import LocalSettings
from services.maintenance.settings import (
    CheckSettings,
    MaintenanceSettings,
    RetentionSettings,
)
from services.notifier.settings import NotifierSettings
from services.predictor.examiner import ExaminerSettings
from services.predictor.settings import PredictorSettings
from services.producer.settings import (
    BlueskySettings,
    ProducerSettings,
    ReplaySettings,
    XSettings,
)
from services.promoter.settings import PromoterSettings
from training.settings import DriftSettings, TrainingSettings

_ROOT: Final = Path(__file__).parents[1]
GROUPS: Final[tuple[type[BaseSettings], ...]] = (
    ServiceSettings,
    KafkaSettings,
    PostgresSettings,
    InferenceSettings,
    ChallengerSettings,
    ProducerSettings,
    ReplaySettings,
    XSettings,
    BlueskySettings,
    ConsumerSettings,
    DeadLettersSettings,
    PredictorSettings,
    ExaminerSettings,
    DashboardSettings,
    NotifierSettings,
    LakeSettings,
    AwsSettings,
    BackfillSettings,
    AirtableSettings,
    HyperSettings,
    MLflowSettings,
    TrainingSettings,
    DriftSettings,
    GateSettings,
    PromoterSettings,
    MaintenanceSettings,
    RetentionSettings,
    CheckSettings,
    LocalSettings,
)
_HEAD: Final = """# Settings

Every setting is an environment variable, read once when a process starts.
A wrong one ends the start with its name.
With `MOODSTREAM_SECRETS_DIR=/run/secrets`, a file there, named like the variable in lower case,
stands for it.
This page is written by `make docs` from the code.
"""


def settings() -> str:
    """The page of settings."""
    return _HEAD + "".join(_section(group) for group in GROUPS)


def _section(group: type[BaseSettings]) -> str:
    prefix = group.model_config["env_prefix"]
    lines = [
        f"\n## {prefix}*\n",
        f"{_one_line(group.__doc__)}\n",
        "| variable | default | meaning |",
    ]
    lines.append("| --- | --- | --- |")
    for name, field in group.model_fields.items():
        meaning = _one_line(field.description).replace("|", "\\|")
        lines.append(f"| `{(prefix + name).upper()}` | {_default(field.default)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(value: object) -> str:
    if value is PydanticUndefined:
        return "required"
    if value in (None, "", (), frozenset()) or isinstance(value, SecretStr):
        return "unset"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text.replace(f'{_ROOT}/', '')}`"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


PAGES: Final[Mapping[Path, Callable[[], str]]] = {
    Path(__file__).with_name(f"{name}.md"): page
    for name, page in {
        "settings": settings,
        "cli": interfaces.commands,
        "api": interfaces.addresses,
        "metrics": interfaces.measures,
        "events": interfaces.events,
    }.items()
}
"""Each generated page and what it holds."""


if __name__ == "__main__":
    for path, page in PAGES.items():
        path.write_text(page())
