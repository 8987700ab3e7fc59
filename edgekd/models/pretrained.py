"""Open a teacher that was trained elsewhere, whatever it is: a module, a program, or a black box in a child process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekd.errors import ModelError, UsageError
from edgekd.models import builders
from edgekd.models.detect import Described, Run
from edgekd.models.references import kind_of, model_path, name_of
from edgekd.models.spec import Cost, build, cost
from edgekd.models.tensors import ModelSpec, TensorSpec, classifier
from edgekd.recipe import TeacherMember
from edgekd.safe.model_files import check_file, folder_bytes
from edgekd.safe.worker import Worker


@dataclass(frozen=True)
class Opened:
    """A teacher ready to run: how to run it, what it tells of itself, what it costs, and its module if it has one."""

    run: Run
    described: Described
    cost: Cost
    module: nn.Module | None


@contextmanager
def open_pretrained(
    member: TeacherMember, specs: tuple[TensorSpec, ...], labels: tuple[str, ...], log: Path, allow_code: bool
) -> Iterator[Opened]:
    """Open a trained teacher.

    Args:
        member: The recipe's words for it.
        specs: What the student takes.
        labels: Class names of the teacher's outputs where it does not tell them.
        log: File that gets what its runtime prints.
        allow_code: Whether a Keras file may hold code of its own.

    Raises:
        ModelError: It is broken, holds code, or its weights do not fit it.
    """
    kind = kind_of(member.model)
    if kind in {"onnx", "keras", "tflite"}:
        with _black_box(member, log, allow_code) as opened:
            yield opened
    elif kind == "pt2":
        yield _program(member)
    else:
        yield _module(member, specs, labels)


def open_untrained(member: TeacherMember, specs: tuple[TensorSpec, ...], labels: tuple[str, ...]) -> Opened:
    """Open a teacher of PyTorch with fresh weights, for what its architecture tells: only its configuration is read.

    Args:
        member: The recipe's words for it.
        specs: What the student takes.
        labels: Class names of the teacher's outputs where it does not tell them.

    Raises:
        ModelError: Its configuration cannot be loaded, or does not fit the data.
    """
    spec = classifier(member.model, specs, labels, member.arguments)
    return _runnable(member, spec, *_network(member, spec, trained=False))


@contextmanager
def _black_box(member: TeacherMember, log: Path, allow_code: bool) -> Iterator[Opened]:
    kind = kind_of(member.model)
    arguments = {"kind": kind, "path": str(model_path(member.model).absolute()), "allow_code": allow_code}
    with Worker("edgekd.models.black_box:open_model", arguments, log=log) as worker:
        found = worker.description

        def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            answer = worker({name: np.ascontiguousarray(each.numpy()) for name, each in inputs.items()})
            return {name: torch.from_numpy(array) for name, array in answer.items()}

        notes = ("one sample at a time",) if found["batch"] == 1 else ()
        layout = "NCHW" if kind == "onnx" else "NHWC"
        described = Described(member.model, found["inputs"], found["outputs"], layout, notes=notes)
        yield Opened(run, described, Cost(None, None, found["size_bytes"]), None)


def _program(member: TeacherMember) -> Opened:
    from edgekd.safe.exported_program import callable_module, load_exported_program

    path = model_path(member.model)
    check_file(path)
    program = load_exported_program(path)
    module = callable_module(program)
    kinds = {each.arg.name: each.kind.name for each in program.graph_signature.input_specs}
    inputs = []
    for node in program.graph.nodes:
        if node.op == "placeholder" and kinds.get(node.name) == "USER_INPUT":
            value = node.meta["val"]
            shape = [size if isinstance(size, int) else None for size in value.shape]
            inputs.append({"name": node.name, "shape": shape, "dtype": str(value.dtype).removeprefix("torch."), "scale": None})
    fixed = next((each["shape"][0] for each in inputs if each["shape"][0] is not None), None)
    order = [each["name"] for each in inputs]
    for each in inputs:
        each["shape"] = each["shape"][1:]

    def run(given: dict[str, Tensor]) -> dict[str, Tensor]:
        count = len(next(iter(given.values())))
        rows: list[dict[str, Tensor]] = []
        with torch.no_grad():
            for start in range(0, count, fixed or count):
                part = [_padded(given[name][start : start + (fixed or count)], fixed).contiguous() for name in order]
                part = [value.to(getattr(torch, each["dtype"])) for value, each in zip(part, inputs, strict=True)]
                try:
                    found = _named_outputs(module(*part))
                except (RuntimeError, ValueError, TypeError, AssertionError) as error:
                    raise _failed(member.model, part, error) from None
                rows.append({name: value[: count - start] for name, value in found.items()})
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    params = sum(each.numel() for each in program.parameters())
    size = sum(each.numel() * each.element_size() for each in program.state_dict.values())
    notes = (f"{fixed} sample(s) at a time",) if fixed else ()
    described = Described(member.model, inputs, [], notes=notes)
    return Opened(run, described, Cost(params, None, size), None)


def _named_outputs(returned: Any) -> dict[str, Tensor]:
    """Return the tensors among what a module returned, by name: a mapping's own; else ``logits`` first, then ``output_1``."""
    if isinstance(returned, Mapping):
        return {str(name): value for name, value in returned.items() if isinstance(value, Tensor) and value.ndim}
    listed = (
        [returned] if isinstance(returned, Tensor) else [each for each in returned if isinstance(each, Tensor) and each.ndim]
    )
    return {f"output_{index}" if index else "logits": value for index, value in enumerate(listed)}


