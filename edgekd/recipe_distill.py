"""The part of the recipe that says how networks are trained: every training, and how the student is taught."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from edgekd.distill.losses.registry import LOSSES, DistillationLoss
from edgekd.names import did_you_mean
from edgekd.recipe_section import Arguments, Section, StudentReference, number_or_auto

TEACHERLESS = ("online", "temporal", "ema", "layerwise", "born-again", "none")
"""Schemes in which nobody but the student and its likes teach."""

Weight = Annotated[float | Literal["auto"], BeforeValidator(number_or_auto(0, 1e6))]
Temperature = Annotated[float | Literal["auto"], BeforeValidator(number_or_auto(0.05, 100))]


class Training(Section):
    """One training run, under a learning rate that rises, then falls."""

    epochs: int = Field(30, ge=1, le=10_000, description="passes over the training images")
    batch_size: int = Field(64, ge=2, le=65_536, description="images per step, of all processes together")
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="adamw | sgd (Nesterov momentum 0.9; for convolutions from scratch, learning_rate about 0.1)"
    )
    learning_rate: float = Field(3e-3, gt=0, le=10, description="peak of the schedule")
    schedule: Literal["one_cycle", "cosine"] = Field(
        "one_cycle", description="one_cycle: up over the first 30 % of steps, then down; cosine: from the peak down"
    )
    weight_decay: float = Field(1e-2, ge=0, le=1, description="of the optimizer; about 1e-2 for adamw, 5e-4 for sgd")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")
    mixup: float = Field(0.0, ge=0, le=10, description="alpha of mixup: pairs of images blended (Zhang et al., 2018); 0: none")
    cutmix: float = Field(0.0, ge=0, le=10, description="alpha of cutmix: a patch of another image (Yun et al., 2019); 0: none")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient; null: no limit")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of averaged weights, which are the result; 0: the last weights are")
    early_stopping: int | None = Field(
        None, ge=1, description="epochs without a better validation result before it ends with its best weights; null: never"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto | fp32 | bf16 (autocast); auto: what is faster here, if the training takes over a minute"
    )
    layout: Literal["auto", "channels_last", "contiguous"] = Field(
        "auto", description="of images in memory: auto | channels_last | contiguous; auto: tried out with the precision"
    )
    compile: bool = Field(
        False, description="compile the network by torch.compile; needs a C++ compiler, pays in long trainings"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Training:
        if self.mixup and self.cutmix:
            raise ValueError("mixup and cutmix are both on; choose one")
        return self


class LayerPair(Section):
    """A layer of the student that learns from a layer of the teacher, by module name."""

    student: str = Field(..., min_length=1, max_length=500, description="module of the student, for example stages.2")
    teacher: str = Field(..., min_length=1, max_length=500, description="module of the teacher")


def _loss_by_name(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _check_loss_name(value: object) -> object:
    if isinstance(value, str) and value not in LOSSES:
        raise ValueError(f"no distillation loss '{value}'" + did_you_mean(value, LOSSES) + "; `edgekd losses` lists them all")
    return value


class DistillLoss(Section):
    """One loss between student and teacher, see :mod:`edgekd.distill.losses`."""

    name: Annotated[str, BeforeValidator(_check_loss_name)] = Field(
        ..., description="for example kd, dkd, dist, rkd, reviewkd_hcl"
    )
    weight: Weight | None = Field(None, description="auto, or a number; null: distill.beta")
    temperature: Temperature | None = Field(
        None, description="auto, or a number, where the loss has one; null: distill.temperature"
    )
    arguments: Arguments = Field(default_factory=dict, description="its hyperparameters by name, for example {gamma: 1.5}")
    # Not strict: a list from JSON that a validator has already seen is no tuple yet.
    layers: Annotated[tuple[LayerPair, ...], Field(min_length=1, strict=False)] | None = Field(
        None, description="layers it compares, a list of {student: NAME, teacher: NAME}; null: matched by themselves"
    )

    @property
    def definition(self) -> DistillationLoss:
        """The loss that is meant."""
        return LOSSES[self.name]

    @model_validator(mode="after")
    def _fits(self) -> DistillLoss:
        known = {name: value for name, value in self.definition.hyperparameters.items() if name != "temperature"}
        for name in self.arguments:
            if name == "temperature":
                raise ValueError("temperature is a key of its own beside arguments")
            if name not in known:
                allowed = f"it takes {', '.join(known)}" if known else "it takes none"
                raise ValueError(f"{self.name} has no argument '{name}'" + did_you_mean(name, known) + f"; {allowed}")
        if self.temperature is not None and "temperature" not in self.definition.hyperparameters:
            raise ValueError(f"{self.name} has no temperature; leave it out")
        if self.layers is not None and not self.definition.inner_layers:
            raise ValueError(f"{self.name} compares outputs, not layers; leave layers out")
        return self


_DEFAULT_LOSSES = (DistillLoss(name="kd", weight=None, temperature=None, layers=None),)


class Network(Section):
    """A network that is trained on the way."""

    model: StudentReference | None = Field(None, description="see `edgekd models`; null: the student's")
    arguments: Arguments = Field(default_factory=dict, description="passed to what builds the model")


class Online(Section):
    """Networks that learn from one another while they train (deep mutual learning, Zhang et al., 2018)."""

    peers: tuple[Network, ...] = Field(
        (Network(),), min_length=1, max_length=16, description="networks beside the student; a copy of it, at least"
    )
    keep: Annotated[str, Field(pattern=r"^(best|student|peer-[1-9][0-9]?)$")] = Field(
        "best", description="which is the result: best (on the validation split) | student | peer-1 | peer-2 ..."
    )

    @model_validator(mode="after")
    def _kept(self) -> Online:
        if self.keep.startswith("peer-") and int(self.keep.removeprefix("peer-")) > len(self.peers):
            raise ValueError(f"keep is {self.keep}, but there are {len(self.peers)} peers")
        return self


class SoftTargets(Section):
    """Where the teacher's outputs come from: asked at every step, or kept."""

    use: Literal["auto", "live", "stored"] = Field(
        "auto",
        description="live: asked at every step; stored: asked once per image and augmentation; auto: stored where it can be",
    )
    augmentations: int = Field(
        8, ge=1, le=1_000, description="different augmentations of each image, where targets are stored; they come back in turn"
    )
    folder: str | None = Field(
        None, min_length=1, max_length=4096, description="folder they are kept in, for other runs too; null: in the run folder"
    )


