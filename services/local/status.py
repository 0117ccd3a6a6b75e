"""What runs in a folder, as one report."""

from typing import Any

from services.core.contract import CHALLENGER, CHAMPION
from services.core.errors import TemporaryError
from services.core.settings import KafkaSettings
from services.local import run
from services.local.figures import CONSUMER_GROUP, Probe
from services.local.mlflow import alias_version
from services.local.net import responds
from services.local.postgres import Postgres
from services.local.serving import served_version
from services.local.settings import LocalSettings


def take(settings: LocalSettings) -> dict[str, Any]:
    """The report; `running` is false, and the rest empty, when nothing runs there."""
    found = run.find(settings.home)
    if found is None:
        return {"running": False, "parts": {}, "starting": run.is_running(settings.home)}
    kafka = run.settings(found, KafkaSettings)
    port = int(found.environment["MOODSTREAM_POSTGRES_PORT"])
    mlflow_url = found.environment["MOODSTREAM_MLFLOW_URL"]
    probe = Probe(kafka, Postgres(settings.home, port).settings, CONSUMER_GROUP)
    parts = {name: responds(url) for name, url in found.ready.items()}
    try:
        reading, newest, now = probe.read(), probe.newest(1), probe.now()
        predictions = probe.predictions(found.began_at)
    except TemporaryError:
        return {"running": True, "parts": parts | {"kafka and postgres": False}, "urls": found.urls}
    finally:
        probe.close()
    return {
        "running": True,
        "parts": parts | {"kafka": True, "postgres": True},
        "lag": reading.lag,
        "stored": reading.taken.stored,
        "duplicates": reading.taken.duplicates,
        "dead_lettered": reading.taken.dead_lettered,
        "newest_post_age_seconds": (
            round((now - newest[0].stored_at).total_seconds(), 1) if newest else None
        ),
        "model": {
            "served": served_version(found.environment["MOODSTREAM_INFERENCE_URL"]),
            "champion": alias_version(mlflow_url, CHAMPION),
            "challenger": alias_version(mlflow_url, CHALLENGER),
            "predictions": predictions,
        },
        "urls": found.urls,
    }
