"""The Python programs of a kit, as processes of their own: they pass, fail when anything is changed, and read raw data rightly."""

import ast
import hashlib
import json
import shutil
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from PIL import Image
from scipy.io import wavfile

from edgekd.data.images import decode_image
from edgekd.data.sounds import Sound, decode_sound, fit_sound
from edgekd.kit.kit import write_kits
from edgekd.models.tensors import TensorSpec
from edgekd.report.report import Report
from edgekd.runtimes import feed
from tests.kit.made_up import HOSTILE, edit_report, image_spec, write_run

NAME = 'im"age\\ $x {{ y }} {% z %}\n"""\'\'\' ünï/🦊'


def python(folder: Path, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run Python with a kit's folder as the place of its modules."""
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False, **more)


def answer(folder: Path, code: str) -> Any:
    """Return what an expression over the modules of a kit gives, through JSON."""
    done = python(folder, "-c", f"import json, model, predict\nprint(json.dumps({code}))")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _images(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    channels, height, width = shape
    return np.random.default_rng(1).integers(0, 256, size=(count, height, width, channels)).astype(np.uint8)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Raspberry Pi kit of a run in which every name that users choose is hostile."""
    run = tmp_path_factory.mktemp("hostile") / 'run "$(id)" é'
    write_run(
        run,
        (image_spec((3, 5, 5), NAME),),
        HOSTILE,
        {NAME: _images(24, (3, 5, 5))},
        {NAME: 255.0},
        NAME,
        HOSTILE[:20],
        f"{NAME}2",
    )
    (kit,) = write_kits(run, ["raspberry-pi"]).written
    return kit.folder


@pytest.fixture
def kit(hostile: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(hostile, tmp_path / "kit"))


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _change(folder: Path, name: str, change: Callable[[bytes], bytes], quietly: bool) -> None:
    """Change a file of a kit; quietly: so that its hash in model.py is right again."""
    path = folder / name
    before = _hash(path)
    path.write_bytes(change(path.read_bytes()))
    if quietly:
        program = folder / "model.py"
        assert before in program.read_text(encoding="utf-8")
        program.write_text(program.read_text(encoding="utf-8").replace(before, _hash(path)), encoding="utf-8")


def test_hostile_names_pass(kit: Path, tmp_path: Path) -> None:
    done = python(tmp_path, str(kit / "check.py"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "24 of 24 golden vectors agree in ONNX Runtime" in done.stdout
    assert answer(kit, "[model.INPUTS[0]['name'], model.OUTPUTS[0]['name'], model.labels()]") == [
        NAME,
        f"{NAME}2",
        list(HOSTILE),
    ]
    samples = ast.literal_eval(python(kit, "-c", "import check; print(check.SAMPLES)").stdout)
    assert [each["id"] for each in samples[:20]] == list(HOSTILE[:20])


def test_a_stranger_gets_the_hostile_label_of_an_image(kit: Path, tmp_path: Path) -> None:
    pixels = _images(1, (3, 5, 5))[0]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = (pixels.astype(np.float32) / 255 - 0.25) / 0.5
    session = onnxruntime.InferenceSession(str(kit / "student.fp32.onnx"))
    (logits,) = session.run(None, {NAME: image.transpose(2, 0, 1)[None]})
    label, share = answer(kit, f"predict.predict({str(tmp_path / 'a.png')!r}, model.open_model())")
    assert label == HOSTILE[int(logits.argmax())]
    assert share == pytest.approx(float(1 / np.exp(logits - logits.max()).sum()), rel=1e-4)


@pytest.mark.parametrize("name", ["student.fp32.onnx", "golden/output", "golden/input", "labels.json"])
@pytest.mark.parametrize("change", [lambda content: content[:-1] + bytes([content[-1] ^ 1]), lambda content: content[:-1]])
def test_a_changed_byte_fails(kit: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    (path,) = kit.glob(f"{name}*")
    _change(kit, str(path.relative_to(kit)), change, quietly=False)
    done = python(kit, "check.py")
    assert done.returncode == 1
    assert f"FAILED: the kit is not whole: {path.relative_to(kit)} was changed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_file_fails(kit: Path) -> None:
    (kit / "student.fp32.onnx").unlink()
    done = python(kit, "check.py")
    assert (done.returncode, done.stderr) == (1, "FAILED: the kit is not whole: student.fp32.onnx is missing\n")


def test_another_golden_value_fails_where_hashes_are_right(kit: Path) -> None:
    (path,) = kit.glob("golden/output*")

    def change(content: bytes) -> bytes:
        values = np.frombuffer(content, "<f4").copy()
        values[33] += 1e-3 * np.ptp(values)
        return values.tobytes()

    _change(kit, f"golden/{path.name}", change, quietly=True)
    done = python(kit, "check.py")
    assert done.returncode == 1
    assert done.stderr.count("differs by") == 1
    assert "sample 1 (" in done.stderr  # 29 values a sample
    assert "FAILED: 1 differences" in done.stderr


@pytest.mark.parametrize("factor", [1.001, np.nan])
def test_another_network_fails_where_hashes_are_right(kit: Path, factor: float) -> None:
    def change(content: bytes) -> bytes:
        network = onnx.load_from_string(content)
        weights = numpy_helper.to_array(network.graph.initializer[0]) * np.float32(factor)
        network.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "_weights"))
        changed: bytes = network.SerializeToString()
        return changed

    _change(kit, "student.fp32.onnx", change, quietly=True)
    done = python(kit, "check.py")
    assert done.returncode == 1
    assert "differences from the golden vectors" in done.stderr
    assert "Every value may differ by 0.0001 of the output range" in done.stderr


def test_the_first_class_must_be_first_again(kit: Path) -> None:
    """Wider tolerances let values pass, and then the class is looked at."""
    text = (kit / "check.py").read_text(encoding="utf-8")
    (kit / "check.py").write_text(text.replace("'top1': ", "'top1': 1 + "), encoding="utf-8")
    done = python(kit, "check.py")
    assert done.returncode == 1
    assert "first instead of" in done.stderr


def test_programs_need_no_new_python_and_no_other_packages(hostile: Path) -> None:
    for name in ("model.py", "check.py", "predict.py"):
        tree = ast.parse((hostile / name).read_text(encoding="utf-8"), feature_version=(3, 9))
        imported = {
            (each.module or "") if isinstance(each, ast.ImportFrom) else alias.name
            for each in ast.walk(tree) if isinstance(each, (ast.Import, ast.ImportFrom)) for alias in each.names
        }  # fmt: skip
        allowed = {"numpy", "onnxruntime", "model", "hashlib", "json", "pathlib", "sys"} | (
            {"PIL"} if name == "predict.py" else set()
        )
        assert imported <= allowed


def _inputs(kit: Path, argument: str) -> dict[str, np.ndarray]:
    found = answer(kit, f"{{name: [str(v.dtype), v.tolist()] for name, v in predict.prepare({argument!r}).items()}}")
    return {name: np.asarray(values, dtype) for name, (dtype, values) in found.items()}


def _described(run: Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((run / "report.json").read_text())["artifacts"][0]["inputs"][0]
    return described


def _pictures(folder: Path) -> list[Path]:
    """Write images of every mode that matters, and of other sizes; those that are grey have it in their name."""
    rgb = _images(1, (3, 23, 31))[0]
    grey = Image.fromarray(rgb[..., 0])
    colour = Image.fromarray(rgb)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {
        "colour.png": colour, "alpha.png": colour.convert("RGBA"), "palette.png": colour.convert("P"),
        "small.png": colour.resize((8, 8)), "grey.png": grey, "grey_bits.png": grey.convert("1"),
        "grey_alpha.png": Image.merge("LA", (grey, Image.fromarray(rgb[..., 1]))),
        "grey_16.png": Image.fromarray(rgb[..., 0].astype(np.uint16) * 257),
    }  # fmt: skip
    for name, image in made.items():
        image.save(folder / name)
    colour.save(folder / "turned.jpg", exif=exif)
    return [folder / name for name in (*made, "turned.jpg")]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_read_as_they_were_for_training(tmp_path: Path, channels: int) -> None:
    spec = image_spec(
        (channels, 8, 8), value_range=(-1.0, 1.0), mean=(0.1, 0.2, 0.3)[:channels], std=(0.5, 0.6, 0.7)[:channels]
    )
    run = write_run(tmp_path / "run", (spec,), ("a", "b"), {"image": _images(6, (channels, 8, 8))}, {"image": 255.0})
    (kit,) = write_kits(run, ["jetson"]).written
    for path in _pictures(tmp_path):
        if channels == 1 and not path.name.startswith("grey"):
            continue  # a network of grey images never saw one in colour
        decoded = decode_image(path, 8)
        assert not isinstance(decoded, str)
        expected = feed(decoded[0][None, ..., :channels], 255, _described(run))
        np.testing.assert_array_equal(_inputs(kit.folder, str(path))["image"], expected, path.name)


def test_images_are_quantized_as_the_report_says(finished: Report, tmp_path: Path) -> None:
    """The int8 file of a real run, with a picture of a digit."""
    run = Path(shutil.copytree(finished.folder, tmp_path / "run", ignore=shutil.ignore_patterns("stages")))

    def faster(report: dict[str, Any]) -> None:
        for each in report["artifacts"]:
            each["latency"]["host:1"]["p50_ms"] = 1.0 if each["format"] == "tflite" else 2.0

    edit_report(run, faster)
    (kit,) = write_kits(run, ["raspberry-pi"]).written
    assert kit.artifact == "tflite-int8"
    done = python(kit.folder, "check.py")
    assert done.returncode == 0, done.stderr
    assert "20 of 20 golden vectors agree in LiteRT" in done.stdout
    pixels = _images(1, (1, 8, 8))[0][..., 0]
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    artifact = next(
        each for each in json.loads((run / "report.json").read_text())["artifacts"] if "int8.tflite" in each["path"]
    )
    expected = feed(pixels[None, ..., None], 255, artifact["inputs"][0])
    found = _inputs(kit.folder, str(tmp_path / "digit.png"))["image"]
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, expected)
    for name in ("student.int8.tflite", *(f"golden/{path.name}" for path in (kit.folder / "golden").glob("*.bin"))):
        changed = Path(shutil.copytree(kit.folder, tmp_path / name.replace("/", "-")))
        _change(changed, name, lambda content: content[:-1] + bytes([content[-1] ^ 64]), quietly=False)
        assert python(changed, "check.py").returncode == 1
    (path,) = (kit.folder / "golden").glob("output*")
    _change(kit.folder, f"golden/{path.name}", lambda content: bytes([content[0] ^ 16]) + content[1:], quietly=True)
    done = python(kit.folder, "check.py")
    assert done.returncode == 1
    assert "differs by 16, allowed are 4" in done.stderr


def test_sounds_are_read_as_they_were_for_training(tmp_path: Path) -> None:
    spec = TensorSpec("waveform", "float32", (400,), "NC", "waveform", (-1.0, 1.0), sample_rate=4_000)
    random = np.random.default_rng(2)
    raw = random.integers(-32_768, 32_768, size=(6, 400)).astype(np.int16)
    run = write_run(tmp_path / "run", (spec,), ("a", "b"), {"waveform": raw}, {"waveform": 32_768})
    (kit,) = write_kits(run, ["raspberry-pi"]).written
    assert python(kit.folder, "check.py").returncode == 0
    wavfile.write(tmp_path / "short.wav", 4_000, raw[0, :150])
    wavfile.write(tmp_path / "long.wav", 4_000, np.concatenate(raw))
    wavfile.write(tmp_path / "stereo.wav", 4_000, raw[:2].T.copy())
    wavfile.write(tmp_path / "8bit.wav", 4_000, random.integers(0, 256, size=400).astype(np.uint8))
    wavfile.write(tmp_path / "32bit.wav", 4_000, raw[0].astype(np.int32) * 65_536 + 12_345)
    wavfile.write(tmp_path / "faster.wav", 11_025, np.concatenate(raw))
    with wave.open(str(tmp_path / "24bit.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(3)
        file.setframerate(4_000)
        file.writeframes((raw[0].astype("<i4") * 256 + 7).view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
    for name in ("short", "long", "stereo", "8bit", "24bit", "32bit", "faster"):
        with (tmp_path / f"{name}.wav").open("rb") as opened:
            sound = decode_sound(opened)
        assert isinstance(sound, Sound), name
        expected = feed(fit_sound(sound, 4_000, 400)[None], 32_768, _described(run))
        found = _inputs(kit.folder, str(tmp_path / f"{name}.wav"))["waveform"]
        # Cut before it is resampled, a sound may differ in the last of its 16 bits.
        np.testing.assert_allclose(found, expected, atol=1.01 / 32_768 if name == "faster" else 0, err_msg=name)


def test_texts_are_read_as_they_were_for_training(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {each: index for index, each in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "film"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(6)
    tokenizer.enable_padding(length=6)
    inputs = (
        TensorSpec("input_ids", "int32", (6,), "NC", "tokens", vocabulary=7),
        TensorSpec("attention_mask", "int32", (6,), "NC", "mask"),
    )
    raw = {each.name: np.ones((6, 6), np.int32) for each in inputs}
    run = tmp_path / "run"
    write_run(run, inputs, ("bad", "good"), raw, {"input_ids": None, "attention_mask": None})
    (run / "artifacts" / "tokenizer.json").write_text(tokenizer.to_str())
    (run / "artifacts" / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    edit_report(run, lambda report: None)
    (kit,) = write_kits(run, ["raspberry-pi"]).written
    assert python(kit.folder, "check.py").returncode == 0
    assert {"tokenizer.json", "vocab.txt"} <= set(kit.files)
    for text in ("a good film", "a a a a a a a a", "", "'\"\\$"):
        encoded = tokenizer.encode(text)
        found = _inputs(kit.folder, text)
        assert found["input_ids"].dtype == np.int32
        assert found["input_ids"].tolist() == [encoded.ids]
        assert found["attention_mask"].tolist() == [encoded.attention_mask]


def test_rows_are_read_as_they_were_for_training(tmp_path: Path) -> None:
    spec = TensorSpec("features", "float32", (3,), "NC", "features", None, (1.0, 2.0, 3.0), (0.5, 0.25, 2.0))
    raw = np.random.default_rng(3).normal(size=(6, 3)).astype(np.float32)
    run = write_run(tmp_path / "run", (spec,), ("a", "b"), {"features": raw}, {"features": None})
    (kit,) = write_kits(run, ["raspberry-pi"]).written
    found = _inputs(kit.folder, ",".join(repr(float(each)) for each in raw[0]))
    np.testing.assert_array_equal(found["features"], feed(raw[:1], None, _described(run)))
    done = python(kit.folder, "predict.py", "1,2")
    assert (done.returncode, done.stderr) == (1, "2 numbers instead of 3\n")
    done = python(kit.folder, "predict.py", "1,2,3")
    assert done.returncode == 0
    assert done.stdout.split()[0] in {"a", "b"}
