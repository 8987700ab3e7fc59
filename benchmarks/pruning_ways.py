"""The ways to a smaller network that pruning_quality.py compares, from one trained network to one of fewer MACs each.

Three of them cut the trained network and let it recover: same lesson, optimizer, images, order of images and epochs. The
fourth is a narrower network of the same kind that learns from scratch, for longer.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantization_quality import ADAM, AUGMENT, SGD

import edgekd
from edgekd.data.load import load_data
from edgekd.distill.schemes.none import take_student
from edgekd.distill.schemes.offline import as_teacher, learn_from
from edgekd.distill.stages import prepare_teacher, settle_training, student_spec
from edgekd.distill.training_stage import StartingWeights, TrainedModel, Trainee
from edgekd.errors import ModelError
from edgekd.models.spec import build, cost, example_inputs, load, save_weights
from edgekd.models.tensors import ModelSpec
from edgekd.planning import plan
from edgekd.progress import Silent
from edgekd.prune.record import CUTTABLE, channels_of, cut, make_record, with_record
from edgekd.prune.recovery import recovery_of
from edgekd.recipe_file import recipe_from_mapping
from edgekd.report.report import Report
from edgekd.safe.files import sha256_file, write_json
from edgekd.workspace import open_workspace

FORMATS = ("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8")
NETWORKS: dict[str, dict[str, Any]] = {"resnet8": SGD, "resnet20": SGD, "resnet56": SGD, "mobilenet_v2": ADAM}
"""How each learns from scratch."""
LESSON: dict[str, Any] = {"alpha": 0.1, "beta": 0.9, "temperature": 4}
"""Of training from scratch: what was best of ``distillation_quality.py``. Recovery has the weights that edgekd chooses."""
MULTIPLES = (8, 4, 2, 1)
"""Of widths, the coarsest first."""
NEAR = 0.05
"""How far below the budget torch-pruning may end before it rounds to finer widths."""
OVER = 0.1
"""How far above the budget the narrower network may be, whose widths are few: it is a control, and may profit."""
_SECONDS_BETWEEN_NEWS = 60.0


class Told(Silent):
    """Says on standard error what was done.

    Args:
        what: Whose stages these are.
    """

    def __init__(self, what: str) -> None:
        self.what, self.last, self.stage = what, time.monotonic(), ""

    def stage_started(self, name: str, what: str) -> None:
        """Remember."""
        self.stage = name

    def stage_advanced(self, done: int, total: int, note: str) -> None:
        """Print a line a minute."""
        if time.monotonic() - self.last > _SECONDS_BETWEEN_NEWS:
            self._say(f"{done} of {total} {note}")

    def stage_finished(self, name: str, what: str, seconds: float, reused: bool) -> None:
        """Print a line."""
        self._say(f"{what} ({'as before' if reused else f'{seconds:.0f} s'})")

    def warned(self, message: str) -> None:
        """Print a line."""
        self._say(message)

    def _say(self, text: str) -> None:
        self.last = time.monotonic()
        print(f"{self.what}, {self.stage}: {text}", file=sys.stderr, flush=True)


def arguments_of(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of network ``name``."""
    return {"stem_stride": 1, "width": options.mobilenet_width} if name.startswith("mobilenet") else {}


def recipe(
    name: str, options: argparse.Namespace, student: dict[str, Any], distill: dict[str, Any] | None = None, **sections: Any
) -> dict[str, Any]:
    """Return the recipe that takes ``student`` as it is, beside ``sections``, and makes all files of it.

    Args:
        name: Of the network.
        options: Of the command line.
        student: Its section of the recipe, without the model.
        distill: Of that section: other than a recovery has.
        sections: More of the recipe.
    """
    train = {"batch_size": options.batch_size, "precision": "fp32", "layout": "channels_last"}
    return {
        "name": name, "seed": options.seed, "threads": options.threads,
        "data": {"source": f"folder:{options.images.absolute()}", "validation": 0.1, "augment": AUGMENT},
        "student": {"model": f"zoo:{name}", "arguments": arguments_of(name, options), **student},
        "distill": {"scheme": "none", "temperature": options.temperature, "train": train, **(distill or {})},
        # What is timed must not depend on layers kept in floating point; and to mend weights takes long.
        "quantize": {"keep": [], "weights": "as-trained"}, "export": {"artifacts": list(FORMATS)},
        "benchmark": {"runs": 10, "warmup": 0}, **sections,
    }  # fmt: skip


