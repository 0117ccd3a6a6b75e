"""The architecture document, a .docx with the diagrams as pictures.

Lengths are inches, sizes of type are points.
"""

import io
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import docx
from docx.enum.section import WD_ORIENT
from docx.enum.text import WD_ALIGN_PARAGRAPH
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.oxml import OxmlElement
from docx.oxml.ns import qn
from docx.shared import Inches, Pt, RGBColor
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from docs.architecture.measure import FONT_RATIO, LINE_HEIGHT, column_widths
from docs.architecture.scenes import (
    GREY,
    INK,
    LINES,
    NAVY,
    PALE,
    TEAL,
    UNDER,
    Box,
    Scene,
    laid,
)
from docs.architecture.source import ROOT, components, kinds, plain, runs

FONT: Final = "Arial"
CODE_FONT: Final = "Courier New"
_PICTURE_DPI: Final = 180
_WRITTEN: Final = datetime(2026, 1, 1)
"""What the files say they were written at: the same source gives the same file."""
_PAGE: Final = (8.27, 11.69)
_MARGIN: Final = 0.85
_TABLE_SIZE: Final = 9.0
_CAPTION_SIZE: Final = 8.5
_UPPER_PART: Final = (0.45, 0.6)
"""Between these shares of its height a screenshot is cut: all of it would be too small to read."""
_KEPT_LETTERS: Final = 1800
"""A table of so many is not broken by the end of a page."""
HEAD_FILL: Final = "1F2A44"


def document(said: Mapping[str, Any], drawn: Mapping[str, Scene]) -> bytes:
    """The document as the bytes of a .docx."""
    paper = docx.Document()
    _style(paper, said)
    _title(paper, said)
    numbers = {"figure": 0, "table": 0}
    for index, section in enumerate(said["sections"], 1):
        heading = paper.add_heading(f"{index}. {section['title']}", 1)
        _bookmark(heading, section["id"], index)
        for block in section["text"]:
            _block(paper, block, said, drawn, numbers)
    stream = io.BytesIO()
    paper.save(stream)
    return stream.getvalue()


def _style(paper: Any, said: Mapping[str, Any]) -> None:
    page = paper.sections[0]
    page.page_width, page.page_height = Inches(_PAGE[0]), Inches(_PAGE[1])
    page.left_margin = page.right_margin = page.top_margin = page.bottom_margin = Inches(_MARGIN)
    looks = {
        "Normal": (10, INK, False, 0, 6),
        "Title": (26, NAVY, True, 0, 4),
        "Subtitle": (12, GREY, False, 0, 12),
        "Heading 1": (16, NAVY, True, 18, 6),
        "Heading 2": (12, TEAL, True, 12, 4),
        "Caption": (_CAPTION_SIZE, GREY, False, 3, 9),
        "List Bullet": (10, INK, False, 0, 3),
    }
    for name, (size, colour, bold, before, after) in looks.items():
        style = paper.styles[name]
        style.font.name, style.font.size, style.font.bold = FONT, Pt(size), bold
        style.font.italic = False
        style.font.color.rgb = RGBColor.from_string(colour)
        # The template's theme would win over the name.
        fonts = style.element.rPr.rFonts
        for attribute in [key for key in fonts.attrib if key.endswith("Theme")]:
            del fonts.attrib[attribute]
        style.paragraph_format.space_before = Pt(before)
        style.paragraph_format.space_after = Pt(after)
    for spacing in paper.styles["Subtitle"].element.rPr.findall(qn("w:spacing")):
        paper.styles["Subtitle"].element.rPr.remove(spacing)
    paper.styles["Normal"].paragraph_format.line_spacing = 1.12
    for rule in paper.styles["Title"].element.pPr.findall(qn("w:pBdr")):
        paper.styles["Title"].element.pPr.remove(rule)
    tongue = "fr-FR" if said["language"] == "fr" else "en-GB"
    for language in paper.styles.element.iter(qn("w:lang")):
        language.set(qn("w:val"), tongue)
    properties(paper.core_properties, said)
    # The thumbnail is the template's, which looks like nothing here.
    rels = paper.part.package.rels
    del rels[next(key for key, rel in rels.items() if rel.reltype == RELATIONSHIP_TYPE.THUMBNAIL)]
    footer = page.footer.paragraphs[0]
    footer.alignment = WD_ALIGN_PARAGRAPH.RIGHT
    _write(footer, f"{said['title']}   ", 8, GREY)
    _field(footer, "PAGE", "1")


