"""The maintenance jobs beside their databases: patience, and what is checked."""

import logging

import pytest

from services.core.errors import TemporaryError
from services.maintenance import check
from services.maintenance.patience import patiently


class Clock:
    """Moves only when somebody pauses."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def test_what_comes_back_in_time_is_waited_for_and_each_reason_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    answers = iter(["no route", "no route", "starting up", None])

    def ask() -> str:
        problem = next(answers)
        if problem:
            raise TemporaryError(problem)
        return "here"

    with caplog.at_level(logging.WARNING):
        answer = patiently(ask, 60, clock, clock.pause)

    assert answer == "here"
    assert [record.__dict__["reason"] for record in caplog.records] == ["no route", "starting up"]


def test_what_stays_away_is_given_up_with_its_last_reason() -> None:
    clock = Clock()

    def ask() -> str:
        raise TemporaryError(f"away at {clock.now:.0f}")

    with pytest.raises(TemporaryError, match="away at 5"):
        patiently(ask, 5, clock, clock.pause)


def test_only_what_the_environment_names_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = check.targets()
    monkeypatch.setenv("MOODSTREAM_KAFKA_BOOTSTRAP_SERVERS", "kafka:9093")
    monkeypatch.setenv("MOODSTREAM_POSTGRES_HOST", "warehouse-rw")
    monkeypatch.setenv("MOODSTREAM_INFERENCE_URL", "http://predictor")
    monkeypatch.setenv("MOODSTREAM_CHECK_URLS", "http://dashboard/livez, http://mlflow:5000/health")

    named = [name for name, _ in check.targets()]

    assert nothing == []
    assert named == [
        "postgres warehouse-rw:5432",
        "kafka kafka:9093",
        "predictor http://predictor",
        "http://dashboard/livez",
        "http://mlflow:5000/health",
    ]
