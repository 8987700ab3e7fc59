"""The dry run: what a recipe would do, and what would be refused.

Torch is imported only for losses on inner layers: which layers they compare is found in fresh networks.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.abilities import devices, usable
from edgekd.artifacts import file_name
from edgekd.benchmark.transports.open import open_transport
from edgekd.data.cache import Preview
from edgekd.data.classes import check_class_names
from edgekd.data.sources import source_module
from edgekd.devices.profiles import load_profile, usable_cores
from edgekd.devices.targets import TargetFiles, target_files, with_target_files
from edgekd.distill.layer_needs import check_layer_needs
from edgekd.distill.soft_target_use import stores_targets, why_live
from edgekd.errors import UsageError
from edgekd.flavours import FLAVOURS, Flavour, format_of, sources
from edgekd.gates import check_gates_possible
from edgekd.models.catalog import ZOO
from edgekd.models.derive import derive_student
from edgekd.models.references import KINDS, check_available, kind_of, name_of
from edgekd.prune.target import parse_target
from edgekd.quantize.calibration import activation_ranges
from edgekd.quantize.qat.planned import check_rounding, losses_of, planned_rounding
from edgekd.quantize.weights import TREATMENTS
from edgekd.recipe import Recipe
from edgekd.recipe_distill import Distill, DistillLoss, Network
from edgekd.recipe_file import find_recipe, load_recipe, recipe_from_mapping
from edgekd.safe.user_code import code_file


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a run, or a part of the one above it: its ``name``, and in one line ``what`` it will do."""

    name: str
    what: str


