"""Is the teacher worth imitating? Its accuracy and calibration, beside chance and a linear model, and its order of classes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.data.dataset import Dataset
from edgekd.distill.teacher import Teacher, combined_logits
from edgekd.errors import GateMissed
from edgekd.models.tensors import TensorSpec
from edgekd.recipe import Recipe
from edgekd.tasks.classification import Metric, expected_calibration_error, top1
from edgekd.tasks.label_order import find_reordering
from edgekd.workspace import Workspace

_PROBE_SAMPLES = 2_000
_PROBE_BATCH = 128
_PROBE_SIDE = 16
_BANDS = 64
_SHOWN = 3


def check_teacher(recipe: Recipe, data: Dataset, teacher: Teacher, workspace: Workspace) -> dict[str, Any]:
    """Measure ``teacher`` on the validation split; stop a run that would imitate one that knows nothing.

    Returns:
        ``metric``, ``calibration_error``, ``chance`` (share of the most frequent class), ``probe``, the metric of a linear
        model, and ``label_order``: of each network that suits the data far better with its outputs in another order, its
        ``model``, its ``metric`` in the given order and ``reordered``, ``p_value`` and ``mixed``, pairs of class names.

    Raises:
        GateMissed: A network of it has its classes in another order than the data, see
            :func:`~edgekd.tasks.label_order.find_reordering`; its 95 % interval reaches down to the share of the most
            frequent class, or lies wholly below that of a logistic regression on at most 2,000 raw training samples. Not
            with ``teacher.check=false``.
    """
    held_out = data.splits.validation

    def work(folder: Path) -> dict[str, Any]:
        logits = teacher.logits("validation")
        labels = data.labels[held_out]
        probe = linear_probe(data)
        chance = float(np.bincount(labels, minlength=len(data.classes)).max() / len(labels))
        return {
            "metric": asdict(top1(logits, labels)), "calibration_error": expected_calibration_error(logits, labels),
            "chance": chance, "probe": asdict(probe), "label_order": _label_order(data, teacher, probe),
        }  # fmt: skip

    inputs = {"teacher": teacher.digest, "data": data.digest}
    what = f"{teacher.name} on {len(held_out):,} validation samples, beside chance and a linear model"
    found = workspace.stage("teacher-check", what, inputs, work, _describe).result
    low, high = found["metric"]["ci95"]
    shown = f"{found['metric']['value']:.1%} ({low:.1%} to {high:.1%}) on {len(held_out):,} validation samples"
    problem, hint = None, "train it longer, or check its weights, labels and preprocessing"
    if found["label_order"]:
        problem, hint = _mixed_up(found["label_order"], len(held_out)), _order_hint(teacher, found["label_order"])
    elif low <= found["chance"]:
        problem = f"the teacher is no better than chance: {shown}, the most frequent class has {found['chance']:.1%}"
    elif high < found["probe"]["ci95"][0]:
        problem = f"the teacher is worse than a linear model: {shown}, a logistic regression has {found['probe']['value']:.1%}"
    if problem is not None and recipe.teacher.check:
        raise GateMissed(problem, f"{hint}; teacher.check=false goes on all the same")
    if problem is not None:
        workspace.listener.warned(problem)
    elif found["metric"]["value"] <= found["probe"]["value"]:
        workspace.listener.warned(
            f"the teacher may be no better than a linear model: {shown}, "
            f"a logistic regression has {found['probe']['value']:.1%}"
        )
    return found


def _label_order(data: Dataset, teacher: Teacher, probe: Metric) -> list[dict[str, Any]]:
    """Return the networks of ``teacher`` that suit the data far better, and pass this check, with their outputs reordered."""
    labels = data.labels[data.splits.validation]
    found = []
    for index, member in enumerate(teacher.members):
        logits = combined_logits((member,), teacher.combine, "validation")
        other = find_reordering(logits, labels)
        # Groups that samples fall into by themselves agree with some order as well, but no better than a linear model.
        if other is not None and other.metric.ci95[1] >= probe.ci95[0]:
            mixed = [[data.classes[each], data.classes[other.order[each]]] for each in other.mixed]
            found.append({
                "member": index, "model": member.source.model, "metric": asdict(top1(logits, labels)),
                "reordered": asdict(other.metric), "p_value": other.p_value, "mixed": mixed,
            })  # fmt: skip
    return found


def _mixed_up(found: list[dict[str, Any]], samples: int) -> str:
    first = found[0]
    shown = [f"outputs named '{named}' look like '{meant}'" if not place else f"'{named}' like '{meant}'"
             for place, (named, meant) in enumerate(first["mixed"][:_SHOWN])]  # fmt: skip
    more = len(first["mixed"]) - len(shown)
    return (
        f"teacher {first['model']} has its classes in another order than the data: {first['metric']['value']:.1%} right on "
        f"{samples:,} validation samples, {first['reordered']['value']:.1%} with its outputs reordered; {', '.join(shown)}"
        + (f" and {more:,} more" if more else "")
    )


def _order_hint(teacher: Teacher, found: list[dict[str, Any]]) -> str:
    index = found[0]["member"]
    key = "teacher.labels" if index == 0 else f"labels of member {index} of teacher.ensemble"
    if teacher.members[index].source.labels is not None:
        return f"put the class names in the file of {key} into the order of its outputs"
    given = "teacher.labels=FILE" if index == 0 else key
    return f"name its classes, one a line in the order of its outputs: {given}"


def _describe(result: dict[str, Any]) -> str:
    metric = result["metric"]
    return (
        f"validation top-1 {metric['value']:.2%} ({metric['ci95'][0]:.1%} to {metric['ci95'][1]:.1%}), calibration error "
        f"{result['calibration_error']:.1%}; chance {result['chance']:.1%}, linear model {result['probe']['value']:.1%}"
    )


def linear_probe(data: Dataset) -> Metric:
    """Return the validation accuracy of a logistic regression on raw samples, at most 2,000 for training and testing.

    Raw are: pixels, shrunk to 16 a side; counts of tokens; mean power of 64 frequency bands; columns.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(0)
    train = generator.permutation(data.splits.train)[:_PROBE_SAMPLES]
    held_out = generator.permutation(data.splits.validation)[:_PROBE_SAMPLES]
    seen = np.unique(data.labels[train])
    logits = np.full((len(held_out), len(data.classes)), -np.inf, np.float32)
    if len(seen) == 1:  # of a rare class, none may be among those drawn
        logits[:, seen] = 0
        return top1(logits, data.labels[held_out])
    model = LogisticRegression(max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(_plain_features(data, train), data.labels[train])
    logits[:, seen] = model.predict_log_proba(_plain_features(data, held_out)).reshape(len(held_out), -1)
    return top1(logits, data.labels[held_out])


def _plain_features(data: Dataset, indices: NDArray[np.int64]) -> Any:
    """Return one row of numbers per sample, made in batches: whole images or sounds would fill the memory."""
    from scipy.sparse import vstack

    parts = [_plain_batch(data, arrays) for arrays in data.batches(indices, _PROBE_BATCH)]
    return vstack(parts, "csr") if data.inputs[0].meaning == "tokens" else np.concatenate(parts)


def _plain_batch(data: Dataset, arrays: dict[str, NDArray[Any]]) -> Any:
    spec = data.inputs[0]
    values = arrays[spec.name]
    if spec.meaning == "image":
        return _shrunk(values).reshape(len(values), -1)
    if spec.meaning == "tokens":
        return _token_counts(values, arrays[data.inputs[1].name], spec)
    if spec.meaning == "waveform":
        power = np.abs(np.fft.rfft(values, axis=1)) ** 2
        bands = np.stack([each.mean(1) for each in np.array_split(power, _BANDS, axis=1)], 1)
        return np.log(bands + 1e-9)
    return values


def _shrunk(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average over blocks, so that at most 16 pixels a side are left."""
    height, width = images.shape[2:]
    rows, columns = max(1, height // _PROBE_SIDE), max(1, width // _PROBE_SIDE)
    cut = images[:, :, : height // rows * rows, : width // columns * columns]
    blocks = cut.reshape(*images.shape[:2], height // rows, rows, width // columns, columns)
    shrunk: NDArray[np.float32] = blocks.mean(axis=(3, 5))
    return shrunk


def _token_counts(tokens: NDArray[Any], mask: NDArray[Any], spec: TensorSpec) -> Any:
    from scipy.sparse import csr_matrix

    assert spec.vocabulary is not None
    rows = np.repeat(np.arange(len(tokens)), tokens.shape[1])
    return csr_matrix((mask.ravel().astype(np.float32), (rows, tokens.ravel())), shape=(len(tokens), spec.vocabulary))
