"""The command line as its user meets it: help, mistakes, and what it never imports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.cli import main
from edgekd.recipe_file import shipped_recipes
from tests.recipe_mutations import mutations


def _run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; return exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["edgekd", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
        raise SystemExit(0)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["compress", "--help"],
        ["plan", "digits"],
        ["recipes"],
        ["plan", "broken"],
        ["compress", "x=1"],
        ["kit", "."],
    ],
)
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    code = (
        "import sys\nsys.argv = ['edgekd', *sys.argv[1:]]\nimport edgekd\nfrom edgekd.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('IMPORTED', sorted({'torch', 'tensorflow', 'onnxruntime', 'litert_torch', 'onnx', 'jax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert "IMPORTED []" in done.stdout, done.stdout + done.stderr


def test_mistakes_are_exit_2_without_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "one" / "cat").mkdir(parents=True)
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "cat" / "a.png")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    for arguments, expected in [
        (["comprss"], "did you mean 'compress'?"),
        (["compress", "digts"], "did you mean 'digits'?"),
        (["compress", str(tmp_path)], "is a folder"),
        (["compress", "digits", "nonsense"], "'nonsense' is neither the recipe nor KEY=VALUE"),
        (["plan", "distill.temprature=3"], "did you mean 'temperature'?"),
        (["compress", "--frobnicate"], "No such option"),
        (["plan", "data.source=folder:ome"], "does not exist; did you mean 'one'?"),
        (["compress", "data.source=folder:empty"], "has no images"),
        (["compress", "data.source=folder:one", "--out", "o"], "one class only"),
        (["compress", "data.source=folder:file"], "is a file, not a folder"),
        (["compress", "--out", "file"], "file is a file, not a folder"),
        (["compress", "--out", "foreign"], "holds no edgekd run"),
        (["compress", "--out", "file/below"], "cannot write"),
    ]:
        code, out, err = _run(capsys, monkeypatch, *arguments)
        assert (code, out) == (2, ""), (arguments, err)
        assert expected in err, (arguments, err)
        assert "Traceback" not in err
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["thesis.txt"]


def test_mutated_recipes_are_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for mutation in mutations(36, seed=2):
        (tmp_path / "r.yaml").write_text(mutation.text, encoding="utf-8")
        code, _, err = _run(capsys, monkeypatch, "plan", str(tmp_path / "r.yaml"))
        # A byte in a comment is harmless; then a plan is made, or the data of the shipped recipe is missed.
        missed = any(f"error: data {data} does not exist" in err for data in ("folder cifar10", "file sst2", "folder fsdd"))
        harmless = mutation.name in {"bytes", "indented", "cut off"} and (code == 0 or missed)
        assert harmless or (code == 2 and f"error: {tmp_path / 'r.yaml'}:" in err), (mutation, err)
        assert "Traceback" not in err


def test_json_errors_are_one_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = _run(capsys, monkeypatch, "plan", "distill.temprature=3", "--json")
    content = json.loads(out)
    assert (code, content["status"], content["exit_code"]) == (2, "error", 2)
    assert content["problems"][0]["key"] == "distill.temprature"


def test_init_writes_a_recipe_that_runs_and_keeps_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(tmp_path / "my.yaml")
    assert _run(capsys, monkeypatch, "init", file)[0] == 0
    assert _run(capsys, monkeypatch, "plan", file)[0] == 0
    Path(file).write_text("seed: 7")
    code, _, err = _run(capsys, monkeypatch, "init", file)
    assert (code, Path(file).read_text()) == (2, "seed: 7")
    assert "--force" in err
    assert _run(capsys, monkeypatch, "init", file, "--force", "--from", "cifar10")[0] == 0
    assert "resnet56" in Path(file).read_text()


def test_plan_and_dry_run_say_the_same(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, planned, _ = _run(capsys, monkeypatch, "plan", "digits", "seed=3")
    _, dry, _ = _run(capsys, monkeypatch, "compress", "digits", "seed=3", "--dry-run")
    assert planned == dry
    assert "auto*CE + auto*kd(T auto)" in planned
    content = json.loads(_run(capsys, monkeypatch, "plan", "digits", "--json")[1])
    assert content["recipe"]["name"] == "digits"
    assert [stage["name"] for stage in content["stages"]][:4] == ["data", "teacher", "teacher-check", "distill"]


def test_missing_tflite_packages_give_the_pip_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "litert_torch" else real(name))
    code, _, err = _run(capsys, monkeypatch, "plan", "digits")
    assert code == 2
    assert "pip install 'edgekd[tflite]'" in err
    assert _run(capsys, monkeypatch, "plan", "digits", "export.artifacts=[onnx-fp32]")[0] == 0


def test_module_runs_and_output_may_be_cut_off() -> None:
    done = subprocess.run(
        f"{sys.executable} -m edgekd plan digits --json | head -c 1", shell=True, capture_output=True, text=True, env=os.environ
    )
    assert done.stdout == "{"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["comprss"], "did you mean 'compress'?"),
        (["plan", "no.yaml"], "no recipe 'no.yaml'"),
        (["plan", "."], "is a folder, not a file"),
        (["plan", "digits", "distill.temprature=3"], "override 'distill.temprature=3': distill.temprature: unknown key"),
        (["compress", "data.source=folder:gone"], "data folder gone does not exist"),
    ],
)
def test_the_process_ends_with_2(tmp_path: Path, arguments: list[str], expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgekd", *arguments], capture_output=True, text=True, cwd=tmp_path, env=_environment()
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.mark.skipif(not Path("/proc/self/mem").is_file(), reason="needs a file that opens and cannot be read")
def test_unreadable_recipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = _run(capsys, monkeypatch, "plan", "/proc/self/mem")
    assert code == 2
    assert "cannot read recipe /proc/self/mem: Input/output error" in err


def test_forbidden_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.yaml"
    path.touch(mode=0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    code, _, err = _run(capsys, monkeypatch, "plan", str(path))
    assert code == 2
    assert f"cannot read recipe {path}: Permission denied" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["comprss"], ["plan", "digts"], ["plan", "--frobnicate"], ["compress", "seed=x"], ["plan", "data.source=folder:gone"],
        ["init", "r.yaml"], ["init", "new.yaml", "--from", "digts"], ["recipes", "extra"], ["compress", "--out", "r.yaml"],
    ],
)  # fmt: skip
def test_every_mistake_is_one_json_object_where_json_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text("seed: 1")
    code, out, err = _run(capsys, monkeypatch, *arguments, "--json")
    content = json.loads(out)
    assert (code, content["status"], content["exit_code"], err) == (2, "error", 2, "")
    assert content["message"]
    assert content.keys() >= {"hint"}


def test_problems_of_a_recipe_are_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("seed: x\ndata: {flip: true}\n")
    content = json.loads(_run(capsys, monkeypatch, "plan", str(path), "--json")[1])
    assert [(each["where"], each["key"]) for each in content["problems"]] == [(f"{path}:1", "seed"), (f"{path}:2", "data.flip")]


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = _run(capsys, monkeypatch, "recipes")
    assert code == 0
    assert all(name in out for name in shipped_recipes())
    rows = json.loads(_run(capsys, monkeypatch, "recipes", "--json")[1])["recipes"]
    assert [row["name"] for row in rows] == list(shipped_recipes())
    assert all(row["run"].startswith(f"edgekd compress {row['name']}") and Path(row["path"]).is_file() for row in rows)


def test_init_says_where_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert json.loads(_run(capsys, monkeypatch, "init", "--json")[1]) == {"path": "recipe.yaml"}
    assert _run(capsys, monkeypatch, "init", "recipe.yaml/below.yaml")[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "name=" + "a" * 300],
        ["plan", "a" * 300],
        ["plan", "~no-such-user/r.yaml"],
        ["plan", "seed=1", "data.source=folder:~no-such-user/x"],
        ["plan", "seed=1", "data.source=folder:" + "a" * 300],
        ["compress", "--out", "a" * 300],
        ["init", "a" * 300],
        ["init", "folder", "--force"],
        ["init", "/proc/no-such/r.yaml"],
    ],
)
def test_names_that_the_system_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert _run(capsys, monkeypatch, *arguments)[0] == 2
