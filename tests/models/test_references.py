"""The grammar of model references, and what is missing on this machine: one clear line with the pip line."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import UsageError
from edgekd.models.references import KINDS, check_available, check_reference, check_student, kind_of, model_path, name_of

GOOD = [
    "zoo:shallow_cnn", "python:net.py:make", "python:some/where/net.py:make", "python:package.module:make",
    "python:C:/x/net.py:make", "hf:google/vit-base-patch16-224", "hf:./folder", "timm:resnet18.a1_in1k", "torchvision:resnet18",
    "pt2:a.pt2", "onnx:a b.onnx", "onnx:/x/y:z.onnx", "keras:a.keras", "keras:folder", "tflite:a.tflite", "store:folder",
]  # fmt: skip


@pytest.mark.parametrize("reference", GOOD)
def test_every_kind_is_understood(reference: str) -> None:
    assert check_reference(reference) == reference
    assert f"{kind_of(reference)}:{name_of(reference)}" == reference


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("", "is no model reference, allowed: zoo:NAME, python:FILE.py:FACTORY or"),
        ("shallow_cnn", "is no model reference, .*did you mean 'zoo:shallow_cnn'"),
        ("onxx:a.onnx", "is no model reference, .*did you mean 'onnx'"),
        ("ONNX:a.onnx", "is no model reference, .*did you mean 'onnx'"),
        ("onnx:", "is no model reference"),
        ("zoo:shalow_cnn", "no model 'shalow_cnn' in the zoo, .*did you mean 'shallow_cnn'"),
        ("python:net.py", "names no function"),
        ("python:net.py:", "names no function"),
        ("python::make", "names no function"),
        ("python:net.py:make()", "names no function"),
        ("pickle:a.pkl", "is no model reference"),
    ],
)
def test_bad_references_are_one_clear_line(reference: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        check_reference(reference)
    assert "\n" not in str(error.value)


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_a_clear_refusal(text: str) -> None:
    try:
        assert kind_of(check_reference(text)) in KINDS
    except ValueError as error:
        assert "allowed: " in str(error)


@pytest.mark.parametrize("reference", [each for each in GOOD if kind_of(each) in {"pt2", "onnx", "tflite", "store"}])
def test_black_boxes_cannot_be_students(reference: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be a student: .*allowed kinds: zoo, python, hf, timm, torchvision, keras$"):
        check_student(reference)
    with pytest.raises(ValueError, match="allowed: zoo:NAME"):
        check_student("from_teacher")
    assert check_student("from-teacher") == "from-teacher"
    assert check_student("zoo:shallow_cnn") == "zoo:shallow_cnn"


@pytest.mark.parametrize("kind", [kind for kind, each in KINDS.items() if each.needs])
def test_a_missing_package_gives_the_exact_pip_line(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ((module, package),) = KINDS[kind].needs.items()
    with pytest.raises(UsageError, match=f"teacher {kind}:x needs {module}, not installed here") as error:
        check_available(f"{kind}:x", None, "teacher")
    assert error.value.hint == f"pip install {package}"


@pytest.mark.parametrize("kind", ["timm", "torchvision"])
def test_on_this_machine_too(kind: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(kind) is not None:
        pytest.skip(f"{kind} is installed here")
    done = subprocess.run(
        [sys.executable, "-m", "edgekd", "compress", "digits", f"teacher.model={kind}:resnet18", "--out", "out"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-2:] == [
        f"error: teacher {kind}:resnet18 needs {kind}, not installed here", f"hint: pip install {kind}"
    ]  # fmt: skip
    assert not (tmp_path / "out" / "report.json").exists()


def test_a_missing_file_names_what_is_like_it(tmp_path: Path) -> None:
    (tmp_path / "teacher.onnx").write_bytes(b"x")
    check_available(f"onnx:{tmp_path / 'teacher.onnx'}", None, "teacher")
    with pytest.raises(UsageError, match=r"teacher file .*teachr.onnx does not exist; did you mean 'teacher.onnx'"):
        check_available(f"onnx:{tmp_path / 'teachr.onnx'}", None, "teacher")
    with pytest.raises(UsageError, match="does not exist"):
        check_available(f"onnx:{tmp_path / 'teacher.onnx' / 'below'}", None, "teacher")
    with pytest.raises(UsageError, match="cannot read teacher file"):
        check_available("onnx:" + "x" * 5000, None, "teacher")
    with pytest.raises(UsageError, match="cannot read teacher file"):
        check_available("onnx:a\0b", None, "teacher")


def test_weights_must_exist_and_be_of_a_known_format(tmp_path: Path) -> None:
    for name in ("a.pt", "a.safetensors", "a.npz"):
        (tmp_path / name).write_bytes(b"x")
    check_available("zoo:shallow_cnn", str(tmp_path / "a.pt"), "student")
    check_available("zoo:shallow_cnn", str(tmp_path / "a.safetensors"), "student")
    with pytest.raises(UsageError, match=r"student weights file .*b.pt does not exist"):
        check_available("zoo:shallow_cnn", str(tmp_path / "b.pt"), "student")
    with pytest.raises(UsageError, match=r"of no known format, allowed: .safetensors, .pt"):
        check_available("zoo:shallow_cnn", str(tmp_path / "a.npz"), "student")


def test_a_store_needs_neither_weights_nor_labels_of_its_teacher(tmp_path: Path) -> None:
    check_available(f"store:{tmp_path}", "gone.pt", "teacher", "gone.txt")
    with pytest.raises(UsageError, match="does not exist"):
        check_available(f"store:{tmp_path / 'gone'}", None, "teacher")


def test_home_folders_are_found_and_unknown_users_stay_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model_path("onnx:~/a.onnx") == tmp_path / "a.onnx"
    assert str(model_path("onnx:~nobody_at_all/a.onnx")) == "~nobody_at_all/a.onnx"


def test_references_are_read_without_torch() -> None:
    code = "import sys, edgekd.models.references; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
