"""Every way of teaching through the whole pipeline, and what recipes that cannot work are told."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

import edgekd
from edgekd.errors import UsageError
from edgekd.report.report import Report

QUICK = [
    "teacher.train.epochs=8",
    "distill.train.epochs=4",
    "export.artifacts=[onnx-fp32]",
    "benchmark.runs=10",
    "benchmark.warmup=0",
]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run folder for all, so that data and teacher are made once."""
    return tmp_path_factory.mktemp("schemes") / "out"


def _run(out: Path, *overrides: str) -> Report:
    report = edgekd.compress("digits", out, [*QUICK, *overrides])
    assert report.ok
    return report


def _json(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((report.folder / "report.json").read_text())
    return found


def _operators(report: Report) -> list[str]:
    graph = onnx.load(report.path("onnx-fp32")).graph
    return sorted(node.op_type for node in graph.node)


@pytest.mark.parametrize("scheme", ["online", "temporal", "ema", "layerwise", "born-again"])
def test_a_scheme_needs_no_teacher(out: Path, scheme: str) -> None:
    report = _run(out, f"distill.scheme={scheme}", "distill.generations=1")
    assert report.teacher is None
    found = _json(report)
    assert found["teacher"] is None
    assert found["distillation"]["scheme"] == scheme
    assert report.student.metric.value > 0.3
    assert "teacher" not in report.redone
    # Exits, averages and peers are gone: the file is that of the plain student.
    assert _operators(report) == _operators(_run(out))


def test_peers_may_be_larger_and_the_student_is_kept_if_named(out: Path) -> None:
    report = _run(
        out, "distill.scheme=online", 'distill.online={"peers": [{"model": "zoo:digits_teacher"}], "keep": "student"}'
    )
    assert report.student.spec.reference == "zoo:shallow_cnn"
    assert {"validation", "validation peer-1"} <= report.student.history[-1].keys()


def test_the_best_peer_is_kept(out: Path) -> None:
    report = _run(out, "distill.scheme=online", 'distill.online={"peers": [{"model": "zoo:digits_teacher"}]}')
    last = report.student.history[-1]
    best = "zoo:shallow_cnn" if last["validation"] >= last["validation peer-1"] else "zoo:digits_teacher"
    assert report.student.spec.reference == best


def test_an_assistant_stands_between_teacher_and_student(out: Path) -> None:
    report = _run(
        out, 'distill.assistants=[{"model": "zoo:resnet8", "arguments": {"width": 0.5}}]', "distill.soft_targets.use=live"
    )
    assert {"assistant-1", "distill"} <= set(report.redone)


def test_losses_of_every_family_combine(out: Path) -> None:
    report = _run(out, "distill.losses=[kd, dkd, fitnet, rkd, sp]")
    found = _json(report)["distillation"]
    terms = {each["name"]: each for each in found["terms"]}
    assert list(terms) == ["kd", "dkd", "fitnet", "rkd", "sp"]
    assert all(each["weight_chosen"] and each["gradient_ratio"] > 0 for each in terms.values())
    assert terms["fitnet"]["layers"]
    assert found["soft_targets"] == "live"
    assert _operators(report) == _operators(_run(out))


def test_a_layer_may_be_named_and_a_wrong_name_is_told_with_the_nearest(out: Path) -> None:
    teacher = [name for name, _ in _modules("zoo:digits_teacher")]
    student = [name for name, _ in _modules("zoo:shallow_cnn")]
    named = {"name": "fitnet", "layers": [{"student": student[-1], "teacher": teacher[-1][:-1] + "X"}]}
    with pytest.raises(UsageError, match="teacher") as error:
        _run(out, f"distill.losses={json.dumps([named])}")
    assert "did you mean" in str(error.value)


def _modules(reference: str) -> list[tuple[str, Any]]:
    import torch

    from edgekd.models.spec import build
    from edgekd.models.tensors import TensorSpec, classifier

    image = TensorSpec("image", "float32", (1, 8, 8), "NCHW", "image", (0.0, 1.0), (0.5,), (0.5,))
    model = build(classifier(reference, (image,), tuple("0123456789")))
    return [(name, each) for name, each in model.named_modules() if isinstance(each, torch.nn.Conv2d)]


def test_the_control_says_what_distillation_brought(out: Path) -> None:
    report = _run(out, "distill.control=true")
    assert report.control is not None
    assert report.control.gain == pytest.approx(100 * (report.student.metric.value - report.control.metric.value))
    low, high = report.control.ci95
    assert low <= report.control.gain <= high
    assert _json(report)["control"]["gain"] == report.control.gain


def test_without_any_loss_from_the_teacher_the_student_is_the_control(out: Path) -> None:
    """The same first weights, samples and steps: so what the control differs in is the teacher alone."""
    report = _run(out, "distill.control=true", "distill.beta=0", "distill.soft_targets.use=live")
    assert report.control is not None
    assert (report.control.gain, report.control.discordant) == (0.0, (0, 0))


def test_stored_targets_are_reused_by_the_next_run(out: Path) -> None:
    first = _run(out, "distill.soft_targets.use=stored", "distill.beta=0.5")
    assert "stored" in _json(first)["distillation"]["soft_targets"]

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (out / "stages").glob("soft-targets*/*.npy")}

    before = files()
    assert before
    _run(out, "distill.soft_targets.use=stored", "distill.beta=0.6")
    assert files() == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["distill.losses=[rkd]", "distill.soft_targets.use=stored"], "only outputs are kept"),
        (["distill.train.mixup=0.2", "distill.soft_targets.use=stored"], "new images at every step"),
        (["distill.losses=[kd, rkd]", "distill.train.batch_size=2"], "compares the samples of a batch"),
        (["distill.scheme=ema", "student.model=from-teacher"], "has no teacher"),
        (["distill.scheme=online", "gates.max_teacher_drop=1"], "no teacher"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_by_the_plan(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        edgekd.plan("digits", overrides)
