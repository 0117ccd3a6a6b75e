"""The jobs on stored posts, each one command. Each may be killed at any moment and run again.

python -m services.etl daily             delete, lake and aggregates, in this order
python -m services.etl lake              write each day that has changed to MOODSTREAM_LAKE_URI
python -m services.etl aggregates        count every day of the lake anew and compare the rollups
python -m services.etl delete [POST...]  take deletion notices in (source/id), apply all that wait
python -m services.etl backfill          score the past with the model at MOODSTREAM_INFERENCE_URL
python -m services.etl airtable          bring the daily aggregates to an Airtable base
python -m services.etl hyper             write an extract for Tableau
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from services.core import lifecycle
from services.core.lake import exclusive
from services.core.settings import InferenceSettings, PostgresSettings, load
from services.etl import aggregates, airtable, delete, hyper, lake
from services.etl.backfill import backfill
from services.etl.files import Files
from services.etl.settings import AwsSettings, BackfillSettings, LakeSettings


def main() -> None:
    """Runs one command."""
    commands = {
        "daily": _daily,
        "lake": _lake,
        "aggregates": _aggregates,
        "backfill": _backfill,
        "airtable": airtable.run,
        "hyper": hyper.run,
    }
    parser = argparse.ArgumentParser(
        "services.etl", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=[*commands, "delete"])
    parser.add_argument("posts", nargs="*", help="of delete: posts to delete, as source/id")
    arguments = parser.parse_args()
    name, posts = arguments.command, arguments.posts
    if name == "delete":
        lifecycle.job(name, lambda: _delete(posts))
    elif posts:
        parser.error(f"{name} takes no posts")
    else:
        lifecycle.job(name, commands[name])


def _daily() -> Mapping[str, Any]:
    postgres, files = load(PostgresSettings), _files()
    with exclusive(postgres, "moodstream daily") as connection:
        lake.check(connection, files.uri)
        deleted = delete.apply(connection, files)
        written = lake.write(connection, postgres, files)
        checked = aggregates.check(connection, files, everything=False)
    return {**deleted, **written, **checked}


def _lake() -> Mapping[str, Any]:
    postgres, files = load(PostgresSettings), _files()
    with exclusive(postgres, "moodstream lake") as connection:
        return lake.write(connection, postgres, files)


def _aggregates() -> Mapping[str, Any]:
    files = _files()
    with exclusive(load(PostgresSettings), "moodstream aggregates") as connection:
        return aggregates.check(connection, files, everything=True)


def _delete(posts: Sequence[str]) -> Mapping[str, Any]:
    postgres, files = load(PostgresSettings), _files_if_any()
    new = delete.notice(postgres, posts)
    with exclusive(postgres, "moodstream delete") as connection:
        lake.check(connection, files.uri if files else None)
        deleted = delete.apply(connection, files)
        written = lake.write(connection, postgres, files) if files else {}
    return {"new_notices": new, **deleted, **written}


def _backfill() -> Mapping[str, Any]:
    postgres, inference = load(PostgresSettings), load(InferenceSettings)
    return backfill(postgres, inference, _files_if_any(), load(BackfillSettings))


def _files() -> Files:
    return Files(load(LakeSettings), load(AwsSettings))


def _files_if_any() -> Files | None:
    return _files() if load(LakeSettings).uri else None
