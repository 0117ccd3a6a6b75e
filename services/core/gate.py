"""What a version must pass before it is served: what the examiner found, and what is made of it.

Pure, and free of scikit-learn: promoter and training judge by the same rules.
"""

from dataclasses import dataclass
from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings

from services.core.settings import group

_QUALITY: Final = "quality"


class GateSettings(BaseSettings):
    """How good a version must be, on the evaluation set."""

    model_config = group("MOODSTREAM_GATE_")

    floor: float = Field(default=0.5, ge=0, le=1)
    """Least macro recall of a version that is served."""
    max_drop: float = Field(default=0.05, ge=0, le=1)
    """How far a version's macro recall may be below the champion's. Between two equally good
    versions it differs by 0.02 to 0.03 on the 300 posts of the project's own evaluation set.
    """


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    """artifact, contract, versions, example, quality; source for files that may not be read."""
    passed: bool
    detail: str
    """What was found, in a sentence; for a failed check also what to do."""


@dataclass(frozen=True)
class Example:
    """What was logged with a version: texts, and what it said about them."""

    texts: tuple[str, ...]
    probabilities: tuple[tuple[float, float, float], ...]
    """One row for each text, columns in the order of LABELS."""


@dataclass(frozen=True)
class Examination:
    """What was found about one version in the predictor's surroundings."""

    checks: tuple[Check, ...]
    """In the order in which they were made; after a failed one the rest may be missing."""
    macro_recall: float | None
    """On the evaluation set; None when it could not be measured."""
    example: Example | None
    """None when there is none that can be used."""


@dataclass(frozen=True)
class Verdict:
    """Whether a version may be served."""

    checks: tuple[Check, ...]
    example: Example | None

    @property
    def passed(self) -> bool:
        """Whether it may."""
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """The first check that failed, or that all passed."""
        failed = next((check for check in self.checks if not check.passed), None)
        return f"{failed.name}: {failed.detail}" if failed else "it passes every check"


def judge(candidate: Examination, champion: Examination | None, settings: GateSettings) -> Verdict:
    """The verdict about a version. Its quality counts against the floor and, where there is a
    champion that could be measured, against the champion's.
    """
    checks = candidate.checks
    if all(check.passed for check in checks):
        beaten = champion.macro_recall if champion else None
        checks += (_quality(candidate.macro_recall, beaten, settings),)
    return Verdict(checks, candidate.example)


def _quality(found: float | None, champion: float | None, settings: GateSettings) -> Check:
    if found is None:
        return Check(_QUALITY, False, "its macro recall could not be measured")
    if not found >= settings.floor:
        return Check(
            _QUALITY,
            False,
            f"macro recall {found:.3f} is below the floor {settings.floor:.3f}; train on more or "
            "better labelled posts",
        )
    if champion is not None and not found >= champion - settings.max_drop:
        return Check(
            _QUALITY,
            False,
            f"macro recall {found:.3f} is more than {settings.max_drop:.3f} below the champion's "
            f"{champion:.3f}; train a better one, or allow a larger drop in the gate's settings",
        )
    beside = f", the champion's is {champion:.3f}" if champion is not None else ""
    return Check(_QUALITY, True, f"macro recall {found:.3f}{beside}")
