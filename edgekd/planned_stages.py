"""What every stage of a run will do, in a line each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.artifacts import file_name
from edgekd.benchmark.transports.open import open_transport
from edgekd.data.cache import Preview
from edgekd.devices.profiles import load_profile
from edgekd.devices.targets import TargetFiles
from edgekd.distill.soft_target_use import stores_targets, why_live
from edgekd.flavours import FLAVOURS, Flavour, format_of, sources
from edgekd.models.catalog import ZOO
from edgekd.models.derive import derive_student
from edgekd.models.references import KINDS, check_available, kind_of, name_of
from edgekd.prune.target import parse_target
from edgekd.quantize.calibration import activation_ranges
from edgekd.quantize.qat.planned import losses_of
from edgekd.quantize.weights import TREATMENTS
from edgekd.recipe import Recipe
from edgekd.recipe_distill import Distill, DistillLoss, Network
from edgekd.safe.user_code import code_file


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a run, or a part of the one above it: its ``name``, and in one line ``what`` it will do."""

    name: str
    what: str


_SAMPLES = {"image": "images", "text": "texts", "waveform": "sounds", "features": "rows"}


def data_stage(recipe: Recipe, preview: Preview) -> PlannedStage:
    """Return what is read, and into which splits."""
    what = f"{recipe.data.source}: {sum(preview.counts):,} {_SAMPLES[preview.kind]} in {len(preview.classes)} classes"
    given = ", ".join(f"{name} {count:,}" for name, count in preview.parts.items())
    made = ", ".join(
        f"{share:.0%} for {name}"
        for name, share in (("validation", recipe.data.validation), ("test", recipe.data.test))
        if name not in preview.parts
    )
    if recipe.data.source.startswith("python:"):
        what += f", from the code of {code_file(recipe.data.source.partition(':')[2])}, which ran for this plan"
    parts = [what, *([f"given splits: {given}"] if given else []), *([f"by seed: {made}"] if made else [])]
    return PlannedStage("data", "; ".join(parts))


def teacher_stages(recipe: Recipe) -> list[PlannedStage]:
    """Return a line for every teacher, for their agreement, and for their check."""
    if not recipe.distill.has_teacher:
        return []
    stages = []
    for index, member in enumerate(recipe.teacher.members):
        name = "teacher" if index == 0 else f"teacher-{index + 1}"
        training = recipe.teacher.train
        model = _model(member.model, member.arguments)
        weights = f" with {member.weights}" if member.weights is not None else ""
        if member.is_trained:
            what = f"{model}{weights}, as it is"
        else:
            what = f"train {model}{weights}: {training.epochs} epochs, batch {training.batch_size}"
        stages.append(PlannedStage(name, what))
    if recipe.teacher.ensemble:
        shares = ", ".join(f"{member.weight:g}" for member in recipe.teacher.members)
        stages.append(PlannedStage("ensemble", f"{recipe.teacher.combine}, weights {shares}"))
    check = "on the validation split" + (
        ", beside chance and a linear model" if recipe.teacher.check else "; whatever it finds, the run goes on"
    )
    return [*stages, PlannedStage("teacher-check", check)]


_FROM_ITSELF = {
    "temporal": "from what it said an epoch ago (PS-KD)", "ema": "from the average of its own weights",
    "layerwise": "exits after its stages learn from its last layer",
}  # fmt: skip


def student_stages(recipe: Recipe, student: str, layers: list[list[str]]) -> list[PlannedStage]:
    """Return the trainings after the teacher's; ``layers`` are lines under each that learns from inner layers."""
    options, training = recipe.distill, recipe.distill.train
    length = f"{training.epochs} epochs, batch {training.batch_size}"
    loss = " + ".join([f"{_number(options.alpha)}*CE", *(_loss(each, options) for each in options.losses)])
    under = iter([[PlannedStage("layers", line) for line in lines] for lines in layers])
    stages = []
    if options.scheme == "offline":
        for index, each in enumerate(options.assistants, 1):
            what = _network(each, recipe)
            stages += [PlannedStage(f"assistant-{index}", f"train {what}: {length}, loss {loss}"), *next(under, [])]
        stages += [PlannedStage("distill", f"train {student}: {length}, loss {loss}"), *next(under, [])]
        stages.append(PlannedStage("targets", _targets(recipe)))
    elif options.scheme == "born-again":
        stages.append(PlannedStage("generation-0", f"train {student} on the labels: {length}"))
        for index in range(1, options.generations + 1):
            name = "distill" if index == options.generations else f"generation-{index}"
            stages += [PlannedStage(name, f"the same from generation {index - 1}: loss {loss}"), *next(under, [])]
        stages.append(PlannedStage("targets", _targets(recipe)))
    elif options.scheme == "none":
        weights = recipe.student.weights or "its own weights"
        stages.append(PlannedStage("student", f"{student} as it is, with {weights}, judged on the test split"))
    elif options.scheme == "online":
        peers = ", ".join(_network(each, recipe) for each in options.online.peers)
        kept = "the best of them" if options.online.keep == "best" else options.online.keep
        stages.append(PlannedStage("distill", f"train {student} together with {peers}: {length}; {kept} is the result"))
    else:
        stages.append(PlannedStage("distill", f"train {student}: {length}; {_FROM_ITSELF[options.scheme]}"))
    if options.control:
        stages.append(PlannedStage("control", f"train the same student on the labels alone: {length}"))
    return stages