def trained(name: str, options: argparse.Namespace) -> Path:
    """Return the weights of the whole network: those that were given, or of a training on the labels alone."""
    given = dict(each.partition("=")[::2] for each in options.weights)
    if name in given:
        return Path(given[name]).absolute()
    teacher = {
        "model": f"zoo:{name}", "arguments": arguments_of(name, options), "check": False,
        "train": {**NETWORKS[name], "epochs": options.train_epochs, "compile": options.compile},
    }  # fmt: skip
    return labels_learned({**recipe(name, options, {}, {"scheme": "offline"}), "teacher": teacher}, options.out / name / "run")


def labels_learned(asked: dict[str, Any], folder: Path) -> Path:
    """Return the weights of a recipe's teacher, trained on the labels alone in the run folder ``folder``."""
    wanted = recipe_from_mapping(asked)
    with open_workspace(folder, Told(f"{wanted.name}, whole")) as workspace:
        data, threads = load_data(wanted, workspace), plan(wanted).threads
        settled = settle_training(wanted, data, threads, workspace)
        teacher = prepare_teacher(settled, data, threads, False, workspace)
    assert teacher is not None and teacher.members[0].weights is not None
    return teacher.members[0].weights.absolute()


Made = tuple[Report, str]
"""What the pipeline made of a network, and how, in words."""


def as_it_is(name: str, weights: Path, options: argparse.Namespace) -> Made:
    """Return the whole network."""
    report = edgekd.compress(
        recipe(name, options, {"weights": str(weights)}), options.out / name / "run", listener=Told(f"{name}, whole")
    )
    return report, "as it is"


def ours(name: str, weights: Path, fewer: float, options: argparse.Namespace) -> Made:
    """Return it as ``edgekd.compress`` cuts it."""
    return cut_by_edgekd(name, weights, fewer, options, "ours", {})


def random(name: str, weights: Path, fewer: float, options: argparse.Namespace) -> Made:
    """Return it with channels cut at random, everything else as ours."""
    return cut_by_edgekd(name, weights, fewer, options, "random", {"criterion": "random"})


def cut_by_edgekd(
    name: str, weights: Path, fewer: float, options: argparse.Namespace, way: str, section: dict[str, Any], **sections: Any
) -> Made:
    """Return the network cut to the budget in the first of the multiples of channels that reaches it.

    Raises:
        ModelError: None reach it.
    """
    error: ModelError | None = None
    for multiple in options.multiples:
        prune = {
            "target": f"macs={1 / fewer:.6g}x", "epochs": options.epochs, "learning_rate": options.learning_rate,
            "multiple": multiple, **section,
        }  # fmt: skip
        asked = recipe(name, options, {"weights": str(weights)}, prune=prune, **sections)
        try:
            report = edgekd.compress(
                asked, options.out / name / "run", options.prune, listener=Told(f"{name}, {way} {fewer:g}x")
            )
        except ModelError as found:
            error = found
            continue
        used = report.recipe.prune
        return report, f"{used.criterion}, multiples of {used.multiple}"
    assert error is not None
    raise error


