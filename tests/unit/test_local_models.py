"""What the command line makes of the promoter's tags."""

import pytest

from services.local.models import (
    Models,
    ModelsError,
    Outcome,
    Version,
    gone,
    outcome,
    previous,
    promote,
)

EARLY, LATE = "2026-03-01T12:00:00+00:00", "2026-03-01T12:05:00+00:00"


def _version(
    number: str, state: str | None = None, role: str = "champion", at: str = EARLY, *aliases: str
) -> Version:
    return Version(number, aliases, state, role if state else None, f"{state}!", at)


BEFORE = Version("2")


@pytest.mark.parametrize("state", ["serving", "refused", "rolled back", "replaced"])
def test_a_version_whose_state_is_final_has_an_outcome_with_its_reason(state: str) -> None:
    found = outcome([_version("2", state, "champion", LATE, "champion")], BEFORE, "champion")

    assert found == Outcome("2", "champion", state, f"{state}!")
    assert found.good == (state == "serving")


@pytest.mark.parametrize(
    "now",
    [
        Version("2", ("champion",)),
        _version("2", "rolling out", "champion", LATE, "champion"),
        _version("2", "serving", "challenger", LATE, "champion"),
    ],
    ids=["nothing said", "rolling out", "serves in the other role"],
)
def test_a_version_about_which_the_last_word_is_not_said_has_no_outcome_yet(now: Version) -> None:
    assert outcome([now], BEFORE, "champion") is None


def test_what_was_said_before_the_alias_was_set_is_no_outcome() -> None:
    before = _version("2", "replaced", "champion", EARLY)

    assert (
        outcome([_version("2", "replaced", "champion", EARLY, "champion")], before, "champion")
        is None
    )


def test_a_state_whose_time_is_written_and_which_itself_is_not_yet_is_no_outcome() -> None:
    before = _version("1", "replaced", "champion", EARLY)
    half = _version("1", "replaced", "champion", LATE, "champion")

    assert outcome([half, _version("2", "serving")], before, "champion") is None


def test_each_word_about_the_version_in_its_new_role_is_passed_on_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.local.models._POLL_SECONDS", 0.0)
    # It is still rolling out as the challenger when it is made the champion.
    words = [
        _version("3", "rolling out", "challenger", EARLY, "challenger"),
        Version("3", ("champion",), None, "champion", "half written", LATE),
        *[_version("3", "rolling out", "champion", LATE, "champion")] * 2,
        _version("3", "serving", "champion", LATE, "champion"),
    ]
    models = Models("http://127.0.0.1:1")
    monkeypatch.setattr(models, "versions", lambda: [words.pop(0)])
    monkeypatch.setattr(models, "set_alias", lambda *_: None)
    said: list[str] = []

    found = promote(models, "3", "champion", wait=True, say=said.append)

    assert said == ["rolling out: rolling out!"]
    assert found.good


def test_a_version_that_serves_already_is_served() -> None:
    before = _version("2", "serving", "champion", EARLY, "champion")

    found = outcome([before], before, "champion")

    assert found is not None
    assert found.good


def test_a_version_that_goes_back_to_serving_waits_for_the_rollout_that_it_ends() -> None:
    before = _version("1", "serving", "champion", EARLY, "champion")

    assert outcome([_version("2", "rolling out"), before], before, "champion") is None


def test_an_alias_that_is_taken_away_meanwhile_ends_the_waiting() -> None:
    with pytest.raises(ModelsError, match="was taken from version 2"):
        outcome([Version("2"), Version("3", ("champion",))], BEFORE, "champion")


def test_a_version_that_is_deleted_meanwhile_ends_the_waiting() -> None:
    with pytest.raises(ModelsError, match="no '2' of 'sentiment'; there are 3"):
        outcome([Version("3")], BEFORE, "champion")


def test_the_version_to_go_back_to_is_the_one_that_was_replaced_last() -> None:
    versions = [
        _version("5", "serving", "champion", LATE, "champion"),
        _version("4", "replaced", "challenger", LATE),
        _version("3", "replaced", "champion", EARLY),
        _version("2", "replaced", "champion", LATE),
        _version("1", "refused", "champion", LATE),
    ]

    assert previous(versions).version == "2"


def test_the_version_to_go_back_to_is_the_one_that_serves_in_spite_of_the_alias() -> None:
    versions = [
        _version("3", "refused", "champion", LATE, "champion"),
        _version("2", "serving", "champion", EARLY),
        _version("1", "replaced", "champion", EARLY),
    ]

    assert previous(versions).version == "2"


def test_where_nothing_served_before_there_is_nothing_to_go_back_to() -> None:
    with pytest.raises(ModelsError, match="promote one by its number"):
        previous([_version("1", "serving", "champion", EARLY, "champion")])


def test_a_challenger_is_gone_when_it_no_longer_serves_in_that_role() -> None:
    before = _version("2", "serving", "challenger")

    assert gone([before], before) is None
    assert gone([_version("2", "replaced", "challenger", LATE)], before) is not None
    assert gone([_version("2", "serving", "champion", LATE)], before) is not None