def student_line(recipe: Recipe) -> str:
    """Return the student in words: what it is, what it starts from, what is cut of it already."""
    student = recipe.student
    if student.model != "from-teacher":
        check_available(student.model, student.weights, "student")
        return _model(student.model, student.arguments) + _cuts(recipe)
    reference, arguments, kept = derive_student(recipe.teacher, student.arguments)
    layers = f", starting from its layers {', '.join(map(str, kept))}" if kept is not None else ""
    return f"{_model(reference, arguments)}{layers}{_cuts(recipe)}"


def _cuts(recipe: Recipe) -> str:
    if recipe.student.pruning is None:
        return ""
    from edgekd.prune.record import read_record

    record = read_record(Path(recipe.student.pruning).expanduser())
    gone, narrower = len(record.get("blocks", [])), len(record["modules"])
    what = [f"{gone} of its blocks removed"] if gone else []
    what += [f"{narrower} of its modules narrower"] if narrower or not gone else []
    return f", {' and '.join(what)} by {recipe.student.pruning}"


def layer_lines(recipe: Recipe, preview: Preview) -> list[list[str]]:
    """Return lines on the layers that losses compare, for each training in which they do; with torch, if there are any."""
    options = recipe.distill
    losses = tuple(
        each for each in options.losses
        if each.definition.inner_layers and options.weight_of(each) != 0
    )  # fmt: skip
    if not losses or options.scheme not in {"offline", "born-again"}:
        return []
    if preview.shape is None:
        return [["matched when the data is read: the size of its samples is not known yet"]]
    from edgekd.distill.planned_layers import planned_layers

    return planned_layers(recipe, losses, preview)


def _targets(recipe: Recipe) -> str:
    if stores_targets(recipe):
        return f"teacher outputs are kept, for {recipe.distill.soft_targets.augmentations} augmentations of each sample at most"
    reason = why_live(recipe)
    return "the teacher is asked at every step" + (f": {reason}" if reason else "")


def _network(network: Network, recipe: Recipe) -> str:
    return _model(network.model or recipe.student.model, network.arguments)


def _model(reference: str, arguments: Mapping[str, Any]) -> str:
    shown = "".join(f", {name} {value}" for name, value in arguments.items())
    kind, name = kind_of(reference), name_of(reference)
    if kind == "python":
        return f"{reference}, which runs the code of {code_file(name)}{shown}"
    return f"{reference} ({ZOO[name].summary if kind == 'zoo' else KINDS[kind].what}{shown})"


def _loss(loss: DistillLoss, options: Distill) -> str:
    weight = options.weight_of(loss)
    shown = f"{_number(weight)}*{loss.name}"
    if "temperature" not in loss.definition.hyperparameters:
        return shown
    temperature = options.temperature_of(loss)
    return f"{shown}(T {_number(temperature)})"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else format(value, "g")


def pruning_stages(recipe: Recipe) -> list[PlannedStage]:
    """Return lines of blocks, channels and weights that go, and of the training after it; none if nothing is to go."""
    options = recipe.prune
    stages = []
    steps = "" if options.steps == 1 else f", in {options.steps} steps"
    if options.blocks:
        how = "at random" if options.criterion == "random" else "those without which the loss rises least"
        stages.append(PlannedStage("blocks", f"{options.blocks} whole blocks of the student are removed: {how}"))
    if options.target is not None:
        device = parse_target(options.target).device
        if device is not None:
            load_profile(device)
        what = f"the student is cut to {options.target} by {options.criterion}, scope {options.scope}{steps}"
        stages.append(PlannedStage("prune", what))
    if options.sparsity is not None:
        where = "convolutions and linear layers" if options.sparse_layers == "all" else "1x1 convolutions and linear layers"
        what = f"weights of {where} are set to zero for sparsity {options.sparsity}, scope {options.scope}{steps}"
        stages.append(PlannedStage("sparse", f"{what}; files compress better and are no faster on CPUs"))
    if stages and options.epochs:
        by_teacher = options.taught_by == "teacher" and recipe.distill.has_teacher
        cut = options.target is not None or options.blocks
        taught = "its teacher" if by_teacher else "the student before the cut" if cut else "the student before that"
        losses = " + ".join(["CE", *(each.name for each in losses_of(recipe))])
        each_time = "" if options.steps == 1 else " after each"
        what = f"what is left learns from {taught}{each_time}: {options.epochs} epochs, {losses}"
        stages.append(PlannedStage("recover", what))
    return stages


