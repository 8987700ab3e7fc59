"""The user's own code as a source: every kind of sample, and mistakes told by the number of the sample."""

from pathlib import Path

import numpy as np
import pytest

from edgekd.data.cache import TEXTS, read_lines
from edgekd.errors import UsageError
from tests.data.loading import load, parts_of, preview, refusal

HEAD = "import numpy as np\nfrom pathlib import Path\n"


def _source(folder: Path, body: str, name: str = "mine") -> str:
    path = folder / f"{name}.py"
    path.write_text(HEAD + body)
    return f"python:{path}:data"


IMAGES = """
def data():
    for index in range(24):
        yield np.full((4, 5{more}), index, np.uint8), index % 3
"""


@pytest.mark.parametrize(("more", "channels"), [("", 1), (", 1", 1), (", 3", 3)])
def test_images(tmp_path: Path, more: str, channels: int) -> None:
    source = _source(tmp_path, IMAGES.format(more=more))
    data = load(source, tmp_path / "out")
    assert (data.kind, data.classes, data.raw["image"].full_scale) == ("image", ("0", "1", "2"), 255)
    expected = np.broadcast_to(np.arange(24, dtype=np.uint8)[:, None, None, None], (24, 4, 5, channels))
    assert np.array_equal(data.raw["image"].array[:], expected)
    assert data.labels.tolist() == [index % 3 for index in range(24)]
    assert data.ids[:3] == ("0", "1", "2")
    assert preview(source).samples[1] == f"1, uint8 {[4, 5, *([channels] if more else [])]}: 1"


def test_texts_and_word_labels(tmp_path: Path) -> None:
    source = _source(
        tmp_path, "def data():\n    return [(f'text number {index}', ['no', 'yes'][index % 2]) for index in range(20)]"
    )
    data = load(source, tmp_path / "out", max_tokens=8, vocabulary=100)
    assert (data.kind, data.classes) == ("text", ("no", "yes"))
    assert list(read_lines(data.ids_file.with_name(TEXTS)))[7] == "text number 7"


def test_features_and_classes_in_order_of_value(tmp_path: Path) -> None:
    source = _source(
        tmp_path,
        "def data():\n    for index in range(24):\n        yield np.arange(3) / 7 + index, np.int64((10, 9)[index % 2])",
    )
    data = load(source, tmp_path / "out")
    assert (data.kind, data.classes) == ("features", ("9", "10"))
    rows = (np.arange(3) / 7 + np.arange(24)[:, None]).astype(np.float32)
    assert np.array_equal(data.raw["features"].array[:], rows)
    assert data.labels.tolist() == [1, 0] * 12


@pytest.mark.parametrize("value", ["np.full(500, index - 100, np.int16)", "np.full(500, (index - 100) / 32768)"])
def test_sounds_where_the_rate_is_set(tmp_path: Path, value: str) -> None:
    source = _source(tmp_path, f"def data():\n    for index in range(24):\n        yield {value}, index % 2")
    assert preview(source).kind == "features"
    assert preview(source, sample_rate=1000).kind == "waveform"
    data = load(source, tmp_path / "out", sample_rate=1000, seconds=0.6)
    rows = data.raw["waveform"].array[:]
    assert rows.dtype == np.int16
    assert (rows.shape, data.inputs[0].sample_rate) == ((24, 600), 1000)
    assert np.array_equal(rows[:, 0], np.arange(24) - 100)
    assert not rows[:, 500:].any()


@pytest.mark.parametrize(
    "body",
    [
        """
def data():
    for split, count in (("test", 6), ("train", 14), ("dev", 8)):
        for index in range(count):
            yield np.full(2, index), index % 2, split
""",
        """
def data():
    def part(count):
        for index in range(count):
            yield np.full(2, index), index % 2
    return {"test": part(6), "train": part(14), "validation": part(8)}
""",
    ],
)
def test_splits(tmp_path: Path, body: str) -> None:
    source = _source(tmp_path, body)
    assert preview(source).parts == {"test": 6, "train": 14, "validation": 8}
    found = parts_of(load(source, tmp_path / "out"))
    assert found == {
        "test": [str(index) for index in range(6)],
        "train": [str(index) for index in range(6, 20)],
        "validation": [str(index) for index in range(20, 28)],
    }


def test_samples_are_taken_one_by_one(tmp_path: Path) -> None:
    body = """
alive = [0]
class Sample(np.ndarray):
    def __del__(self):
        alive[0] -= 1
def data():
    for index in range(300):
        alive[0] += 1
        assert alive[0] < 8, alive
        yield np.zeros((4, 4), np.uint8).view(Sample), index % 2
"""
    # Views of a sample are samples of their own that are not counted when they come, only when they go.
    assert len(load(_source(tmp_path, body), tmp_path / "out").labels) == 300


