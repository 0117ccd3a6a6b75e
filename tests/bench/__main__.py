"""Benchmarks on the real parts: `python -m tests.bench [--only drain,live,serving,quality]`.

Machines differ and are noisy: each figure is the median of several runs, with its spread.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson
import urllib3

from services.core.model import load
from services.local.figures import latency_buckets, quantile
from services.local.workloads import SAMPLE
from tests.bench.rig import HUMAN_RATED, Rig, fit, metrics, running, texts
from tests.ports import free_port
from training.evaluate import evaluate
from training.readers import read

_STAGES: Final = ("decode", "score", "store")


def drain(rig: Rig, posts: int, runs: int) -> dict[str, Any]:
    """Posts per second from a full Kafka topic to committed rows, by one consumer."""
    rates, split = [], {}
    for _ in range(runs):
        rig.fill(posts)
        before, port = rig.ledger(), free_port()
        consumer = rig.consumer(port)
        while rig.ledger() == before:
            time.sleep(0.005)
        first, started = rig.ledger(), time.perf_counter()
        while (now := rig.ledger()) < before + posts:
            time.sleep(0.02)
        rates.append((now - first) / (time.perf_counter() - started))
        seen = metrics(port)
        split = {
            stage: seen[f'moodstream_consumer_stage_seconds_total{{stage="{stage}"}}'] / posts * 1e6
            for stage in _STAGES
        }
        consumer.terminate()
        consumer.wait(30)
    assert rig.query("SELECT * FROM rollup_errors LIMIT 1") == []
    return {
        "posts_per_second": round(statistics.median(rates)),
        "lowest": round(min(rates)),
        "highest": round(max(rates)),
        "posts": posts,
        "runs": runs,
        "microseconds_per_post": {stage: round(value, 1) for stage, value in split.items()},
    }


def live(rig: Rig, rate: int, seconds: int) -> dict[str, Any]:
    """Milliseconds from Kafka append to committed row, at a fixed rate of published posts."""
    port = free_port()
    consumer = rig.consumer(port)
    before = rig.ledger()
    producer = rig.service(
        "producer",
        free_port(),
        {
            "MOODSTREAM_PRODUCER_SOURCE": "replay",
            "MOODSTREAM_REPLAY_PATH": str(HUMAN_RATED if HUMAN_RATED.exists() else SAMPLE),
            "MOODSTREAM_REPLAY_RATE": str(rate),
            "MOODSTREAM_REPLAY_LOOP": "true",
        },
        ready=None,
    )
    while rig.ledger() == before:
        time.sleep(0.05)
    started = latency_buckets([port])
    time.sleep(seconds)
    buckets = latency_buckets([port])
    buckets.subtract(started)
    producer.terminate()
    producer.wait(60)
    consumer.terminate()
    consumer.wait(60)
    found = {
        f"p{name}_ms": round((quantile(buckets, q) or 0) * 1000, 1)
        for name, q in (("50", 0.5), ("99", 0.99), ("99_9", 0.999))
    }
    return found | {
        "posts_per_second": round(buckets[float("inf")] / seconds, 1),
        "seconds": seconds,
    }


def serving(rig: Rig, runs: int) -> dict[str, Any]:
    """Texts per second through the predictor's V2 REST, the predictor held to one core."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(rig.predictor.pid, {cores[0]})
    pool = urllib3.PoolManager(maxsize=1)
    url = f"http://127.0.0.1:{rig.predictor_port}/v2/models/sentiment/infer"
    found = texts()
    rates: dict[str, Any] = {}
    for batch in (1, 32, 256, 1024):
        bodies = [
            orjson.dumps(
                {
                    "inputs": [
                        {
                            "name": "text",
                            "shape": [batch],
                            "datatype": "BYTES",
                            "data": [found[(start + i) % len(found)] for i in range(batch)],
                        }
                    ],
                    "outputs": [{"name": "probabilities"}],
                }
            )
            for start in range(0, 4096, max(batch, 16))
        ]
        measured = []
        for run in range(runs + 1):
            started = time.perf_counter()
            for body in bodies:
                answer = pool.request("POST", url, body=body)
                assert answer.status == 200, answer.data
            if run:
                measured.append(batch * len(bodies) / (time.perf_counter() - started))
        rates[f"batch_{batch}"] = round(statistics.median(measured))
    os.sched_setaffinity(rig.predictor.pid, set(cores))
    return {"texts_per_second": rates}


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


def main() -> None:
    """Runs what was asked for and prints one JSON object as the last line."""
    parser = argparse.ArgumentParser("tests.bench", description=__doc__)
    parser.add_argument(
        "--only", default="drain,live,serving,quality", help="comma-separated parts"
    )
    parser.add_argument(
        "--train", type=Path, nargs="+", default=[SAMPLE], help="labelled texts for the model"
    )
    parser.add_argument("--test", type=Path, help="labelled texts, not learned from, for quality")
    parser.add_argument("--posts", type=int, default=200_000, help="posts of one drain")
    parser.add_argument("--rate", type=int, default=250, help="posts/s of the live part")
    parser.add_argument("--seconds", type=int, default=30, help="length of the live part")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    result: dict[str, Any] = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "trained_on": [path.name for path in arguments.train],
    }
    with tempfile.TemporaryDirectory(prefix="moodstream-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        model = fit(arguments.train, arguments.test, home / "model")
        if "quality" in wanted and arguments.test is not None:
            result["quality"] = quality(model, arguments.test)
        parts: dict[str, Callable[[Rig], dict[str, Any]]] = {
            "serving": lambda rig: serving(rig, arguments.runs),
            "live": lambda rig: live(rig, arguments.rate, arguments.seconds),
            "drain": lambda rig: drain(rig, arguments.posts, arguments.runs),
        }
        if set(parts) & set(wanted):
            with running(home, model) as rig:
                for name, part in parts.items():
                    if name in wanted:
                        result[name] = part(rig)
                        if not arguments.json:
                            sys.stderr.write(f"{name}: {result[name]}\n")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
