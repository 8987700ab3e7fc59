"""CSV and TSV files: what is found in them, against Python's own csv module, and every way they can be broken."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekd.data.cache import TEXTS, read_lines
from edgekd.data.dataset import Dataset
from tests.data.loading import load, parts_of, preview, refusal

SENTENCES = ["a fine film", 'they said "no", twice', "two\nlines", "plain, with comma", "dull", "naïve café ☕"]


def _texts(data: Dataset) -> list[str]:
    return list(read_lines(data.ids_file.with_name(TEXTS)))


def _write(path: Path, rows: Sequence[Any], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def _reviews(path: Path, header: bool = True) -> Path:
    rows: list[list[object]] = [[SENTENCES[index % 6], "good" if index % 3 else "bad"] for index in range(24)]
    return _write(path, [["text", "label"], *rows] if header else rows)


@pytest.mark.parametrize("header", [True, False])
def test_text_with_and_without_header(tmp_path: Path, header: bool) -> None:
    path = _reviews(tmp_path / "a.csv", header)
    data = load(f"csv:{path}", tmp_path / "out", max_tokens=8, vocabulary=200)
    assert (data.kind, data.classes) == ("text", ("bad", "good"))
    assert _texts(data) == [SENTENCES[index % 6] for index in range(24)]
    assert data.labels.tolist() == [int(index % 3 > 0) for index in range(24)]
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        lines = [reader.line_num for _ in reader][header:]
    assert list(data.ids) == [f"{path}:{line}" for line in lines]


def test_numbers(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    table: list[list[object]] = [["id", "width", "height", "depth", "species"]]
    table += [[index, *map(float, row), "abc"[index % 3]] for index, row in enumerate(rows)]
    data = load(f"csv:{_write(tmp_path / 'a.csv', table)}", tmp_path / "out")
    assert (data.kind, data.classes) == ("features", ("a", "b", "c"))
    assert np.array_equal(data.raw["features"].array[:], rows)
    batch = data.batch(data.splits.train)["features"]
    assert np.allclose(batch.mean(0), 0, atol=1e-4)
    assert np.allclose(batch.std(0), 1, atol=1e-4)
    one = load(f"csv:{tmp_path / 'a.csv'}", tmp_path / "one", input_column="height", label_column="species")
    assert np.array_equal(one.raw["features"].array[:], rows[:, 1:2])


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1).filter(lambda text: text.strip()),
            st.sampled_from("ab"),
        ),
        min_size=8,
        max_size=12,
    )
)
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    folder = tmp_path_factory.mktemp("any")
    balanced = [(text, "ab"[index % 2]) for index, (text, _) in enumerate(rows)]
    _write(folder / "a.csv", [["text", "label"], *map(list, balanced)])
    found = preview(f"csv:{folder / 'a.csv'}", input_column="text")
    assert (found.kind, sum(found.counts)) == ("text", len(rows))
    data = load(f"csv:{folder / 'a.csv'}", folder / "out", max_tokens=4, vocabulary=100)
    assert _texts(data) == [text.strip() for text, _ in balanced]


def test_quotes_are_characters_in_tsv(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("".join(f'he said "w{index}\t{index % 2}\n' for index in range(12)))
    data = load(f"tsv:{tmp_path / 'a.tsv'}", tmp_path / "out", max_tokens=4, vocabulary=100)
    assert _texts(data)[3] == 'he said "w3'
    assert data.classes == ("0", "1")


def test_numeric_classes_are_in_the_order_of_their_values(tmp_path: Path) -> None:
    _write(tmp_path / "a.csv", [["x", "y"], *([index / 7, (10, 9, -1)[index % 3]] for index in range(18))])
    assert preview(f"csv:{tmp_path / 'a.csv'}").classes == ("-1", "9", "10")


@pytest.mark.parametrize(
    ("rows", "options", "classes"),
    [
        # A class called "question" in a file without a header is no header.
        ([["what is it", "question"], ["it is that", "answer"], ["why so", "question"], ["so", "answer"]], {}, {"question": 2, "answer": 2}),
        # A header of words that are not usual is one if the recipe says so.
        ([["message", "kind"], ["hello", "a"], ["there", "b"]], {"label_column": "kind", "input_column": "message"}, {"a": 1, "b": 1}),
        ([["message", "label"], ["hello", "a"], ["there", "b"]], {}, {"a": 1, "b": 1}),
        ([["hello", "a"], ["there", "b"]], {"label_column": "2"}, {"a": 1, "b": 1}),
        ([["0", "hello"], ["1", "there"]], {"label_column": "1"}, {"0": 1, "1": 1}),
        ([["width", "kind"], ["1", "a"], ["2", "b"]], {}, {"a": 1, "b": 1}),
    ],
)  # fmt: skip
def test_headers(tmp_path: Path, rows: list[list[object]], options: dict[str, str], classes: dict[str, int]) -> None:
    found = preview(f"csv:{_write(tmp_path / 'a.csv', rows)}", **options)
    assert dict(zip(found.classes, found.counts, strict=True)) == classes


def test_files_of_a_folder_are_splits(tmp_path: Path) -> None:
    for name, count in (("train", 12), ("dev", 6), ("test", 8), ("notes", 3)):
        _write(tmp_path / f"{name}.csv", [["text", "label"], *([f"{name} {index}", index % 2] for index in range(count))])
    found = preview(f"csv:{tmp_path}")
    assert found.parts == {"train": 12, "validation": 6, "test": 8}
    assert [sample.rpartition("/")[2] for sample in found.samples] == [
        f"train.csv:{row + 2}, train {row}: {row % 2}" for row in range(3)
    ]
    data = load(f"csv:{tmp_path}", tmp_path / "out", max_tokens=4, vocabulary=100)
    for part, names in parts_of(data).items():
        assert {Path(name).name.partition(".")[0] for name in names} == {"dev" if part == "validation" else part}


def test_broken_rows_are_left_out_only_if_asked(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "a.csv",
        [["x", "y"], *([index, index % 2] for index in range(20)), ["3", "1", "2"], ["word", "1"], ["5", ""]],
    )
    assert refusal(f"csv:{path}", tmp_path / "out") == f"{path}:22: has 3 columns, expected are 2"
    data = load(f"csv:{path}", tmp_path / "out", skip_bad=True)
    assert len(data.labels) == 20
    assert [each.partition(" (")[0] for each in data.skipped] == [f"{path}:{line}" for line in (22, 23, 24)]


HEADER = "x1,x2,label\n"
GOOD = "1,2,a\n3,4,b\n" * 3


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        (b"", {}, "{path} is empty"),
        (b"\n\n", {}, "{path} is empty"),
        (b"label,text\n", {}, "{path} has no rows below its header that fit it"),
        (b"one\ntwo\n", {}, "{path}:1: has one column, expected are samples and labels"),
        ((HEADER + GOOD + "1,2\n" + GOOD).encode(), {}, "{path}:8: has 2 columns, expected are 3"),
        ((HEADER + GOOD + "1,n/a,a\n").encode(), {}, "{path}:8: column 'x2' is 'n/a', no finite 32-bit number"),
        ((HEADER + "1,n/a,a\n" + GOOD).encode(), {}, "{path}:2: column 'x2' is 'n/a', no finite 32-bit number"),
        ((HEADER + GOOD + "1,,a\n").encode(), {}, "{path}:8: column 'x2' is '', no finite 32-bit number"),
        ((HEADER + GOOD + "1,nan,a\n").encode(), {}, "{path}:8: column 'x2' is 'nan', no finite 32-bit number"),
        ((HEADER + GOOD + "1,1e39,a\n").encode(), {}, "{path}:8: column 'x2' is '1e39', no finite 32-bit number"),
        ((HEADER + GOOD + "1,1_0,a\n").encode(), {}, "{path}:8: column 'x2' is '1_0', no finite 32-bit number"),
        ((HEADER + GOOD + "1,2, \n").encode(), {}, "{path}:8: has an empty label"),
        (b"text,label\nfine,a\n ,b\n", {}, "{path}:3: has an empty text"),
        (b'text,label\nfine,a\n"open,b\nmore,a\n', {}, "{path}:3: the row that begins here is no CSV: unexpected end of data"),
        (b'text,label\nfine,a\n"a"b,b\n', {}, "{path}:3: the row that begins here is no CSV: "),
        ("text,label\nna\xefve,a\n".encode("latin1"), {}, "{path}:2: is not UTF-8 text (byte 0xef at 3)"),
        ("text,label\nfine,a\n".encode("utf-16"), {}, "{path}:1: is not UTF-8 text (byte 0xff at 1)"),
        (b"text,label\nfi\0ne,a\n", {}, "{path}:2: holds a NUL character"),
        (b"text,label\n" + b"a" * (1 << 20) + b"a,b\n", {}, "{path}:2: the row that begins here is no CSV: field larger"),
        (b"title,body,label\na,b,x\nc,d,y\n", {}, "{path}: which column holds the text is not clear: 'title', 'body'"),
        (b"text,label\nfine,a\n", {"label_column": "lable"}, "{path} has no column 'lable'; did you mean 'label'?"),
        (b"text,label\nfine,a\n", {"input_column": "label"}, "{path}: column 'label' cannot be both sample and label"),
        (b"id,label\n1,a\n2,b\n", {}, "{path} has no column of samples beside the labels"),
        (b"text,label\nfine,a\ngood,a\n", {}, "the data has one class only (a)"),
        (b"x,label\n" + b"".join(b"1,%d\n" % label for label in range(10_001)), {}, "{path}, column 'label', has 10,001 different labels"),
    ],
)  # fmt: skip
def test_broken_files_are_one_line(tmp_path: Path, content: bytes, options: dict[str, str], expected: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert refusal(f"csv:{path}", tmp_path / "out", **options).startswith(expected.format(path=path)), expected


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\r\nfine,a\r\ngood,b\r\n", encoding="utf-8-sig")
    assert preview(f"csv:{tmp_path / 'a.csv'}").samples[0] == f"{tmp_path / 'a.csv'}:2, fine: a"


def test_files_of_a_folder_must_fit(tmp_path: Path) -> None:
    assert "does not exist; did you mean 'there.csv'?" in refusal(_there(tmp_path), tmp_path / "out")
    assert "has no train.csv" in refusal(f"csv:{tmp_path}", tmp_path / "out")
    _write(tmp_path / "train.csv", [["a", "b", "label"], *([1, 2, index % 2] for index in range(8))])
    _write(tmp_path / "test.csv", [["a", "label"], *([1, index % 2] for index in range(8))])
    assert "test.csv and" in (message := refusal(f"csv:{tmp_path}", tmp_path / "out"))
    assert "differ in their columns: a header, numbers in 'a', labels in 'label'; a header, numbers in 'a', 'b'" in message
    (tmp_path / "dev.csv").write_bytes((tmp_path / "train.csv").read_bytes())
    (tmp_path / "val.csv").write_bytes((tmp_path / "train.csv").read_bytes())
    assert "has two files of one split: dev.csv and val.csv" in refusal(f"csv:{tmp_path}", tmp_path / "out")


def _there(tmp_path: Path) -> str:
    (tmp_path / "there.csv").write_text("x")
    return f"csv:{tmp_path / 'their.csv'}"


def test_sst2(tmp_path: Path) -> None:
    folder = Path(os.environ.get("EDGEKD_DATA", "no-data")) / "sst2"
    if not folder.is_dir():
        pytest.skip("EDGEKD_DATA names no folder with sst2")
    found = preview(f"tsv:{folder}")
    assert (found.kind, found.classes, found.parts) == ("text", ("0", "1"), {"train": 6920, "validation": 872, "test": 1821})
    lines = [line for name in ("train", "dev", "test") for line in (folder / f"{name}.tsv").read_text().splitlines()]
    assert found.counts == tuple(sum(line.endswith(f"\t{label}") for line in lines) for label in "01")
