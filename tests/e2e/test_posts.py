"""Posts in, rows out."""

from tests.e2e.deployed import SOURCE, WAY_OUT, Platform, client_of

_ARRIVAL_SECONDS = 60


def test_every_post_that_goes_in_comes_out_as_one_scored_row(platform: Platform) -> None:
    before = platform.counts()

    batch = platform.produce(500)
    platform.finish(batch.pod, 120)
    platform.wait_for_rows(batch, batch.count, _ARRIVAL_SECONDS)

    platform.assert_reconciled(before, batch)


def test_rows_carry_the_version_of_the_model_that_is_served(platform: Platform) -> None:
    batch = platform.produce(100)
    platform.finish(batch.pod, 120)
    platform.wait_for_rows(batch, batch.count, _ARRIVAL_SECONDS)

    served = platform.get("inferenceservice", "sentiment")["metadata"]["annotations"]
    rows = platform.sql(
        "SELECT DISTINCT model_name, model_version FROM posts"  # noqa: S608
        f" WHERE source = '{SOURCE}' AND starts_with(id, '{batch.prefix}-')"
    )

    assert rows == [
        {"model_name": "sentiment", "model_version": served["moodstream.io/model-version"]}
    ]


def test_records_that_are_no_posts_become_dead_letters_and_hold_up_nothing(
    platform: Platform,
) -> None:
    before = platform.counts()

    broken = platform.start(
        "moodstream-producer", "send_broken.py", "7", labels=WAY_OUT | client_of("kafka")
    )
    batch = platform.produce(500)
    platform.finish(broken, 60)
    platform.finish(batch.pod, 120)
    platform.wait_for_rows(batch, batch.count, _ARRIVAL_SECONDS)
    platform.wait(
        lambda: platform.counts().dead_letters == before.dead_letters + 7,
        _ARRIVAL_SECONDS,
        "seven dead letters",
    )

    platform.assert_reconciled(before, batch, broken=7)
