"""The promoter in a world where anything happens: aliases move, versions fail, people edit what is
served, and the promoter is killed before or after any of its calls.

The world keeps only what really lasts: the registry's aliases and tags, and what is asked to be
served. A promoter that is killed is replaced by a new one.
"""

# mypy: ignore-errors

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.core.contract import CHALLENGER, CHAMPION, RolloutState
from services.core.errors import TemporaryError
from services.core.gate import Check, Examination, Example, GateSettings
from services.core.inference import Scored
from services.promoter.decide import Model, Rollout, Target
from services.promoter.reconcile import Promoter, Role
from services.promoter.registry import Observed, Registered

ROOT = "s3://moodstream/mlflow"
VERSIONS = tuple("123456789")
REFUSED = frozenset("34")
"""Do not pass the gate."""
BROKEN = frozenset("56")
"""Pass the gate and never become ready."""
WRONG = frozenset("7")
"""Pass the gate, become ready and answer nonsense."""
SILENT = frozenset("9")
"""Pass the gate, become ready and do not answer."""
GOOD = frozenset("128")
DEADLINE = 15.0
POLL = 3.0
EXAMPLE = Example(("fine",), ((0.1, 0.2, 0.7),))


class Killed(BaseException):
    """The promoter's process ends here."""


@dataclass
class World:
    now: datetime = datetime(2030, 1, 1, tzinfo=UTC)
    aliases: dict = field(default_factory=dict)
    tags: dict = field(default_factory=dict)
    asked: dict = field(default_factory=dict)
    pods: dict = field(default_factory=dict)
    served: list = field(default_factory=list)
    calls_left: int | None = None
    kill_after: bool = False
    away: bool = False
    told: list = field(default_factory=list)

    def call(self, act=lambda: None):
        """One call of the promoter's to the outside: it may be its last."""
        if self.away:
            raise TemporaryError("away")
        dies = self.calls_left == 0
        if self.calls_left is not None:
            self.calls_left -= 1
        if dies and not self.kill_after:
            raise Killed
        result = act()
        if dies:
            raise Killed
        return result


class FakeRegistry:
    def __init__(self, world: World) -> None:
        self.world = world

    def observe(self, alias: str) -> Observed:
        world = self.world

        def registered(version: str) -> Registered:
            state, role, at = world.tags.get(version, (None, None, None))
            if role != alias:
                state = at = None
            uri = f"mlflow-artifacts:/1/models/m-{version}/artifacts"
            return Registered(version, uri, state, at)

        def find() -> Observed:
            mine = [
                registered(v) for v, (_, role, _) in sorted(world.tags.items()) if role == alias
            ]
            serving = [r for r in mine if r.state is RolloutState.SERVING]
            assert len(serving) <= 1
            named = world.aliases.get(alias)
            return Observed(
                wanted=registered(named) if named else None,
                serving=serving[0] if serving else None,
                rolling=tuple(r for r in mine if r.state is RolloutState.ROLLING_OUT),
                outdated=(),
            )

        return world.call(find)

    def tell(self, version, role, state, reason, at) -> None:
        def write() -> None:
            self.world.tags[version] = (state, role, at)
            self.world.told.append((version, role, state))

        self.world.call(write)

    def download(self, version, models_dir, keep=frozenset()) -> None:
        self.world.call()


class FakeServer:
    def __init__(self, world: World, alias: str) -> None:
        self.world, self.alias = world, alias

    def look(self) -> Target:
        def find() -> Target:
            model, started, stopped = self.world.asked[self.alias]
            version = model.version if model else None
            running = self.world.pods.get(self.alias)
            fine = running == model
            return Target(
                uid="uid",
                generation=1,
                version=version,
                storage_uri=model.storage_uri if model else None,
                started=started,
                stopped=stopped,
                unready=None if fine else "not ready",
                failed=None,
                rollout=Rollout(version, True, 1, 1, 1, 1 if fine else 0, None),
            )

        return self.world.call(find)

    def serve(self, model: Model, since: datetime) -> Target:
        def patch() -> None:
            self.world.asked[self.alias] = (model, since, False)
            self.world.served.append((self.alias, model.version))

        self.world.call(patch)
        return self.look()

    def stop(self) -> None:
        def patch() -> None:
            model, started, _ = self.world.asked[self.alias]
            self.world.asked[self.alias] = (model, started, True)
            self.world.pods[self.alias] = None

        self.world.call(patch)

    def tell(self, kind, target, reason, message) -> None:
        self.world.call()


