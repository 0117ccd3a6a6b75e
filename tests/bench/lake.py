"""Benchmarks of the lake and of backfills: `python -m tests.bench.lake [--posts 1000000]`.

Each job is a process of its own; its peak of memory is what the kernel says of it, asked until it
ends.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from services.local.workloads import SAMPLE
from tests.bench.__main__ import live
from tests.bench.rig import Rig, fit, running, texts
from tests.integration.test_maintenance import postgres_variables
from tests.integration.warehouse import add_posts

_SINCE: Final = datetime(2026, 3, 1, tzinfo=UTC)
_HOURS: Final = 8
"""Of one round of the backfill."""
_ROUNDS: Final = 3
"""Of the live stream alone and beside a backfill at its ordinary pace."""
_SETTLE_SECONDS: Final = 3
_LOOK_SECONDS: Final = 0.05


class Job:
    """A job of the lake, or of maintenance, at work."""

    def __init__(self, rig: Rig, lake: Path, module: str, command: str, **settings: str) -> None:
        self._began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"services.{module}", command],
            env=os.environ
            | postgres_variables(rig.postgres.settings)
            | {
                "MOODSTREAM_LAKE_URI": f"file://{lake}",
                "MOODSTREAM_INFERENCE_URL": f"http://127.0.0.1:{rig.predictor_port}",
            }
            | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def result(self) -> dict[str, Any]:
        """What it said, the seconds it took and its peak of memory in MB."""
        assert self._process.stdout is not None
        peak = 0
        while self._process.poll() is None:
            # Not the resource usage of a child that has ended: that begins with its parent's.
            lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
            peak = max([peak, *(int(line.split()[1]) for line in lines if "VmHWM" in line)])
            time.sleep(_LOOK_SECONDS)
        said = self._process.communicate()[0]
        if self._process.returncode:
            raise SystemExit(f"a job failed with exit status {self._process.returncode}")
        seconds = round(time.perf_counter() - self._began, 1)
        return {"seconds": seconds, "peak_mb": peak // 1024, **json.loads(said)}

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.communicate()


def lake(rig: Rig, folder: Path, posts: int) -> dict[str, Any]:
    """A first daily run over so many posts, one that finds nothing new, and one that merges."""
    first = Job(rig, folder, "etl", "daily").result()
    idle = Job(rig, folder, "etl", "daily").result()
    keep = (datetime.now(UTC) - _SINCE).days - 1
    pruned = Job(rig, folder, "maintenance", "prune", MOODSTREAM_RETENTION_DAYS=str(keep)).result()
    add_posts(rig.postgres.settings, _SINCE, 1_000, first=posts)
    merged = Job(rig, folder, "etl", "daily").result()
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    return {
        "first": first,
        "rows_per_second": round(posts / first["seconds"]),
        "nothing_new": idle,
        "prune": pruned,
        "merge": merged,
        "merge_rows_per_second": round(merged["posts_written"] / merged["seconds"]),
        "bytes_per_post": round(size / posts, 1),
    }


def _rescored(rig: Rig) -> int:
    return int(rig.query("SELECT count(*) FROM rescored_predictions")[0][0])


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser("tests.bench.lake", description=__doc__)
    parser.add_argument("--posts", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=4, help="days that the posts are spread over")
    parser.add_argument("--rate", type=int, default=250, help="posts/s of the live stream")
    parser.add_argument("--seconds", type=int, default=20, help="length of each live part")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="moodstream-bench-") as name:
        home = Path(name)
        home.chmod(0o755)
        model = fit([SAMPLE], None, home / "model")
        with running(home, model) as rig:
            add_posts(
                rig.postgres.settings,
                _SINCE,
                arguments.posts,
                span=f"{arguments.days} days",
                texts=texts(),
            )
            found: dict[str, Any] = {"posts": arguments.posts, "cores": os.cpu_count()}
            found["lake"] = lake(rig, home / "lake", arguments.posts)
            sys.stderr.write(f"{found['lake']}\n")
            end = _SINCE + timedelta(days=arguments.days)
            for workers in (1, 2):
                # Each round has hours of its own.
                end -= timedelta(hours=_HOURS)
                window = {
                    "MOODSTREAM_BACKFILL_SHARE": "1",
                    "MOODSTREAM_BACKFILL_SINCE": end.isoformat(),
                    "MOODSTREAM_BACKFILL_UNTIL": (end + timedelta(hours=_HOURS)).isoformat(),
                }
                jobs = [
                    Job(rig, home / "lake", "etl", "backfill", **window) for _ in range(workers)
                ]
                with ThreadPoolExecutor(workers) as pool:
                    said = list(pool.map(Job.result, jobs))
                posts = sum(each["posts_read"] for each in said)
                found[f"backfill_by_{workers}"] = {
                    "posts_per_second": round(posts / max(each["seconds"] for each in said)),
                    "workers": said,
                }
                sys.stderr.write(f"{found[f'backfill_by_{workers}']}\n")
            found["live"] = []
            for _ in range(_ROUNDS):
                alone = live(rig, arguments.rate, arguments.seconds)
                before = _rescored(rig)
                job = Job(rig, home / "lake", "etl", "backfill")
                time.sleep(_SETTLE_SECONDS)
                beside = live(rig, arguments.rate, arguments.seconds)
                job.kill()
                found["live"].append(
                    {"alone": alone, "beside": beside, "rescored": _rescored(rig) - before}
                )
                sys.stderr.write(f"{found['live'][-1]}\n")
    sys.stdout.write(json.dumps(found, default=str) + "\n")


if __name__ == "__main__":
    main()
