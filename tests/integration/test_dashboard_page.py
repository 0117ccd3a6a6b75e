"""What the page shows of the past, in a real Chromium over real PostgreSQL and a real predictor."""

import gzip
import json
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from services.dashboard import app
from tests.integration.conftest import PostgresHandle
from tests.integration.predictor import Predictor
from tests.integration.test_dashboard import HOSTILE, page, promote, serving, store
from tests.integration.test_history import put
from tests.integration.test_notifier import RULE, ask, keep

__all__ = ["page"]  # The browser's fixture.

_MOST_BYTES = 300_000
_STATIC = Path(app.__file__).parent / "static"


@pytest.fixture
def url(postgres: PostgresHandle, predictor: Predictor) -> Iterator[str]:
    with serving(postgres, INFERENCE_URL=predictor.url) as address:
        yield address


@pytest.fixture
def said(page: Page) -> list[str]:
    """What the browser complains about: errors, and anything the policy has blocked."""
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    return messages


def chart(page: Page, name: str, dataset: int) -> list[Any]:
    """What a chart draws."""
    found: list[Any] = page.evaluate(
        "([name, dataset]) => Chart.getChart(name).data.datasets[dataset].data", [name, dataset]
    )
    return found


def test_a_stored_post_comes_to_the_page_by_itself(
    url: str, page: Page, postgres: PostgresHandle, said: list[str]
) -> None:
    page.goto(url)
    expect(page.locator("#state")).to_contain_text("live")

    store(postgres, ["the first one"])

    expect(page.locator("#newest")).to_contain_text("the first one")
    assert said == []


def test_average_and_counts_on_the_page_are_those_of_sql(
    url: str, page: Page, postgres: PostgresHandle, said: list[str]
) -> None:
    now = datetime.now(UTC)
    put(postgres, ["good"] * 5, now)
    put(postgres, ["bad"] * 2, now - timedelta(days=1), "negative")
    put(postgres, ["fine"] * 3, now - timedelta(days=2), "neutral")
    promote(postgres, ("champion", "7", "serving"))

    page.goto(f"{url}/?range=30d")
    expect(page.locator("#points tr")).to_have_count(3)

    rows = ask(
        postgres,
        "SELECT average_score::float8, negative, neutral, positive FROM sentiment_by_day "
        "WHERE topic = '*' ORDER BY day",
    )
    (total,) = ask(postgres, "SELECT count(*), avg(score) FROM posts WHERE label IS NOT NULL")
    assert chart(page, "averages", 2) == pytest.approx([row[0] for row in rows])
    for dataset in range(3):
        assert chart(page, "counts", dataset) == [row[1 + dataset] for row in rows]
    assert f"{total[0]} posts" in page.locator("#over-time-note").inner_text()
    assert page.evaluate("Chart.getChart('averages').options.plugins.marks.at.length") == 1
    assert said == []


def test_what_is_chosen_is_in_the_address_and_comes_back_with_it(
    url: str, page: Page, postgres: PostgresHandle, said: list[str]
) -> None:
    now = datetime.now(UTC)
    put(postgres, ["the train was late"], now, "negative")
    put(postgres, [HOSTILE, "the bus was late"], now, "negative", topic="buses")

    page.goto(url)
    page.get_by_label("Topic").first.select_option("buses")
    page.get_by_label("Text").fill("LATE")
    expect(page.locator("#newest li")).to_have_count(1)
    expect(page).to_have_url(f"{url}/?topic=buses&text=LATE&order=newest")
    address = page.url
    page.goto("about:blank")
    page.goto(address)

    expect(page.locator("#newest li")).to_contain_text("the bus was late")
    link = page.locator("[data-export=jsonl]").get_attribute("href")
    with urllib.request.urlopen(f"{url}{link}") as answer:
        exported = [json.loads(line)["text"] for line in answer]
    assert exported == ["the bus was late"]
    page.get_by_role("button", name="Clear").click()
    expect(page).to_have_url(f"{url}/")
    expect(page.locator("#newest li")).to_have_count(3)
    assert page.title() == "moodstream"
    assert said == []