def properties(core: Any, said: Mapping[str, Any]) -> None:
    """What a file says about itself; nothing of it changes with the day."""
    core.title, core.subject, core.language = said["title"], said["subtitle"], said["language"]
    core.author = core.last_modified_by = "moodstream"
    core.keywords = core.comments = core.category = ""
    core.created = core.modified = core.last_printed = _WRITTEN
    core.revision = 1


def _title(paper: Any, said: Mapping[str, Any]) -> None:
    paper.add_paragraph(said["title"], "Title")
    paper.add_paragraph(said["subtitle"], "Subtitle")
    for text in said["summary"]:
        _write(paper.add_paragraph(), text)
    heading = paper.add_paragraph()
    heading.paragraph_format.space_before = Pt(10)
    _write(heading, f"**{said['contents']}**", 12, TEAL)
    for index, section in enumerate(said["sections"], 1):
        entry = paper.add_paragraph()
        entry.paragraph_format.space_after = Pt(1)
        link = OxmlElement("w:hyperlink")
        link.set(qn("w:anchor"), section["id"])
        _write(entry, f"{index}. {section['title']}")
        link.extend(list(entry._p.findall(qn("w:r"))))
        entry._p.append(link)


def _block(
    paper: Any,
    block: Any,
    said: Mapping[str, Any],
    drawn: Mapping[str, Scene],
    numbers: dict[str, int],
) -> None:
    if isinstance(block, str):
        _write(paper.add_paragraph(), block)
    elif "heading" in block:
        paper.add_heading(block["heading"], 2)
    elif "list" in block:
        for item in block["list"]:
            paragraph = paper.add_paragraph(style="List Bullet")
            _write(paragraph, item)
        paragraph.paragraph_format.space_after = Pt(6)
    elif "table" in block:
        numbers["table"] += 1
        caption = paper.add_paragraph(style="Caption")
        caption.paragraph_format.keep_with_next = True
        caption.paragraph_format.space_before = Pt(8)
        text = f"**{said['table']} {numbers['table']}.** {block['table']['caption']}"
        _write(caption, text, _CAPTION_SIZE)
        _paper_table(paper, block["table"], said)
    elif "wide" in block:
        _turn(paper, WD_ORIENT.LANDSCAPE)
        numbers["figure"] += 1
        _paper_figure(
            paper, drawn[block["wide"]], block["caption"], said, numbers, _PAGE[1] - 2 * _MARGIN
        )
        for text in block["text"]:
            _write(paper.add_paragraph(), text)
        _turn(paper, WD_ORIENT.PORTRAIT)
    else:
        numbers["figure"] += 1
        source = drawn[block["figure"]] if "figure" in block else ROOT / block["picture"]
        width = (_PAGE[0] - 2 * _MARGIN) * block.get("share", 1)
        _paper_figure(paper, source, block["caption"], said, numbers, width)


def _turn(paper: Any, orientation: Any) -> None:
    section = paper.add_section()
    section.orientation = orientation
    long_side = orientation == WD_ORIENT.LANDSCAPE
    width, height = (_PAGE[1], _PAGE[0]) if long_side else _PAGE
    section.page_width, section.page_height = Inches(width), Inches(height)


def _paper_figure(
    paper: Any,
    source: Scene | Path,
    caption: str,
    said: Mapping[str, Any],
    numbers: Mapping[str, int],
    width: float,
) -> None:
    holder = paper.add_paragraph()
    holder.paragraph_format.keep_with_next = True
    holder.alignment = WD_ALIGN_PARAGRAPH.CENTER
    image = picture(source) if isinstance(source, Scene) else upper_part(source)
    shape = holder.add_run().add_picture(io.BytesIO(image), width=Inches(width))
    # LibreOffice takes what is not said as an eighth of an inch.
    for side in "TBLR":
        shape._inline.set(f"dist{side}", "0")
    shape._inline.docPr.set("descr", plain(caption))
    shape._inline.docPr.set("name", source.name)
    text = f"**{said['figure']} {numbers['figure']}.** {caption}"
    _write(paper.add_paragraph(style="Caption"), text, _CAPTION_SIZE)