def cuts_measured(recipe: Recipe) -> list[PlannedStage]:
    """Return the line of the measurement of what cuts brought, if anything is cut."""
    if recipe.prune.target is None and not recipe.prune.blocks:
        return []
    return [PlannedStage("prune-latency", "float32 files before and after the cuts, in turns on one thread of this host")]


def file_stages(recipe: Recipe, preview: Preview) -> list[PlannedStage]:
    """Return a line for the export and one for every file made from exported ones, with where it is of use."""
    wanted = recipe.export.artifacts
    exported = [name for name in sources(wanted) if FLAVOURS[name].source is None]
    named = [file_name(name) + ("" if name in wanted else ", to make others from") for name in exported]
    how = "; TFLite by TensorFlow's converter" if recipe.export.tflite.converter == "tensorflow" else ""
    stages = [PlannedStage("export", "; ".join(named) + how)]
    observed: set[str] = set()
    for name in sources(wanted):
        flavour = FLAVOURS[name]
        if flavour.source is None:
            continue
        what = flavour.what
        activations: str | None = flavour.activations
        if activations == "auto":
            activations = activation_ranges(recipe.quantize.activations, preview.kind)
            what += f"; {activations} ranges of activations"
        if activations == "static":
            kind = format_of(name)
            if not observed:
                stages.append(PlannedStage("validation", "the student in PyTorch, to compare int8 files with"))
            if kind not in observed:
                stages.append(PlannedStage(f"observe-{kind}", _calibration(recipe)))
            learns = flavour.simulated and recipe.quantize.qat.epochs > 0
            if learns and f"learned-{kind}" not in observed:
                stages.append(PlannedStage(f"learned-{kind}", "ranges that training learned, found in the file"))
                observed.add(f"learned-{kind}")
            tries = "ranges learned in training, measured on validation samples" if learns else _candidates(recipe, flavour)
            stages.append(PlannedStage(f"try-{name}", tries))
            observed.add(kind)
        used = f". For {flavour.devices}" if name in wanted else ", to make others from"
        stages.append(PlannedStage(name, f"{what}{used}"))
    return stages


def _calibration(recipe: Recipe) -> str:
    wanted = recipe.quantize.calibration_samples
    many = "as many as it takes, 2,048 at most" if wanted == "auto" else f"{wanted:,}"
    return f"ranges of activations on training samples: {many}, evenly from every class"


def _candidates(recipe: Recipe, flavour: Flavour) -> str:
    options = recipe.quantize
    wide = flavour.arguments.get("bits", 8) > 8
    ranges = "minmax" if wide else "minmax, percentile, mse and entropy" if options.ranges == "auto" else options.ranges
    compared = f"ranges by {ranges}, measured on validation samples"
    more = [f"the same with {', '.join(TREATMENTS)} weights"] if options.weights == "auto" else []
    more += ["the fewest layers in floating point that mend it"] if options.keep == "auto" else []
    compared += f"; {options.weights} weights" if options.weights not in {"auto", "as-trained"} else ""
    return f"{compared}; while they lose over {options.max_drop:g} points, {', then '.join(more)}" if more else compared


def target_stage(each: TargetFiles) -> PlannedStage:
    """Return the line of a target device."""
    via, count = each.target.via, len(each.files)
    if via is not None:
        open_transport(via, each.profile)  # refuses what is no way there; nothing is connected yet
    how = "latency predicted" if via in {None, "emulated"} else f"measured by {via}"
    golden = (
        "" if via is None else "; golden vectors on an emulated processor" if via == "emulated" else "; golden vectors there"
    )
    best = file_name(each.files[0])
    return PlannedStage(
        f"target-{each.profile.id}", f"{each.profile.name}, {each.threads} threads: {count} files, {best} first; {how}{golden}"
    )
