"""The grammar of data.source, what the plan shows of every kind, and bad data as the command line tells it."""

import gzip
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from edgekd.cli import main
from edgekd.data.sources import SOURCES, check_source, source_module
from edgekd.recipe import Data
from tests.data.loading import load, preview


@pytest.mark.parametrize(
    "value",
    ["digits", "folder:a", "npz:a.npz", "idx:a", "csv:a.csv", "tsv:a", "hf:owner/name", "hf:glue:sst2", "audio-folder:a",
     "python:a.py:data", "python:package.module:data", "folder:C:/with colon"],
)  # fmt: skip
def test_well_written_sources(value: str) -> None:
    assert check_source(value) == value
    module = source_module(Data(source=value))
    assert all(callable(getattr(module, name)) for name in ("fingerprint", "preview", "write_cache"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("digts", "did you mean 'digits'?"),
        ("digits:8", "is no data source"),
        ("foldr:a", "did you mean 'folder'?"),
        ("audio_folder:a", "did you mean 'audio-folder'?"),
        ("folder", "names nothing after 'folder:'"),
        ("npz:", "names nothing after 'npz:', allowed: npz:FILE"),
        ("python:a.py", "names no function, allowed: python:FILE.py:FUNCTION or python:package.module:FUNCTION"),
        ("python:a.py:", "names no function"),
        ("python::data", "names no function"),
        ("python:a.py:no-name", "names no function"),
        ("", "is no data source"),
    ],
)
def test_badly_written_sources(value: str, expected: str) -> None:
    with pytest.raises(ValueError, match=r"data source|names no") as caught:
        check_source(value)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def _plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["edgekd", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
        raise SystemExit(0)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def _make_all(root: Path) -> list[str]:
    """Write 12 samples of 2 classes for every kind of source; return the sources."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)
    labels = np.arange(12) % 2
    for index, label in enumerate("ab" * 6):
        for kind in ("images", "sounds"):
            (root / kind / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[index]).save(root / "images" / label / f"{index}.png")
        wavfile.write(root / "sounds" / label / f"{index}.wav", 8000, np.arange(8000, dtype=np.int16))
    np.savez(root / "a.npz", x=pixels, y=labels)
    (root / "idx").mkdir()
    for name, array in (("images-idx3", pixels), ("labels-idx1", labels.astype(np.uint8))):
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (root / "idx" / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    (root / "a.csv").write_text("text,label\n" + "".join(f"text {index},{index % 2}\n" for index in range(12)))
    (root / "a.tsv").write_text("".join(f"{index}\t{index / 3}\t{index % 2}\n" for index in range(12)))
    (root / "hub").mkdir()
    (root / "hub" / "train.csv").write_bytes((root / "a.csv").read_bytes())
    (root / "mine.py").write_text("def data():\n    for index in range(12):\n        yield f'text {index}', index % 2\n")
    return [
        "digits", "folder:images", "npz:a.npz", "idx:idx", "csv:a.csv", "tsv:a.tsv", "hf:hub", "audio-folder:sounds", "python:mine.py:data",
    ]  # fmt: skip


def test_the_plan_shows_classes_counts_and_three_samples_of_every_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sources = _make_all(tmp_path)
    assert {source.partition(":")[0] for source in sources} == set(SOURCES)
    for source in sources:
        code, out, err = _plan(capsys, monkeypatch, "plan", "digits", f"data.source={source}", "--json")
        assert (code, err) == (0, ""), source
        found = json.loads(out)["data"]
        assert len(found["samples"]) == 3
        assert found["kind"] == preview(source).kind
        if source != "digits":
            assert (len(found["classes"]), found["counts"]) == (2, [6, 6]), source
    assert "from the code of mine.py, which ran for this plan" in out


def test_the_shape_that_the_plan_tells_is_that_of_the_data_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {"max_tokens": 8, "seconds": 0.5}
    for index, source in enumerate(_make_all(tmp_path)):
        shape = load(source, tmp_path / f"out{index}", **options).inputs[0].shape
        found = preview(source, **options)
        assert found.shape == (shape if found.kind != "image" else (*shape[1:], shape[0])), source
        assert found.sample_rate == (8000 if found.kind == "waveform" else None)
    assert preview("folder:images", image_size=6).shape == (6, 6, 1)
    assert (found := preview("audio-folder:sounds", sample_rate=4000, seconds=0.25)).shape == (1000,)
    assert found.sample_rate == 4000


def test_a_shape_that_a_look_cannot_tell_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _make_all(tmp_path)
    Image.new("L", (9, 8)).save(tmp_path / "images" / "a" / "0.png")
    wavfile.write(tmp_path / "sounds" / "a" / "0.wav", 16000, np.arange(8000, dtype=np.int16))
    assert preview("folder:images").shape is None
    assert preview("folder:images", image_size=6).shape == (6, 6, 1)
    assert (preview("audio-folder:sounds").shape, preview("audio-folder:sounds").sample_rate) == (None, None)
    for path in (tmp_path / "images").rglob("*.png"):
        path.write_bytes(b"")
    assert preview("folder:images", image_size=6).shape is None


def test_plans_import_nothing_heavy(tmp_path: Path) -> None:
    sources = [source for source in _make_all(tmp_path) if source != "digits"]
    code = (
        "import sys\nfrom edgekd.planning import plan\n"
        f"for source in {sources!r}:\n    plan('digits', [f'data.source={{source}}'])\n"
        "print(sorted({'torch', 'tensorflow', 'onnxruntime', 'litert_torch', 'onnx', 'jax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "[]\n", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("command", "source", "expected"),
    [
        ("compress", "folder:images", "1 image cannot be decoded: b/1.png (is empty)"),
        ("plan", "csv:row.csv", "row.csv:4: has 3 columns, expected are 2"),
        ("plan", "csv:latin.csv", "latin.csv:2: is not UTF-8 text (byte 0xef at 3)"),
        ("plan", "npz:cut.npz", "cut.npz is no whole .npz file: File is not a zip file"),
        ("plan", "npz:pickle.npz", "pickle.npz: array 'x' holds Python objects; unpickling them could run code, so they are not read"),
        ("compress", "idx:idx", "idx/train-images-idx3-ubyte.gz is no whole gzip file: Compressed file ended before the end-of-stream marker was reached"),
        ("compress", "audio-folder:sounds", "1 sound cannot be decoded: b/1.wav (is no WAV file)"),
        ("plan", "hf:empty", "data folder empty cannot be read by datasets: The directory at {root}/empty doesn't contain any data files"),
        ("plan", "python:mine.py:bad", "python:mine.py:bad: sample 1 is a int, expected is (sample, label) or (sample, label, split)"),
    ],
)  # fmt: skip
def test_bad_data_is_one_line_and_exit_code_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    source: str,
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    _make_all(tmp_path)
    (tmp_path / "images" / "b" / "1.png").write_bytes(b"")
    (tmp_path / "row.csv").write_text("text,label\nfine,a\ngood,b\nbad,b,c\n")
    (tmp_path / "latin.csv").write_bytes("text,label\nnaïve,a\n".encode("latin1"))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:500])
    np.savez(tmp_path / "pickle.npz", x=np.asarray([None] * 12), y=np.arange(12) % 2)
    images = tmp_path / "idx" / "train-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:-20])
    (tmp_path / "sounds" / "b" / "1.wav").write_bytes(b"ID3 this is an mp3")
    (tmp_path / "empty").mkdir()
    with (tmp_path / "mine.py").open("a") as file:
        file.write("def bad():\n    return [('a', 0), 3]\n")
    before = {path for path in tmp_path.rglob("*") if "__pycache__" not in str(path)}
    out_option = ["--out", "out"] if command == "compress" else []
    code, out, err = _plan(capsys, monkeypatch, command, "digits", f"data.source={source}", *out_option)
    line, hint = err.splitlines()[-2:]
    assert (code, out) == (2, "")
    assert line == "error: " + expected.format(root=tmp_path)
    assert hint.startswith("hint: ")
    assert "Traceback" not in err
    left = {path for path in tmp_path.rglob("*") if "__pycache__" not in str(path) and "out" not in path.parts} - before
    assert not left
    assert not list(tmp_path.rglob("*.npy"))