def test_a_module_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_package_of_data").mkdir()
    (tmp_path / "my_package_of_data" / "__init__.py").touch()
    (tmp_path / "my_package_of_data" / "inner.py").write_text(HEAD + IMAGES.format(more=""))
    monkeypatch.chdir(tmp_path)
    assert preview("python:my_package_of_data.inner:data").counts == (8, 8, 8)


def test_changed_code_is_run_again(tmp_path: Path) -> None:
    before = load(_source(tmp_path, IMAGES.format(more="")), tmp_path / "out")
    again = load(f"python:{tmp_path / 'mine.py'}:data", tmp_path / "out")
    assert before.digest == again.digest
    after = load(_source(tmp_path, IMAGES.format(more=", 3"), "other"), tmp_path / "out")
    assert after.digest != before.digest


def test_prints_go_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = "print('module')\ndef data():\n    print('first')\n    yield 'a', 0\n    print('second')\n    yield 'b', 1\n"
    preview(_source(tmp_path, body))
    out, err = capsys.readouterr()
    assert (out, err.split()) == ("", ["module", "first", "second"])


def test_what_the_code_raises_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        preview(_source(tmp_path, "def data():\n    yield 'a', 0\n    1 / 0\n"))
    with pytest.raises(UsageError, match="has no 'data'; did you mean 'dada'"):
        preview(_source(tmp_path, "def dada():\n    pass\n", "other"))
    with pytest.raises(UsageError, match=r"there is no file gone\.py"):
        preview("python:gone.py:data")


@pytest.mark.parametrize(
    ("body", "options", "expected"),
    [
        ("return None", {}, ": the function returns None, nothing to iterate over"),
        ("return 'text'", {}, ": the function returns a str, nothing to iterate over"),
        ("return []", {}, " yields no samples"),
        ("return {}", {}, " yields no samples"),
        ("return {'train': [('a', 0)], 'trian': []}", {}, ": there is no split 'trian'"),
        ("return {'train': 3}", {}, ": the function returns a int, nothing to iterate over"),
        ("return ['ab']", {}, ": sample 0 is a str, expected is (sample, label) or (sample, label, split)"),
        ("return [('a', 0), ('b',)]", {}, ": sample 1 is a tuple, expected is"),
        ("return [('a', 0), ('b', 1, 'tset')]", {}, ": sample 1 has split 'tset'"),
        ("return [('a', 0), ('b', 1.5)]", {}, ": sample 1 has label '1.5' of a float"),
        ("return [('a', 0), ('b', True)]", {}, ": sample 1 has label 'True' of a bool"),
        ("return [('a', 0), ('b', ' ')]", {}, ": sample 1 has label ' ' of a str"),
        ("return [('a', 0), ('b', None)]", {}, ": sample 1 has label 'None' of None"),
        ("return [('a', 0), ('b', '\\ud800')]", {}, ": sample 1 has label"),
        ("return [('a', 0), ('\\ud800', 1)]", {}, ": sample 1 is no text"),
        ("return [('a', 0), ('', 1)]", {}, ": sample 1 is no text: ''"),
        ("return [('a', 0), (3, 1)]", {}, ": sample 1 is a int"),
        ("return [('a', 0), (np.zeros(2), 1)]", {}, ": sample 1 is float64 [2], the first is 'a'"),
        ("return [(np.zeros((2, 2)), 0)]", {}, ": sample 0 is float64 [2, 2]"),
        ("return [(np.zeros((2, 2, 9), np.uint8), 0)]", {}, ": sample 0 is uint8 [2, 2, 9]"),
        ("return [(np.zeros(2, object), 0)]", {}, ": sample 0 is object [2]"),
        ("return [(np.zeros((4, 4), np.uint8), 0), (np.zeros((4, 5), np.uint8), 1)]", {}, ": sample 1 has shape [4, 5, 1], the first has [4, 4, 1]"),
        ("return [(np.zeros(3), 0), (np.zeros(2), 1)]", {}, ": sample 1 has shape [2], the first has [3]"),
        ("return [(np.zeros(3), 0), (np.asarray([1, np.nan, 1]), 1)]", {}, ": sample 1[0] holds NaN"),
        ("return [(np.zeros(3), 0), (np.asarray([1, -2.0]), 1)]", {"sample_rate": 1000}, ": sample 1 is float64 [2] from -2 to 1"),
        ("return [(np.zeros(3, int), 0)]", {"sample_rate": 1000}, ": sample 0 is int64 [3] from 0 to 0"),
    ],
)  # fmt: skip
def test_mistakes_name_the_sample(tmp_path: Path, body: str, options: dict[str, int], expected: str) -> None:
    source = _source(tmp_path, f"def data():\n    {body}\n")
    assert refusal(source, tmp_path / "out", **options).startswith(source + expected)
