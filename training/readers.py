"""Reads labelled posts from the files that sentiment data comes in, recognised by content:

- CSV or TSV with a header that has `text` and `label`; other columns are ignored;
- JSON lines with `text` and `label`;
- SemEval: id, label, text between tabs, sometimes with a second id or an empty last column;
- Sentiment140: CSV without a header, six columns or the manual test's two;
- TweetEval: a folder with `train_text.txt` and `train_labels.txt`, or one such text file.

Labels are words, or numbers: -1, 0, 1 where a -1 occurs; 0, 2, 4 where a 4 occurs; else 0, 1, 2.
Any file may be gzipped. A file with bad lines is refused, and the first ones are named: data with
holes trains a model with holes.
"""

import csv
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

import orjson

from services.core.contract import LABELS
from services.core.errors import MoodstreamError

_SHOWN_PROBLEMS: Final = 5
_SNIFFED_LINES: Final = 20
_MAX_FIELD_CHARS: Final = 1_000_000
_GZIP: Final = b"\x1f\x8b"
_NUMBERED: Final[dict[str, dict[str, str]]] = {
    numbers: dict(zip(numbers.split("/"), LABELS, strict=True))
    for numbers in ("-1/0/1", "0/2/4", "0/1/2")
}
_WORDS: Final = {label: label for label in LABELS}
_ABSENT: Final = "Not Available"
"""What SemEval's download tool writes in place of a deleted post."""
_TEXT_SUFFIX, _LABELS_SUFFIX = "_text.txt", "_labels.txt"
_ESCAPE: Final = re.compile(r"\\u([0-9a-fA-F]{4})")
_SENTIMENT140_COLUMNS: Final = 6
_FORMATS: Final = (
    "CSV with a header naming text and label, JSON lines with text and label, SemEval TSV, "
    "Sentiment140 CSV, or a TweetEval folder"
)


class DataError(MoodstreamError):
    """A data file cannot be used; the message names its first bad lines and what to do."""