def _failed(reference: str, given: list[Tensor], error: Exception) -> ModelError:
    shapes = ", ".join(str(list(each.shape)) for each in given)
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ModelError(f"{reference} failed on inputs of shape {shapes}: {first[:300]}", "see data.image_size, data.max_tokens")


def _padded(values: Tensor, batch: int | None) -> Tensor:
    if batch is None or len(values) == batch:
        return values
    return torch.cat([values, values[-1:].expand(batch - len(values), *values.shape[1:])])


def _module(member: TeacherMember, specs: tuple[TensorSpec, ...], labels: tuple[str, ...]) -> Opened:
    if kind_of(member.model) == "zoo" and member.weights is None:
        raise UsageError(
            f"{member.model} comes without weights, so it cannot teach as it is",
            "name a file of them as teacher.weights, or leave out teacher.trained and it is trained here",
        )
    spec = classifier(member.model, specs, labels, member.arguments)
    module, described = _network(member, spec, trained=True)
    if member.weights is not None:
        from edgekd.safe.weights import load_into, read_weights

        path = Path(member.weights).expanduser()
        load_into(module, read_weights(path), str(path))
    return _runnable(member, spec, module, described)


def _network(member: TeacherMember, spec: ModelSpec, trained: bool) -> tuple[nn.Module, Described]:
    """Return a network and what it tells of itself; weights that come with it are loaded where it is to be ``trained``."""
    inputs = [{"name": each.name, "shape": list(each.shape), "dtype": each.dtype, "scale": None} for each in spec.inputs]
    described = Described(spec.reference, inputs, [{"name": "logits"}])
    kind = kind_of(spec.reference)
    if kind == "hf":
        return _transformers(spec, described, trained)
    if kind == "timm" and member.weights is None:
        return _timm(spec, described, trained)
    if kind == "torchvision" and member.weights is None:
        return _torchvision(spec, described, trained)
    return build(spec), described


def _runnable(member: TeacherMember, spec: ModelSpec, module: nn.Module, described: Described) -> Opened:
    module.eval()
    order = [each["name"] for each in described.inputs]

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        part = [inputs[name] for name in order]
        try:
            with torch.no_grad():
                return _named_outputs(module(*part))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            if kind_of(member.model) == "python":
                raise  # the user's own code: its traceback tells where
            raise _failed(member.model, part, error) from None

    return Opened(run, described, _cost(module, spec), module)


def _cost(module: nn.Module, spec: ModelSpec) -> Cost:
    try:
        return cost(module, spec)
    except (RuntimeError, ValueError, KeyError, TypeError, AssertionError):  # it takes another size or more channels
        params = sum(each.numel() for each in module.parameters())
        return Cost(params, None, sum(each.numel() * each.element_size() for each in module.state_dict().values()))


def _transformers(spec: ModelSpec, described: Described, trained: bool) -> tuple[nn.Module, Described]:
    from transformers import AutoConfig

    head = builders.transformers_class(spec)
    name = name_of(spec.reference)
    try:
        if trained:
            model = head.from_pretrained(name, trust_remote_code=False, **spec.arguments)
        else:
            model = head.from_config(AutoConfig.from_pretrained(name, trust_remote_code=False, **spec.arguments))
    except Exception as error:  # torn files and odd configurations raise what they happen to
        raise builders.hub_error(spec.reference, error) from error
    config = model.config
    labels = tuple(str(config.id2label[index]) for index in range(config.num_labels))
    described = replace(described, labels=labels)
    if spec.inputs[0].meaning == "image":
        channels = int(getattr(config, "num_channels", 3))
        described = replace(described, inputs=[{**described.inputs[0], "shape": [channels, None, None]}],
                            **_processor(name))  # fmt: skip
        side = getattr(config, "image_size", None)
        if described.size is None and isinstance(side, int):
            described = replace(described, size=(side, side))
    if spec.inputs[0].meaning == "waveform":
        from edgekd.models.sound_features import with_extractor

        assert spec.inputs[0].sample_rate is not None
        heard = with_extractor(model, name, spec.reference, spec.inputs[0].sample_rate)
        if heard is not None:
            return heard, replace(described, notes=("sounds through the model's own feature extractor",))
    return builders.OnlyLogits(model, builders.transformers_names(spec)), described


