"""Benchmarks on the real parts: `python -m tests.bench [--only drain,live,...]`.

drain     posts/s from a full Kafka topic to committed rows; where the time goes; CPU, memory, disk
live      produce, score and store at once: latency at fixed rates, and the highest rate
serving   the predictor's texts/s and latency, REST and gRPC
peers     the textbook pipeline, Quix Streams, MLflow's and MLServer's servers on the same model
limits    each part on its own: no model, COPY, the model in process, Kafka's own tools
growth    the drain into a warehouse of many rows, and with many Kafka partitions
quality   how the model judges labelled texts; needs --test

Machines differ and are noisy: each figure is the median of several runs, and ratios are the result.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil

from services.core.model import load
from services.local.workloads import SAMPLE
from tests.bench import peers, pipeline, serving
from tests.bench.rig import Rig, fit, running, versions
from training.evaluate import evaluate
from training.readers import read

_PARTS: Final = ("drain", "live", "serving", "peers", "limits", "growth", "quality")


def quality(model: Path, data: Path) -> dict[str, Any]:
    """How the model judges labelled texts that it was not trained on."""
    dataset = read(data)
    found = evaluate(load(model, "1"), dataset)
    return {
        "data": data.name,
        "rows": found.rows,
        "macro_recall": round(found.macro_recall, 4),
        "accuracy": round(found.accuracy, 4),
        "macro_f1": round(found.macro_f1, 4),
    }


def machine() -> dict[str, Any]:
    """What this was measured on."""
    processor = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "load": round(os.getloadavg()[0], 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "kafka": versions()["KAFKA_VERSION"],
    }


def _lines(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _lines(f"{name}.{key}", inner)
    else:
        yield name, value


def main() -> None:
    """Runs what was asked for; prints a table, and one JSON object as the last line."""
    parser = argparse.ArgumentParser(
        "tests.bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default=",".join(_PARTS), help="comma-separated parts")
    parser.add_argument(
        "--train", type=Path, nargs="+", default=[SAMPLE], help="labelled texts for the model"
    )
    parser.add_argument("--test", type=Path, help="labelled texts, not learned from, for quality")
    parser.add_argument("--posts", type=int, default=200_000, help="posts of one drain")
    parser.add_argument(
        "--rates", type=int, nargs="+", default=[250, 1_000, 5_700], help="posts/s of the live part"
    )
    parser.add_argument("--seconds", type=int, default=30, help="length of each live rate")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[0, 1_000_000, 10_000_000],
        help="sizes of the warehouse for growth",
    )  # fmt: skip
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    if unknown := set(wanted) - set(_PARTS):
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}")
    result: dict[str, Any] = {"machine": machine()}
    result["trained_on"] = [path.name for path in arguments.train]
    with tempfile.TemporaryDirectory(prefix="moodstream-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        model = fit(arguments.train, arguments.test, home / "model")
        if "quality" in wanted and arguments.test is not None:
            result["quality"] = quality(model, arguments.test)

        def beside(rig: Rig) -> dict[str, Any]:
            ours = result.get("drain") or pipeline.drain(rig, arguments.posts, 1, (1,))
            found = peers.pipelines(rig, model, arguments.posts, ours["posts_per_second"])
            return found | serving.peers(home, model, arguments.runs)

        parts: dict[str, Callable[[Rig], dict[str, Any]]] = {
            "drain": lambda rig: pipeline.drain(rig, arguments.posts, arguments.runs),
            "live": lambda rig: pipeline.live(rig, arguments.rates, arguments.seconds),
            "serving": lambda rig: serving.serving(rig, arguments.runs),
            "peers": beside,
            "limits": lambda rig: pipeline.limits(rig, model, arguments.posts),
            "growth": lambda rig: pipeline.growth(
                rig, arguments.posts, arguments.rows, (1, 3, 6, 12, 24)
            ),
        }
        if set(parts) & set(wanted):
            with running(home, model) as rig:
                for name, part in parts.items():
                    if name in wanted:
                        result[name] = part(rig)
                        if not arguments.json:
                            for key, value in _lines(name, result[name]):
                                sys.stdout.write(f"{key:<56}{value:>16}\n")
                                sys.stdout.flush()
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
