"""The best of several candidates is taken, by figures of validation samples alone, and no more is tried than needed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from edgekd.artifacts import Artifact
from edgekd.export.onnx import export_onnx
from edgekd.quantize.candidates import Attempt, make_and_measure
from edgekd.quantize.choice import Candidate, Goal, Means, best_of, choose
from edgekd.quantize.histogram import load_histograms
from edgekd.quantize.observe import observe_onnx
from edgekd.quantize.quality import Quality, Reference, quality
from edgekd.quantize.ranges import ranges_by
from edgekd.safe.files import sha256_file
from tests.quantize.conftest import Exported

GOAL = Goal(max_drop=0.5, agreement=0.98, sqnr_db=6)


def _candidate(name: str, top1: float, sqnr: float, agreement: float = 0.995, n: int = 1000) -> Candidate:
    return Candidate(Means(name), Quality(top1, 100 * (0.9 - top1), agreement, sqnr, n))


def test_among_those_that_no_sample_tells_apart_the_least_noise_wins() -> None:
    # 0.5 % of 1,000 samples differ: a standard error of 0.22 points.
    candidates = [_candidate("a", 0.900, 20), _candidate("b", 0.899, 25), _candidate("c", 0.896, 40)]
    assert best_of(candidates, GOAL).means.ranges == "b"
    assert best_of(candidates[::2], GOAL).means.ranges == "a"
    assert best_of([_candidate("first", 0.9, 20), _candidate("second", 0.9, 20)], GOAL).means.ranges == "first"


def test_what_meets_the_goal_comes_before_what_does_not() -> None:
    assert best_of([_candidate("noisy", 0.9, 5), _candidate("clean", 0.897, 7)], GOAL).means.ranges == "clean"
    assert best_of([_candidate("other classes", 0.9, 9, 0.97), _candidate("same", 0.896, 7)], GOAL).means.ranges == "same"


@pytest.mark.parametrize(("drop", "tried"), [(0.005, 1), (0.004, 1), (0.0051, 3), (0.02, 3)])
def test_steps_are_taken_until_the_goal_holds(drop: float, tried: int) -> None:
    seen: list[Candidate | None] = []

    def step(candidates: Sequence[Candidate]) -> object:
        def take(best: Candidate | None) -> Sequence[Candidate]:
            seen.append(best)
            return candidates

        return take

    steps = [step([_candidate("mild", 0.9 - drop, 10)]), step([]), step([_candidate("strong", 0.9, 12)])]
    choice = choose(steps, GOAL)  # type: ignore[arg-type]
    assert len(seen) == tried
    assert choice.held
    assert choice.chosen.means.ranges == ("mild" if tried == 1 else "strong")
    assert [each.means.ranges for each in choice.tried] == (["mild"] if tried == 1 else ["mild", "strong"])
    assert seen[0] is None
    assert all(each is not None and each.means.ranges == "mild" for each in seen[1:])


def test_the_best_is_returned_though_none_meets_the_goal() -> None:
    choice = choose([lambda _best: [_candidate("worse", 0.5, 3)], lambda _best: [_candidate("bad", 0.7, 3)]], GOAL)
    assert (choice.chosen.means.ranges, choice.held) == ("bad", False)
    with pytest.raises(ValueError, match="nothing to choose from"):
        choose([], GOAL)


def test_outputs_that_are_not_finite_are_worth_nothing() -> None:
    reference = np.eye(4, dtype=np.float32)
    labels = np.arange(4)
    assert quality(reference, reference, labels) == Quality(1, 0, 1, 200, 4)
    broken = reference.copy()
    broken[2, 2] = np.nan
    found = quality(broken, reference, labels)
    assert (found.top1, found.drop, found.agreement) == (0, 100, 0)


def test_candidates_are_measured_on_the_validation_split_as_a_runtime_gives_it(trained: Exported, tmp_path: Path) -> None:
    path = Path(trained.path("onnx"))
    if not path.exists():
        export_onnx(trained.spec.to_json(), str(trained.weights), str(path))
    observe_onnx(str(path), trained.calibration, str(tmp_path / "seen.npz"), until_settled=False)
    good = ranges_by("mse", load_histograms(tmp_path / "seen.npz"))
    coarse = {name: (30 * low, 30 * high) for name, (low, high) in good.items()}
    indices = trained.data.splits.validation
    images = trained.data.batch(indices)["image"]
    with torch.no_grad():
        logits = trained.model(torch.from_numpy(images)).numpy()
    np.save(tmp_path / "logits.npy", logits)
    reference = Reference(trained.data, trained.spec, indices, tmp_path / "logits.npy")
    attempts = [
        Attempt(Means("coarse"), coarse),
        Attempt(Means("good"), good),
        Attempt(Means("float", keep=_names(path)), good),
    ]
    artifact = Artifact("onnx-fp32", path, sha256_file(path))
    made = make_and_measure("onnx-int8", artifact, attempts, reference, tmp_path, tmp_path / "log")
    for candidate in made:
        assert candidate.file is not None
        session = onnxruntime.InferenceSession(candidate.file.read_bytes())
        outputs = np.concatenate([session.run(None, {"image": images[start : start + 1]})[0] for start in range(len(images))])
        labels = trained.data.labels[indices]
        assert candidate.quality.n == len(indices)
        assert candidate.quality.top1 == pytest.approx((outputs.argmax(1) == labels).mean(), abs=0.006)
        assert candidate.quality.agreement == pytest.approx((outputs.argmax(1) == logits.argmax(1)).mean(), abs=0.006)
        noise = np.square(outputs - logits).mean(0).max()
        assert candidate.quality.sqnr_db == pytest.approx(min(10 * np.log10(logits.var(0).mean() / noise), 200), abs=0.3)
    assert made[0].quality.sqnr_db + 15 < made[1].quality.sqnr_db < made[2].quality.sqnr_db
    assert made[2].quality.agreement == 1
    assert best_of(made[:2], Goal(0.5)).means.ranges == "good"


def _names(path: Path) -> tuple[str, ...]:
    import onnx

    return tuple(node.name for node in onnx.load(path).graph.node)
