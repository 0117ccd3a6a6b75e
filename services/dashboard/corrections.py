"""Corrections: what a person says a post's label is, with who and when. Called by the dashboard for
one and by the command line for a file of them; the next training learns from them.

All of a call's corrections are stored, or none. Nothing is overwritten: the newest one of a post
counts.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from services.core.errors import MoodstreamError
from services.core.events import Storable
from services.core.postgres import connect, transaction
from services.core.settings import PostgresSettings

_TRANSACTION_SECONDS: Final = 30.0
_COLUMNS: Final = ("source", "id", "label")
_PROBLEMS_SHOWN: Final = 10

_Name = StringConstraints(
    strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$"
)

_MAY_INSERT = "SELECT has_table_privilege('corrections', 'INSERT'), current_user"

_GIVEN = """
unnest(%(source)s::text[], %(id)s::text[], %(label)s::sentiment[], %(by)s::text[])
    WITH ORDINALITY AS given (source, id, label, corrected_by, number)
"""

_UNKNOWN = f"""
SELECT number FROM {_GIVEN} LEFT JOIN posts USING (source, id) WHERE posts.kafka_offset IS NULL
ORDER BY number
"""  # noqa: S608 - constant text

_INSERT = f"""
INSERT INTO corrections (source, post_id, label, predicted_label, model_version, corrected_by)
SELECT source, id, given.label, posts.label, posts.model_version, corrected_by
FROM {_GIVEN} JOIN posts USING (source, id) ORDER BY number
"""  # noqa: S608 - constant text


class Correction(BaseModel):
    """One post's label, and who says so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[Storable, Field(min_length=1, max_length=32)]
    id: Annotated[Storable, Field(min_length=1, max_length=256)]
    label: Literal["negative", "neutral", "positive"]
    by: Annotated[str, _Name]


class BadCorrectionsError(MoodstreamError):
    """The corrections given cannot be read; the message says where and why."""


class UnknownPostsError(MoodstreamError):
    """Posts that are not in the warehouse: never taken in, or deleted since."""

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__("there is no such post, or it has been deleted since")
        self.numbers = tuple(numbers)
        """Indexes of their corrections."""


class ForbiddenError(MoodstreamError):
    """The database role may not write corrections."""


def store(settings: PostgresSettings, corrections: Sequence[Correction]) -> None:
    """Stores all of them in one transaction.

    Raises UnknownPostsError or ForbiddenError when none is stored, TemporaryError when the database
    is away.
    """
    given = {
        name: [getattr(correction, name) for correction in corrections]
        for name in Correction.model_fields
    }
    connection = connect(settings, "moodstream-corrections")
    try:
        with transaction(connection, _TRANSACTION_SECONDS) as cursor:
            cursor.execute(_MAY_INSERT)
            ((allowed, role),) = cursor.fetchall()
            if not allowed:
                raise ForbiddenError(
                    f"the database role {role} may not write corrections; as the tables' owner: "
                    f'GRANT INSERT ON corrections TO "{role}"'
                )
            cursor.execute(_UNKNOWN, given)
            if unknown := [number - 1 for (number,) in cursor.fetchall()]:
                raise UnknownPostsError(unknown)
            cursor.execute(_INSERT, given)
    finally:
        connection.close()


def correct(settings: PostgresSettings, path: Path, by: str) -> int:
    """Stores a CSV file with the columns source, id and label, and says how many rows it holds.

    Raises BadCorrectionsError, naming the lines, and what `store` raises; nothing is stored then.
    """
    lines, corrections = _read(path, by)
    try:
        store(settings, corrections)
    except UnknownPostsError as exc:
        named = [
            f"line {lines[i]}: no post {corrections[i].source}/{corrections[i].id}"
            for i in exc.numbers
        ]
        raise _bad(path, named) from exc
    return len(corrections)


def reasons(exc: ValidationError) -> str:
    """What is wrong with a correction, in a sentence for people, without what was given."""
    return "; ".join(
        f"{'.'.join(map(str, error['loc'])) or 'correction'}: {error['msg']}"
        for error in exc.errors(include_url=False, include_input=False, include_context=False)
    )


def _read(path: Path, by: str) -> tuple[list[int], list[Correction]]:
    """The corrections in a file, and the line on which each one ends."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise BadCorrectionsError(f"{path}: {exc}") from exc
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    lines: list[int] = []
    corrections: list[Correction] = []
    problems: list[str] = []
    try:
        if missing := [name for name in _COLUMNS if name not in (rows.fieldnames or ())]:
            raise BadCorrectionsError(
                f"{path}: line 1: no column {', '.join(missing)}; the first line must name the "
                f"columns {', '.join(_COLUMNS)}"
            )
        for row in rows:
            try:
                correction = Correction.model_validate(
                    {name: row[name] for name in _COLUMNS} | {"by": by}
                )
            except ValidationError as exc:
                problems.append(f"line {rows.line_num}: {reasons(exc)}")
            else:
                lines.append(rows.line_num)
                corrections.append(correction)
    except csv.Error as exc:
        problems.append(f"line {rows.reader.line_num}: {exc}")
    if problems:
        raise _bad(path, problems)
    if not corrections:
        raise BadCorrectionsError(f"{path}: no corrections in it")
    return lines, corrections


def _bad(path: Path, problems: Sequence[str]) -> BadCorrectionsError:
    shown = "\n  ".join(problems[:_PROBLEMS_SHOWN])
    more = len(problems) - _PROBLEMS_SHOWN
    rest = f"\n  and {more} more" if more > 0 else ""
    return BadCorrectionsError(f"{path}: nothing was stored\n  {shown}{rest}")
