"""Reading labelled posts from every supported format, and refusing what is malformed."""

import csv
import gzip
import hashlib
from pathlib import Path

import pytest

from training.readers import DataError, Dataset, read, read_all


def written(folder: Path, content: str | bytes, name: str = "data.bin") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def pairs(data: Dataset) -> list[tuple[str, str]]:
    return list(zip(data.labels, data.texts, strict=True))


def test_a_csv_with_a_header_is_read_by_its_two_columns_whatever_else_it_has(
    tmp_path: Path,
) -> None:
    path = written(
        tmp_path, 'id,Label,rating,TEXT\n1,positive,2.7,"Good, really\ngood"\n2,Negative,-1,bad\n'
    )

    data = read(path)

    assert pairs(data) == [("positive", "Good, really\ngood"), ("negative", "bad")]
    assert data.name == "data.bin"
    assert data.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("numbers", "assumed"),
    [("-1 0 1", "-1/0/1"), ("0 1 2", "0/1/2"), ("0 2 4", "0/2/4")],
)
def test_numbered_labels_are_told_apart_by_the_numbers_that_occur(
    tmp_path: Path, numbers: str, assumed: str
) -> None:
    rows = "".join(f"{number},text {number}\n" for number in numbers.split())

    data = read(written(tmp_path, f"label,text\n{rows}"))

    assert data.labels == ("negative", "neutral", "positive")
    assert assumed in data.format


@pytest.mark.parametrize("numbers", ["0 1", "0 2", "1", "2"])
def test_numbered_labels_that_could_mean_several_things_are_refused(
    tmp_path: Path, numbers: str
) -> None:
    rows = "".join(f"{number},a text\n" for number in numbers.split())

    with pytest.raises(DataError, match="can mean several things"):
        read(written(tmp_path, f"label,text\n{rows}"))


def test_json_lines_are_read_gzipped_or_not(tmp_path: Path) -> None:
    content = (
        b'{"text": "so good \\u2028 :)", "label": "positive", "id": 3}\n\n'
        b'{"text": "n", "label": "neutral"}\n'
    )
    plain = written(tmp_path, content)
    packed = written(tmp_path, gzip.compress(content), "data.gz")

    read_plain, read_packed = read(plain), read(packed)

    assert pairs(read_plain) == [("positive", "so good \u2028 :)"), ("neutral", "n")]
    assert pairs(read_packed) == pairs(read_plain)
    assert read_packed.sha256 == hashlib.sha256(packed.read_bytes()).hexdigest()


def test_semeval_is_read_with_a_second_id_a_trailing_tab_quotes_and_escapes(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "1\tneutral\tplain\n"
        '2\tnegative\t"Excited for ""Go Set"" \\u002c or not"\t\n'
        "3\t99\tpositive\twith two ids \\ud83d\\ude00\n"
        '4\tpositive\t"half quoted\n'
        "5\tneutral\tNot Available\n",
    )

    data = read(path)

    assert pairs(data) == [
        ("neutral", "plain"),
        ("negative", 'Excited for "Go Set" , or not'),
        ("positive", "with two ids \U0001f600"),
        ("positive", '"half quoted'),
    ]
    assert data.absent == 1


def test_sentiment140_is_read_with_six_columns_in_latin_1_and_with_two(tmp_path: Path) -> None:
    six = written(
        tmp_path,
        '"0","1","Mon Apr 06","NO_QUERY","someone","caf\xe9, awful"\n'
        '"4","2","Mon Apr 06","NO_QUERY","someone","great"\n'.encode("latin-1"),
    )
    two = written(tmp_path, '4,"great"\n2,so so\n0,awful\n', "two")

    assert pairs(read(six)) == [("negative", "caf\xe9, awful"), ("positive", "great")]
    assert read(two).labels == ("positive", "neutral", "negative")


