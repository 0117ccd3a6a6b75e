"""The documents say what the code says."""

import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from docs.reference import GROUPS, PAGE, page
from services.core.settings import group

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in ROOT.rglob("*.md") if path.relative_to(ROOT).parts[0][0] != ".")


def test_the_settings_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == page(), "run: make docs"


def test_every_settings_group_is_on_the_page() -> None:
    ours = {
        subclass
        for subclass in BaseSettings.__subclasses__()
        if subclass.__module__.startswith(("services.", "training."))
    }

    assert ours == set(GROUPS)
    assert group("X_")["frozen"]


@pytest.mark.parametrize("settings_class", GROUPS)
def test_every_setting_says_what_it_does(settings_class: type[BaseSettings]) -> None:
    undocumented = [
        name for name, field in settings_class.model_fields.items() if not field.description
    ]

    assert undocumented == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", path.read_text())

    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]

    assert missing == []
