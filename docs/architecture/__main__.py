"""Writes the architecture document and slides, in English and in French: `make docs`."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

from docs.architecture.paper import document
from docs.architecture.scenes import scenes
from docs.architecture.show import slides
from docs.architecture.source import LANGUAGES, SOURCES, words


def packed(archive: bytes) -> bytes:
    """The same archive, the same at every time and on every machine of one zlib."""
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(archive)) as old,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            entry = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(entry, old.read(name))
    return stream.getvalue()


def deliverables() -> Iterator[tuple[Path, bytes]]:
    """Each file with what belongs into it."""
    for language in LANGUAGES:
        said = words(language)
        drawn = scenes(said)
        ending = "" if language == "en" else f".{language}"
        yield SOURCES.with_name(f"architecture{ending}.docx"), packed(document(said, drawn))
        yield SOURCES.with_name(f"architecture{ending}.pptx"), packed(slides(said, drawn))


def main() -> None:
    """Writes the four files."""
    for path, content in deliverables():
        path.write_bytes(content)


if __name__ == "__main__":
    main()
