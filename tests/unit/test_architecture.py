"""The architecture document and slides say what the project is, in both languages."""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docx
import pptx
import pytest
import yaml
from PIL import Image, ImageChops, ImageStat

from docs.architecture import scenes as scenes_module
from docs.architecture import source
from docs.architecture.__main__ import deliverables, packed
from docs.architecture.measure import column_widths
from docs.architecture.paper import picture, upper_part
from docs.architecture.scenes import check_places, scenes
from docs.architecture.show import slides
from docs.architecture.source import (
    LANGUAGES,
    SOURCES,
    SourceError,
    components,
    figures,
    kinds,
    relations,
    typeset,
    words,
)

_NO_BREAK = "\N{NO-BREAK SPACE}"
_MOST_DIFFERENCE = 1.0
"""Of a picture's pixels on average, of 255: another processor rounds letters otherwise."""


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {path.name: content for path, content in deliverables()}


def test_both_languages_have_the_same_parts() -> None:
    english, french = (yaml.safe_load((SOURCES / f"{name}.yaml").read_text()) for name in LANGUAGES)

    assert set(_shape(english)) ^ set(_shape(french)) == set()


def test_both_languages_name_the_same_figures() -> None:
    named = [
        sorted(re.findall(r"{{(\w+)}}", (SOURCES / f"{name}.yaml").read_text()))
        for name in LANGUAGES
    ]

    assert named[0] == named[1]


def test_every_figure_of_the_list_is_used() -> None:
    used = set(re.findall(r"{{(\w+)}}", (SOURCES / "en.yaml").read_text()))

    assert set(yaml.safe_load((SOURCES / "figures.yaml").read_text())) == used


def test_a_figure_is_written_as_its_language_writes_numbers_and_dates() -> None:
    months = yaml.safe_load((SOURCES / "fr.yaml").read_text())["months"]
    english, french = figures("en", months), figures("fr", months)

    assert re.fullmatch(r"\d{1,3}(,\d{3})+", english["drain"])
    assert french["drain"] == english["drain"].replace(",", _NO_BREAK)
    assert french["quality"] == english["quality"].replace(".", ",")
    assert french["version_kafka"] == english["version_kafka"]
    assert french["performance_date"].split()[1] in months


def test_a_figure_that_its_page_no_longer_has_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "figures.yaml").write_text("speed: [docs/model.md, 'never written (x)']")
    monkeypatch.setattr(source, "SOURCES", tmp_path)

    with pytest.raises(SourceError, match=r"docs/model\.md no longer says speed"):
        figures("en", [])


def test_french_punctuation_keeps_its_spaces_and_code_is_left_alone() -> None:
    text = typeset("« Oui » : 5 000 messages ; l'un ? L'« un » en 3 fois `a : b'c`", "fr")

    assert text == "«_Oui_»_: 5_000_messages_; l’un_? L’«_un_» en 3_fois `a : b'c`".replace(
        "_", _NO_BREAK
    )


def test_every_component_has_a_place_in_the_infrastructure_diagram() -> None:
    check_places(_places())

    assert {"charts/mlflow", "charts/moodstream/templates/consumer", "services/etl"} <= components()
    assert "images/base" not in components()


def test_a_component_without_a_place_is_named() -> None:
    places = _places()
    del places["consumer"]

    with pytest.raises(SourceError, match=r"without a box.*services/consumer"):
        check_places(places)


def test_a_place_without_a_component_is_named() -> None:
    places = _places() | {"gone": {"of": ["services/gone"]}}

    with pytest.raises(SourceError, match=r"not there: services/gone"):
        check_places(places)


def test_a_new_operator_needs_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        scenes_module, "components", lambda: components() | {"manifests/operators/new.yaml"}
    )

    with pytest.raises(SourceError, match=r"operators/new\.yaml"):
        check_places(_places())


def test_a_text_that_is_too_long_for_its_box_is_named() -> None:
    said = words("en")
    said["diagrams"]["infrastructure"]["kafka"] = ["Kafka", "word " * 40]

    with pytest.raises(SourceError, match="infrastructure: too long for its box: kafka"):
        scenes(said)


def test_type_is_enlarged_as_far_as_every_box_of_its_size_allows() -> None:
    boxes = {box.name: box for box in scenes(words("en"))["infrastructure"].boxes}

    assert boxes["kafka"].look.text == boxes["producer"].look.text > scenes_module.Look().text
    for box in boxes.values():
        scenes_module.check_fit("infrastructure", box)


