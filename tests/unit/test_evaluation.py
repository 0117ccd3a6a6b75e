"""The evaluation set."""

from collections import Counter
from pathlib import Path

import pytest

from services.core.contract import LABELS
from services.core.errors import SettingsError
from services.core.evaluation import read


def test_our_own_is_even_and_says_nothing_twice() -> None:
    ours = read()

    counts = Counter(ours.labels)
    assert set(counts) == set(LABELS)
    assert min(counts.values()) >= 90
    assert len(set(ours.texts)) == len(ours.texts)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("text,label\nfine,good\n", "row 2"),
        ("text,label\n,positive\n", "row 2"),
        ("words,label\nfine,positive\n", "row 2"),
        ("text,label\nfine,positive\n", "has no negative, neutral post"),
        ("", "has no negative, neutral, positive post"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "evaluation.csv"
    path.write_text(content)

    with pytest.raises(SettingsError, match=problem):
        read(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read(tmp_path / "absent.csv")
