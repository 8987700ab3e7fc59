"""The teacher of a run: one network or an ensemble, trained here or elsewhere, of whatever framework."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.data.dataset import Dataset
from edgekd.distill.ensemble import combine
from edgekd.distill.soft_target_format import check_belongs, open_logits, read_header
from edgekd.distill.trainer import EVALUATION_BATCH, tensors
from edgekd.errors import ModelError, UsageError
from edgekd.models.adapter import Adapter, adapter_from_json, data_logits, teacher_inputs
from edgekd.models.detect import detect, read_labels
from edgekd.models.pretrained import content_digest, open_pretrained
from edgekd.models.references import kind_of, model_path
from edgekd.models.spec import Cost, call, load
from edgekd.models.tensors import ModelSpec, TensorSpec
from edgekd.recipe import TeacherMember
from edgekd.safe import stop
from edgekd.safe.files import save_array
from edgekd.tasks.classification import Metric, top1
from edgekd.workspace import Workspace

VALIDATION_LOGITS, TEST_LOGITS = "validation_logits.npy", "test_logits.npy"
_DETECTION_SAMPLES = 512

Imitate = Callable[[dict[str, Tensor], float], Tensor]
"""From what the student takes and a temperature to the logits it is to imitate, ``[n, classes]``."""


@dataclass(frozen=True)
class Member:
    """One teaching network.

    Attributes:
        source: The recipe's words for it.
        spec: How to rebuild it, if it was trained here.
        weights: Its safetensors file, if it was trained here.
        adapter: How to feed and read it, if it was trained elsewhere.
        folder: Holds its logits on the validation and test splits.
        digest: Of everything its outputs depend on.
        cost: Parameters, multiply-accumulates, bytes.
        history: Loss and validation accuracy per epoch, if it was trained here.
        notes: What was found out of how it is fed and read, if it was trained elsewhere.
    """

    source: TeacherMember
    spec: ModelSpec | None
    weights: Path | None
    adapter: Adapter | None
    folder: Path
    digest: str
    cost: Cost
    history: tuple[dict[str, float], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Teacher:
    """What the student imitates.

    Attributes:
        members: One or more networks.
        combine: How they agree, see :func:`edgekd.distill.ensemble.combine`.
        metric: Of their agreement, on the test split.
        allow_code: Whether a Keras file among them may hold code.
        checked: What its check found, see :func:`edgekd.distill.teacher_check.check_teacher`.
    """

    members: tuple[Member, ...]
    combine: str
    metric: Metric
    allow_code: bool
    checked: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its model references."""
        return " + ".join(each.source.model for each in self.members)

    @property
    def digest(self) -> str:
        """Of everything its outputs depend on."""
        shares = [f"{each.digest}*{each.source.weight:g}" for each in self.members]
        return "+".join(shares) + (f" by {self.combine}" if len(shares) > 1 else "")

    @property
    def cost(self) -> Cost:
        """All members together."""
        params = [each.cost.params for each in self.members]
        macs = [each.cost.macs for each in self.members]
        size = sum(each.cost.size_bytes for each in self.members)
        return Cost(_sum(params), _sum(macs), size)

    @property
    def history(self) -> tuple[dict[str, float], ...]:
        """Of the first member that was trained here."""
        return next((each.history for each in self.members if each.history), ())

    def logits(self, split: str) -> NDArray[np.float32]:
        """Return its logits on the ``validation`` or ``test`` split, ``[n, classes]``."""
        return combined_logits(self.members, self.combine, split)


def _sum(values: list[int | None]) -> int | None:
    return None if None in values else sum(each or 0 for each in values)


def combined_logits(members: tuple[Member, ...], rule: str, split: str) -> NDArray[np.float32]:
    """Return the logits of ``members`` on a split, combined at a temperature of 1."""
    name = {"validation": VALIDATION_LOGITS, "test": TEST_LOGITS}[split]
    rows = [torch.from_numpy(np.load(each.folder / name, allow_pickle=False)) for each in members]
    found: NDArray[np.float32] = combine(rows, [each.source.weight for each in members], rule).numpy()
    return found


