"""What a version must pass, from what was found about it."""

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from services.core.gate import Check, Examination, Example, GateSettings, Verdict, judge

SETTINGS = GateSettings(floor=0.5, max_drop=0.02)
FINE = Check("artifact", True, "fine")
EXAMPLE = Example(("a",), ((0.1, 0.2, 0.7),))

recalls = st.floats(0, 1)


def examined(macro_recall: float | None, *checks: Check) -> Examination:
    return Examination(checks or (FINE,), macro_recall, EXAMPLE)


@given(recalls, st.one_of(st.none(), recalls))
def test_quality_passes_at_the_floor_and_not_too_far_below_the_champion(
    found: float, champion: float | None
) -> None:
    beside = None if champion is None else examined(champion)

    verdict = judge(examined(found), beside, SETTINGS)

    good = found >= 0.5 and (champion is None or found >= champion - 0.02)
    assert verdict.passed == good
    assert verdict.checks[-1].name == "quality"
    assert good or verdict.reason.startswith("quality: ")


def test_a_reason_names_the_figures_and_what_to_do() -> None:
    below = judge(examined(0.41), None, SETTINGS)
    worse = judge(examined(0.6), examined(0.7), SETTINGS)

    assert below.reason == (
        "quality: macro recall 0.410 is below the floor 0.500; train on more or better labelled "
        "posts"
    )
    assert "0.600 is more than 0.020 below the champion's 0.700" in worse.reason


@pytest.mark.parametrize("found", [None, float("nan")])
def test_what_could_not_be_measured_does_not_pass(found: float | None) -> None:
    assert not judge(examined(found), None, SETTINGS).passed


def test_a_champion_that_could_not_be_measured_is_no_hurdle() -> None:
    assert judge(examined(0.6), examined(None), SETTINGS).passed


def test_a_check_that_failed_before_is_the_reason_and_quality_is_not_looked_at() -> None:
    failed = Check("versions", False, "numpy 1 instead of 2")

    verdict = judge(examined(0.9, FINE, failed), None, SETTINGS)

    assert verdict == Verdict((FINE, failed), EXAMPLE)
    assert verdict.reason == "versions: numpy 1 instead of 2"


def test_an_examination_survives_json() -> None:
    adapter = TypeAdapter(Examination)

    assert adapter.validate_json(adapter.dump_json(examined(0.6))) == examined(0.6)
    assert asdict(examined(0.6))["example"]["texts"] == ("a",)
