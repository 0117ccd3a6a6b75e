"""The architecture slides, a .pptx with the diagrams as shapes that can be edited.

Lengths are inches, sizes of type are points.
"""

import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import pptx
from PIL import Image
from pptx.dml.color import RGBColor
from pptx.enum.dml import MSO_LINE
from pptx.enum.lang import MSO_LANGUAGE_ID
from pptx.enum.shapes import MSO_CONNECTOR, MSO_SHAPE, PP_PLACEHOLDER
from pptx.enum.text import MSO_ANCHOR, PP_ALIGN
from pptx.opc.constants import RELATIONSHIP_TYPE
from pptx.oxml.ns import qn
from pptx.oxml.xmlchemy import OxmlElement
from pptx.util import Inches, Pt

from docs.architecture.measure import LINE_HEIGHT, column_widths, roomy, width_of, wrapped
from docs.architecture.paper import (
    CODE_FONT,
    FONT,
    HEAD_FILL,
    properties,
    table_rows,
    upper_part,
)
from docs.architecture.scenes import (
    GREY,
    INK,
    LINES,
    NAVY,
    PALE,
    TEAL,
    UNDER,
    Box,
    Line,
    Look,
    Scene,
    check_fit,
)
from docs.architecture.source import ROOT, SourceError, plain, runs

_SLIDE: Final = (13.333, 7.5)
_EDGE: Final = 0.55
_BODY: Final = _SLIDE[0] - 2 * _EDGE
_BODY_END: Final = 6.85
_TITLE_SIZE: Final = 26
_SLIDE_SIZES: Final = (22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11.5, 11)
_PICTURE_SHARE: Final = 0.58
"""Of a slide's width: the rest is for what is said beside the picture."""
_TITLE_ONLY: Final = 5
"""Of the template's layouts."""


def slides(said: Mapping[str, Any], drawn: Mapping[str, Scene]) -> bytes:
    """The slides as the bytes of a .pptx."""
    show = pptx.Presentation()
    show.slide_width, show.slide_height = Inches(_SLIDE[0]), Inches(_SLIDE[1])
    properties(show.core_properties, said)
    master = show.slide_masters[0]
    theme = master.part.part_related_by(RELATIONSHIP_TYPE.THEME)
    theme._blob = theme.blob.replace(b"Calibri", FONT.encode())
    layout = show.slide_layouts[_TITLE_ONLY]
    for other in [item for item in show.slide_layouts if item.name != layout.name]:
        show.slide_layouts.remove(other)
    for holder in [*layout.placeholders, *master.placeholders]:
        if holder.placeholder_format.type == PP_PLACEHOLDER.TITLE:
            holder.left, holder.top = Inches(_EDGE), Inches(0.35)
            holder.width, holder.height = Inches(_BODY), Inches(0.75)
        else:
            holder._element.getparent().remove(holder._element)
    # The thumbnail is the template's, which looks like nothing here.
    package = show.part.package
    package._rels.pop(
        next(
            key for key, rel in package._rels.items() if rel.reltype == RELATIONSHIP_TYPE.THUMBNAIL
        )
    )
    language = MSO_LANGUAGE_ID.FRENCH if said["language"] == "fr" else MSO_LANGUAGE_ID.ENGLISH_UK
    for number, told in enumerate(said["slides"], 1):
        slide = show.slides.add_slide(layout)
        _slide(slide, number, told, said, drawn)
        slide.notes_slide.notes_text_frame.text = " ".join(told["notes"].split())
        _speak(slide, language)
    stream = io.BytesIO()
    show.save(stream)
    return stream.getvalue()


def _speak(slide: Any, language: Any) -> None:
    """Tells the spelling checker the language."""
    frames = [shape.text_frame for shape in slide.shapes if shape.has_text_frame]
    frames += [
        cell.text_frame
        for shape in slide.shapes
        if shape.has_table
        for row in shape.table.rows
        for cell in row.cells
    ]
    for frame in [*frames, slide.notes_slide.notes_text_frame]:
        for paragraph in frame.paragraphs:
            for run in paragraph.runs:
                run.font.language_id = language