def torch_pruning(name: str, weights: Path, fewer: float, options: argparse.Namespace) -> Made:
    """Return it as the README of torch-pruning cuts it, recovered as ours.

    Its ``BasePruner`` with ``GroupMagnitudeImportance(p=2)`` takes the same share of every group of channels but the
    classifier's: the smallest share that keeps the budget. It rounds widths to 8 as recommended there, to less where the
    budget would be missed by more than 5 %, so that it is not judged by a smaller network than it was asked for.
    """
    folder = options.out / name / f"torch-pruning-{fewer:g}x"
    told: list[str] = []

    def narrower(whole: TrainedModel) -> tuple[ModelSpec, Callable[[Any], None], Any]:
        network = load(whole.spec, whole.weights)
        record, state, how = cut_by_torch_pruning(network, whole.spec, fewer)
        told.append(how)
        save_weights(state, folder / "cut.safetensors")
        write_json(folder / "prune.json", record)
        spec = with_record(whole.spec, record)
        start = StartingWeights(str(folder / "cut.safetensors"), pretrained=False)
        return spec, lambda model: start.load(model, spec), sha256_file(folder / "cut.safetensors")

    left = learned(name, weights, options, f"torch-pruning {fewer:g}x", narrower)
    student = {"weights": str(left.weights.absolute()), "pruning": str((folder / "prune.json").absolute())}
    report = edgekd.compress(
        recipe(name, options, student), options.out / name / "run", listener=Told(f"{name}, torch-pruning {fewer:g}x")
    )
    return report, told[0]


def width(name: str, weights: Path, fewer: float, options: argparse.Namespace) -> Made:
    """Return a narrower network of the same kind, trained from scratch with the whole one as its teacher.

    Raises:
        ModelError: Its narrowest is wider than that.
    """
    chosen: list[ModelSpec] = []

    def narrower(whole: TrainedModel) -> tuple[ModelSpec, Callable[[Any], None], Any]:
        chosen.append(narrowed(whole.spec, (whole.cost.macs or 0) / fewer))
        return chosen[0], lambda _model: None, chosen[0].arguments["width"]

    scratch = {**NETWORKS[name], "epochs": options.scratch_epochs, "precision": "fp32", "layout": "channels_last"}
    lesson = {**LESSON, "train": {**scratch, "compile": options.compile}}
    left = learned(name, weights, options, f"width {fewer:g}x", narrower, lesson)
    student = {"weights": str(left.weights.absolute()), "arguments": dict(chosen[0].arguments)}
    report = edgekd.compress(
        recipe(name, options, student), options.out / name / "run", listener=Told(f"{name}, width {fewer:g}x")
    )
    return report, f"width {chosen[0].arguments['width']:.3g}, {options.scratch_epochs} epochs from scratch"


WAYS: dict[str, Callable[[str, Path, float, argparse.Namespace], Made]] = {
    "ours": ours, "torch-pruning": torch_pruning, "width": width, "random": random,
}  # fmt: skip


def learned(
    name: str, weights: Path, options: argparse.Namespace, way: str,
    narrower: Callable[[TrainedModel], tuple[ModelSpec, Callable[[Any], None], Any]],
    lesson: dict[str, Any] | None = None,
) -> TrainedModel:  # fmt: skip
    """Return a smaller network after it learned from the whole one: as the recovery of ``edgekd.compress``, or by ``lesson``.

    Args:
        name: Of the network.
        weights: Of the whole one.
        options: Of the command line.
        way: For the listener.
        narrower: From the whole network to a spec, what puts in the weights it starts from, and a key of these.
        lesson: Section of the recipe of a training from scratch.
    """
    prune = {"epochs": options.epochs, "learning_rate": options.learning_rate}
    asked = recipe_from_mapping(recipe(name, options, {"weights": str(weights)}, lesson, prune=prune))
    threads = plan(asked).threads
    with open_workspace(options.out / name / "run", Told(f"{name}, {way}")) as workspace:
        data = load_data(asked, workspace)
        whole = take_student(asked, student_spec(asked, data)[0], data, threads, workspace)
        spec, begin, key = narrower(whole)
        trainee = Trainee(spec, begin, lesson is None)
        training = recovery_of(asked, spec, lost=True) if lesson is None else asked.distill.train
        # The stage's name is that of the recovery in a run, because it decides the order of the images.
        return learn_from(
            as_teacher(whole), "recover-1", trainee, training, {"cut": key}, "pruned", asked, data, threads, workspace
        )


