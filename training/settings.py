"""Settings of training and of the drift job."""

from pathlib import Path
from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings

from services.core.settings import group

SAMPLE: Final = Path(__file__).parent / "sample" / "posts.csv"
"""The project's own labelled posts."""


class DriftSettings(BaseSettings):
    """What a drift run looks at."""

    model_config = group("MOODSTREAM_DRIFT_")

    days: int = Field(default=2, ge=1, le=31)
    """Complete days, UTC, up to yesterday, each compared with the seven before it."""


class TrainingSettings(BaseSettings):
    """What a training run learns from."""

    model_config = group("MOODSTREAM_TRAINING_")

    data: str = str(SAMPLE)
    """Comma-separated files or folders of labelled posts."""
    test: Path | None = None
    """Labelled posts that the result is measured on; they are never learned from. Unset: measured
    by cross-validation.
    """
    folds: int = Field(default=5, ge=2, le=20)
    """Parts of the cross-validation."""
    evaluation: Path | None = None
    """Labelled posts, columns text and label, that the gate measures on; never learned from. Unset:
    the project's own. The promoter's examiner must be given the same file.
    """
    corrections: bool = False
    """Whether to learn also from the labels that people have corrected, which are in PostgreSQL."""
    promote: bool = False
    """Whether a version that passes the gate becomes the champion, instead of the challenger."""

    @property
    def paths(self) -> list[Path]:
        """`data` as paths."""
        return [Path(part.strip()) for part in self.data.split(",") if part.strip()]