def _slide(
    slide: Any,
    number: int,
    told: Mapping[str, Any],
    said: Mapping[str, Any],
    drawn: Mapping[str, Scene],
) -> None:
    first = "cover" in told
    if first:
        ground = _rectangle(slide, 0, 0, *_SLIDE, NAVY)
        slide.shapes._spTree.insert(2, ground._element)
        _rectangle(slide, _EDGE, 4.15, 1.6, 0.07, "2DD4BF")
    title = slide.shapes.title
    title.text_frame.word_wrap = True
    title.text_frame.vertical_anchor = MSO_ANCHOR.MIDDLE
    _margins(title.text_frame, 0.1)
    if not first and width_of(told["title"], _TITLE_SIZE, True) > _BODY - 0.2:
        raise SourceError(f"slide {told['id']}: its title is longer than a line")
    size, colour = (44, "FFFFFF") if first else (_TITLE_SIZE, NAVY)
    _fill(title.text_frame, told["title"], size, colour, True).alignment = PP_ALIGN.LEFT
    if first:
        title.left, title.top, title.width, title.height = (
            Inches(_EDGE),
            Inches(2.6),
            Inches(_BODY),
            Inches(1.4),
        )
        _text(slide, _EDGE, 4.4, _BODY, 0.9, told["cover"], 20, "CBD5E1")
        return
    top = 1.25
    if "lead" in told:
        lines = len(wrapped(plain(told["lead"]), 16, _BODY - 0.2))
        if lines > 1:
            raise SourceError(f"slide {told['id']}: its lead is longer than a line")
        _text(slide, _EDGE, 1.05, _BODY, 0.42, told["lead"], 16, GREY)
        top = 1.65
    room = _BODY_END - top
    if "figure" in told:
        _slide_figure(slide, drawn[told["figure"]], top, room)
    elif "table" in told:
        _slide_table(slide, told, said, top, room)
    elif "cards" in told:
        _slide_cards(slide, told, top, room)
    elif "picture" in told:
        upper = io.BytesIO(upper_part(ROOT / told["picture"]))
        with Image.open(upper) as image:
            width = min(room * image.width / image.height, _PICTURE_SHARE * _BODY)
        shape = slide.shapes.add_picture(
            upper, Inches(_SLIDE[0] - _EDGE - width), Inches(top), width=Inches(width)
        )
        shape._element.nvPicPr.cNvPr.set("descr", told["title"])
        shape.line.color.rgb = RGBColor.from_string(PALE)
        _slide_points(slide, told, top, room, _BODY - width - 0.4)
    else:
        _slide_points(slide, told, top, room, _BODY)
    _text(slide, _EDGE, 7.02, 8, 0.3, said["title"], 10, GREY)
    box = _text(slide, _SLIDE[0] - _EDGE - 1, 7.02, 1, 0.3, str(number), 10, GREY)
    box.text_frame.paragraphs[0].alignment = PP_ALIGN.RIGHT
    run = box.text_frame.paragraphs[0].runs[0]._r
    run.tag = qn("a:fld")
    run.set("id", "{B6F15528-21DE-4FAA-801E-634DDDAF4B2B}")
    run.set("type", "slidenum")


def _rectangle(
    slide: Any, left: float, top: float, width: float, height: float, colour: str
) -> Any:
    shape = slide.shapes.add_shape(MSO_SHAPE.RECTANGLE, *map(Inches, (left, top, width, height)))
    shape.fill.solid()
    shape.fill.fore_color.rgb = RGBColor.from_string(colour)
    shape.line.fill.background()
    _plain(shape)
    return shape


def _text(
    slide: Any,
    left: float,
    top: float,
    width: float,
    height: float,
    text: str,
    size: float,
    colour: str,
) -> Any:
    box = slide.shapes.add_textbox(*map(Inches, (left, top, width, height)))
    box.text_frame.word_wrap = True
    _margins(box.text_frame, 0.1)
    _fill(box.text_frame, text, size, colour)
    return box


