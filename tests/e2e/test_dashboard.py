"""The dashboard, against the database."""

import json
import urllib.request
from typing import Any

from tests.e2e.deployed import Platform

_COUNTED = ("posts", "negative", "neutral", "positive", "unscored")


def test_the_page_answers(platform: Platform) -> None:
    with (
        platform.forwarded("dashboard", 80) as address,
        urllib.request.urlopen(address, timeout=30) as page,
    ):
        content = page.read().decode()

    assert "<title>" in content


def test_the_page_brings_its_libraries_with_it(platform: Platform) -> None:
    with (
        platform.forwarded("dashboard", 80) as address,
        urllib.request.urlopen(f"{address}/static/lib/chart.umd.js", timeout=30) as found,
    ):
        content = found.read()

    assert len(content) > 100_000


def test_its_numbers_are_those_of_the_database(platform: Platform) -> None:
    """Compared are the minutes that do not change while they are read."""
    settled: dict[Any, Any] = {}
    shown: dict[Any, Any] = {}

    def compared() -> bool:
        nonlocal settled, shown
        before = _stored(platform)
        snapshot = _get(f"{address}/api/snapshot")
        after = _stored(platform)
        shown = {
            minute["start"]: [minute[name] for name in _COUNTED] for minute in snapshot["minutes"]
        }
        settled = {
            start: numbers
            for start, numbers in before.items()
            if after.get(start) == numbers and start in shown
        }
        return snapshot["problem"] is None and bool(settled)

    with platform.forwarded("dashboard", 80) as address:
        platform.wait(compared, 120, "a minute that no longer changes")

    assert {start: shown[start] for start in settled} == settled


def test_its_dead_letters_are_those_of_the_database(platform: Platform) -> None:
    stored = {
        row["reason"]: row["records"]
        for row in platform.sql("SELECT * FROM dead_letters_by_reason")
    }
    with platform.forwarded("dashboard", 80) as address:
        platform.wait(
            lambda: _get(f"{address}/api/snapshot")["dead_letters"] == stored,
            30,
            f"dead letters {stored}",
        )


def test_a_sentence_is_read_by_the_served_model_with_a_weight_for_each_word(
    platform: Platform,
) -> None:
    served = platform.get("inferenceservice", "sentiment")["metadata"]["annotations"]
    with platform.forwarded("dashboard", 80) as address:
        request = urllib.request.Request(
            f"{address}/api/try",
            data=json.dumps({"text": "the worst train, I love coffee"}).encode(),
            headers={"Content-Type": "application/json", "Origin": address},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            tried = json.load(answer)

    assert tried["model_version"] == served["moodstream.io/model-version"]
    weights = [word["weight"] for word in tried["words"]]
    assert len(weights) == 6
    assert weights[1] < weights[4]


def _stored(platform: Platform) -> dict[str, list[int]]:
    rows = platform.sql(
        "SELECT to_char(minute AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS start,"  # noqa: S608
        f" {', '.join(_COUNTED)} FROM sentiment_by_minute"
        " WHERE topic = '*' ORDER BY minute DESC LIMIT 60"
    )
    return {row["start"]: [row[name] for name in _COUNTED] for row in rows}


def _get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=30) as answer:
        content: dict[str, Any] = json.load(answer)
    return content