class FakePredictor:
    def __init__(self, world: World, alias: str) -> None:
        self.world, self.alias = world, alias

    def version(self) -> str:
        running = self.world.call(lambda: self.world.pods.get(self.alias))
        if running is None:
            raise TemporaryError("no pod")
        return running.version

    def score(self, texts) -> Scored:
        def answer() -> Scored:
            running = self.world.pods.get(self.alias)
            if running is None or running.version in SILENT:
                raise TemporaryError("no answer")
            row = (0.9, 0.05, 0.05) if running.version in WRONG else EXAMPLE.probabilities[0]
            probabilities = np.array([row] * len(texts), np.float32)
            return Scored(probabilities, "sentiment", running.version)

        return self.world.call(answer)


class FakeExaminer:
    def __init__(self, world: World) -> None:
        self.world = world

    def examine(self, version: str) -> Examination:
        self.world.call()
        bad = version in REFUSED
        return Examination(
            (Check("artifact", not bad, "it holds types that are not trusted" if bad else "fine"),),
            None if bad else 0.7,
            None if bad else EXAMPLE,
        )


class FakeJournal:
    def record(self, *entry) -> None:
        pass

    def flush(self) -> None:
        pass


def fresh(world: World) -> Promoter:
    roles = tuple(
        Role(alias, FakeServer(world, alias), FakePredictor(world, alias))
        for alias in (CHAMPION, CHALLENGER)
    )
    return Promoter(
        FakeRegistry(world),
        FakeExaminer(world),
        FakeJournal(),
        roles,
        models_dir=None,
        artifact_root=ROOT,
        poll_seconds=POLL,
        deadline_seconds=DEADLINE,
        gate=GateSettings(),
        clock=lambda: world.now,
    )


def new_world() -> World:
    return World(
        asked={CHAMPION: (None, None, False), CHALLENGER: (None, None, True)},
        pods={CHAMPION: None, CHALLENGER: None},
    )


def roll_pods(world: World) -> None:
    """KServe's part: pods of what is asked for, as far as they can become ready."""
    for alias, (model, _, stopped) in world.asked.items():
        if stopped:
            world.pods[alias] = None
        elif model is not None and model.version not in BROKEN:
            world.pods[alias] = model


def turn(world: World, promoter: Promoter) -> Promoter:
    """One round, and the time until the next; a killed promoter comes back as a new one."""
    try:
        pause = promoter.round()
    except Killed:
        promoter, pause = fresh(world), POLL
        world.calls_left = None
    world.now += timedelta(seconds=max(pause, 0.01))
    return promoter


def settle(world: World, promoter: Promoter) -> Promoter:
    """Long enough for anything to end; nothing disturbs it."""
    world.calls_left, world.away = None, False
    end = world.now + timedelta(seconds=6 * DEADLINE)
    while world.now < end:
        promoter = turn(world, promoter)
        roll_pods(world)
    return promoter


def model_of(version: str) -> Model:
    return Model(version, f"{ROOT}/1/models/m-{version}/artifacts")


def served(world: World, alias: str) -> str | None:
    model, _, stopped = world.asked[alias]
    return None if stopped or model is None else model.version


def state(world: World, version: str) -> RolloutState | None:
    return world.tags.get(version, (None, None, None))[0]


aliases = st.sampled_from([CHAMPION, CHALLENGER])
happenings = st.one_of(
    st.tuples(st.just("alias"), aliases, st.sampled_from([None, *VERSIONS])),
    st.tuples(st.just("by hand"), aliases, st.sampled_from(VERSIONS)),
    st.tuples(st.just("kill"), st.integers(0, 12), st.booleans()),
    st.tuples(st.just("turns"), st.integers(1, 6)),
    st.tuples(st.just("pods")),
    st.tuples(st.just("away"), st.integers(1, 4)),
    st.tuples(st.just("time"), st.sampled_from([1.0, DEADLINE / 2, 2 * DEADLINE])),
)


def happen(world: World, promoter: Promoter, what: tuple) -> Promoter:
    match what:
        case ("alias", alias, None):
            world.aliases.pop(alias, None)
        case ("alias", alias, version):
            world.aliases[alias] = version
        case ("by hand", alias, version):
            world.asked[alias] = (Model(version, "s3://by/hand"), None, False)
        case ("kill", calls, after):
            world.calls_left, world.kill_after = calls, after
        case ("turns", rounds):
            for _ in range(rounds):
                promoter = turn(world, promoter)
        case ("pods",):
            roll_pods(world)
        case ("away", rounds):
            world.away = True
            for _ in range(rounds):
                promoter = turn(world, promoter)
            world.away = False
        case ("time", seconds):
            world.now += timedelta(seconds=seconds)
    return promoter