def test_a_screenshot_is_cut_in_the_widest_gap_near_its_middle(tmp_path: Path) -> None:
    whole = Image.new("RGB", (4, 100), "black")
    for y in [*range(40, 50), *range(57, 70)]:
        whole.putpixel((y % 4, y), (255, 255, 255))
    whole.save(tmp_path / "page.png")

    part = Image.open(io.BytesIO(upper_part(tmp_path / "page.png")))

    assert 50 < part.height < 57
    assert part.width == 4


def test_a_table_without_room_for_its_longest_words_is_refused() -> None:
    with pytest.raises(SourceError, match="no room"):
        column_widths([["a", "b"], ["x" * 60, "y" * 60]], 6.0, 12.0)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_table_and_view_of_the_warehouse_is_described(language: str) -> None:
    section = next(part for part in words(language)["sections"] if part["id"] == "data")

    described = set(re.findall(r"`(\w+)`", yaml.dump(section, width=10_000)))

    assert relations() <= described
    assert {"posts", "rollup_errors"} <= relations()


def test_the_kinds_are_those_of_the_charts() -> None:
    assert kinds("charts/moodstream/templates/consumer") == (
        "ConfigMap",
        "Deployment",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "ScaledObject",
        "TriggerAuthentication",
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_file_that_the_texts_name_is_there(language: str) -> None:
    named = set(
        re.findall(r"(?:docs|services|tests|manifests)/[\w./-]*\w", yaml.dump(words(language)))
    )

    assert [path for path in sorted(named) if not (source.ROOT / path).exists()] == []


def test_the_documents_open_and_hold_every_part(files: dict[str, bytes]) -> None:
    for language, ending in (("en", ""), ("fr", ".fr")):
        said = words(language)
        paper = docx.Document(io.BytesIO(files[f"architecture{ending}.docx"]))
        show = pptx.Presentation(io.BytesIO(files[f"architecture{ending}.pptx"]))

        headings = [part.text for part in paper.paragraphs if part.style.name == "Heading 1"]
        titles = [slide.shapes.title.text_frame.text for slide in show.slides]
        assert headings == [f"{n}. {part['title']}" for n, part in enumerate(said["sections"], 1)]
        assert titles == [slide["title"] for slide in said["slides"]]
        assert all(slide.notes_slide.notes_text_frame.text for slide in show.slides)
        assert "{{" not in "".join(part.text for part in paper.paragraphs)


def test_the_infrastructure_slide_is_made_of_shapes_that_can_be_edited(
    files: dict[str, bytes],
) -> None:
    show = pptx.Presentation(io.BytesIO(files["architecture.pptx"]))

    names = {shape.name for shape in show.slides[2].shapes}

    assert set(_places()) <= names


def test_making_it_twice_gives_the_same_bytes(files: dict[str, bytes]) -> None:
    said = words("en")
    drawn = scenes(said)

    assert packed(slides(said, drawn)) == files["architecture.pptx"]
    assert picture(drawn["burst"]) == picture(drawn["burst"])
    assert {
        entry.date_time
        for content in files.values()
        for entry in zipfile.ZipFile(io.BytesIO(content)).infolist()
    } == {(2026, 1, 1, 0, 0, 0)}


def test_the_files_are_what_their_sources_say(files: dict[str, bytes]) -> None:
    for name, content in files.items():
        made, kept = _members(content), _members(SOURCES.with_name(name).read_bytes())

        different = [part for part in made | kept if not _same(made.get(part), kept.get(part))]
        assert different == [], f"{name}: run: make docs"


def _places() -> dict[str, Any]:
    plan: dict[str, Any] = yaml.safe_load((SOURCES / "diagrams.yaml").read_text())
    boxes: dict[str, Any] = plan["infrastructure"]["boxes"]
    return boxes


def _shape(node: Any, path: str = "") -> Iterator[str]:
    """Paths of all that a language says, with identifiers but without its words."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _shape(child, f"{path}/{key}")
            if key in {"id", "figure", "wide", "picture", "share"} and path.count("/") > 1:
                yield f"{path}/{key}={child}"
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _shape(child, f"{path}/{index}")
    else:
        yield path


def _members(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def _same(one: bytes | None, other: bytes | None) -> bool:
    if one is None or other is None or not one.startswith(b"\x89PNG"):
        return one == other
    first, second = (Image.open(io.BytesIO(png)).convert("RGB") for png in (one, other))
    if first.size != second.size:
        return False
    difference = ImageStat.Stat(ImageChops.difference(first, second))
    return max(difference.mean) < _MOST_DIFFERENCE