def test_words_that_drive_it_and_a_sentence_with_its_words_weighed(
    url: str, page: Page, postgres: PostgresHandle, said: list[str]
) -> None:
    now = datetime.now(UTC)
    put(postgres, ["the train was terrible"] * 4, now, "negative")
    put(postgres, ["the train was wonderful"] * 4, now)

    page.goto(url)
    expect(page.locator("#drivers-negative")).to_contain_text("terrible")
    expect(page.locator("#drivers-positive")).to_contain_text("wonderful")
    page.locator("#sentence").fill(f"😀 terrible {HOSTILE}")
    page.get_by_role("button", name="Score").click()

    expect(page.locator("#tried mark.down").first).to_have_text("terrible")
    assert HOSTILE in page.locator("#tried .sentence").inner_text()
    assert page.locator("#tried img, #tried script").count() == 0
    assert said == []


def test_a_rule_is_made_tried_and_removed_on_the_page(
    url: str, page: Page, postgres: PostgresHandle, said: list[str]
) -> None:
    now = datetime.now(UTC)
    put(postgres, ["terrible"] * 30, now - timedelta(hours=3), "negative")
    page.goto(url)
    page.locator("#rule-editor summary").click()
    page.get_by_label("Name", exact=True).first.fill("turns-sour")
    page.get_by_label("Threshold").fill("-0.2")

    page.get_by_role("button", name="Try on the last 7 days").click()
    expect(page.locator("#ruled")).to_contain_text("would have told 1 times")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_label("Your name").fill("Ada")
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#rule-list")).to_contain_text("turns-sour")
    page.locator("#rules-text summary").click()
    expect(page.get_by_label("Rules", exact=True)).to_have_value(
        "rules:\n- name: turns-sour\n  kind: level\n  threshold: -0.2\n"
    )
    page.get_by_role("button", name="remove").click()

    expect(page.locator("#rule-list")).to_contain_text("no rules yet")
    assert ask(postgres, "SELECT count(*) FROM rules") == [(0,)]
    assert said == []


def test_what_somebody_is_about_to_choose_stays_while_the_page_refreshes(
    url: str, page: Page, postgres: PostgresHandle, said: list[str]
) -> None:
    ask(postgres, "INSERT INTO channels (name, kind) VALUES ('hook', 'webhook') RETURNING name")
    page.goto(url)
    page.locator("#rule-editor summary").click()
    page.get_by_label("hook").focus()

    with page.expect_response("**/api/channels"):
        pass
    expect(page.get_by_label("hook")).to_be_focused()
    ask(postgres, "INSERT INTO channels (name, kind) VALUES ('mail', 'apprise') RETURNING name")

    page.get_by_label("hook").check()
    expect(page.get_by_label("mail")).to_be_visible(timeout=15_000)
    expect(page.get_by_label("hook")).to_be_checked()
    assert said == []


def test_alerts_and_messages_are_shown_as_text(
    url: str, page: Page, postgres: PostgresHandle, said: list[str]
) -> None:
    keep(postgres, **RULE)
    ask(
        postgres,
        "INSERT INTO alerts (rule, kind, topic, posts, summary, opened_at) "
        "VALUES ('wave', 'level', 'trains', 9, %s, now()) RETURNING id",
        HOSTILE,
    )

    page.goto(url)

    expect(page.locator("#alert-list .open")).to_contain_text(HOSTILE)
    assert page.title() == "moodstream"
    assert said == []


def test_the_api_has_a_page_of_its_own(url: str, page: Page, said: list[str]) -> None:
    page.goto(f"{url}/api/docs")

    expect(page.locator("#api")).to_contain_text("/api/series")
    assert said == []


def test_the_page_is_small(url: str) -> None:
    """Everything that the page loads, compressed."""
    files = [*_STATIC.glob("*.js"), *_STATIC.glob("*.css"), _STATIC / "index.html"]
    files = [file for file in files if file.name != "api.js"] + [_STATIC / "lib" / "chart.umd.js"]
    request = urllib.request.Request(
        f"{url}/static/lib/chart.umd.js", headers={"Accept-Encoding": "gzip"}
    )
    with urllib.request.urlopen(request) as answer:
        sent = answer.read()

    assert sum(len(gzip.compress(file.read_bytes())) for file in files) < _MOST_BYTES
    assert len(sent) < _MOST_BYTES / 2
    assert gzip.decompress(sent) == (_STATIC / "lib" / "chart.umd.js").read_bytes()
