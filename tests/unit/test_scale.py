"""The simulation of how consumers follow their lag."""

from itertools import pairwise

from tests.bench.scale import Scaling, follow, need

QUICK = Scaling(capacity=100, lag_threshold=50)


def test_a_rate_that_one_consumer_can_take_starts_no_other() -> None:
    moments = list(follow(lambda _: 90, 600, QUICK))

    assert {moment.wanted for moment in moments} == {1}
    assert {moment.lag for moment in moments} == {0}


def test_a_burst_adds_one_consumer_after_the_other_and_takes_them_away_again() -> None:
    moments = list(follow(lambda second: 350 if second < 300 else 10, 3_600, QUICK))

    wanted = [moment.wanted for moment in moments]
    assert max(wanted) == 4
    assert wanted[-1] == 1
    assert moments[-1].lag == 0
    assert all(abs(later - earlier) <= 1 for earlier, later in pairwise(wanted))


def test_nobody_leaves_before_the_lag_was_small_for_the_whole_time() -> None:
    moments = list(follow(lambda second: 350 if second < 300 else 10, 3_600, QUICK))

    first = next(
        later.second for earlier, later in pairwise(moments) if later.wanted < earlier.wanted
    )
    before = moments[first - QUICK.scale_down_seconds + 15 : first]
    assert {moment.wanted for moment in before} == {4}
    assert max(moment.lag for moment in before) <= 3 * QUICK.lag_threshold


def test_more_posts_than_all_consumers_can_take_are_a_lag_that_grows() -> None:
    moments = list(follow(lambda _: 1_000, 600, QUICK))

    assert moments[-1].wanted == QUICK.most
    assert moments[-1].lag > 600 * 500


def test_what_a_rate_needs_is_the_measured_cost_times_the_rate() -> None:
    figures = {
        "drain": {
            "posts_per_second": 20_000,
            "cpu_seconds_per_million": {
                "consumer": 40, "predictor": 10, "postgres": 15, "kafka": 5
            },
            "disk_mb_per_million": {"postgres": 330, "kafka": 290},
        }
    }  # fmt: skip

    found = need(figures, 100_000)

    assert (found.consumers, found.consumer_cores, found.predictor_cores) == (10, 4.0, 1.0)
    assert found.postgres_gb_per_day == 100_000 * 86_400 * 330e6 / 1e6 / 1e9
