"""``edgekd teach`` and distilling from what it leaves, as a user does it on two machines."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

QUICK = ["teacher.train.epochs=8", "distill.train.epochs=12", "threads=1", "data.augment.crop_padding=1",
         "distill.soft_targets.augmentations=3", "export.artifacts=[onnx-fp32]", "benchmark.runs=10", "benchmark.warmup=1"]  # fmt: skip


def _edgekd(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "edgekd", *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Where a store was filled, and what was printed on stdout and stderr."""
    folder = tmp_path_factory.mktemp("taught")
    done = _edgekd(folder, "teach", "digits", *QUICK, "--store", "kept", "--out", "run")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, done.stderr


def test_it_says_what_it_keeps_and_what_to_do_with_it(taught: tuple[Path, str, str]) -> None:
    folder, out, err = taught
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    assert [name for name, _ in lines] == ["store", "teacher", "kept", "augment", "distill"]
    said = dict(lines)
    assert said["store"] == "kept, 3 augmentations of 1,079 samples, 78.5 kB"
    assert said["teacher"].startswith("zoo:digits_teacher, test top-1 9")
    assert said["augment"] == "crop_padding 1, flip false"
    assert said["distill"].startswith("edgekd compress digits distill.train.epochs=12 ")
    assert said["distill"].endswith(" teacher.model=store:kept")
    assert "teacher.train" not in said["distill"]
    assert "soft-targets" in err
    assert "3 augmentations of 1,079 samples" in err
    assert sorted(each.name for each in (folder / "kept").iterdir()) == [
        "augmentation-000.npy", "augmentation-001.npy", "augmentation-002.npy", "lock", "store.json", "test_logits.npy",
        "validation_logits.npy",
    ]  # fmt: skip


def test_running_it_again_checks_it_and_json_tells_the_same(taught: tuple[Path, str, str]) -> None:
    folder = taught[0]
    before = {each.name: each.read_bytes() for each in (folder / "kept").iterdir()}
    done = _edgekd(folder, "teach", "digits", *QUICK, "--store", "kept", "--out", "run", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    content = json.loads(done.stdout)
    assert {name: content[name] for name in ("store", "samples", "classes", "augmentations", "size_bytes")} == {
        "store": "kept", "samples": 1079, "classes": 10, "augmentations": 3, "size_bytes": 3 * (256 + 24 * 1079)
    }  # fmt: skip
    assert content["teacher"]["members"] == [{"name": "zoo:digits_teacher", "weight": 1.0}]
    assert {each.name: each.read_bytes() for each in (folder / "kept").iterdir()} == before


@pytest.mark.slow
def test_another_machine_distills_from_it(taught: tuple[Path, str, str], tmp_path: Path) -> None:
    shutil.copytree(taught[0] / "kept", tmp_path / "copied")
    rest = [each for each in QUICK if not each.startswith("teacher.")]
    done = _edgekd(tmp_path, "compress", "digits", *rest, "teacher.model=store:copied", "--out", "out")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["teacher"]["name"] == "store:copied"
    assert report["teacher"]["metric"]["value"] > 0.9
    assert report["teacher"]["params"] > 0
    assert report["student"]["metric"]["value"] > 0.6
    # The same student, to the bit, as where the teacher was asked and its outputs kept.
    there = _edgekd(taught[0], "compress", "digits", *QUICK, "distill.soft_targets.folder=kept", "--out", "run")
    assert there.returncode == 0, there.stderr
    files = [folder / "artifacts" / "student.fp32.onnx" for folder in (tmp_path / "out", taught[0] / "run")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["seed=1"], 2, "belong to another data set, or to other splits of it"),
        (["distill.soft_targets.use=live"], 2, "kept outputs alone"),
    ],
)
def test_what_does_not_fit_is_one_line(
    arguments: list[str], code: int, message: str, taught: tuple[Path, str, str], tmp_path: Path
) -> None:
    rest = [each for each in QUICK if not each.startswith("teacher.")]
    store = f"teacher.model=store:{taught[0] / 'kept'}"
    done = _edgekd(tmp_path, "compress", "digits", *rest, store, "teacher.check=false", *arguments, "--out", "out")
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-2].startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits"], "Missing option '--store'"),
        (["digits", "distill.scheme=online", "--store", "kept"], "distill.scheme=online has no teacher"),
        (
            ["digits", "distill.train.mixup=0.2", "--store", "kept"],
            "the teacher's outputs cannot be kept: mixup makes new images",
        ),
        (["digits", "teacher.model=store:.", "--store", "kept"], "teacher store:. is kept outputs already"),
        (["digits", "teacher.model=onnx:gone.onnx", "--store", "kept"], "teacher file gone.onnx does not exist"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = _edgekd(tmp_path, "teach", *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