def _plain(shape: Any) -> None:
    """Without the theme's shadow and colours."""
    if (style := shape._element.find(qn("p:style"))) is not None:
        shape._element.remove(style)


def _margins(frame: Any, sides: float) -> None:
    frame.margin_left = frame.margin_right = Inches(sides)
    frame.margin_top = frame.margin_bottom = Inches(0.02)


def _fill(
    frame: Any, text: str, size: float, colour: str, bold: bool = False, paragraph: Any = None
) -> Any:
    paragraph = paragraph or frame.paragraphs[0]
    for piece, strong, code in runs(text):
        run = paragraph.add_run()
        run.text = piece
        run.font.name = CODE_FONT if code else FONT
        run.font.size, run.font.bold = Pt(size - (1 if code else 0)), bold or strong
        run.font.color.rgb = RGBColor.from_string(colour)
    return paragraph


def _slide_points(
    slide: Any, told: Mapping[str, Any], top: float, room: float, width: float
) -> None:
    def tall(size: float) -> float:
        count = sum(len(wrapped(plain(point), size, width - 0.5)) for point in told["points"])
        return (count * size * LINE_HEIGHT + len(told["points"]) * size * 0.6) / 72

    size = _size(told, tall, room)
    box = slide.shapes.add_textbox(*map(Inches, (_EDGE, top, width, room)))
    frame = box.text_frame
    frame.word_wrap = True
    _margins(frame, 0.1)
    for index, point in enumerate(told["points"]):
        paragraph = frame.paragraphs[0] if index == 0 else frame.add_paragraph()
        _fill(frame, point, size, INK, paragraph=paragraph)
        paragraph.space_after = Pt(size * 0.6)
        properties = paragraph._p.get_or_add_pPr()
        properties.set("marL", "228600")
        properties.set("indent", "-228600")
        bullet = OxmlElement("a:buChar")
        bullet.set("char", "•")
        properties.append(bullet)


def _size(told: Mapping[str, Any], tall: Callable[[float], float], room: float) -> float:
    for size in _SLIDE_SIZES:
        with suppress(SourceError):  # The words of this size find no room: a smaller one may.
            if tall(size) <= room:
                return size
    raise SourceError(f"slide {told['id']}: too much for a slide")


def _slide_table(
    slide: Any, told: Mapping[str, Any], said: Mapping[str, Any], top: float, room: float
) -> None:
    rows = table_rows(told["table"], said)

    def heights(size: float) -> list[float]:
        widths = column_widths(rows, _BODY, size)
        return [
            max(
                len(wrapped(roomy(text), size, width - 0.24, index == 0))
                for text, width in zip(row, widths, strict=True)
            )
            * size
            * LINE_HEIGHT
            / 72
            + 0.14
            for index, row in enumerate(rows)
        ]

    size = _size(told, lambda size: sum(heights(size)), room)
    widths = column_widths(rows, _BODY, size)
    # A short table takes some of the room that is left.
    airy = min(1.4, room / sum(heights(size)))
    tall = [height * airy for height in heights(size)]
    holder = slide.shapes.add_table(
        len(rows), len(widths), *map(Inches, (_EDGE, top, _BODY, sum(tall)))
    )
    table = holder.table
    # No style: what is set here is all there is.
    holder._element.graphic.graphicData.tbl.tblPr.find(
        qn("a:tableStyleId")
    ).text = "{2D5ABB26-0587-4C30-8999-92F81FD0307C}"
    for column, width in zip(table.columns, widths, strict=True):
        column.width = Inches(width)
    for index, (row, height) in enumerate(zip(table.rows, tall, strict=True)):
        row.height = Inches(height)
        for cell, text in zip(row.cells, rows[index], strict=True):
            cell.margin_left = cell.margin_right = Inches(0.1)
            cell.margin_top = cell.margin_bottom = Inches(0.05)
            cell.vertical_anchor = MSO_ANCHOR.MIDDLE
            cell.fill.solid()
            ground = HEAD_FILL if index == 0 else "FFFFFF" if index % 2 else "F1F5F9"
            cell.fill.fore_color.rgb = RGBColor.from_string(ground)
            _fill(cell.text_frame, text, size, "FFFFFF" if index == 0 else INK, index == 0)


