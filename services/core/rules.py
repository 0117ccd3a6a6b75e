"""Rules: what people want to be told about, and whether it is so.

The notifier judges rules as time goes by; the dashboard stores them and tries them on the past.
Both judge by the same function over the same measurement, so a preview shows what would have been.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Annotated, Any, Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from services.core.contract import RolloutState
from services.core.errors import MoodstreamError
from services.core.events import ALL_TOPICS, Storable
from services.core.postgres import Cursor

_USUAL_DAYS: Final = 7
_KEYWORD_POSTS: Final = 20_000
"""The newest posts in which a keyword is looked for."""
_MOST_RULES: Final = 200
_STEPS: Final = 500
_MOST_STEPS: Final = 10_080
"""Moments of a preview: a week of minutes."""
_NAME: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"
_CLOCK: Final = re.compile(r"^\d{2}:\d{2}(:\d{2})?$")
_COUNTS: Final = frozenset({"volume", "keyword", "silence"})

Kind = Literal["level", "change", "volume", "negative_share", "keyword", "silence", "model"]

_BELOW_BY_DEFAULT: Final = frozenset({"level", "change"})
_UNITS: Final = {
    "level": "average score",
    "change": "average score against the usual",
    "volume": "posts, times the usual",
    "negative_share": "share of negative posts",
    "keyword": "posts with the keyword",
    "silence": "minutes without a post",
}


class RulesError(MoodstreamError):
    """Rules that cannot be read; the message says where and why."""


class Quiet(BaseModel):
    """Hours in which nobody is told; what happens then is told afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: time
    end: time
    """May be before `start`: over midnight."""
    zone: str = "UTC"

    @field_validator("start", "end", mode="before")
    @classmethod
    def _clock(cls, value: object) -> object:
        # YAML reads 22:00 without quotes as the number 1320.
        if isinstance(value, time) or (isinstance(value, str) and _CLOCK.match(value)):
            return value
        raise ValueError('a time of the day, in quotes and without a zone: "22:00"')

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.start == self.end:
            raise ValueError("start and end are the same: to be told nothing, turn the rule off")
        return self

    @field_validator("zone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"there is no time zone {value[:64]!r}; try Europe/Paris") from None
        return value

    def until(self, moment: datetime) -> datetime | None:
        """The end of the quiet hours that this moment is in; None when it is in none."""
        local = moment.astimezone(ZoneInfo(self.zone))
        clock = local.time().replace(tzinfo=None)
        over_midnight = self.end <= self.start
        inside = (
            (clock >= self.start or clock < self.end)
            if over_midnight
            else self.start <= clock < self.end
        )
        if not inside:
            return None
        end = local.replace(
            hour=self.end.hour, minute=self.end.minute, second=self.end.second, microsecond=0
        )
        return end + timedelta(days=1) if end <= local else end


class Rule(BaseModel):
    """One thing to be told about.

    | kind | holds while |
    | --- | --- |
    | level | the average score is below (or above) the threshold |
    | change | the average score is off the usual for that hour by more than the threshold |
    | volume | there are threshold times as many posts as usual for that hour |
    | negative_share | the share of negative posts is above the threshold |
    | keyword | so many posts have the keyword |
    | silence | there was no post for so many minutes |
    | model | told each time that a model version is refused, rolled back or serves |

    Usual is the same hour of the seven days before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=_NAME)]
    """Lower-case letters, digits and hyphens."""
    kind: Kind
    topic: Annotated[Storable, Field(min_length=1, max_length=256)] = ALL_TOPICS
    threshold: float | None = Field(default=None, allow_inf_nan=False)
    """In the unit of the kind. For `model`: none."""
    release: float | None = Field(default=None, allow_inf_nan=False)
    """Value at which it is over, on the safe side of the threshold; without it, the threshold. A
    distance between the two keeps a value that trembles from telling each time.
    """
    direction: Literal["below", "above"] | None = None
    """Of level and change: which side is told about. By default below."""
    window_minutes: int = Field(default=15, ge=1, le=1440)
    """What is looked at: so many minutes back."""
    min_posts: int = Field(default=20, ge=1)
    """With fewer posts in the window nothing is judged: an average of three posts says nothing."""
    keyword: Annotated[Storable, Field(min_length=1, max_length=100)] | None = None
    """Of `keyword`: contained in the post, whatever its case."""
    states: tuple[RolloutState, ...] = (
        RolloutState.REFUSED,
        RolloutState.ROLLED_BACK,
        RolloutState.SERVING,
    )
    """Of `model`: what is told about."""
    cooldown_minutes: int = Field(default=60, ge=0, le=10_080)
    """So long after it began, it does not begin again."""
    quiet: Quiet | None = None
    channels: tuple[Annotated[str, Field(min_length=1, max_length=63)], ...] = ()
    """Names of channels. None: it is on the dashboard alone."""
    enabled: bool = True

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "model":
            if self.threshold is not None or self.release is not None:
                raise ValueError("a model rule has no threshold")
            return self
        if self.threshold is None:
            raise ValueError(f"threshold: a {self.kind} rule needs one, in {_UNITS[self.kind]}")
        if (self.keyword is not None) != (self.kind == "keyword"):
            raise ValueError("keyword: a keyword rule needs one, and no other rule has one")
        if self.direction is not None and self.kind not in _BELOW_BY_DEFAULT:
            raise ValueError(f"direction: a {self.kind} rule is always about above")
        if self.release is not None and self.release != self.threshold:
            safe = self.release > self.threshold if self.below else self.release < self.threshold
            if not safe:
                raise ValueError("release: it must be on the safe side of the threshold")
        if self.kind in _COUNTS and self.threshold <= 0:
            raise ValueError("threshold: it must be above 0")
        if self.kind == "negative_share" and not 0 < self.threshold < 1:
            raise ValueError("threshold: a share is between 0 and 1")
        return self

    @property
    def below(self) -> bool:
        """Whether low values are told about."""
        return self.kind in _BELOW_BY_DEFAULT and self.direction != "above"


@dataclass(frozen=True)
class Measurement:
    """What a rule looks at, at one moment."""

    at: datetime
    posts: int
    """In the window."""
    value: float | None
    """In the rule's unit; None: not to be judged, for want of posts."""
    usual: float | None = None
    """What it is usually."""
    enough: bool = True
    """Whether there are posts enough for an alert to begin."""


@dataclass(frozen=True)
class Open:
    """An alert that has begun and not ended."""

    since: datetime


@dataclass(frozen=True)
class Closed:
    """No alert; the last one began then, if ever."""

    last_opened: datetime | None = None


@dataclass(frozen=True)
class Episode:
    """A time in which a rule held, as a preview finds it."""

    opened_at: datetime
    closed_at: datetime | None
    value: float
    usual: float | None
    posts: int


def judge(rule: Rule, state: Open | Closed, found: Measurement) -> Literal["open", "close"] | None:
    """What becomes of a rule's alert: it opens, it closes, or nothing changes. Pure.

    A value that cannot be judged changes nothing, so an alert does not end because nobody writes.
    """
    if rule.threshold is None or found.value is None:
        return None
    sign = -1.0 if rule.below else 1.0
    value, threshold = sign * found.value, sign * rule.threshold
    release = sign * (rule.threshold if rule.release is None else rule.release)
    # A count or a share that reaches the threshold has reached it; a score has to pass it.
    holds = value > threshold if rule.kind in _BELOW_BY_DEFAULT else value >= threshold
    if isinstance(state, Closed):
        cool = state.last_opened is None or found.at >= state.last_opened + timedelta(
            minutes=rule.cooldown_minutes
        )
        return "open" if holds and cool and found.enough else None
    return "close" if not holds and value <= release else None


# One row per moment: sums of the window that ends there, and of the same window on the days before.
_MEASURE: Final = """
SELECT at, window_of.*, usual_of.* FROM unnest(%(at)s::timestamptz[]) AS at,
LATERAL (
    SELECT coalesce(sum(posts), 0)::bigint AS posts, coalesce(sum(negative), 0)::bigint AS negative,
        coalesce(sum(posts - unscored), 0)::bigint AS scored, sum(score_sum)::float8 AS score_sum
    FROM rollup_minute WHERE topic = %(topic)s
        AND minute > at - make_interval(mins => %(window)s) AND minute <= at
) AS window_of,
LATERAL (
    SELECT count(*) AS usual_days, avg(posts)::float8 AS usual_posts,
        sum(score_sum) / nullif(sum(scored), 0) AS usual_average
    FROM generate_series(1, %(days)s) AS day, LATERAL (
        SELECT sum(posts) AS posts, sum(posts - unscored) AS scored,
            sum(score_sum)::float8 AS score_sum
        FROM rollup_minute WHERE topic = %(topic)s
            AND minute > at - make_interval(days => day) - interval '30 minutes'
                - make_interval(mins => %(window)s)
            AND minute <= at - make_interval(days => day) + interval '30 minutes'
    ) AS before
    WHERE posts > 0
) AS usual_of
"""

_KEYWORD: Final = """
SELECT at, (
    SELECT count(*) FROM (
        SELECT text, topics FROM posts
        WHERE created_at > at - make_interval(mins => %(window)s) AND created_at <= at
        ORDER BY created_at DESC LIMIT %(most)s
    ) AS newest
    WHERE (%(topic)s = %(all)s OR %(topic)s = ANY (topics))
        AND strpos(lower(text), lower(%(keyword)s)) > 0
) AS posts
FROM unnest(%(at)s::timestamptz[]) AS at
"""

_SILENCE: Final = """
SELECT at, extract(epoch FROM at - (
    SELECT max(minute) FROM rollup_minute WHERE topic = %(topic)s AND minute <= at
))::float8 / 60 - 1 AS minutes
FROM unnest(%(at)s::timestamptz[]) AS at
"""


def measure(cursor: Cursor, rule: Rule, moments: Sequence[datetime]) -> list[Measurement]:
    """What the rule looks at, at each of the moments, in their order. Reads the warehouse."""
    parameters: dict[str, Any] = {
        "at": list(moments),
        "topic": rule.topic,
        "all": ALL_TOPICS,
        "window": rule.window_minutes,
        "days": _USUAL_DAYS if rule.kind in {"change", "volume"} else 0,
        "keyword": rule.keyword,
        "most": _KEYWORD_POSTS,
    }
    if rule.kind == "keyword":
        cursor.execute(_KEYWORD, parameters)
        return [Measurement(at, posts, float(posts)) for at, posts in cursor.fetchall()]
    if rule.kind == "silence":
        cursor.execute(_SILENCE, parameters)
        # Before the first post of a topic nothing has fallen silent.
        return [
            Measurement(at, 0, None if minutes is None else max(minutes, 0.0))
            for at, minutes in cursor.fetchall()
        ]
    cursor.execute(_MEASURE, parameters)
    names = [column.name for column in cursor.description or ()]
    return [_measured(rule, dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


def _measured(rule: Rule, row: Mapping[str, Any]) -> Measurement:
    posts, scored = row["posts"], row["scored"]
    average = row["score_sum"] / scored if scored else None
    value: float | None = None
    usual: float | None = None
    enough = posts >= rule.min_posts
    # Few posts say nothing of an average, but that a wave is over.
    if not enough and rule.kind != "volume":
        return Measurement(row["at"], posts, None)
    if rule.kind == "level":
        value = average
    elif rule.kind == "negative_share":
        value = row["negative"] / scored if scored else None
    elif rule.kind == "change":
        usual = row["usual_average"]
        value = average - usual if average is not None and usual is not None else None
    elif rule.kind == "volume" and row["usual_posts"]:
        # The usual of an hour more than the window, brought to the window's length.
        share = rule.window_minutes / (rule.window_minutes + 60)
        usual = row["usual_posts"] * share
        value = posts / usual
    return Measurement(row["at"], posts, value, usual, enough)


def preview(cursor: Cursor, rule: Rule, since: datetime, until: datetime) -> list[Episode]:
    """When the rule would have held between two moments, oldest first. The moments looked at are
    never further apart than the window, so that no post falls between two. Without quiet hours:
    those delay the message, not the alert. Raises RulesError when that takes too many moments.
    """
    minutes = max(1, int((until - since) / timedelta(minutes=1)))
    step = timedelta(minutes=min(-(-minutes // _STEPS), rule.window_minutes))
    if (until - since) / step > _MOST_STEPS:
        raise RulesError(
            f"at most {_MOST_STEPS} windows are tried: choose a later since, or a longer window"
        )
    moments = [since + i * step for i in range(int((until - since) / step) + 1)]
    episodes: list[Episode] = []
    state: Open | Closed = Closed()
    for found in measure(cursor, rule, moments):
        decision = judge(rule, state, found)
        if decision == "open" and found.value is not None:
            episodes.append(Episode(found.at, None, found.value, found.usual, found.posts))
            state = Open(found.at)
        elif decision == "close":
            last = episodes[-1]
            episodes[-1] = Episode(last.opened_at, found.at, last.value, last.usual, last.posts)
            state = Closed(last.opened_at)
    return episodes


def summary(rule: Rule, found: Measurement) -> str:
    """What is so, in a sentence for people."""
    about = "all topics" if rule.topic == ALL_TOPICS else rule.topic
    value = found.value or 0.0
    window = f"the last {rule.window_minutes} minutes"
    said = {
        "level": f"average score {value:+.2f} over {found.posts} posts in {window}",
        "change": f"average score {value:+.2f} against the usual {found.usual or 0:+.2f} for this "
        f"hour, over {found.posts} posts in {window}",
        "volume": f"{found.posts} posts in {window}, {value:.1f} times the usual",
        "negative_share": f"{100 * value:.0f} % negative of {found.posts} posts in {window}",
        "keyword": f'{found.posts} posts with "{rule.keyword}" in {window}',
        "silence": f"no post for {value:.0f} minutes",
        "model": "",
    }
    return f"{about}: {said[rule.kind]}"


def read_yaml(text: str) -> list[Rule]:
    """Rules from YAML: `rules:` with a list. Raises RulesError naming the rule and its fault."""
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, RecursionError) as exc:
        # Besides its own, PyYAML raises what it meets in a date or a number that is none.
        raise RulesError(f"not YAML: {' '.join(str(exc).split())}") from None
    listed = found.get("rules") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise RulesError("the file needs a list under the key rules")
    if len(listed) > _MOST_RULES:
        raise RulesError(f"at most {_MOST_RULES} rules")
    rules: list[Rule] = []
    for number, each in enumerate(listed, 1):
        try:
            rules.append(Rule.model_validate(each))
        except ValidationError as exc:
            name = each.get("name") if isinstance(each, dict) else None
            shown = str(name)[:64].encode(errors="backslashreplace").decode()
            raise RulesError(f"rule {number} ({shown}): {reasons(exc)}") from None
    names = [rule.name for rule in rules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RulesError(f"two rules have the name {', '.join(twice)}")
    return rules


def write_yaml(rules: Iterable[Rule]) -> str:
    """The same rules as YAML, without what is at its default."""
    listed = [
        {"name": rule.name, "kind": rule.kind} | rule.model_dump(mode="json", exclude_defaults=True)
        for rule in rules
    ]
    return yaml.safe_dump({"rules": listed}, sort_keys=False, allow_unicode=True)


def reasons(exc: ValidationError) -> str:
    """What is wrong, in a sentence for people, without what was given."""
    return "; ".join(
        f"{'.'.join(map(str, error['loc'])) or 'rule'}: "
        f"{re.sub('^Value error, ', '', error['msg'])}"
        for error in exc.errors(include_url=False, include_input=False, include_context=False)
    )
