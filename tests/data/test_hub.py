"""Hugging Face data sets in local folders, read without a network."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from edgekd.data.cache import TEXTS, read_lines
from edgekd.errors import UsageError
from tests.data.loading import load, parts_of, preview, refusal

datasets: Any = pytest.importorskip("datasets")
pyarrow: Any = pytest.importorskip("pyarrow")

COUNT = 24
LABELS = [index % 3 for index in range(COUNT)]
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 5, 3), np.uint8)
TONES = (np.random.default_rng(0).normal(0, 3000, (COUNT, 900))).astype(np.int16)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test may reach the network or the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def _png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _wav(values: Any, rate: int = 8000) -> bytes:
    buffer = io.BytesIO()
    wavfile.write(buffer, rate, values)
    return buffer.getvalue()


def _labels(names: list[str] | None = None) -> Any:
    return datasets.ClassLabel(names=names or ["cat", "dog", "emu"])


def _texts(count: int = COUNT, labels: list[Any] | None = None) -> Any:
    features = datasets.Features({"sentence": datasets.Value("string"), "label": _labels(), "idx": datasets.Value("int32")})
    columns = {
        "sentence": [f"text {index}" for index in range(count)],
        "label": labels or LABELS[:count],
        "idx": list(range(count)),
    }
    return datasets.Dataset.from_dict(columns, features=features)


def _files(column: str, contents: list[bytes | None], labels: list[Any] | None = None) -> Any:
    """Return a data set of images or sounds, from the bytes of their files.

    Sounds are put in as Arrow values, for datasets needs torchcodec to encode them.
    """
    feature = {"image": datasets.Image(), "audio": datasets.Audio()}[column]
    features = datasets.Features({column: feature, "label": _labels()})
    rows = [None if content is None else {"bytes": content, "path": None} for content in contents]
    values = pyarrow.array(rows, pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}))
    table = pyarrow.table({column: values, "label": pyarrow.array(labels or LABELS[: len(rows)], pyarrow.int64())})
    return datasets.Dataset(datasets.table.InMemoryTable(table.cast(features.arrow_schema)))


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def _save(made: Any, folder: Path, kind: str) -> str:
    folder.mkdir()
    splits = made if isinstance(made, dict) else {"train": made}
    if kind == "disk":
        made.save_to_disk(str(folder))
    for name, each in splits.items():
        if kind == "parquet":
            each.to_parquet(str(folder / f"{name}.parquet"))
        elif kind == "csv":
            each.to_csv(str(folder / f"{name}.csv"))
        elif kind == "json":
            each.to_json(str(folder / f"{name}.jsonl"))
    return f"hf:{folder}"


@pytest.mark.parametrize("kind", ["disk", "parquet", "csv", "json"])
def test_texts_of_every_kind_of_folder(tmp_path: Path, kind: str) -> None:
    source = _save(_texts(), tmp_path / "a", kind)
    before = _snapshot(tmp_path / "a")
    data = load(source, tmp_path / "out", max_tokens=4, vocabulary=100)
    # Class names are kept by Arrow and parquet, not by text formats.
    classes = ("cat", "dog", "emu") if kind in {"disk", "parquet"} else ("0", "1", "2")
    assert (data.kind, data.classes, data.labels.tolist()) == ("text", classes, LABELS)
    assert list(read_lines(data.ids_file.with_name(TEXTS))) == [f"text {index}" for index in range(COUNT)]
    assert preview(source).counts == (8, 8, 8)
    assert preview(source).samples[1] == f"train[1], 'text 1': {classes[1]}"
    assert _snapshot(tmp_path / "a") == before
    assert not list((tmp_path / "out").rglob("*.arrow"))


@pytest.mark.parametrize("kind", ["disk", "parquet"])
def test_images(tmp_path: Path, kind: str) -> None:
    source = _save(_files("image", [_png(pixels) for pixels in PIXELS]), tmp_path / "a", kind)
    data = load(source, tmp_path / "out")
    assert (data.kind, data.classes, data.raw["image"].full_scale) == ("image", ("cat", "dog", "emu"), 255)
    assert np.array_equal(data.raw["image"].array[:], PIXELS)
    assert preview(source).samples[0] == "train[0], 5x6 RGB: cat"
    assert load(source, tmp_path / "out", image_size=4).raw["image"].array.shape == (COUNT, 4, 4, 3)


@pytest.mark.parametrize("kind", ["disk", "parquet"])
def test_sounds(tmp_path: Path, kind: str) -> None:
    source = _save(_files("audio", [_wav(tone) for tone in TONES]), tmp_path / "a", kind)
    data = load(source, tmp_path / "out", seconds=0.1)
    assert (data.kind, data.inputs[0].sample_rate) == ("waveform", 8000)
    assert np.array_equal(data.raw["waveform"].array[:], TONES[:, :800])
    assert preview(source).samples[0] == "train[0], 0.11 s at 8,000 Hz: cat"


def test_images_beside_their_names(tmp_path: Path) -> None:
    for index, pixels in enumerate(PIXELS):
        (tmp_path / "a" / "train" / "xyz"[index % 3]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "a" / "train" / "xyz"[index % 3] / f"{index:02}.png")
    data = load(f"hf:{tmp_path / 'a'}", tmp_path / "out")
    assert data.classes == ("x", "y", "z")
    order = sorted(range(COUNT), key=lambda index: (index % 3, index))
    assert np.array_equal(data.raw["image"].array[:], PIXELS[order])


@pytest.mark.parametrize("kind", ["disk", "parquet"])
def test_splits(tmp_path: Path, kind: str) -> None:
    made = datasets.DatasetDict({"test": _texts(9), "train": _texts(), "validation": _texts(6)})
    source = _save(made, tmp_path / "a", kind)
    assert preview(source).parts == {"train": 24, "validation": 6, "test": 9}
    found = parts_of(load(source, tmp_path / "out", max_tokens=4, vocabulary=100))
    assert {part: ({name.partition("[")[0] for name in names}, len(names)) for part, names in found.items()} == {
        "train": ({"train"}, 24), "validation": ({"validation"}, 6), "test": ({"test"}, 9),
    }  # fmt: skip


def test_other_splits_are_not_used_and_one_split_is_split_by_seed(tmp_path: Path) -> None:
    made = datasets.DatasetDict({"train": _texts(), "test": _texts(), "unsupervised": _texts()})
    assert preview(_save(made, tmp_path / "a", "disk")).parts == {"train": 24, "test": 24}
    only = datasets.DatasetDict({"everything": _texts()})
    found = preview(_save(only, tmp_path / "b", "disk"))
    assert (found.parts, sum(found.counts)) == ({}, 24)


def test_samples_without_label_are_left_out_only_if_asked(tmp_path: Path) -> None:
    made = datasets.DatasetDict({"train": _texts(), "test": _texts(3, [-1, -1, -1])})
    source = _save(made, tmp_path / "a", "disk")
    assert (
        refusal(source, tmp_path / "out")
        == "3 texts cannot be decoded: test[0] (has no label), test[1] (has no label), test[2] (has no label)"
    )
    data = load(source, tmp_path / "out", skip_bad=True, max_tokens=4, vocabulary=100)
    assert len(data.labels) == 24
    assert data.skipped == ("test[0] (has no label)", "test[1] (has no label)", "test[2] (has no label)")


def test_files_that_cannot_be_decoded(tmp_path: Path) -> None:
    contents: list[bytes | None] = [_png(pixels) for pixels in PIXELS]
    contents[4:7] = [b"", b"no image", None]
    source = _save(_files("image", contents), tmp_path / "a", "disk")
    expected = "train[4] (is empty), train[5] (is no image that Pillow knows), train[6] (is empty)"
    assert refusal(source, tmp_path / "out") == f"3 images cannot be decoded: {expected}"
    assert len(load(source, tmp_path / "out", skip_bad=True).labels) == COUNT - 3
    sounds = _save(_files("audio", [_wav(TONES[0]), b"fLaC", *[_wav(tone) for tone in TONES[2:]]]), tmp_path / "b", "disk")
    assert refusal(sounds, tmp_path / "out") == "1 sound cannot be decoded: train[1] (is no WAV file)"


def _table(**columns: Any) -> Any:
    return datasets.Dataset.from_dict(columns)


WORDS = [f"w{index}" for index in range(COUNT)]


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({"text": WORDS}, {}, "which column holds the labels is not clear: text"),
        ({"text": WORDS, "kind": LABELS}, {}, "which column holds the labels is not clear: text, kind"),
        ({"text": WORDS, "kind": LABELS}, {"label_column": "kid"}, "has no column 'kid'; did you mean 'kind'?"),
        ({"left": WORDS, "right": WORDS, "label": LABELS}, {}, "which column holds the samples is not clear: left, right"),
        ({"left": WORDS, "label": LABELS}, {"input_column": "lift"}, "has no column 'lift'; did you mean 'left'?"),
        ({"number": LABELS, "label": LABELS}, {}, "has no column of images, sounds or texts: number"),
        ({"number": LABELS, "label": LABELS}, {"input_column": "number"}, "column 'number' holds no images, sounds or texts"),
        ({"text": WORDS, "label": [[1]] * COUNT}, {}, "column 'label' is no label"),
        ({"text": WORDS, "label": [0] * COUNT}, {}, "the data has one class only (0)"),
        ({"text": [*WORDS[:-1], ""], "label": LABELS}, {}, "1 text cannot be decoded: train[23] (has no text)"),
    ],
)  # fmt: skip
def test_columns_that_do_not_fit_are_one_line(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, str], expected: str
) -> None:
    assert expected in refusal(_save(_table(**columns), tmp_path / "a", "disk"), tmp_path / "out", **options)


def test_columns_by_option(tmp_path: Path) -> None:
    source = _save(
        _table(left=WORDS, right=WORDS[::-1], kind=["ab"[index % 2] for index in range(COUNT)]), tmp_path / "a", "disk"
    )
    found = preview(source, input_column="right", label_column="kind")
    assert (found.classes, found.samples[0]) == (("a", "b"), "train[0], 'w23': a")


def test_folders_that_are_none_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert f"data folder {tmp_path / 'empty'} cannot be read by datasets: " in refusal(
        f"hf:{tmp_path / 'empty'}", tmp_path / "out"
    )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.parquet").write_bytes(b"no parquet")
    assert "Parquet magic bytes not found" in refusal(f"hf:{tmp_path / 'broken'}", tmp_path / "out")
    assert "does not exist; did you mean 'empty'?" in refusal(f"hf:{tmp_path / 'emty'}", tmp_path / "out")
    (tmp_path / "file").touch()
    assert "is a file, not a folder" in refusal(f"hf:{tmp_path / 'file'}", tmp_path / "out")
    source = _save(_texts(), tmp_path / "cut", "disk")
    (arrow,) = (tmp_path / "cut").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:300])
    assert "cut cannot be read by datasets" in refusal(source, tmp_path / "out")


def test_code_in_a_folder_is_not_run(tmp_path: Path) -> None:
    source = _save(_texts(), tmp_path / "a", "parquet")
    (tmp_path / "a" / "a.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "Dataset scripts are no longer supported, but found a.py" in refusal(source, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_splits_that_do_not_fit(tmp_path: Path) -> None:
    other = _texts().cast_column("label", _labels(["cat", "dog", "fox"]))
    source = _save(datasets.DatasetDict({"train": _texts(), "test": other}), tmp_path / "a", "disk")
    assert "split test has other columns than train" in refusal(source, tmp_path / "out")
    two = _save(datasets.DatasetDict({"train": _texts(), "val": _texts(), "dev": _texts()}), tmp_path / "b", "disk")
    assert "has two splits of one kind" in refusal(two, tmp_path / "out")
    none = _save(datasets.DatasetDict({"one": _texts(), "two": _texts()}), tmp_path / "c", "disk")
    assert "has no train split; its splits: one, two" in refusal(none, tmp_path / "out")


@pytest.mark.parametrize("name", ["no-such/data-set", "glue:sst2"])
def test_the_hub_without_a_network_is_one_line(tmp_path: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgekd", "plan", f"data.source=hf:{name}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(tmp_path / "cache"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
    )
    first, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert first.startswith(f"error: hf:{name} is no folder here, and the Hub cannot be reached: ")
    assert hint == "hint: name a folder, or connect to the network"


def test_without_datasets_the_pip_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match="hf: data needs datasets, not installed here") as caught:
        preview("hf:anything")
    assert caught.value.hint == "pip install 'edgekd[hub]'"