def _paper_table(paper: Any, table: Mapping[str, Any], said: Mapping[str, Any]) -> None:
    rows = table_rows(table, said)
    page = paper.sections[-1]
    room = (page.page_width - page.left_margin - page.right_margin) / Inches(1)
    widths = column_widths(rows, room, _TABLE_SIZE)
    grid = paper.add_table(len(rows), len(widths))
    grid.autofit = False
    _rule(grid)
    letters = sum(len(text) for cells in rows for text in cells)
    for column, width in zip(grid.columns, widths, strict=True):
        column.width = Inches(width)
    for index, (row, cells) in enumerate(zip(grid.rows, rows, strict=True)):
        fixed = row._tr.get_or_add_trPr()
        fixed.append(OxmlElement("w:cantSplit"))
        if index == 0:
            fixed.append(OxmlElement("w:tblHeader"))
        for cell, text, width in zip(row.cells, cells, widths, strict=True):
            cell.width = Inches(width)
            paragraph = cell.paragraphs[0]
            paragraph.paragraph_format.space_after = paragraph.paragraph_format.space_before = Pt(2)
            paragraph.paragraph_format.line_spacing = 1.0
            paragraph.paragraph_format.keep_with_next = index == 0 or (
                letters <= _KEPT_LETTERS and index < len(rows) - 1
            )
            _write(
                paragraph,
                f"**{text}**" if index == 0 else text,
                _TABLE_SIZE,
                "FFFFFF" if index == 0 else INK,
            )
            if index == 0:
                shade = OxmlElement("w:shd")
                for key, value in (("val", "clear"), ("color", "auto"), ("fill", HEAD_FILL)):
                    shade.set(qn(f"w:{key}"), value)
                cell._tc.get_or_add_tcPr().append(shade)
    after = paper.add_paragraph()
    after.paragraph_format.space_after = Pt(4)
    after.paragraph_format.line_spacing = 0.7


def _rule(grid: Any) -> None:
    borders = OxmlElement("w:tblBorders")
    for side in ("top", "bottom", "insideH"):
        border = OxmlElement(f"w:{side}")
        for key, value in (("val", "single"), ("sz", "4"), ("space", "0"), ("color", PALE)):
            border.set(qn(f"w:{key}"), value)
        borders.append(border)
    # The schema wants it before these, and Word mends a file that is not so.
    later = [qn(f"w:{name}") for name in ("shd", "tblLayout", "tblCellMar", "tblLook")]
    next(child for child in grid._tbl.tblPr if child.tag in later).addprevious(borders)


def table_rows(table: Mapping[str, Any], said: Mapping[str, Any]) -> list[list[str]]:
    """The rows of a table, its head first; of `kinds` from the charts themselves."""
    if table.get("rows") != "kinds":
        return [table["head"], *table["rows"]]
    names = sorted(path for path in components() if path.startswith("charts/"))
    return [
        table["head"],
        *(
            [f"`{name.removeprefix('charts/').replace('/templates', '')}`", ", ".join(kinds(name))]
            for name in names
        ),
    ]


def _write(paragraph: Any, text: str, size: float | None = None, colour: str | None = None) -> None:
    for piece, bold, code in runs(text):
        run = paragraph.add_run(piece)
        run.bold = bold or None
        if code:
            run.font.name = CODE_FONT
        if size or code:
            run.font.size = Pt((size or 10) - (0.5 if code else 0))
        if colour:
            run.font.color.rgb = RGBColor.from_string(colour)


def _field(paragraph: Any, code: str, shown: str) -> None:
    field = OxmlElement("w:fldSimple")
    field.set(qn("w:instr"), code)
    run = paragraph.add_run(shown)
    run.font.size, run.font.color.rgb = Pt(8), RGBColor.from_string(GREY)
    field.append(run._r)
    paragraph._p.append(field)