def _slide_cards(slide: Any, told: Mapping[str, Any], top: float, room: float) -> None:
    """Large figures with what they mean, three in a row."""
    across, gap = 3, 0.25
    down = -(-len(told["cards"]) // across)
    width, height = (_BODY - (across - 1) * gap) / across, (room - (down - 1) * gap) / down
    look = Look("F1F5F9", PALE, title=32, text=14, colour=TEAL, padding=0.3)
    boxes = tuple(
        Box(
            f"card {index + 1}",
            (index % across) * (width + gap),
            (index // across) * (height + gap),
            width,
            height,
            look,
            *card,
        )
        for index, card in enumerate(told["cards"])
    )
    for box in boxes:
        check_fit(told["id"], box)
    _put(slide, Scene(told["id"], _BODY, room, boxes, ()), _EDGE, top)


def _slide_figure(slide: Any, scene: Scene, top: float, room: float) -> None:
    scaled = scene.scaled(min(_BODY / scene.width, room / scene.height))
    _put(slide, scaled, (_SLIDE[0] - scaled.width) / 2, top + (room - scaled.height) / 2)


def _put(slide: Any, scene: Scene, left: float, top: float) -> None:
    """Draws a diagram as shapes that can be edited."""
    under = [line for line in scene.lines if line.style in UNDER]
    for line in under:
        _put_line(slide, line, left, top)
    for box in scene.boxes:
        _put_box(slide, box, left, top)
    for line in scene.lines:
        if line not in under:
            _put_line(slide, line, left, top)


def _put_box(slide: Any, box: Box, left: float, top: float) -> None:
    look = box.look
    shape = slide.shapes.add_shape(
        MSO_SHAPE.ROUNDED_RECTANGLE,
        *map(Inches, (left + box.left, top + box.top, box.width, box.height)),
    )
    shape.name = box.name
    shape.adjustments[0] = min(0.5, 0.05 / min(box.width, box.height))
    _plain(shape)
    if look.fill:
        shape.fill.solid()
        shape.fill.fore_color.rgb = RGBColor.from_string(look.fill)
    else:
        shape.fill.background()
    if look.border:
        shape.line.color.rgb = RGBColor.from_string(look.border)
        shape.line.width = Pt(1)
    else:
        shape.line.fill.background()
    frame = shape.text_frame
    frame.word_wrap = True
    _margins(frame, look.padding)
    frame.vertical_anchor = MSO_ANCHOR.TOP if look.head else MSO_ANCHOR.MIDDLE
    alignment = PP_ALIGN.LEFT if look.head or not look.middle else PP_ALIGN.CENTER
    first = True
    for text, size, bold, colour in (
        (box.title, look.title, look.bold, look.colour),
        (box.text, look.text, False, GREY),
    ):
        for part in filter(None, text.split("\n")):
            paragraph = frame.paragraphs[0] if first else frame.add_paragraph()
            paragraph.alignment = alignment
            _fill(frame, part, size, colour, bold, paragraph)
            first = False


def _put_line(slide: Any, line: Line, left: float, top: float) -> None:
    points = [(Inches(left + x), Inches(top + y)) for x, y in line.points]
    if len(points) == 2:
        shape = slide.shapes.add_connector(MSO_CONNECTOR.STRAIGHT, *points[0], *points[1])
    else:
        builder = slide.shapes.build_freeform(*points[0])
        builder.add_line_segments(points[1:], close=False)
        shape = builder.convert_to_shape()
        shape.fill.background()
    _plain(shape)
    colour, weight = LINES[line.style]
    shape.line.color.rgb = RGBColor.from_string(colour)
    shape.line.width = Pt(weight)
    if line.style == "life":
        shape.line.dash_style = MSO_LINE.DASH
    for tag, wanted in (("a:headEnd", line.start), ("a:tailEnd", line.end)):
        if wanted:
            head = OxmlElement(tag)
            head.set("type", "triangle")
            shape.line._get_or_add_ln().append(head)