@settings(max_examples=100, deadline=None)
@given(st.lists(happenings, max_size=25))
def test_whatever_happens_it_ends_in_step_or_on_the_last_good_version(whatever: list) -> None:
    world = new_world()
    promoter = fresh(world)
    world.aliases[CHAMPION] = "1"
    promoter = settle(world, promoter)
    assert served(world, CHAMPION) == "1"

    for what in whatever:
        promoter = happen(world, promoter, what)
        promoter = turn(world, promoter)
    promoter = settle(world, promoter)

    ours = {version for _, version in world.served}
    assert not ours & REFUSED, "a version that the gate refuses was served"
    wanted = world.aliases.get(CHAMPION)
    now = served(world, CHAMPION)
    assert world.asked[CHAMPION][0].storage_uri != "s3://by/hand"
    assert now in GOOD, "what cannot be served is left in place"
    if wanted in GOOD and state(world, wanted) is not RolloutState.ROLLED_BACK:
        assert now == wanted
        assert state(world, wanted) is RolloutState.SERVING
    elif wanted in REFUSED:
        assert state(world, wanted) is RolloutState.REFUSED
    elif wanted in BROKEN | WRONG | SILENT:
        assert state(world, wanted) is RolloutState.ROLLED_BACK
    challenger = world.aliases.get(CHALLENGER)
    if challenger in (None, wanted, now) or challenger not in GOOD:
        assert served(world, CHALLENGER) is None
    elif state(world, challenger) is not RolloutState.ROLLED_BACK:
        assert served(world, CHALLENGER) == challenger
    before = list(world.served)
    settle(world, promoter)
    assert world.served == before, "it does not come to rest"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.booleans(), st.sampled_from(VERSIONS[1:]))
def test_killed_at_any_call_of_a_promotion_it_ends_as_if_it_had_not_been(
    calls: int, after: bool, version: str
) -> None:
    ends = []
    for kill in (None, calls):
        world = new_world()
        world.aliases[CHAMPION] = "1"
        promoter = settle(world, fresh(world))
        world.aliases[CHAMPION] = version
        promoter = turn(world, promoter)
        world.calls_left, world.kill_after = kill, after
        for _ in range(3):
            promoter = turn(world, promoter)
            roll_pods(world)
        settle(world, promoter)
        ends.append((served(world, CHAMPION), {v: entry[:2] for v, entry in world.tags.items()}))

    assert ends[0] == ends[1]


def test_a_version_rolled_back_is_tried_again_only_when_the_alias_is_set_anew() -> None:
    world = new_world()
    world.aliases[CHAMPION] = "1"
    promoter = settle(world, fresh(world))
    world.aliases[CHAMPION] = "5"
    promoter = settle(world, promoter)
    tries = world.served.count((CHAMPION, "5"))

    promoter = settle(world, fresh(world))
    after_restart = world.served.count((CHAMPION, "5"))
    del world.aliases[CHAMPION]
    promoter = turn(world, promoter)
    world.aliases[CHAMPION] = "5"
    settle(world, promoter)

    assert (tries, after_restart) == (1, 1)
    assert world.served.count((CHAMPION, "5")) == 2
    assert served(world, CHAMPION) == "1"


def test_two_promotions_in_a_row_end_at_the_second_and_the_first_is_said_to_be_replaced() -> None:
    world = new_world()
    world.aliases[CHAMPION] = "1"
    promoter = settle(world, fresh(world))

    world.aliases[CHAMPION] = "2"
    for _ in range(4):
        promoter = turn(world, promoter)
    assert state(world, "2") is RolloutState.ROLLING_OUT
    world.aliases[CHAMPION] = "8"
    settle(world, promoter)

    assert served(world, CHAMPION) == "8"
    assert [state(world, v) for v in "128"] == [
        RolloutState.REPLACED, RolloutState.REPLACED, RolloutState.SERVING,
    ]  # fmt: skip


def test_an_alias_moved_back_during_a_rollout_puts_the_old_version_back() -> None:
    world = new_world()
    world.aliases[CHAMPION] = "1"
    promoter = settle(world, fresh(world))
    world.aliases[CHAMPION] = "2"
    for _ in range(4):
        promoter = turn(world, promoter)

    world.aliases[CHAMPION] = "1"
    promoter = settle(world, promoter)

    assert served(world, CHAMPION) == "1"
    assert (state(world, "1"), state(world, "2")) == (RolloutState.SERVING, RolloutState.REPLACED)


def test_the_challenger_becomes_champion_and_is_no_challenger_any_more() -> None:
    world = new_world()
    world.aliases = {CHAMPION: "1", CHALLENGER: "2"}
    promoter = settle(world, fresh(world))
    beside = (served(world, CHAMPION), served(world, CHALLENGER))

    world.aliases[CHAMPION] = "2"
    settle(world, promoter)

    assert beside == ("1", "2")
    assert (served(world, CHAMPION), served(world, CHALLENGER)) == ("2", None)
    assert world.tags["2"][:2] == (RolloutState.SERVING, CHAMPION)


def test_a_first_model_that_never_becomes_ready_is_waited_for() -> None:
    world = new_world()
    world.aliases[CHAMPION] = "5"

    settle(world, fresh(world))

    assert served(world, CHAMPION) == "5"
    assert state(world, "5") is RolloutState.ROLLING_OUT
