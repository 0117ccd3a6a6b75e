"""What is stored can be taken away: by a person from the dashboard."""

import csv
import io
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from tests.e2e.deployed import SOURCE, Batch, Platform

_COUNT = 250
_ARRIVAL_SECONDS = 60


@pytest.fixture(scope="module")
def batch(platform: Platform) -> Batch:
    """Posts of our own, stored."""
    batch = platform.produce(_COUNT)
    platform.finish(batch.pod, 120)
    platform.wait_for_rows(batch, _COUNT, _ARRIVAL_SECONDS)
    return batch


@pytest.fixture
def dashboard(platform: Platform) -> Iterator[str]:
    """Its address."""
    with platform.forwarded("dashboard", 80) as address:
        yield address


def test_an_export_holds_every_post_with_its_label(
    platform: Platform, batch: Batch, dashboard: str
) -> None:
    content = _get(dashboard, what="posts", format="csv", topic=batch.prefix).decode()
    rows = list(csv.DictReader(io.StringIO(content)))

    stored = platform.sql(
        "SELECT label, count(*) AS posts FROM posts"  # noqa: S608
        f" WHERE source = '{SOURCE}' AND starts_with(id, '{batch.prefix}-') GROUP BY label"
    )
    assert len({row["id"] for row in rows}) == _COUNT
    assert Counter(row["label"] for row in rows) == {row["label"]: row["posts"] for row in stored}


@pytest.mark.parametrize(("format", "begins"), [("parquet", b"PAR1"), ("xlsx", b"PK")])
def test_an_export_for_programs_is_whole(
    batch: Batch, dashboard: str, format: str, begins: bytes
) -> None:
    content = _get(dashboard, what="posts", format=format, topic=batch.prefix)

    assert content.startswith(begins)
    assert len(content) > _COUNT


def test_the_editors_token_is_asked_for_where_there_is_one(
    platform: Platform, dashboard: str
) -> None:
    request = urllib.request.Request(
        f"{dashboard}/api/corrections",
        data=b"{}",
        headers={"Content-Type": "application/json", "Origin": dashboard},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)

    refused.value.close()
    has_token = "moodstream-editor/editor_token" in platform.secrets()
    assert refused.value.code == (401 if has_token else 422)


def _get(dashboard: str, **asked: str) -> bytes:
    with urllib.request.urlopen(f"{dashboard}/api/export?{urlencode(asked)}", timeout=60) as answer:
        content: bytes = answer.read()
    return content