@dataclass(frozen=True)
class PlannedDevice:
    """A kind of device: the files of the run that it can use, the best first, and the others with the reason why not."""

    id: str
    usable: tuple[str, ...]
    unusable: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """What a recipe would do.

    Attributes:
        recipe: The recipe, every default filled in.
        threads: CPU threads that training will use.
        data: Classes, counts and three samples.
        stages: In order.
        artifacts: Names of the files that will be made.
        devices: For each kind of device, which of them it can use, and why not the others.
    """

    recipe: Recipe
    threads: int
    data: Preview
    stages: tuple[PlannedStage, ...]
    artifacts: tuple[str, ...]
    devices: tuple[PlannedDevice, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {
            "recipe": self.recipe.model_dump(mode="json"), "threads": self.threads, "data": asdict(self.data),
            "stages": [asdict(stage) for stage in self.stages], "artifacts": list(self.artifacts),
            "devices": [asdict(device) for device in self.devices],
        }  # fmt: skip


def resolve_recipe(recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe that a name, path, mapping or recipe stands for, changed by ``key=value`` overrides.

    Raises:
        RecipeError: Something in it is wrong.
        UsageError: There is no such recipe, or a target of it is no device.
    """
    if isinstance(recipe, Recipe):
        given = recipe.model_dump(mode="json", exclude_unset=True)
        return with_target_files(recipe_from_mapping(given, overrides) if overrides else recipe)
    if isinstance(recipe, Mapping):
        return with_target_files(recipe_from_mapping(recipe, overrides))
    return with_target_files(load_recipe(find_recipe(str(recipe)), overrides))


def plan(recipe: str | Path | Mapping[str, Any] | Recipe = "digits", overrides: Sequence[str] = ()) -> Plan:
    """Return what running a recipe would do; the arguments are those of :func:`edgekd.compress`.

    Raises:
        RecipeError, UsageError: The recipe is wrong, or needs a package that is not installed.
        DataError: Its data folder is missing or not as it should be.
        ModelError: Losses on inner layers find nothing to compare, or a network does not take the data.
    """
    asked = resolve_recipe(recipe, overrides)
    _check_packages(asked)
    check_teaching(asked)
    check_gates_possible(asked)
    for member in asked.teacher.members if asked.distill.has_teacher else ():
        check_available(member.model, member.weights, "teacher", member.labels)
    student = _student(asked)
    _check_converter(asked)
    preview = source_module(asked.data).preview(asked.data)
    check_class_names(preview.classes, asked.data.source)
    if preview.kind == "text" and importlib.util.find_spec("tokenizers") is None:
        raise UsageError("text needs tokenizers, not installed here", "pip install 'edgekd[hub]'")
    check_rounding(asked, preview.kind)
    names = [file_name(name) for name in asked.export.artifacts]
    host = load_profile("host")
    stages = [
        PlannedStage("data", _data(asked, preview)),
        *_teachers(asked),
        *_students(asked, student, _layers(asked, preview)),
        *_pruning(asked),
        *([PlannedStage("qat", planned_rounding(asked))] if asked.quantize.qat.epochs else []),
        *_files(asked, preview),
        PlannedStage("metadata", f"what they take and give, and their labels, inside {len(names)} files"),
        PlannedStage("verify", f"{len(names)} files on the whole test split, in their own runtimes, against the gates"),
        PlannedStage("golden", "16 test samples and 4 extreme ones, with what each file that passed gives for them"),
        *_cuts_measured(asked),
        PlannedStage("benchmark", f"{len(names)} files on {host.name}, {asked.benchmark.runs} runs each"),
        *[_target(each) for each in target_files(asked)],
    ]  # fmt: skip
    return Plan(asked, asked.threads or usable_cores(), preview, tuple(stages), tuple(names), _devices(asked))


def _pruning(recipe: Recipe) -> list[PlannedStage]:
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


def _cuts_measured(recipe: Recipe) -> list[PlannedStage]:
    if recipe.prune.target is None and not recipe.prune.blocks:
        return []
    return [PlannedStage("prune-latency", "float32 files before and after the cuts, in turns on one thread of this host")]


def _target(each: TargetFiles) -> PlannedStage:
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


def _devices(recipe: Recipe) -> tuple[PlannedDevice, ...]:
    made = recipe.export.artifacts
    return tuple(
        PlannedDevice(each.id, usable(made, each.id), {name: each.no[name] for name in made if name in each.no})
        for each in devices().values()
    )


def _files(recipe: Recipe, preview: Preview) -> list[PlannedStage]:
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


_LEAST_BATCH = 4
_SAMPLES = {"image": "images", "text": "texts", "waveform": "sounds", "features": "rows"}


def _data(recipe: Recipe, preview: Preview) -> str:
    what = f"{recipe.data.source}: {sum(preview.counts):,} {_SAMPLES[preview.kind]} in {len(preview.classes)} classes"
    given = ", ".join(f"{name} {count:,}" for name, count in preview.parts.items())
    made = ", ".join(
        f"{share:.0%} for {name}"
        for name, share in (("validation", recipe.data.validation), ("test", recipe.data.test))
        if name not in preview.parts
    )
    if recipe.data.source.startswith("python:"):
        what += f", from the code of {code_file(recipe.data.source.partition(':')[2])}, which ran for this plan"
    return "; ".join([what, *([f"given splits: {given}"] if given else []), *([f"by seed: {made}"] if made else [])])


def _teachers(recipe: Recipe) -> list[PlannedStage]:
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


def _students(recipe: Recipe, student: str, layers: list[list[str]]) -> list[PlannedStage]:
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


def _layers(recipe: Recipe, preview: Preview) -> list[list[str]]:
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


def _network(network: Network, recipe: Recipe) -> str:
    return _model(network.model or recipe.student.model, network.arguments)


def _loss(loss: DistillLoss, options: Distill) -> str:
    weight = options.weight_of(loss)
    shown = f"{_number(weight)}*{loss.name}"
    if "temperature" not in loss.definition.hyperparameters:
        return shown
    temperature = options.temperature_of(loss)
    return f"{shown}(T {_number(temperature)})"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else format(value, "g")


def _targets(recipe: Recipe) -> str:
    if stores_targets(recipe):
        return f"teacher outputs are kept, for {recipe.distill.soft_targets.augmentations} augmentations of each sample at most"
    reason = why_live(recipe)
    return "the teacher is asked at every step" + (f": {reason}" if reason else "")


def check_teaching(recipe: Recipe) -> None:
    """Refuse a recipe whose parts do not go together.

    Raises:
        UsageError: A loss looks inside a teacher that shows its outputs alone; kept outputs are wanted where they cannot
            serve; or something needs a teacher, and the scheme has none.
    """
    options = recipe.distill
    if options.scheme == "none" and recipe.student.weights is None and not _starts_trained(recipe.student.model):
        raise UsageError(
            "distill.scheme is none, so nothing is trained, but student.weights is not set",
            "set student.weights to a .safetensors or .pt file",
        )
    if not options.has_teacher:
        if recipe.student.model == "from-teacher":
            raise UsageError(
                f"student.model is from-teacher, but distill.scheme={options.scheme} has no teacher",
                "name a student of its own",
            )
        return
    check_layer_needs(recipe)
    stores_targets(recipe)
    between = [each.name for each in options.losses if each.definition.family == "relation"]
    if between and options.train.batch_size < _LEAST_BATCH:
        raise UsageError(
            f"{between[0]} compares the samples of a batch with one another, and distill.train.batch_size is "
            f"{options.train.batch_size}",
            f"make it {_LEAST_BATCH} or more; with 64 and more there is something to compare",
        )


def _starts_trained(reference: str) -> bool:
    return reference != "from-teacher" and KINDS[kind_of(reference)].starts_trained


def _student(recipe: Recipe) -> str:
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


def _model(reference: str, arguments: Mapping[str, Any]) -> str:
    shown = "".join(f", {name} {value}" for name, value in arguments.items())
    kind, name = kind_of(reference), name_of(reference)
    if kind == "python":
        return f"{reference}, which runs the code of {code_file(name)}{shown}"
    return f"{reference} ({ZOO[name].summary if kind == 'zoo' else KINDS[kind].what}{shown})"


def _check_converter(recipe: Recipe) -> None:
    if recipe.export.tflite.converter == "tensorflow" and not recipe.student.model.startswith("keras:"):
        raise UsageError(
            f"export.tflite.converter=tensorflow converts Keras models, and the student is {recipe.student.model}",
            "leave it out, or name a keras:FILE.keras as student.model",
        )


def _check_packages(recipe: Recipe) -> None:
    needed = {"litert_torch": "litert-torch", "ai_edge_litert": "ai-edge-litert", "ai_edge_quantizer": "ai-edge-quantizer"}
    wants_tflite = any(name.startswith("tflite") for name in recipe.export.artifacts)
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if wants_tflite and missing:
        onnx = [name for name in recipe.export.artifacts if name.startswith("onnx")] or ["onnx-fp32"]
        raise UsageError(
            f"TFLite artifacts need {', '.join(missing)}, not installed here",
            f"pip install 'edgekd[tflite]', or leave them out: 'export.artifacts=[{', '.join(onnx)}]'",
        )