def open_trained_elsewhere(
    name: str, source: TeacherMember, data: Dataset, workspace: Workspace, allow_code: bool, known: Adapter | None = None
) -> Member:
    """Open a teacher that comes with its weights, find out how to feed it, and run it on the validation and test splits.

    Args:
        name: Of the stage.
        source: The recipe's words for it.
        data: What it is run on.
        workspace: Keeps its outputs.
        allow_code: Whether a Keras file may hold code of its own.
        known: How to feed and read it, where that is known and need not be found out.
    """
    if kind_of(source.model) == "store":
        return _open_stored(name, source, data, workspace)
    labels = read_labels(Path(source.labels).expanduser()) if source.labels is not None else None

    def work(folder: Path) -> dict[str, Any]:
        with open_pretrained(source, data.inputs, labels or data.classes, workspace.log, allow_code) as opened:
            some = _spread(data.splits.validation, _DETECTION_SAMPLES)
            inputs, target = tensors(data.batch(some)), torch.from_numpy(data.labels[some])
            adapter = known or detect(
                opened.described, source.preprocess, labels, data.inputs, data.classes, opened.run, inputs, target
            )
            total = len(data.splits.validation) + len(data.splits.test)
            done, parts = 0, {}
            for file, indices in ((VALIDATION_LOGITS, data.splits.validation), (TEST_LOGITS, data.splits.test)):
                rows = []
                for arrays in data.batches(indices, EVALUATION_BATCH):
                    stop.check_stop()
                    fed = teacher_inputs(adapter, tensors(arrays), data.inputs)
                    rows.append(data_logits(adapter, opened.run(fed)[adapter.output]).numpy())
                    done += len(rows[-1])
                    workspace.listener.stage_advanced(done, total, "")
                parts[file] = np.concatenate(rows)
                save_array(folder / file, parts[file])
            metric = top1(parts[TEST_LOGITS], data.labels[data.splits.test])
            notes = [*adapter.notes, *opened.described.notes]
            return {"adapter": adapter.to_json(), "cost": asdict(opened.cost), "metric": asdict(metric), "notes": notes}

    inputs = {
        "teacher": source.model_dump(mode="json", include={"model", "arguments", "preprocess"}), "data": data.digest,
        "content": content_digest(source), "labels": labels, "allow_code": allow_code,
        "known": None if known is None else known.to_json(),
    }  # fmt: skip
    stage = workspace.stage(name, f"{source.model} as it is, on validation and test split", inputs, work, _describe)
    adapter = adapter_from_json(stage.result["adapter"])
    notes = tuple(stage.result["notes"])
    return Member(source, None, None, adapter, stage.folder, stage.folder.name, Cost(**stage.result["cost"]), (), notes)


def _open_stored(name: str, source: TeacherMember, data: Dataset, workspace: Workspace) -> Member:
    """Open a teacher of whom there is nothing but kept outputs, and copy those on the validation and test splits."""
    kept_in = model_path(source.model)
    header = read_header(kept_in)
    check_belongs(header, kept_in, data)

    def work(folder: Path) -> dict[str, Any]:
        for split, file in (("validation", VALIDATION_LOGITS), ("test", TEST_LOGITS)):
            save_array(folder / file, open_logits(kept_in, header, split, len(getattr(data.splits, split))))
        metric = top1(np.load(folder / TEST_LOGITS, allow_pickle=False), data.labels[data.splits.test])
        return {"metric": asdict(metric), "notes": [f"outputs of {header.teacher.name}, {header.keys} augmentation(s)"]}

    inputs = {"store": header.digest(), "data": data.digest}
    stage = workspace.stage(name, f"{source.model}, kept outputs on validation and test split", inputs, work, _describe)
    cost = Cost(**header.teacher.cost.model_dump())
    return Member(source, None, None, None, stage.folder, header.digest(), cost, (), tuple(stage.result["notes"]))