@dataclass(frozen=True)
class Dataset:
    """Labelled posts and where they are from."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    name: str
    format: str
    """How the content was read, and which labels its numbers stand for."""
    sha256: str
    """Of the files as they are on disk; of these hashes in order, when there are several."""
    absent: int = 0
    """Rows whose post had been deleted when the data was made."""
    duplicates: int = 0
    """Rows dropped because their text occurs before, or in data that is held out."""

    def without(self, other: "Dataset") -> "Dataset":
        """Without the texts that `other` has too, and without repeated texts."""
        return self.unseen(other.texts)

    def unique(self) -> "Dataset":
        """Without repeated texts: the first of each is kept."""
        return self.unseen(())

    def unseen(self, texts: Iterable[str]) -> "Dataset":
        """Without these texts, and without repeated texts."""
        seen, kept = set(texts), []
        for text, label in zip(self.texts, self.labels, strict=True):
            if text not in seen:
                seen.add(text)
                kept.append((text, label))
        left, labels = zip(*kept, strict=True) if kept else ((), ())
        duplicates = self.duplicates + len(self.texts) - len(left)
        return replace(self, texts=left, labels=labels, duplicates=duplicates)


@dataclass(frozen=True)
class _Row:
    line: int
    label: str
    text: str


@dataclass(frozen=True)
class _Problem:
    line: int
    what: str


_Parsed = Iterator[_Row | _Problem]


@dataclass(frozen=True)
class _Format:
    name: str
    parse: Callable[[str], _Parsed]


def read(path: Path) -> Dataset:
    """All rows of one file or folder, or DataError."""
    if path.is_dir():
        return _read_tweeteval(path / f"train{_TEXT_SUFFIX}")
    if path.name.endswith(_TEXT_SUFFIX) and _labels_beside(path).is_file():
        return _read_tweeteval(path)
    raw = _bytes(path)
    content = _text(path, raw)
    found = _recognise(path, content)
    return _dataset(path.name, found.name, found.parse(content), _sha256(raw))


def read_all(paths: Sequence[Path]) -> Dataset:
    """Several files as one dataset."""
    if not paths:
        raise DataError(f"no training data: name at least one file ({_FORMATS})")
    return joined([read(path) for path in paths])


def joined(parts: Sequence[Dataset]) -> Dataset:
    """At least one dataset as one, in this order."""
    if len(parts) == 1:
        return parts[0]
    return Dataset(
        texts=tuple(text for part in parts for text in part.texts),
        labels=tuple(label for part in parts for label in part.labels),
        name=", ".join(part.name for part in parts),
        format=", ".join(dict.fromkeys(part.format for part in parts)),
        sha256=_sha256("".join(part.sha256 for part in parts).encode()),
        absent=sum(part.absent for part in parts),
        duplicates=sum(part.duplicates for part in parts),
    )


def _read_tweeteval(texts: Path) -> Dataset:
    labels = _labels_beside(texts)
    for path in (texts, labels):
        if not path.is_file():
            raise DataError(f"{path} is missing; a TweetEval folder holds both texts and labels")
    raw = _bytes(texts), _bytes(labels)
    # Only line feeds end a line here: posts hold U+2028 and the like.
    lines, marks = (
        _text(path, content).removesuffix("\n").split("\n")
        for path, content in zip((texts, labels), raw, strict=True)
    )
    if len(lines) != len(marks):
        raise DataError(
            f"{texts} has {len(lines)} lines and {labels} has {len(marks)}; each line of one "
            "belongs to the same line of the other"
        )
    rows = (_Row(n, mark, text) for n, (mark, text) in enumerate(zip(marks, lines, strict=True), 1))
    name = texts.name.removesuffix(_TEXT_SUFFIX)
    return _dataset(
        f"{texts.absolute().parent.name}/{name}", "TweetEval", rows, _sha256(b"".join(raw)), "0/1/2"
    )


def _labels_beside(texts: Path) -> Path:
    return texts.with_name(texts.name.removesuffix(_TEXT_SUFFIX) + _LABELS_SUFFIX)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise DataError(f"{path} cannot be read: {exc.strerror}") from exc


def _text(path: Path, raw: bytes) -> str:
    if raw.startswith(_GZIP):
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as exc:
            raise DataError(f"{path} is a damaged gzip file: {exc}") from exc
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        # The distributed Sentiment140 is Latin-1, which every byte is: so only that is let through.
        latin = raw.decode("latin-1")
        if _sentiment140_columns(latin) == _SENTIMENT140_COLUMNS:
            return latin
    lines = enumerate(raw.split(b"\n"), 1)
    problems = [_Problem(n, "not UTF-8") for n, line in lines if not _is_utf8(line)]
    raise _refusal(str(path), problems, "save the file as UTF-8")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _recognise(path: Path, content: str) -> _Format:
    lines = [line for line in islice(io.StringIO(content), _SNIFFED_LINES) if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty; expected {_FORMATS}")
    if lines[0].lstrip().startswith("{"):
        return _Format("JSON lines", _parse_json_lines)
    delimiter = _delimiter(lines[0])
    if delimiter:
        return _Format(
            "CSV" if delimiter != "\t" else "TSV", lambda text: _parse_csv(text, delimiter)
        )
    if any(_semeval_label(line.rstrip("\r\n").split("\t")) for line in lines):
        return _Format("SemEval", _parse_semeval)
    if columns := _sentiment140_columns(content):
        return _Format("Sentiment140", lambda text: _parse_sentiment140(text, columns))
    raise DataError(
        f"{path} is in no known format; expected {_FORMATS}. Its first line: {lines[0][:80]!r}"
    )


def _delimiter(header: str) -> str | None:
    for delimiter in ",\t;":
        if {"text", "label"} <= set(_header(header, delimiter)):
            return delimiter
    return None


def _header(line: str, delimiter: str) -> list[str]:
    return [name.strip().lower() for name in next(csv.reader([line], delimiter=delimiter), [])]


def _semeval_label(fields: Sequence[str]) -> int | None:
    """The column of the label: the second, or the third behind two ids."""
    for column in (1, 2):
        if len(fields) > column + 1 and fields[column].strip() in LABELS:
            return column
    return None


def _sentiment140_columns(content: str) -> int | None:
    try:
        first = next(csv.reader(io.StringIO(content)), [])
    except csv.Error:
        return None
    fits = len(first) in (2, _SENTIMENT140_COLUMNS) and first[0].strip() in _NUMBERED["0/2/4"]
    return len(first) if fits else None


def _parse_json_lines(content: str) -> _Parsed:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as exc:
            yield _Problem(number, f"not JSON: {exc}")
            continue
        if not isinstance(row, dict) or not {"text", "label"} <= row.keys():
            yield _Problem(number, "no object with text and label")
        elif not isinstance(row["text"], str) or not isinstance(row["label"], str | int):
            yield _Problem(number, "text must be a string, label a word or a whole number")
        else:
            yield _Row(number, str(row["label"]), row["text"])


def _parse_csv(content: str, delimiter: str) -> _Parsed:
    rows = _csv_rows(content, delimiter)
    header: list[str] = []
    for row in rows:
        if isinstance(row, _Problem):
            yield row
        elif not header:
            header = [name.strip().lower() for name in row[1]]
        elif len(row[1]) != len(header):
            yield _Problem(row[0], f"{len(row[1])} fields, the header has {len(header)}")
        else:
            yield _Row(row[0], row[1][header.index("label")], row[1][header.index("text")])


def _parse_sentiment140(content: str, columns: int) -> _Parsed:
    for row in _csv_rows(content, ","):
        if isinstance(row, _Problem):
            yield row
        elif len(row[1]) != columns:
            yield _Problem(row[0], f"{len(row[1])} fields, expected {columns}")
        else:
            yield _Row(row[0], row[1][0], row[1][-1])


def _csv_rows(content: str, delimiter: str) -> Iterator[tuple[int, list[str]] | _Problem]:
    """Each row with the line that it begins on."""
    csv.field_size_limit(_MAX_FIELD_CHARS)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            yield _Problem(line, f"not CSV: {exc}")
            return
        if fields:
            yield line, fields


def _parse_semeval(content: str) -> _Parsed:
    for number, line in enumerate(content.split("\n"), 1):
        fields = line.rstrip("\r").split("\t")
        if not line.strip():
            continue
        column = _semeval_label(fields)
        if column is None:
            yield _Problem(number, "expected id, negative, neutral or positive, text, between tabs")
        else:
            yield _Row(number, fields[column].strip(), _semeval_text(fields[column + 1]))


def _semeval_text(text: str) -> str:
    """As it was posted: some files quote it like CSV, some escape its other characters."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('""', '"')
    unescaped = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    return unescaped.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _dataset(
    name: str, format_name: str, parsed: _Parsed, sha256: str, numbers: str | None = None
) -> Dataset:
    rows: list[_Row] = []
    problems: list[_Problem] = []
    for item in parsed:
        if isinstance(item, _Row):
            rows.append(item)
        else:
            problems.append(item)
    present = [row for row in rows if row.text.strip() != _ABSENT]
    described, meaning = _meaning(name, {row.label.strip().lower() for row in present}, numbers)
    for row in present:
        if row.label.strip().lower() not in meaning:
            problems.append(_Problem(row.line, f"label {row.label[:40]!r}, expected {described}"))
        elif not row.text.strip():
            problems.append(_Problem(row.line, "the text is empty"))
    if problems:
        problems.sort(key=lambda problem: problem.line)
        raise _refusal(name, problems, "correct or delete these lines")
    if not present:
        raise DataError(f"{name} has no rows")
    return Dataset(
        texts=tuple(row.text for row in present),
        labels=tuple(meaning[row.label.strip().lower()] for row in present),
        name=name,
        format=f"{format_name}, labels {described}",
        sha256=sha256,
        absent=len(rows) - len(present),
    )


def _meaning(name: str, seen: set[str], numbers: str | None) -> tuple[str, dict[str, str]]:
    """How the labels are to be read, by those that occur."""
    if numbers is None and seen & _WORDS.keys():
        return "negative, neutral or positive", _WORDS
    if numbers is None:
        numbers = "-1/0/1" if "-1" in seen else "0/2/4" if "4" in seen else "0/1/2"
        if numbers == "0/1/2" and not {"1", "2"} <= seen and seen & {"0", "1", "2"}:
            raise DataError(
                f"{name}: the labels are only {', '.join(sorted(seen))}, which can mean several "
                "things; write negative, neutral and positive instead"
            )
    return f"{numbers} (negative/neutral/positive)", _NUMBERED[numbers]


def _refusal(name: str, problems: Sequence[_Problem], remedy: str) -> DataError:
    shown = "; ".join(f"line {p.line}: {p.what}" for p in problems[:_SHOWN_PROBLEMS])
    more = len(problems) - _SHOWN_PROBLEMS
    return DataError(
        f"{name} has {len(problems)} bad lines: {shown}{f'; and {more} more' if more > 0 else ''}. "
        f"To go on, {remedy}."
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
