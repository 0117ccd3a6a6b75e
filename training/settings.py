"""Settings of training."""

from pathlib import Path
from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings

from services.core.settings import group

SAMPLE: Final = Path(__file__).parent / "sample" / "posts.csv"
"""The project's own labelled posts."""


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

    @property
    def paths(self) -> list[Path]:
        """`data` as paths."""
        return [Path(part.strip()) for part in self.data.split(",") if part.strip()]