def _spread(indices: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return ``count`` of ``indices``, evenly from first to last."""
    return indices[np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(np.int64)]


def _describe(result: dict[str, Any]) -> str:
    metric = result["metric"]
    value = f"test top-1 {metric['value']:.2%} ({metric['ci95'][0]:.1%} to {metric['ci95'][1]:.1%})"
    return "; ".join([value, *result["notes"]])


class NotFinite(ModelError):
    """A teacher yields NaN or infinity; ``rows`` are the samples of the batch for which it does."""

    def __init__(self, rows: list[int], message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.rows = rows


@dataclass(frozen=True)
class Voice:
    """A teaching network that can be asked.

    Attributes:
        name: Its model reference.
        ask: From what the student takes to logits ``[n, classes]``, without gradients.
        module: The network, where it shows its layers.
    """

    name: str
    ask: Callable[[dict[str, Tensor]], Tensor]
    module: nn.Module | None


@contextmanager
def voices(
    teacher: Teacher, specs: tuple[TensorSpec, ...], workspace: Workspace, device: torch.device | None = None
) -> Iterator[list[Voice]]:
    """Open every member of ``teacher``, in evaluation mode.

    Args:
        teacher: Who is asked.
        specs: What the student takes.
        workspace: Its log gets what runtimes print.
        device: Where networks of PyTorch run, and where inputs come from.
    """
    place = device or torch.device("cpu")
    with ExitStack() as stack:
        yield [_voice(each, specs, workspace, teacher.allow_code, place, stack) for each in teacher.members]


@contextmanager
def imitating(teacher: Teacher, specs: tuple[TensorSpec, ...], workspace: Workspace) -> Iterator[Imitate]:
    """Open every member of ``teacher``; give a function that asks them all and combines what they say.

    Args:
        teacher: Who is imitated.
        specs: What the student takes.
        workspace: Its log gets what runtimes print.
    """
    weights = [each.source.weight for each in teacher.members]
    with voices(teacher, specs, workspace) as opened:

        def imitate(inputs: dict[str, Tensor], temperature: float) -> Tensor:
            return combine([each.ask(inputs) for each in opened], weights, teacher.combine, temperature)

        yield imitate


def _voice(
    member: Member, specs: tuple[TensorSpec, ...], workspace: Workspace, allow_code: bool, device: torch.device,
    stack: ExitStack,
) -> Voice:  # fmt: skip
    module, run = open_member(member, specs, workspace, allow_code, device, stack)
    if module is not None:
        module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        module.eval()

    def ask(inputs: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            if module is not None and module.training:
                module.eval()  # its statistics and dropout are those of a network that is used, not trained
            logits = run(inputs)
        finite = torch.isfinite(logits).all(1)
        if not bool(finite.all()):
            raise NotFinite(
                (~finite).nonzero()[:, 0].tolist(),
                f"teacher {member.source.model} yields NaN or infinite outputs on training samples",
                "check the file, and teacher.preprocess: inputs far out of range overflow",
            )
        return logits

    return Voice(member.source.model, ask, module)


def open_member(
    member: Member, specs: tuple[TensorSpec, ...], workspace: Workspace, allow_code: bool, device: torch.device,
    stack: ExitStack,
) -> tuple[nn.Module | None, Callable[[dict[str, Tensor]], Tensor]]:  # fmt: skip
    """Open a network; return its module, if it shows one, and how to get logits from what the student takes.

    Args:
        member: The network.
        specs: What the student takes.
        workspace: Its log gets what runtimes print.
        allow_code: Whether a Keras file may hold code of its own.
        device: Where networks of PyTorch run, and where inputs come from.
        stack: Closes what is opened.

    Raises:
        UsageError: There is nothing but kept outputs.
    """
    if kind_of(member.source.model) == "store":
        raise UsageError(
            f"teacher {member.source.model} is kept outputs alone and cannot be asked for others",
            "set distill.soft_targets.use=stored",
        )
    if member.adapter is None:
        assert member.spec is not None and member.weights is not None
        spec, module = member.spec, load(member.spec, member.weights)
        return module, lambda inputs: call(module, spec, inputs)[spec.outputs[0].name]
    adapter = member.adapter
    labels = read_labels(Path(member.source.labels).expanduser()) if member.source.labels is not None else ()
    classes = labels or tuple(str(index) for index in range(_outputs(member)))
    opened = stack.enter_context(open_pretrained(member.source, specs, classes, workspace.log, allow_code))

    def run(inputs: dict[str, Tensor]) -> Tensor:
        fed = teacher_inputs(adapter, {name: each.cpu() for name, each in inputs.items()}, specs)
        if opened.module is not None:
            fed = {name: each.to(device) for name, each in fed.items()}
        return data_logits(adapter, opened.run(fed)[adapter.output]).to(device)

    return opened.module, run


def _outputs(member: Member) -> int:
    """How many classes a member without labels of its own has: those of the data."""
    return int(np.load(member.folder / TEST_LOGITS, mmap_mode="r", allow_pickle=False).shape[1])
