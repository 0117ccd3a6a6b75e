"""Maintenance: jobs that a cluster runs beside the services, each one command.

python -m services.maintenance migrate   bring the warehouse to the newest schema
python -m services.maintenance prune     delete what is older than MOODSTREAM_RETENTION_DAYS
python -m services.maintenance check     reach everything that the environment names
"""

import argparse
import logging
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from services.core import lifecycle
from services.core.errors import MoodstreamError
from services.core.settings import PostgresSettings, load
from services.core.warehouse import upgrade
from services.maintenance import check
from services.maintenance.patience import patiently
from services.maintenance.prune import prune
from services.maintenance.rights import allow_dashboard
from services.maintenance.settings import MaintenanceSettings, RetentionSettings

log = logging.getLogger(__name__)


def main() -> None:
    """Runs one command."""
    commands = {"migrate": _migrate, "prune": _prune, "check": _check}
    parser = argparse.ArgumentParser(
        "services.maintenance", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=commands)
    name = parser.parse_args().command
    lifecycle.job(name, commands[name])


def _migrate() -> Mapping[str, Any]:
    postgres, settings = load(PostgresSettings), load(MaintenanceSettings)
    result: dict[str, Any] = {"schema": patiently(lambda: upgrade(postgres), settings.wait_seconds)}
    if role := settings.dashboard_role:
        granted = patiently(lambda: allow_dashboard(postgres, role), settings.wait_seconds)
        result["dashboard_may_write"] = role if granted else None
    return result


def _prune() -> Mapping[str, Any]:
    return asdict(prune(load(PostgresSettings), load(RetentionSettings).days))


def _check() -> Mapping[str, Any]:
    """One line for each target, as it answers."""
    wait = load(MaintenanceSettings).wait_seconds
    asked = check.targets()
    if not asked:
        raise check.NothingToCheckError(
            "the environment names nothing to check: set MOODSTREAM_POSTGRES_HOST, "
            "MOODSTREAM_KAFKA_BOOTSTRAP_SERVERS, MOODSTREAM_INFERENCE_URL or MOODSTREAM_CHECK_URLS"
        )
    failed = []
    for name, ask in asked:
        try:
            said = f"ok      {name}: {patiently(ask, wait)}"
        except MoodstreamError as exc:
            failed.append(name)
            said = f"failed  {name}: {exc}"
        sys.stderr.write(f"{said}\n")
    if failed:
        raise check.UnreachableError(f"not reached: {', '.join(failed)}")
    return {"reached": [name for name, _ in asked]}
