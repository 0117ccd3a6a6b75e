"""What a rate of posts needs, from measured figures, and how consumers follow a burst.

make bench | tail -1 > figures.json
python -m tests.bench.scale figures.json
"""

import argparse
import json
import math
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_DAY: Final = 86_400
_SYNC_SECONDS: Final = 15
"""How often a HorizontalPodAutoscaler looks, Kubernetes' default."""
_TOLERANCE: Final = 0.1
"""How far it lets the metric be from its target, Kubernetes' default."""


@dataclass(frozen=True)
class Need:
    """What a steady rate of posts needs. Cores are whole ones, kept busy."""

    posts_per_second: int
    consumers: int
    """So many, and at least so many Kafka partitions, with half of each in reserve."""
    consumer_cores: float
    predictor_cores: float
    postgres_cores: float
    kafka_cores: float
    postgres_gb_per_day: float
    kafka_gb_per_day: float
    """Of one replica."""


def need(figures: Mapping[str, Any], rate: int) -> Need:
    """What `rate` posts per second need by the benchmark's part `drain`."""
    drain = figures["drain"]
    cores = {
        name: seconds * rate / 1e6 for name, seconds in drain["cpu_seconds_per_million"].items()
    }
    disk = {
        name: megabytes * 1e6 * rate * _DAY / 1e6 / 1e9
        for name, megabytes in drain["disk_mb_per_million"].items()
    }
    return Need(
        rate,
        max(1, math.ceil(rate / (0.5 * drain["posts_per_second"]))),
        *(round(cores[name], 2) for name in ("consumer", "predictor", "postgres", "kafka")),
        postgres_gb_per_day=round(disk["postgres"], 1),
        kafka_gb_per_day=round(disk["kafka"], 1),
    )


@dataclass(frozen=True)
class Scaling:
    """The chart's values under consumer.scaling, and what a consumer does."""

    capacity: float
    """Posts per second of one consumer."""
    fewest: int = 1
    most: int = 4
    lag_threshold: int = 5_000
    scale_up_seconds: int = 15
    scale_down_seconds: int = 180
    start_seconds: int = 10
    """From the decision to a consumer that has its partitions."""


@dataclass(frozen=True)
class Moment:
    """One second of a simulation."""

    second: int
    lag: float
    wanted: int
    """Replicas of the Deployment; a new one works after its start."""


def follow(rate: Callable[[int], float], seconds: int, scaling: Scaling) -> Iterator[Moment]:
    """The lag and the number of consumers, second by second, as KEDA's Kafka trigger and the
    HorizontalPodAutoscaler's algorithm make them:
    https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details
    """
    lag, wanted = 0.0, scaling.fewest
    starts: deque[int] = deque()
    ups: deque[tuple[int, int]] = deque()
    downs: deque[tuple[int, int]] = deque()
    changed_up = changed_down = -_DAY
    up_period = max(_SYNC_SECONDS, scaling.scale_up_seconds)
    down_period = max(_SYNC_SECONDS, scaling.scale_down_seconds)
    for second in range(seconds):
        while starts and starts[0] <= second:
            starts.popleft()
        working = wanted - len(starts)
        lag = max(0.0, lag + rate(second) - working * scaling.capacity)
        if second % _SYNC_SECONDS == 0:
            # KEDA caps the lag, so that there are never more consumers than partitions.
            asked = min(math.ceil(lag / scaling.lag_threshold), scaling.most)
            if abs(lag / (wanted * scaling.lag_threshold) - 1) <= _TOLERANCE:
                asked = wanted
            asked = max(asked, scaling.fewest)
            for looks, window in (
                (ups, scaling.scale_up_seconds),
                (downs, scaling.scale_down_seconds),
            ):
                looks.append((second, asked))
                while looks[0][0] < second - window:
                    looks.popleft()
            lowest, highest = min(look for _, look in ups), max(look for _, look in downs)
            if lowest > wanted and second - changed_up >= up_period:
                wanted, changed_up = wanted + 1, second
                starts.append(second + scaling.start_seconds)
            elif highest < wanted and second - changed_down >= down_period:
                wanted, changed_down = wanted - 1, second
        yield Moment(second, lag, wanted)


def burst(capacity: float, rate: float, times: float, seconds: int) -> dict[str, Any]:
    """A rate that rises so many times for so long, from the chart's defaults."""
    moments = list(
        follow(
            lambda second: rate * times if 60 <= second < 60 + seconds else rate,
            60 + seconds + 3_600,
            Scaling(capacity),
        )
    )
    most = max(moment.wanted for moment in moments)
    caught_up = next((moment.second for moment in moments[120:] if moment.lag < 2 * capacity), None)
    return {
        "posts_per_second": rate,
        "times": times,
        "seconds": seconds,
        "most_consumers": most,
        "after_seconds": next(m.second for m in moments if m.wanted == most) - 60,
        "most_lag": round(max(moment.lag for moment in moments)),
        "caught_up_after_seconds": None if caught_up is None else caught_up - 60,
        "back_to_fewest_after_seconds": next(
            (m.second - 60 for m in moments[60 + seconds :] if m.wanted == 1), None
        ),
    }


def main() -> None:
    """Prints the needs of three rates and one burst, as JSON lines."""
    parser = argparse.ArgumentParser("tests.bench.scale", description=__doc__)
    parser.add_argument("figures", type=Path, help="the benchmark's JSON line")
    figures = json.loads(parser.parse_args().figures.read_text().splitlines()[-1])
    for rate in (250, 5_700, 143_000):
        sys.stdout.write(json.dumps(vars(need(figures, rate))) + "\n")
    sys.stdout.write(json.dumps(burst(figures["drain"]["posts_per_second"], 5_700, 10, 600)) + "\n")


if __name__ == "__main__":
    main()
