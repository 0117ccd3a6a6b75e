"""`helm upgrade` under load."""

from typing import Any

from tests.e2e.deployed import CONSUMER, Platform

_COUNT = 24_000
_RATE = 300
_DRAIN_SECONDS = 240


def test_changed_values_roll_out_and_back_under_load_without_loss(platform: Platform) -> None:
    before = platform.counts()
    served = _model(platform)
    old = _settings(platform)["MOODSTREAM_CONSUMER_BATCH_RECORDS"]
    batch = platform.produce(_COUNT, _RATE)
    platform.wait_for_rows(batch, _COUNT // 20, _DRAIN_SECONDS)

    values = {"consumer": {"batchRecords": 321}, "logLevel": "WARNING"}
    with platform.upgraded("moodstream", values):
        changed = _settings(platform)
        served_meanwhile = _model(platform)

    platform.finish(batch.pod, _DRAIN_SECONDS)
    platform.wait_for_rows(batch, _COUNT, _DRAIN_SECONDS)
    assert changed["MOODSTREAM_CONSUMER_BATCH_RECORDS"] == "321"
    assert changed["MOODSTREAM_SERVICE_LOG_LEVEL"] == "WARNING"
    assert _settings(platform)["MOODSTREAM_CONSUMER_BATCH_RECORDS"] == old
    assert served_meanwhile == served == _model(platform)
    platform.assert_reconciled(before, batch)


def _settings(platform: Platform) -> dict[str, str]:
    """What the consumers that work now are told."""
    [container] = platform.pod(CONSUMER)["spec"]["containers"]
    return {variable["name"]: variable.get("value", "") for variable in container["env"]}


def _model(platform: Platform) -> tuple[Any, Any]:
    """The model that the promoter has chosen, which no chart may touch."""
    service = platform.get("inferenceservice", "sentiment")
    return (
        service["spec"]["predictor"]["model"]["storageUri"],
        service["metadata"]["annotations"]["moodstream.io/model-version"],
    )
