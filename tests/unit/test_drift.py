"""The population stability index, and a day's rows."""

from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.drift import MIN_POSTS, SCORE, VOCABULARY, days_before, measure
from training.stability import BINS, Floats, deciles, psi, psi_of_shares, shares

DAY = date(2026, 3, 8)
NONE: Floats = np.empty(0)

finite = st.floats(-1, 1)
# A few values again and again, as the shares of words in short posts.
tied = st.sampled_from([0.0, 0.5, 0.8, 1.0])
samples = st.lists(finite | tied, min_size=1, max_size=300).map(np.array)


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[Floats, Floats]:
    """Shares of the same bins, some of them empty."""
    bins = draw(st.integers(1, BINS))
    counts = st.lists(st.integers(0, 50), min_size=bins, max_size=bins).filter(any)
    first, second = (np.array(draw(counts), dtype=float) for _ in range(2))
    return first / first.sum(), second / second.sum()


@given(sample=samples)
def test_a_sample_is_not_apart_from_itself(sample: Floats) -> None:
    assert psi(sample, sample) == 0


@given(reference=samples, actual=samples)
def test_the_index_is_finite_and_never_below_zero(reference: Floats, actual: Floats) -> None:
    found = psi(reference, actual)

    assert found >= 0
    assert np.isfinite(found)


@given(pair=_pairs())
def test_the_index_is_the_same_both_ways(pair: tuple[Floats, Floats]) -> None:
    assert psi_of_shares(*pair) == pytest.approx(psi_of_shares(*pair[::-1]))


@given(sample=samples, other=samples)
def test_every_number_is_in_one_bin(sample: Floats, other: Floats) -> None:
    edges = deciles(sample)

    found = shares(other, edges)

    assert len(found) == len(edges) + 1
    assert found.sum() == pytest.approx(1)


@given(seed=st.integers(0, 2**32 - 1))
def test_samples_of_one_distribution_are_stable_and_a_shift_is_not(seed: int) -> None:
    random = np.random.default_rng(seed)
    reference, same, shifted = (random.normal(mean, 1, 2_000) for mean in (0, 0, 1))

    assert psi(reference, same) < 0.1
    assert psi(reference, shifted) > 0.25


def test_the_index_is_that_of_a_hand_count() -> None:
    expected, actual = np.array([0.5, 0.5]), np.array([0.25, 0.75])

    found = psi_of_shares(expected, actual)

    assert found == pytest.approx(-0.25 * np.log(0.5) + 0.25 * np.log(1.5))


def test_a_value_that_nearly_all_posts_share_is_a_bin_of_its_own() -> None:
    full = np.ones(1_000)
    half = np.where(np.arange(1_000) % 2, 1.0, 0.9)

    assert psi(full, half) > 0.25


def test_the_last_complete_days_end_yesterday() -> None:
    assert days_before(date(2026, 3, 1), 2) == [date(2026, 2, 27), date(2026, 2, 28)]


def test_a_day_is_compared_with_all_days_of_its_reference() -> None:
    actual = np.linspace(-1, 1, MIN_POSTS)
    reference = [{SCORE: actual[:50]}, {SCORE: actual[50:]}]

    (row,) = measure(DAY, "7", {SCORE: actual}, reference)

    assert (row.day, row.model_version, row.measure, row.posts) == (DAY, "7", SCORE, MIN_POSTS)
    assert row.mean == pytest.approx(0)
    assert row.psi == 0


@pytest.mark.parametrize(("posts", "before"), [(MIN_POSTS, MIN_POSTS - 1), (MIN_POSTS - 1, 1_000)])
def test_too_few_posts_have_a_mean_but_no_index(posts: int, before: int) -> None:
    (row,) = measure(DAY, "7", {SCORE: np.ones(posts)}, [{SCORE: np.zeros(before)}])

    assert (row.posts, row.mean, row.psi) == (posts, 1, None)


def test_a_measure_without_values_has_no_row() -> None:
    rows = measure(
        DAY,
        "7",
        {SCORE: NONE, VOCABULARY: np.ones(1)},
        [{SCORE: NONE, VOCABULARY: NONE}],
    )

    assert [row.measure for row in rows] == [VOCABULARY]
