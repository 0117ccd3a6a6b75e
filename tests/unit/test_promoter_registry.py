"""What the promoter says in a version's description, beside what people wrote there."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.contract import CHAMPION, RolloutState
from services.promoter.registry import RefusedFilesError, described, own, paragraph

AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
MARK = "**moodstream:** "
LIMIT = 5_000

words = st.text(st.sampled_from("ab \n*_`[]<>\\:"), max_size=60)
paragraphs = st.builds(
    paragraph, st.just(CHAMPION), st.sampled_from(RolloutState), words, st.just(AT)
)


def test_it_is_one_line_that_says_state_role_time_and_reason() -> None:
    berlin = AT.astimezone(timezone(timedelta(hours=1)))

    said = paragraph(CHAMPION, RolloutState.REFUSED, "quality: macro recall\n 0.41 is low", berlin)

    assert said == (
        f"{MARK}refused as champion, 2030-01-02 03:04:05 UTC: quality: macro recall 0.41 is low"
    )


def test_a_reason_is_shown_as_it_is_not_as_markdown() -> None:
    said = paragraph(CHAMPION, RolloutState.REFUSED, "<b>[x](y)</b> __main__", AT)

    assert said.endswith(r": \<b\>\[x\](y)\</b\> \_\_main\_\_")


@given(words, paragraphs)
def test_what_people_wrote_stays_in_front(theirs: str, said: str) -> None:
    after = described(theirs, said)

    assert after.endswith(said)
    assert after.removesuffix(said).strip("\n") == theirs.strip("\n")


@given(words, st.lists(paragraphs, min_size=1))
def test_however_often_it_is_said_it_is_there_once(theirs: str, told: list[str]) -> None:
    after = theirs
    for said in told:
        after = described(after, said)

    assert after == described(theirs, told[-1])
    assert described(after, told[-1]) == after


def test_what_people_add_behind_it_stays_too() -> None:
    first = described("ours", f"{MARK}one")

    after = described(f"{first}\n\nadded\nlater", f"{MARK}two")

    assert after == f"ours\n\nadded\nlater\n\n{MARK}two"


@given(st.integers(LIMIT - 300, LIMIT), paragraphs)
def test_a_long_description_is_kept_whole_and_never_too_long(length: int, said: str) -> None:
    theirs = "x" * length

    after = described(theirs, said)

    assert after.startswith(theirs)
    assert len(after) <= LIMIT
    assert described(after, said) == after


def test_a_reason_of_any_length_is_cut() -> None:
    assert len(paragraph(CHAMPION, RolloutState.REFUSED, "a " * 10_000, AT)) < 1_200


@pytest.mark.parametrize("uri", ["mlflow-artifacts:/1/m", "mlflow-artifacts://elsewhere:1/1/m"])
def test_files_are_asked_of_our_own_server_alone(uri: str) -> None:
    assert own(uri) == "mlflow-artifacts:/1/m"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://b/m",
        "file:///etc",
        "http://h/m",
        "mlflow-artifacts:/1/../2",
        "mlflow-artifacts:/1/%2e%2e/2",
        "/m",
        "",
    ],
)
def test_files_that_our_server_does_not_hold_are_refused(uri: str) -> None:
    with pytest.raises(RefusedFilesError, match="register a model that was logged"):
        own(uri)
