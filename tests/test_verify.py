"""Gates: what passes, what does not, and by how much."""

from dataclasses import replace

import pytest

from edgekd.errors import UsageError
from edgekd.recipe import Gates, Recipe
from edgekd.recipe_file import recipe_from_mapping
from edgekd.report.report import Report
from edgekd.tasks.classification import proportion
from edgekd.verify import Gate, Verified, check_gates


def _gates(report: Report, verified: Verified, **limits: float) -> dict[str, Gate]:
    found = check_gates(Recipe(gates=Gates(**limits)), report.teacher, report.student, {verified.artifact.name: verified})
    return {gate.name.removeprefix(verified.artifact.name + " "): gate for gate in found}


def _verified(report: Report, name: str) -> Verified:
    return next(each.verified for each in report.artifacts if each.name == name)


@pytest.mark.parametrize(("error", "passed"), [(0.99e-4, True), (1.01e-4, False)])
def test_fp32_must_be_close(finished: Report, error: float, passed: bool) -> None:
    verified = _verified(finished, "onnx-fp32")
    changed = replace(verified, parity=replace(verified.parity, relative_error=error))
    gates = _gates(finished, changed)
    gate = gates["max error / output range"]
    assert [name for name, each in gates.items() if not each.passed] == [] if passed else ["max error / output range"]
    assert (gate.passed, gate.limit, gate.value) == (passed, 1e-4, error)


def test_int8_must_agree_keep_its_metric_and_be_int8(finished: Report) -> None:
    verified = _verified(finished, "tflite-int8")
    good = _gates(finished, verified)
    assert all(gate.passed for gate in good.values())
    assert len(good) == 6
    n = verified.metric.n
    lost = proportion("top1", round(finished.student.metric.value * n) - 4, n)  # 4 of 359 is 1.11 points
    little = {**verified.dtypes, "int8_weights": 0.89}
    far = replace(verified.parity, agreement=0.979, sqnr_db=5.9, gain=0.94, offset=0.03)
    bad = replace(verified, parity=far, metric=lost, dtypes=little)
    gates = _gates(finished, bad)
    assert not any(gate.passed for gate in gates.values())
    assert gates["metric drop in points"].value == pytest.approx(100 * 4 / n)


def test_a_file_called_fp16_must_have_16_bit_weights(finished: Report) -> None:
    verified = _verified(finished, "tflite-fp16")
    assert _gates(finished, verified)["fp16 share of weight bytes"].passed
    skipped = replace(verified, dtypes={**verified.dtypes, "fp16_weights": 0.0})
    assert not _gates(finished, skipped)["fp16 share of weight bytes"].passed


@pytest.mark.parametrize(
    ("int8", "int4", "few", "mostly"), [(0.0, 1.0, True, True), (1.0, 0.0, True, False), (0.0, 0.8, False, True), (0.2, 0.8, True, True)]
)  # fmt: skip
def test_a_file_called_int4_has_most_weights_in_4_bits(
    finished: Report, int8: float, int4: float, few: bool, mostly: bool
) -> None:
    """Shares are of bytes; 0.8 of them in int4 and the rest in float32 are only 8 of 9 bytes as if all had 8 bits."""
    verified = _verified(finished, "onnx-int8")
    called = replace(verified.artifact, name="onnx-int4-weights")
    gates = _gates(finished, replace(verified, artifact=called, dtypes={"int8_weights": int8, "int4_weights": int4}))
    assert gates["int8 and int4 share of weight bytes"].passed == few
    assert gates["int4 share of weights in integers"].passed == mostly


def test_a_better_metric_is_no_drop(finished: Report) -> None:
    verified = _verified(finished, "onnx-int8")
    better = replace(verified, metric=proportion("top1", verified.metric.n, verified.metric.n))
    assert _gates(finished, better)["metric drop in points"].passed


def test_limits_on_size_and_teacher_drop_are_optional(finished: Report) -> None:
    verified = _verified(finished, "onnx-fp32")
    size = verified.artifact.path.stat().st_size / 1024
    gates = _gates(finished, verified, max_size_kib=size - 0.1, max_teacher_drop=100.0)
    assert not gates["size in KiB"].passed
    assert gates["size in KiB"].value == size
    assert gates["drop from teacher in points"].passed


def test_without_a_teacher_the_other_gates_are_the_same(finished: Report) -> None:
    verified = {each.name: each.verified for each in finished.artifacts}
    alone = recipe_from_mapping({"distill": {"scheme": "temporal"}})
    gates = check_gates(alone, None, finished.student, verified)
    assert gates == check_gates(Recipe(), finished.teacher, finished.student, verified)
    with pytest.raises(UsageError, match="no teacher"):
        check_gates(
            recipe_from_mapping(alone.model_dump(mode="json"), ["gates.max_teacher_drop=3"]), None, finished.student, {}
        )


def test_parity_is_measured_on_the_whole_test_split(finished: Report) -> None:
    for each in finished.artifacts:
        assert each.verified.parity.n == each.verified.metric.n == finished.counts["test"] == 359