def _bookmark(paragraph: Any, name: str, number: int) -> None:
    for tag, attributes in (
        ("w:bookmarkStart", {"w:id": str(number), "w:name": name}),
        ("w:bookmarkEnd", {"w:id": str(number)}),
    ):
        mark = OxmlElement(tag)
        for key, value in attributes.items():
            mark.set(qn(key), value)
        paragraph._p.append(mark)


def picture(scene: Scene) -> bytes:
    """A PNG of a diagram."""
    figure = Figure(figsize=(scene.width, scene.height), dpi=_PICTURE_DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.02, scene.width + 0.02), ylim=(scene.height + 0.02, -0.02))
    axes.axis("off")
    for box in scene.boxes:
        _paint_box(axes, box)
    for line in scene.lines:
        colour, weight = LINES[line.style]
        xs, ys = zip(*line.points, strict=True)
        dashes = {"linestyle": (0, (4, 3))} if line.style == "life" else {}
        axes.plot(
            xs,
            ys,
            color=f"#{colour}",
            linewidth=weight,
            zorder=0.5 if line.style in UNDER else 2,
            **dashes,
        )
        heads = [(line.points[-2], line.points[-1])] if line.end else []
        heads += [(line.points[1], line.points[0])] if line.start else []
        for tail, head in heads:
            axes.annotate(
                "",
                xy=head,
                xytext=tail,
                arrowprops={
                    "arrowstyle": "-|>,head_width=0.22,head_length=0.45",
                    "color": f"#{colour}",
                    "linewidth": weight,
                    "shrinkA": 0,
                    "shrinkB": 0,
                },
            )
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return _small(stream.getvalue())


def upper_part(path: Path) -> bytes:
    """A PNG of about the upper half of a screenshot, cut in the middle of its widest gap there."""
    with Image.open(path) as image:
        whole = image.convert("RGB")
    width, height = whole.size
    first, last = (round(height * share) for share in _UPPER_PART)
    rows = [whole.crop((0, y, width, y + 1)).tobytes() for y in range(first, last)]
    cut, run = height // 2, 0
    widest = 0
    for index in range(1, len(rows)):
        run = run + 1 if rows[index] == rows[index - 1] else 0
        if run > widest:
            widest, cut = run, first + index - run // 2
    stream = io.BytesIO()
    whole.crop((0, 0, width, cut)).save(stream, "png", optimize=True)
    return stream.getvalue()


def _small(png: bytes) -> bytes:
    """The same picture in 256 colours, a third of the bytes."""
    stream = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(stream, "png", dpi=(_PICTURE_DPI, _PICTURE_DPI))
    return stream.getvalue()


def _paint_box(axes: Any, box: Box) -> None:
    look = box.look
    if look.fill or look.border:
        axes.add_patch(
            FancyBboxPatch(
                (box.left, box.top),
                box.width,
                box.height,
                boxstyle="round,pad=0,rounding_size=0.05",
                facecolor=f"#{look.fill}" if look.fill else "none",
                edgecolor=f"#{look.border}" if look.border else "none",
                linewidth=1,
            )
        )
    title, text = laid(box)
    lines = [(line, look.title, look.bold, look.colour) for line in title]
    lines += [(line, look.text, False, GREY) for line in text]
    tall = sum(size for _, size, _, _ in lines) * LINE_HEIGHT / 72
    y = box.top + (0.05 if look.head else (box.height - tall) / 2)
    to_left = look.head or not look.middle
    for line, size, bold, colour in lines:
        height = size * LINE_HEIGHT / 72
        axes.text(
            box.left + (0.08 if look.head else look.padding)
            if to_left
            else box.left + box.width / 2,
            y + height * 0.76,
            line,
            fontsize=size * FONT_RATIO,
            fontweight="bold" if bold else "normal",
            color=f"#{colour}",
            ha="left" if to_left else "center",
            va="baseline",
            family="DejaVu Sans",
        )
        y += height