def test_tweeteval_is_read_as_a_folder_or_by_one_of_its_text_files(tmp_path: Path) -> None:
    written(tmp_path, "first \u2028 line\nsecond\n", "train_text.txt")
    written(tmp_path, "2\n0\n", "train_labels.txt")
    test = written(tmp_path, "third\n", "test_text.txt")
    written(tmp_path, "1\n", "test_labels.txt")

    assert pairs(read(tmp_path)) == [("positive", "first \u2028 line"), ("negative", "second")]
    assert pairs(read(test)) == [("neutral", "third")]


def test_a_tweeteval_folder_whose_files_differ_in_length_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "one\ntwo\n", "train_text.txt")
    written(tmp_path, "2\n", "train_labels.txt")

    with pytest.raises(DataError, match=r"has 2 lines and .* has 1"):
        read(tmp_path)


def test_the_first_five_bad_lines_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    bad = "".join(f"{kind},text\n" for kind in ("good", "", "2", "bad", "x", "y", "z"))

    with pytest.raises(DataError) as caught:
        read(written(tmp_path, f"label,text\npositive,fine\n{bad}"))

    message = str(caught.value)
    assert "data.bin has 7 bad lines: line 3: label 'good', expected negative" in message
    assert "line 7:" in message
    assert "line 8:" not in message
    assert "and 2 more" in message
    assert "correct or delete" in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"text,label\na,positive\nb\n", "line 3: 1 fields, the header has 2"),
        (b'text,label\na,positive\n"open,neutral\n', "line 3: not CSV"),
        (b"text,label\n  ,positive\n", "line 2: the text is empty"),
        (b"text,label\nok,positive\n\xff,neutral\n", "line 3: not UTF-8"),
        (b'{"text": "a", "label": "neutral"}\n{"text": 1, "label": 2}\n', "line 2: text must be"),
        (b'{"text": "a", "label": "neutral"}\n{oops\n', "line 2: not JSON"),
        (b'{"text": "a", "label": "neutral"}\n{"text": "b"}\n', "line 2: no object with text"),
        (b"1\tneutral\ta\n2\tgreat\tb\n", "line 2: expected id, negative"),
        (b"4,good\n3,what\n", "line 2: label '3'"),
        (b"4,good\n0\n", "line 2: 1 fields, expected 2"),
        (b"", "is empty"),
        (b"hello\nworld\n", "no known format"),
        (b"text,label\n", "has no rows"),
        (b"\x1f\x8bnonsense", "damaged gzip"),
    ],
)
def test_a_malformed_file_is_refused_with_its_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        read(written(tmp_path, content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv cannot be read"):
        read(tmp_path / "nowhere.csv")


def test_repeated_texts_and_texts_of_the_test_data_are_dropped_and_counted(tmp_path: Path) -> None:
    data = read(
        written(tmp_path, "label,text\npositive,a\nneutral,b\nnegative,a\npositive,c\n", "data")
    )
    test = read(written(tmp_path, "label,text\nneutral,c\n", "test"))

    unique, without = data.unique(), data.without(test)

    assert pairs(unique) == [("positive", "a"), ("neutral", "b"), ("positive", "c")]
    assert unique.duplicates == 1
    assert without.texts == ("a", "b")
    assert without.duplicates == 2


def test_several_files_become_one_dataset_with_one_hash(tmp_path: Path) -> None:
    one = written(tmp_path, "label,text\npositive,a\n", "one")
    two = written(tmp_path, "1\tneutral\tb\n2\tneutral\tNot Available\n", "two")

    data = read_all([one, two])

    assert pairs(data) == [("positive", "a"), ("neutral", "b")]
    assert (data.name, data.absent) == ("one, two", 1)
    assert data.sha256 not in (read(one).sha256, read(two).sha256)
    assert data.sha256 != read_all([two, one]).sha256


def test_the_human_rated_posts_are_read_whole() -> None:
    path = Path(__file__).parents[3] / "shared" / "data" / "human_rated_posts.csv"
    if not path.exists():
        pytest.skip(f"{path} is not there")

    data = read(path)

    with path.open(newline="") as file:
        expected = [(row["label"], row["text"]) for row in csv.DictReader(file)]
    assert pairs(data) == expected