def _processor(name: str) -> dict[str, Any]:
    """Return what ``preprocessor_config.json`` of a model tells of its images."""
    from transformers import ImageProcessingMixin

    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except (OSError, json.JSONDecodeError):
        return {}
    told: dict[str, Any] = {}
    size = found.get("crop_size") if found.get("do_center_crop") else found.get("size")
    if isinstance(size, int):
        told["size"] = (size, size)
    elif isinstance(size, dict) and ("shortest_edge" in size or {"height", "width"} <= set(size)):
        told["size"] = (int(size.get("height", 0) or size["shortest_edge"]), int(size.get("width", 0) or size["shortest_edge"]))
    if found.get("do_rescale", True):
        told["value_range"] = (0.0, 255.0 * float(found.get("rescale_factor", 1 / 255)))
    else:
        told["value_range"] = (0.0, 255.0)
    if found.get("do_normalize", True) and "image_mean" in found:
        told["mean"], told["std"] = tuple(map(float, found["image_mean"])), tuple(map(float, found["image_std"]))
    return told


def _timm(spec: ModelSpec, described: Described, trained: bool) -> tuple[nn.Module, Described]:
    import timm

    try:
        model = timm.create_model(name_of(spec.reference), pretrained=trained, **spec.arguments)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise builders.hub_error(spec.reference, error) from error
    told = timm.data.resolve_model_data_config(model)
    channels, height, width = told["input_size"]
    inputs = [{**described.inputs[0], "shape": [channels, None, None]}]
    return model, replace(described, inputs=inputs, size=(height, width), mean=tuple(told["mean"]), std=tuple(told["std"]),
                          value_range=(0.0, 1.0))  # fmt: skip


def _torchvision(spec: ModelSpec, described: Described, trained: bool) -> tuple[nn.Module, Described]:
    import torchvision

    name = name_of(spec.reference)
    try:
        weights = torchvision.models.get_model_weights(name).DEFAULT
        model = torchvision.models.get_model(name, weights=weights if trained else None, **spec.arguments)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise builders.hub_error(spec.reference, error) from error
    told = weights.transforms()
    size = tuple(told.crop_size) * (2 // len(told.crop_size))
    inputs = [{**described.inputs[0], "shape": [3, None, None]}]
    return model, replace(described, inputs=inputs, size=(size[0], size[1]), mean=tuple(told.mean), std=tuple(told.std),
                          value_range=(0.0, 1.0), labels=tuple(weights.meta["categories"]))  # fmt: skip


def content_digest(member: TeacherMember) -> dict[str, Any]:
    """Return what tells that a teacher's files changed: their SHA-256, by role. A hub name has none."""
    from edgekd.safe.files import sha256_file
    from edgekd.safe.user_code import code_digest

    found: dict[str, Any] = {}
    kind = kind_of(member.model)
    path = model_path(member.model)
    if kind == "python":
        found["code"] = code_digest(name_of(member.model))
    elif kind not in {"zoo", "timm", "torchvision"} and path.exists():
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        found["files"] = {str(each.relative_to(path)): sha256_file(each) for each in files}
        found["bytes"] = folder_bytes(path)
    for role in ("weights", "labels"):
        value = getattr(member, role)
        if value is not None:
            file = Path(value).expanduser()
            if not file.is_file():
                raise UsageError(f"{role} file {file} does not exist", f"check teacher.{role}")
            found[role] = sha256_file(file)
    return found


def load_pretrained_body(model: nn.Module, spec: ModelSpec) -> None:
    """Put the weights that come with an ``hf:``, ``timm:`` or ``torchvision:`` model into ``model``, all but a head
    of another number of classes. Those of a ``keras:`` file are in it since it was built.

    Raises:
        ModelError: They cannot be loaded.
    """
    kind, name = kind_of(spec.reference), name_of(spec.reference)
    if kind == "keras":
        return
    try:
        if kind == "hf":
            source = builders.OnlyLogits(
                builders.transformers_class(spec).from_pretrained(name, trust_remote_code=False, **spec.arguments),
                builders.transformers_names(spec),
            )  # fmt: skip
        elif kind == "timm":
            import timm

            source = timm.create_model(name, pretrained=True, **spec.arguments)
        else:
            import torchvision

            source = torchvision.models.get_model(name, weights="DEFAULT", **spec.arguments)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise builders.hub_error(spec.reference, error) from error
    own, theirs = model.state_dict(), source.state_dict()
    model.load_state_dict(
        {key: theirs[key] for key in own if key in theirs and theirs[key].shape == own[key].shape}, strict=False
    )
