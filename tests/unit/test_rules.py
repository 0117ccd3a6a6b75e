"""Rules: what opens and closes an alert, quiet hours, and how rules are written."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.core.rules import (
    Closed,
    Measurement,
    Open,
    Quiet,
    Rule,
    RulesError,
    judge,
    read_yaml,
    write_yaml,
)

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
LEVEL = {"name": "low", "kind": "level", "threshold": -0.2}


def rule(**changes: Any) -> Rule:
    return Rule.model_validate(LEVEL | changes)


def at(value: float | None, minutes: float = 0) -> Measurement:
    return Measurement(NOW + timedelta(minutes=minutes), 100, value)


def decisions(watched: Rule, values: list[float | None], minutes: float = 1) -> list[str | None]:
    """What becomes of values that come so many minutes apart."""
    state: Open | Closed = Closed()
    found: list[str | None] = []
    for i, value in enumerate(values):
        decision = judge(watched, state, at(value, i * minutes))
        found.append(decision)
        if decision == "open":
            state = Open(NOW + timedelta(minutes=i * minutes))
        elif decision == "close" and isinstance(state, Open):
            state = Closed(state.since)
    return found


def test_a_level_opens_below_its_threshold_and_closes_above_it() -> None:
    found = decisions(rule(cooldown_minutes=0), [0.1, -0.2, -0.21, -0.5, -0.2, 0.0])

    assert found == [None, None, "open", None, "close", None]


def test_between_threshold_and_release_nothing_changes() -> None:
    watched = rule(release=0.0, cooldown_minutes=0)

    found = decisions(watched, [-0.3, -0.1, -0.21, -0.1, 0.0, -0.1, -0.3])

    assert found == ["open", None, None, None, "close", None, "open"]


def test_after_it_began_it_does_not_begin_again_before_the_cooldown_is_over() -> None:
    watched = rule(cooldown_minutes=5)

    found = decisions(watched, [-0.3, 0.0, -0.3, -0.3, -0.3, -0.3])

    assert found == ["open", "close", None, None, None, "open"]


def test_few_posts_begin_no_wave_and_end_one() -> None:
    watched = rule(kind="volume", threshold=3)
    few = Measurement(NOW, 5, 4.0, 1.0, enough=False)

    assert judge(watched, Closed(), few) is None
    assert judge(watched, Open(NOW), Measurement(NOW, 5, 0.2, 25.0, enough=False)) == "close"


def test_a_value_that_cannot_be_judged_changes_nothing() -> None:
    assert decisions(rule(), [None, -0.3, None, 0.0]) == [None, "open", None, "close"]


@pytest.mark.parametrize("kind", ["volume", "keyword", "silence"])
def test_a_count_opens_when_the_threshold_is_reached(kind: str) -> None:
    more = {"keyword": "delay"} if kind == "keyword" else {}
    watched = rule(kind=kind, threshold=3, cooldown_minutes=0, **more)

    assert decisions(watched, [2.9, 3, 3.5, 2.9]) == [None, "open", None, "close"]


@given(
    threshold=st.floats(-0.9, 0.9),
    gap=st.floats(0, 0.5),
    direction=st.sampled_from(["below", "above"]),
    cooldown=st.integers(0, 20),
    values=st.lists(st.none() | st.floats(-1, 1), max_size=60),
)
def test_alerts_open_and_close_in_turn_and_only_for_a_reason(
    threshold: float, gap: float, direction: str, cooldown: int, values: list[float | None]
) -> None:
    safe = threshold + gap if direction == "below" else threshold - gap
    watched = rule(
        threshold=threshold, release=safe, direction=direction, cooldown_minutes=cooldown
    )

    found = decisions(watched, values)

    told = [(i, decision) for i, decision in enumerate(found) if decision]
    assert [decision for _, decision in told] == ["open", "close"] * (len(told) // 2) + ["open"] * (
        len(told) % 2
    )
    for i, decision in told:
        value = values[i]
        assert value is not None
        beyond = value < threshold if direction == "below" else value > threshold
        assert beyond == (decision == "open")
    opened = [i for i, decision in told if decision == "open"]
    assert all(later - earlier >= cooldown for earlier, later in pairwise(opened))


@pytest.mark.parametrize(
    ("start", "end", "zone", "moment", "until"),
    [
        ("22:00", "07:00", "UTC", "2026-03-10T23:30Z", "2026-03-11T07:00Z"),
        ("22:00", "07:00", "UTC", "2026-03-11T06:59Z", "2026-03-11T07:00Z"),
        ("22:00", "07:00", "UTC", "2026-03-11T07:00Z", None),
        ("22:00", "07:00", "Europe/Paris", "2026-07-10T20:30Z", "2026-07-11T05:00Z"),
        ("12:00", "13:00", "UTC", "2026-03-10T12:00Z", "2026-03-10T13:00Z"),
        ("12:00", "13:00", "UTC", "2026-03-10T11:59Z", None),
    ],
)
def test_quiet_hours_have_an_end(
    start: str, end: str, zone: str, moment: str, until: str | None
) -> None:
    quiet = Quiet.model_validate({"start": start, "end": end, "zone": zone})

    found = quiet.until(datetime.fromisoformat(moment))

    assert found == (datetime.fromisoformat(until) if until else None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threshold": None}, "threshold"),
        ({"name": "No Spaces"}, "name"),
        ({"kind": "mood"}, "kind"),
        ({"kind": "keyword", "threshold": 3}, "keyword"),
        ({"keyword": "delay"}, "keyword"),
        ({"release": -0.3}, "release"),
        ({"kind": "negative_share", "threshold": 40}, "threshold"),
        ({"kind": "negative_share", "threshold": 0.4, "direction": "below"}, "direction"),
        ({"kind": "model", "threshold": 1}, "threshold"),
        ({"quiet": {"start": "22:00", "end": "07:00", "zone": "Mars"}}, "zone"),
        ({"quiet": {"start": "22:00Z", "end": "07:00"}}, "without a zone"),
        ({"quiet": {"start": 1320, "end": "07:00"}}, "in quotes"),
        ({"quiet": {"start": "22:00", "end": "22:00"}}, "the same"),
        ({"threshold": float("nan")}, "threshold"),
        ({"kind": "volume", "threshold": 0}, "above 0"),
        ({"unknown": 1}, "unknown"),
        ({"window_minutes": 0}, "window_minutes"),
    ],
)
def test_a_rule_that_makes_no_sense_says_which_part(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        rule(**changes)


def test_rules_survive_yaml() -> None:
    rules = [
        rule(release=0.0, quiet={"start": "22:00", "end": "07:00", "zone": "Europe/Paris"}),
        rule(name="word", kind="keyword", threshold=3, keyword="délai", channels=["comms"]),
        Rule(name="models", kind="model"),
    ]

    text = write_yaml(rules)

    assert read_yaml(text) == rules
    assert "min_posts" not in text
    assert "délai" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules: [", "not YAML"),
        ("- low", "under the key rules"),
        ("rules: [{name: low, kind: level}]", r"rule 1 \(low\): .*threshold"),
        ("rules: [{name: a, kind: model}, {name: a, kind: model}]", "two rules have the name a"),
        ("rules: [3]", r"rule 1 \(None\)"),
        ("!!python/object/apply:os.system [id]", "not YAML"),
    ],
)
def test_yaml_that_holds_no_rules_is_refused_with_a_sentence(text: str, said: str) -> None:
    with pytest.raises(RulesError, match=said):
        read_yaml(text)