def narrowed(spec: ModelSpec, budget: float) -> ModelSpec:
    """Return the widest network of the kind that keeps the budget, or goes over it by no more than 10 %.

    Raises:
        ModelError: There is none.
    """
    fits = None
    for hundredth in range(1, round(100 * spec.arguments.get("width", 1.0))):
        found = replace(spec, arguments={**spec.arguments, "width": hundredth / 100})
        if (cost(build(found), found).macs or math.inf) <= (1 + OVER) * budget:
            fits = found
    if fits is None:
        raise ModelError(f"{spec.reference} has over {budget:,.0f} MACs at any width")
    return fits


def cut_by_torch_pruning(network: Any, spec: ModelSpec, fewer: float) -> tuple[dict[str, Any], Any, str]:
    """Return the record of its cuts, the network that is left, and how it was asked."""
    budget = (cost(network, spec).macs or 0) / fewer
    best = None
    for multiple in MULTIPLES:
        low, high = 1, 999
        while low < high:
            middle = (low + high) // 2
            if (cost(_by_torch_pruning(network, spec, middle / 1000, multiple)[0], spec).macs or 0) <= budget:
                high = middle
            else:
                low = middle + 1
        left, history = _by_torch_pruning(network, spec, low / 1000, multiple)
        macs = cost(left, spec).macs or 0
        if macs <= budget and (best is None or macs > best[0]):
            best = macs, left, history, f"ratio {low / 1000:g}, round_to {multiple}"
        if best is not None and best[0] >= (1 - NEAR) * budget:
            break
    if best is None:
        raise ModelError(f"torch-pruning cannot cut {spec.reference} to {budget:,.0f} MACs")
    _, left, history, how = best
    record = _record_of(network, spec, history)
    again = copy.deepcopy(network)
    cut(again, record)
    if any(not value.equal(again.state_dict()[name]) for name, value in left.state_dict().items()):
        raise AssertionError("the record of torch-pruning's cuts makes another network")
    return record, left, how


def _by_torch_pruning(network: Any, spec: ModelSpec, ratio: float, multiple: int) -> tuple[Any, Any]:
    import torch
    import torch_pruning as tp

    left = copy.deepcopy(network).eval()
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BasePruner(
            left, _example(spec), importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=ratio,
            ignored_layers=[left.classifier], round_to=None if multiple == 1 else multiple,
        )  # fmt: skip
        pruner.step()
    return left, pruner.pruning_history()


def _record_of(network: Any, spec: ModelSpec, history: Any) -> dict[str, Any]:
    """Return the record of torch-pruning's history of cuts: they are made in a network whose weights are their own places."""
    import torch
    import torch_pruning as tp

    marked = copy.deepcopy(network).eval()
    modules = {name: each for name, each in marked.named_modules() if isinstance(each, CUTTABLE)}
    sizes = {name: tuple(each.weight.shape[:2]) for name, each in modules.items()}
    with torch.no_grad():
        for name, each in modules.items():
            places = torch.arange(math.prod(sizes[name]), dtype=torch.float32).reshape(sizes[name])
            each.weight.copy_(
                places.reshape(*sizes[name], *(1,) * (each.weight.ndim - len(sizes[name]))).expand_as(each.weight)
            )
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        graph = tp.DependencyGraph().build_dependency(marked, _example(spec), verbose=False)
        graph.load_pruning_history(history)
    kept: dict[str, dict[str, list[int]]] = {}
    for name, each in modules.items():
        left = each.weight.detach().long()
        places = left.reshape(len(left), -1) if left.ndim < 3 else left.flatten(2)[..., 0]
        across = (*sizes[name], 1)[1]
        sides = {"out": (places[:, 0] // across).tolist()}
        if left.ndim > 1 and getattr(each, "groups", 1) == 1:
            sides["in"] = (places[0] % across).tolist()
        whole = network.get_submodule(name)
        changed = {side: found for side, found in sides.items() if len(found) < channels_of(whole, side)}
        if changed:
            kept[name] = changed
    return make_record(spec.reference, network, kept, {})


def _example(spec: ModelSpec) -> Any:
    return next(iter(example_inputs(spec).values()))
