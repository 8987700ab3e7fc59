"""The C++ program of a kit: compiled and run with ONNX Runtime, compiled alone with TensorFlow Lite's C API.

ONNX Runtime's headers: Debian 13's libonnxruntime-dev, or ONNXRUNTIME_ROOT names a folder with them in include/; the library
beside them, or that of the Python package. TensorFlow Lite's: TFLITE_INCLUDE names a folder with tensorflow/lite/c/c_api.h.
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgekd.kit.kit import write_kits
from tests.kit.made_up import HOSTILE, edit_report, image_spec, write_run
from tests.kit.tflite_run import as_tflite

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None or shutil.which("cmake") is None, reason="apt install g++ cmake"),
]
NAME = 'im"age\\ $x {{ y }}\n"""\'\' */ ??/ ünï/🦊'


def _onnxruntime(links: Path) -> list[str]:
    """Return what tells CMake where ONNX Runtime is."""
    root = Path(os.environ.get("ONNXRUNTIME_ROOT", "/usr"))
    headers = next(
        (root / name for name in ("include/onnxruntime", "include") if (root / name / "onnxruntime_cxx_api.h").is_file()), None
    )
    if headers is None:
        pytest.skip("no headers of ONNX Runtime: apt install libonnxruntime-dev (Debian 13), or set ONNXRUNTIME_ROOT")
    library = next(root.glob("lib/**/libonnxruntime.so"), None)
    if library is None or not library.exists():
        (found,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
        for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
            (links / name).symlink_to(found)
        library = links / "libonnxruntime.so"
    return [f"-DONNXRUNTIME_INCLUDE={headers}", f"-DONNXRUNTIME_LIBRARY={library}"]


def _run(check: Path, folder: Path) -> tuple[int, str, str]:
    done = subprocess.run([str(check), str(folder)], capture_output=True, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_it_passes_and_fails_when_anything_is_changed(tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    raw = np.random.default_rng(0).integers(0, 256, size=(12, 4, 5, 3)).astype(np.uint8)
    run = write_run(
        tmp_path / "run", (image_spec((3, 4, 5), NAME),), HOSTILE, {NAME: raw}, {NAME: 255.0}, NAME, HOSTILE[:8], f"{NAME}2"
    )
    (kit,) = write_kits(run, ["raspberry-pi"]).written
    configure = [
        "cmake",
        "-S",
        str(kit.folder),
        "-B",
        str(tmp_path / "build"),
        "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Wpedantic -Werror",
    ]
    subprocess.run([*configure, *_onnxruntime(tmp_path / "links")], check=True, capture_output=True)
    built = subprocess.run(["cmake", "--build", str(tmp_path / "build")], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    check = tmp_path / "build" / "check"
    code, out, err = _run(check, kit.folder)
    assert (code, err) == (0, "")
    assert "12 of 12 golden vectors agree" in out
    for name in ("student.fp32.onnx", *(f"golden/{path.name}" for path in (kit.folder / "golden").glob("*.bin"))):
        content = (kit.folder / name).read_bytes()
        for changed in (content[:-1] + bytes([content[-1] ^ 1]), content + b"\0", None):
            copy = Path(shutil.copytree(kit.folder, tmp_path / "copy", dirs_exist_ok=True))
            (copy / name).unlink()
            if changed is not None:
                (copy / name).write_bytes(changed)
            code, _, err = _run(check, copy)
            assert code == 1
            assert err.startswith(f"FAILED: {name} ")


def test_other_values_fail_where_checksums_are_right(tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    found = _onnxruntime(tmp_path / "links")
    raw = np.random.default_rng(0).integers(0, 256, size=(6, 2, 2, 1)).astype(np.uint8)
    run = write_run(tmp_path / "run", (image_spec((1, 2, 2)),), ("a", "b"), {"image": raw}, {"image": 255.0})
    (kit,) = write_kits(run, ["raspberry-pi"]).written
    before = (kit.folder / "check.cpp").read_text()
    (path,) = (kit.folder / "golden").glob("output*")
    # Another golden value with the checksum it has; and another first class.
    from zlib import crc32

    values = np.fromfile(path, "<f4")
    other = values.copy()
    other[5] += 1e-3 * np.ptp(values)
    old, new = f"{crc32(values.tobytes())}u", f"{crc32(other.tobytes())}u"
    assert old in before
    first = next(line for line in before.splitlines() if line.startswith('    {"lowest", '))
    flipped = first.replace('"lowest", 0', '"lowest", 9').replace('"lowest", 1', '"lowest", 9')
    for text, content, expected in (
        (before.replace(old, new), other, "sample lowest, output logits differs by"),
        (before.replace(first, flipped), values, "sample lowest has class"),
    ):
        (kit.folder / "check.cpp").write_text(text)
        path.write_bytes(content.tobytes())
        build = tmp_path / "build"
        subprocess.run(["cmake", "-S", str(kit.folder), "-B", str(build), *found], check=True, capture_output=True)
        subprocess.run(["cmake", "--build", str(build)], check=True, capture_output=True)
        code, _, err = _run(build / "check", kit.folder)
        assert code == 1
        assert expected in err
        assert "FAILED: 1 differences" in err


@pytest.mark.skipif("TFLITE_INCLUDE" not in os.environ, reason="no headers of TensorFlow Lite: set TFLITE_INCLUDE")
@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
def test_it_compiles_with_tensorflow_lite(tmp_path: Path, dtype: str) -> None:
    raw = np.random.default_rng(0).integers(0, 256, size=(6, 2, 2, 1)).astype(np.uint8)
    run = write_run(tmp_path / "run", (image_spec((1, 2, 2), NAME),), HOSTILE, {NAME: raw}, {NAME: 255.0}, output=f"{NAME}2")
    as_tflite(run, dtype)
    edit_report(run, lambda report: None)
    (kit,) = write_kits(run, ["raspberry-pi"]).written
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", f"-I{os.environ['TFLITE_INCLUDE']}"]
    done = subprocess.run(["g++", *flags, str(kit.folder / "check.cpp")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