class Distill(Section):
    """Loss of the student: alpha * CE(labels) + sum of weight * loss(student, teacher)."""

    scheme: Literal["offline", "online", "temporal", "ema", "layerwise", "born-again", "none"] = Field(
        "offline",
        description="offline: from the teacher; without one: online: from peers | temporal: from its last epoch (PS-KD) | "
        "ema: from its own average | layerwise: early exits from the last | born-again: from its last generation | "
        "none: not trained, student.weights are final",
    )
    losses: tuple[Annotated[DistillLoss, BeforeValidator(_loss_by_name)], ...] = Field(
        _DEFAULT_LOSSES,
        min_length=1,
        description="what of the teacher is imitated (`edgekd losses`): a list of names, or of {name: kd, weight: auto, ...}",
    )
    alpha: Weight = Field(
        "auto",
        description="weight of cross-entropy with the true labels; auto: what makes all terms pull as hard as it did alone",
    )
    beta: Weight = Field(
        "auto", description="weight of each loss that names none; auto: by the size of its gradient, measured early, then fixed"
    )
    temperature: Temperature = Field(
        "auto",
        description="softens teacher and student outputs; higher shows more of the small ones; auto: by the teacher's outputs",
    )
    assistants: tuple[Network, ...] = Field(
        (), max_length=8, description="networks between teacher and student, large to small, each taught by the last (offline)"
    )
    online: Online = Field(default_factory=Online, description="of scheme online")
    last_epoch_share: float = Field(
        0.8, gt=0, le=1, description="of scheme temporal: share of the last epoch's prediction in the target, at the end"
    )
    ema_decay: float = Field(0.999, gt=0, lt=1, description="of scheme ema: how slowly the average moves")
    generations: int = Field(2, ge=1, le=20, description="of scheme born-again: students after the first, each from the last")
    soft_targets: SoftTargets = Field(default_factory=SoftTargets, description="whether the teacher's outputs are kept")
    control: bool = Field(
        False, description="train the same student for as long without a teacher too, and say what distillation brought"
    )
    train: Training = Field(default_factory=Training, description="how the student is trained")

    def weight_of(self, loss: DistillLoss) -> Weight:
        """Return the weight of ``loss``: its own, or ``beta``."""
        return self.beta if loss.weight is None else loss.weight

    def temperature_of(self, loss: DistillLoss) -> Temperature:
        """Return the temperature of ``loss``, where it has one: its own, or that of all."""
        return self.temperature if loss.temperature is None else loss.temperature

    @property
    def has_teacher(self) -> bool:
        """Whether the recipe's teacher teaches."""
        return self.scheme not in TEACHERLESS

    @model_validator(mode="after")
    def _some_loss(self) -> Distill:
        weights = [self.weight_of(each) for each in self.losses]
        if self.has_teacher and self.alpha == 0 and all(each == 0 for each in weights):
            raise ValueError("alpha and the weights of all losses are 0, so there is no loss to train on; raise one of them")
        return self

    @model_validator(mode="after")
    def _control_fits(self) -> Distill:
        if self.control and self.scheme == "none":
            raise ValueError("control compares trainings, and scheme none trains nothing; leave control out")
        return self

    @model_validator(mode="after")
    def _losses_fit(self) -> Distill:
        names = [each.name for each in self.losses]
        for name in names:
            problem = unfit_for_recipes(name)
            if problem:
                raise ValueError(f"losses: {problem}")
        if len(set(names)) != len(names):
            raise ValueError("losses names one loss twice; name each once")
        if self.scheme in {"online", "temporal", "layerwise"} and self.losses != _DEFAULT_LOSSES:
            raise ValueError(f"losses are for a teacher, and scheme {self.scheme} has a loss of its own; leave losses out")
        if self.scheme == "ema":
            for name in names:
                if LOSSES[name].family == "ensemble" or LOSSES[name].inner_layers:
                    raise ValueError(f"scheme ema compares the outputs of one network and its average; {name} needs more")
        if self.assistants and self.scheme != "offline":
            raise ValueError(f"assistants stand between a teacher and the student; scheme {self.scheme} has no teacher")
        mixed = [name for name in names if "target" in LOSSES[name].arguments]
        if (self.train.mixup or self.train.cutmix) and mixed and self.scheme in {"offline", "ema", "born-again"}:
            raise ValueError(f"{mixed[0]} needs one true class per image; leave mixup and cutmix out, or take another loss")
        if (self.train.mixup or self.train.cutmix) and self.scheme in {"temporal", "online"}:
            raise ValueError(f"scheme {self.scheme} needs one true class per image; leave mixup and cutmix out")
        return self


_SCHEME_OF = {"dml": "online", "pskd": "temporal", "byot_kd": "layerwise"}
_ELSEWHERE: dict[str, str] = {
    "maps": "outputs with places",
    "tokens": "an output for every token",
    "frames": "an output for every frame",
    "actions": "actions",
}


def unfit_for_recipes(name: str) -> str | None:
    """Return why a loss of the registry cannot be one of ``distill.losses``, ``None`` if it can."""
    loss = LOSSES[name]
    if name in _SCHEME_OF:
        return f"{name} is the loss of distill.scheme={_SCHEME_OF[name]}; set that instead"
    wanted = next((_ELSEWHERE[each] for each in loss.takes if each in _ELSEWHERE), None)
    return f"{name} needs {wanted}, which classification has not; take another loss" if wanted else None
