"""Kept teacher outputs: as exact as promised, resumable, shared, and never believed unchecked."""

import hashlib
import json
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from edgekd.data.batches import augment
from edgekd.data.dataset import Dataset
from edgekd.distill import soft_target_format, soft_targets
from edgekd.distill.ensemble import combine
from edgekd.distill.losses.response import kd
from edgekd.distill.soft_target_format import (
    HEADER,
    KEPT,
    TEST_LOGITS,
    VALIDATION_LOGITS,
    DamagedStore,
    NoStore,
    augmentation_file,
    decode,
    encode,
    open_augmentation,
    read_header,
    row_type,
)
from edgekd.distill.soft_targets import SoftTargets, open_soft_targets, store_seed, useful_keys
from edgekd.distill.teacher import Member, Teacher, Voice, imitating, open_trained_elsewhere
from edgekd.distill.trainer import predict
from edgekd.errors import EdgekdError, Interrupted, ModelError, ResourceError, UsageError
from edgekd.models.spec import build, cost, load, save_weights
from edgekd.models.tensors import classifier
from edgekd.progress import Silent
from edgekd.recipe import Augment, Recipe, TeacherMember
from edgekd.safe import stop
from edgekd.tasks.classification import top1
from edgekd.workspace import Workspace, open_workspace
from tests.digits_data import digits_data
from tests.safe.hostile import gadgets

CROPS = Augment(crop_padding=1)
Float32 = NDArray[np.float32]


class Heard(Silent):
    """Remembers warnings and progress; may ask for a stop after some progress."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.warnings: list[str] = []
        self.advanced: list[tuple[int, int, str]] = []
        self.stop_after = stop_after

    def warned(self, message: str) -> None:
        self.warnings.append(message)

    def stage_advanced(self, done: int, total: int, note: str) -> None:
        self.advanced.append((done, total, note))
        if self.stop_after is not None and done >= self.stop_after:
            raise Interrupted("stopped; what is done so far is saved")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return digits_data(tmp_path_factory.mktemp("digits"))


def make_teacher(data: Dataset, folder: Path, seeds: tuple[int, ...] = (0,), rule: str = "mean_logits") -> Teacher:
    """Return a teacher of networks with random weights: what it says is of no matter here."""
    members = []
    for index, seed in enumerate(seeds):
        place = folder / f"member-{seed}"
        place.mkdir(parents=True, exist_ok=True)
        spec = classifier("zoo:shallow_cnn", data.inputs, data.classes, {})
        torch.manual_seed(seed)
        model = build(spec).eval()
        with torch.no_grad():
            for each in model.parameters():
                each.mul_(1.5)  # logits that differ from one another
        save_weights(model, place / "weights.safetensors")
        for name, split in ((VALIDATION_LOGITS, data.splits.validation), (TEST_LOGITS, data.splits.test)):
            np.save(place / name, predict(model, spec, data, split))
        source = TeacherMember(model="zoo:shallow_cnn", weight=1.0 + index)
        members.append(
            Member(source, spec, place / "weights.safetensors", None, place, f"digest {seed}", cost(model, spec), ())
        )
    metric = top1(np.load(folder / f"member-{seeds[0]}" / TEST_LOGITS), data.labels[data.splits.test])
    return Teacher(tuple(members), rule, metric, allow_code=False)


@pytest.fixture(scope="module")
def teacher(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return make_teacher(data, tmp_path_factory.mktemp("teacher"))


@contextmanager
def _workspace(folder: Path, listener: Silent | None = None) -> Iterator[Workspace]:
    with open_workspace(folder / "run", listener or Silent()) as workspace:
        yield workspace


def _open(
    teacher: Teacher, data: Dataset, folder: Path, keys: int = 2, options: Augment = CROPS, heard: Silent | None = None,
    run: Path | None = None,
) -> SoftTargets:  # fmt: skip
    with _workspace(run or folder.parent, heard) as workspace:
        return open_soft_targets(teacher, data, options, keys, folder, workspace)


def _live(teacher: Teacher, data: Dataset, indices: NDArray[np.int64], key: int, options: Augment = CROPS) -> list[Float32]:
    """Return what every network says, by a way of its own."""
    images = augment(data.batch(indices)["image"], indices, options, store_seed(data), key)
    said = []
    for each in teacher.members:
        assert each.spec is not None
        assert each.weights is not None
        with torch.no_grad():
            said.append(load(each.spec, each.weights).eval()(torch.from_numpy(images)).numpy())
    return said


def _hashes(folder: Path) -> dict[str, str]:
    return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in folder.iterdir() if each.name != "lock"}


# What a row keeps


def _network_like(classes: int, spread: float, count: int = 300) -> Float32:
    """Return logits as classifiers have them: one sure class, some related ones, the rest spread."""
    random = np.random.default_rng(0)
    logits = random.normal(0, spread, (count, classes))
    rows = np.arange(count)
    logits[rows, random.integers(0, classes, count)] += 9
    for _ in range(10):
        logits[rows, random.integers(0, classes, count)] += random.gamma(2, 1.2, count)
    return logits.astype(np.float32)


def _exact_kd(student: Float32, teacher: Float32, temperature: float) -> float:
    log_p, log_q = (log_softmax(each.astype(np.float64) / temperature, 1) for each in (teacher, student))
    return float(temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(1).mean())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("classes", "spread"), [(2, 2.0), (10, 2.0), (100, 2.0), (1000, 1.5), (1000, 2.5)])
def test_the_loss_on_kept_outputs_is_that_on_exact_ones(classes: int, spread: float, temperature: float) -> None:
    teacher = _network_like(classes, spread)
    noise = np.random.default_rng(1).normal(0, 1, teacher.shape)
    kept = decode(encode(teacher), classes)
    for student in (noise.astype(np.float32), (teacher + noise).astype(np.float32)):
        exact = _exact_kd(student, teacher, temperature)
        found = kd(torch.from_numpy(student), torch.from_numpy(kept), temperature).item()
        assert found == pytest.approx(exact, rel=1e-3)
    assert _exact_kd(kept, teacher, temperature) < 3e-4


def test_a_rest_that_is_spread_evenly_would_not_do() -> None:
    teacher = _network_like(1000, 1.5)
    order = np.argsort(-teacher, 1)
    even = teacher.copy()
    rest = logsumexp(np.take_along_axis(teacher, order[:, KEPT:], 1), axis=1, keepdims=True) - np.log(1000 - KEPT)
    np.put_along_axis(even, order[:, KEPT:], np.broadcast_to(rest, (len(even), 1000 - KEPT)), 1)
    student = np.random.default_rng(1).normal(0, 2, teacher.shape).astype(np.float32)
    assert abs(_exact_kd(student, even, 4.0) / _exact_kd(student, teacher, 4.0) - 1) > 0.25


LOGITS = st.sampled_from([2, 10, 128, 129, 200]).flatmap(
    lambda classes: hnp.arrays(np.float32, (2, classes), elements=st.floats(-30_000, 30_000, width=32))
)


@settings(max_examples=60, deadline=None)
@given(LOGITS)
def test_every_logit_is_kept_as_finely_as_promised(logits: Float32) -> None:
    rows = encode(logits)
    found = decode(rows, logits.shape[1])
    assert soft_target_format._wrong_rows(rows, logits.shape[1]) is None
    peak = logits.max(1, keepdims=True).astype(np.float64)
    distance = peak - logits
    error = np.abs((peak - found) - distance)
    fine = distance / 2048 + np.spacing(np.abs(logits).max()) * 2 + 6e-8
    if logits.shape[1] <= 128:
        assert (error <= fine).all()
        return
    for each in range(len(logits)):
        is_rest = ~np.isin(np.arange(logits.shape[1]), rows["classes"][each])
        assert is_rest.sum() == logits.shape[1] - KEPT
        high = float(logits[each, is_rest].max())
        assert logits[each, ~is_rest].min() >= high - 1e-12
        assert (error[each] <= fine[each])[~is_rest].all()
        # The root of the distance below the largest of the rest is off by half a step at most; 100 is the furthest.
        below = np.clip(high - logits[each, is_rest].astype(np.float64), 0, 100)
        root = np.sqrt(np.maximum(high - found[each, is_rest], 0))
        allowed = 0.501 * np.sqrt(below.max()) / 255 + np.sqrt(np.spacing(np.abs(logits).max()) * 4 + 1e-6)
        assert (np.abs(root - np.sqrt(below)) <= allowed).all()


def test_many_classes_take_about_a_byte_each() -> None:
    assert row_type(10).itemsize == 24
    assert row_type(1000).itemsize == 1108
    assert row_type(70_000)["classes"].base == np.dtype("<u4")
    logits = np.random.default_rng(0).normal(0, 3, (2, 70_000)).astype(np.float32)
    assert np.array_equal(decode(encode(logits), 70_000).argmax(1), logits.argmax(1))


# Filling and reading


def test_a_store_gives_what_the_teacher_says(teacher: Teacher, data: Dataset, tmp_path: Path) -> None:
    heard = Heard()
    kept = _open(teacher, data, tmp_path / "store", heard=heard)
    indices = np.random.default_rng(0).permutation(data.splits.train)[:70]
    said = []
    for key in range(2):
        (live,) = _live(teacher, data, indices, key)
        found = kept.logits(indices, key)
        assert found.dtype == torch.float32
        assert np.abs(found.numpy() - live).max() < np.ptp(live) / 2048 + 1e-5
        assert torch.equal(kept.member_logits(indices, key)[0], found)
        said.append(found.numpy())
    assert np.abs(said[0] - said[1]).max() > 0.01  # augmentations differ
    assert (kept.keys, kept.computed, kept.shares, kept.rule) == (2, 2, (1.0,), "mean_logits")
    count = len(data.splits.train)
    assert kept.described == f"stored: 2 augmentations of {count:,} samples, {2 * (256 + 24 * count) / 1e3:.1f} kB"
    assert heard.advanced[-1][:2] == (2 * count, 2 * count)
    assert heard.warnings == []
    assert np.array_equal(np.load(tmp_path / "store" / TEST_LOGITS), teacher.logits("test"))


def test_what_was_never_asked_is_an_error(teacher: Teacher, data: Dataset, tmp_path: Path) -> None:
    kept = _open(teacher, data, tmp_path / "store", keys=1)
    with pytest.raises(IndexError, match="augmentation 1, and there are 1"):
        kept.logits(data.splits.train[:3], 1)
    for strange in (data.splits.test[:3], np.asarray([-1]), np.asarray([len(data.labels) + 5])):
        with pytest.raises(IndexError, match="not in the train split"):
            kept.logits(strange, 0)


def test_it_is_filled_once_and_shared_by_runs_of_other_seeds(
    teacher: Teacher, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The seed decides splits that are not given: the same data needs the same splits, not the same seed.
    store, recipe = tmp_path / "store", Recipe.model_validate({"seed": 5})
    first = _open(teacher, data, store, run=tmp_path / f"seed-{recipe.seed}")
    before = _hashes(store)
    monkeypatch.setattr(soft_targets, "voices", _never)
    again = _open(teacher, data, store, run=tmp_path / "other")
    fewer = _open(teacher, data, store, keys=1, run=tmp_path / "fewer")
    assert (again.computed, again.digest, _hashes(store)) == (0, first.digest, before)
    assert (fewer.keys, fewer.computed) == (1, 0)
    assert fewer.digest != first.digest


def _never(*_: Any) -> Any:
    raise AssertionError("the teacher was asked")


def test_more_augmentations_are_added_to_those_there(teacher: Teacher, data: Dataset, tmp_path: Path) -> None:
    few = _open(teacher, data, tmp_path / "grown" / "store", keys=1)
    grown = _open(teacher, data, tmp_path / "grown" / "store", keys=3)
    once = _open(teacher, data, tmp_path / "once" / "store", keys=3)
    assert (few.computed, grown.computed, grown.digest) == (1, 2, once.digest)
    assert _hashes(tmp_path / "grown" / "store") == _hashes(tmp_path / "once" / "store")


@pytest.mark.parametrize("after", [1, 600, 1500, 2400])
def test_a_stopped_fill_goes_on_to_the_same_bytes(after: int, teacher: Teacher, data: Dataset, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole" / "store", tmp_path / "stopped" / "store"
    _open(teacher, data, whole, keys=3)
    with pytest.raises(Interrupted):
        _open(teacher, data, stopped, keys=3, heard=Heard(stop_after=after))
    done = read_header(stopped).keys
    assert done == (after - 1) // len(data.splits.train)
    assert not [each for each in stopped.iterdir() if each.name.startswith(".")]
    assert _open(teacher, data, stopped, keys=3).computed == 3 - done
    assert _hashes(whole) == _hashes(stopped)


def test_a_stop_signal_ends_it(teacher: Teacher, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _workspace(tmp_path) as workspace:
        monkeypatch.setattr(stop, "_received", 15)
        with pytest.raises(Interrupted) as ended:
            open_soft_targets(teacher, data, CROPS, 1, tmp_path / "store", workspace)
    assert ended.value.exit_code == 143


def test_an_ensemble_keeps_each_network_and_agrees_at_any_temperature(data: Dataset, tmp_path: Path) -> None:
    both = make_teacher(data, tmp_path / "teachers", (1, 2), "entropy")
    kept = _open(both, data, tmp_path / "store", keys=1)
    indices = data.splits.train[5:60]
    live = [torch.from_numpy(each) for each in _live(both, data, indices, 0)]
    assert (kept.shares, kept.rule) == ((1.0, 2.0), "entropy")
    for temperature in (1.0, 4.0):
        wanted = combine(live, [1.0, 2.0], "entropy", temperature).log_softmax(1)
        assert torch.allclose(kept.logits(indices, 0, temperature).log_softmax(1), wanted, atol=0.02)
    for found, expected in zip(kept.member_logits(indices, 0), live, strict=True):
        assert torch.allclose(found, expected, atol=0.01)


@pytest.mark.parametrize(
    ("kind", "options", "wanted", "epochs", "expected"),
    [
        ("image", CROPS, 8, 30, 8), ("image", Augment(flip=True), 8, 3, 3), ("image", Augment(), 8, 30, 1),
        ("text", CROPS, 8, 30, 1), ("waveform", CROPS, 8, 30, 1), ("features", CROPS, 8, 30, 1),
    ],
)  # fmt: skip
def test_one_key_is_enough_where_nothing_is_random(
    kind: str, options: Augment, wanted: int, epochs: int, expected: int, data: Dataset
) -> None:
    assert useful_keys(replace(data, kind=kind), options, wanted, epochs) == expected


def test_the_seed_is_of_the_data_alone(data: Dataset) -> None:
    assert store_seed(data) == store_seed(replace(data, skipped=("x",)))
    assert store_seed(data) != store_seed(replace(data, digest=data.digest[::-1]))
    assert 0 <= store_seed(data) < 2**63


def test_a_run_waits_for_the_one_that_fills(teacher: Teacher, data: Dataset, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    heard, lock = Heard(), FileLock(store / "lock")
    lock.acquire()
    found: list[SoftTargets] = []
    thread = threading.Thread(target=lambda: found.append(_open(teacher, data, store, keys=1, heard=heard)))
    thread.start()
    thread.join(1.0)
    assert thread.is_alive()
    assert [each.name for each in store.iterdir()] == ["lock"]
    lock.release()
    thread.join(60)
    assert found[0].computed == 1
    assert "waiting for another run to fill" in heard.advanced[0][2]


# What does not belong


def test_another_teacher_is_noticed_and_said(teacher: Teacher, data: Dataset, tmp_path: Path) -> None:
    other, store, heard = make_teacher(data, tmp_path / "other", (7,)), tmp_path / "store", Heard()
    reader = _open(teacher, data, store, keys=2)
    indices = data.splits.train[:9]
    before = reader.logits(indices, 1)
    kept = _open(other, data, store, keys=1, heard=heard)
    assert heard.warnings == [f"soft targets in {store} belong to another teacher (zoo:shallow_cnn); computed anew"]
    assert np.abs(kept.logits(indices, 0).numpy() - _live(other, data, indices, 0)[0]).max() < 0.01
    assert not (store / augmentation_file(1)).exists()
    assert torch.equal(reader.logits(indices, 1), before)  # who reads the old ones is not disturbed


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("data", "another data set, or to other splits of it"), ("augment", "another augmentation (crop_padding 1, flip false)"),
        ("weight", "another teacher (zoo:shallow_cnn)"), ("precision", "a teacher that computes in another way (fp32)"),
    ],
)  # fmt: skip
def test_what_else_does_not_belong(what: str, said: str, teacher: Teacher, data: Dataset, tmp_path: Path) -> None:
    store, heard = tmp_path / "store", Heard()
    _open(teacher, data, store, keys=1)
    heavier = replace(teacher.members[0], source=TeacherMember(model="zoo:shallow_cnn", weight=3))
    with _workspace(tmp_path, heard) as workspace:
        kept = open_soft_targets(
            replace(teacher, members=(heavier,)) if what == "weight" else teacher,
            replace(data, digest="0" * 64) if what == "data" else data,
            Augment(flip=True) if what == "augment" else CROPS,
            1, store, workspace, "bf16" if what == "precision" else "fp32",
        )  # fmt: skip
    assert heard.warnings == [f"soft targets in {store} belong to {said}; computed anew"]
    assert kept.computed == 1


@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
@pytest.mark.parametrize("name", [augmentation_file(0), augmentation_file(1), VALIDATION_LOGITS])
def test_a_damaged_file_is_noticed_said_and_made_again(
    name: str, harm: str, teacher: Teacher, data: Dataset, tmp_path: Path
) -> None:
    store, heard = tmp_path / "store", Heard()
    _open(teacher, data, store)
    before, content = _hashes(store), bytearray((store / name).read_bytes())
    content[len(content) // 2] ^= 1
    (store / name).unlink()
    if harm != "gone":
        (store / name).write_bytes(content if harm == "flip" else content[:-1])
    kept = _open(teacher, data, store, heard=heard)
    assert len(heard.warnings) == 1
    assert heard.warnings[0].startswith(f"soft targets in {store} are damaged: {name} ")
    assert kept.computed == (1 if name != VALIDATION_LOGITS else 0)
    assert _hashes(store) == before


def test_a_damaged_header_starts_anew(teacher: Teacher, data: Dataset, tmp_path: Path) -> None:
    store, heard = tmp_path / "store", Heard()
    _open(teacher, data, store, keys=1)
    before = _hashes(store)
    (store / HEADER).write_bytes((store / HEADER).read_bytes()[:-40])
    assert _open(teacher, data, store, keys=1, heard=heard).computed == 1
    assert heard.warnings[0].startswith(f"soft targets in {store} are damaged: store.json: ")
    assert _hashes(store) == before


def test_a_folder_with_something_else_is_left_alone(teacher: Teacher, data: Dataset, tmp_path: Path) -> None:
    for name, message in (("thesis.txt", "is not empty and holds no soft targets"), (HEADER, "was not written by edgekd")):
        folder = tmp_path / name / "mine"
        folder.mkdir(parents=True)
        (folder / name).write_text("{}")
        with pytest.raises(UsageError, match=message):
            _open(teacher, data, folder, run=tmp_path)
        assert (folder / name).read_text() == "{}"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        _open(teacher, data, tmp_path / "file")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_that_says_nan_stops_it_and_names_the_sample(value: float, data: Dataset, tmp_path: Path) -> None:
    broken = make_teacher(data, tmp_path / "teacher", (3,))
    member = broken.members[0]
    assert member.spec is not None
    assert member.weights is not None
    model = load(member.spec, member.weights)
    with torch.no_grad():
        list(model.parameters())[-1][0] = value
    save_weights(model, member.weights)
    with pytest.raises(ModelError, match="teacher zoo:shallow_cnn yields NaN or infinite outputs on training sample ") as error:
        _open(broken, data, tmp_path / "store")
    first = data.splits.train[:3]
    assert ", ".join(data.ids[each] for each in first) in error.value.message
    assert error.value.message.endswith(" and 497 more")
    assert (error.value.exit_code, "\n" in error.value.message) == (3, False)
    assert sorted(_hashes(tmp_path / "store")) == sorted([HEADER, TEST_LOGITS, VALIDATION_LOGITS])


def test_a_full_disk_leaves_nothing_half_written(teacher: Teacher, data: Dataset, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(ResourceError, match=r"no space left to write .*augmentation-000\.npy"):
            _open(teacher, data, tmp_path / "store")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(_hashes(tmp_path / "store")) == sorted([HEADER, TEST_LOGITS, VALIDATION_LOGITS])
    assert _open(teacher, data, tmp_path / "store").computed == 2


def test_only_the_sample_that_is_nan_is_named(
    teacher: Teacher, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekd.distill.teacher import NotFinite

    @contextmanager
    def one_bad(*_: Any) -> Iterator[list[Voice]]:
        calls = iter(range(100))

        def ask(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            if next(calls) == 1:
                raise NotFinite([4], "x", "hint")
            return torch.zeros(len(inputs["image"]), 10)

        yield [Voice("onnx:x", ask, None)]

    monkeypatch.setattr(soft_targets, "voices", one_bad)
    with pytest.raises(ModelError) as error:
        _open(teacher, data, tmp_path / "store")
    bad = data.ids[data.splits.train[504]]
    assert error.value.message == f"teacher onnx:x yields NaN or infinite outputs on training sample {bad}"


# A store as a teacher


def _stored(folder: Path, data: Dataset, run: Path, heard: Silent | None = None, **more: Any) -> Teacher:
    source = TeacherMember(model=f"store:{folder}", **more)
    with _workspace(run, heard) as workspace:
        member = open_trained_elsewhere("teacher", source, data, workspace, allow_code=False)
    metric = top1(np.load(member.folder / TEST_LOGITS), data.labels[data.splits.test])
    return Teacher((member,), "mean_logits", metric, allow_code=False)


def test_a_store_teaches_without_its_teacher(data: Dataset, tmp_path: Path) -> None:
    both, store = make_teacher(data, tmp_path / "teachers", (1, 2), "mean_probabilities"), tmp_path / "store"
    filled = _open(both, data, store)
    before = _hashes(store)
    (store / "lock").unlink()
    stored = _stored(store, data, tmp_path / "elsewhere")
    assert stored.cost == both.cost
    assert stored.name == f"store:{store}"
    assert stored.members[0].notes == ("outputs of zoo:shallow_cnn + zoo:shallow_cnn, 2 augmentation(s)",)
    for split in ("validation", "test"):
        assert np.array_equal(stored.logits(split), both.logits(split))
    kept = _open(stored, data, tmp_path / "unused", run=tmp_path / "elsewhere")
    assert (kept.digest, kept.shares, kept.rule) == (filled.digest, (1.0, 2.0), "mean_probabilities")
    indices = data.splits.train[:40]
    assert torch.equal(kept.logits(indices, 1, 4.0), filled.logits(indices, 1, 4.0))
    assert _hashes(store) == before
    assert not (tmp_path / "unused").exists()


def test_a_store_cannot_be_asked(teacher: Teacher, data: Dataset, tmp_path: Path) -> None:
    _open(teacher, data, tmp_path / "store", keys=1)
    stored = _stored(tmp_path / "store", data, tmp_path / "elsewhere")
    with (
        _workspace(tmp_path) as workspace,
        pytest.raises(UsageError, match="cannot be asked") as error,
        imitating(stored, data.inputs, workspace),
    ):
        pass
    assert error.value.hint == "set distill.soft_targets.use=stored"


def test_a_store_teaches_alone(teacher: Teacher, data: Dataset, tmp_path: Path) -> None:
    _open(teacher, data, tmp_path / "store", keys=1)
    stored = _stored(tmp_path / "store", data, tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="kept outputs, which teach alone, but the ensemble has 2 teachers"):
        _open(replace(stored, members=(*stored.members, *teacher.members)), data, tmp_path / "more")


def test_a_store_of_other_data_or_splits_is_refused(teacher: Teacher, data: Dataset, tmp_path: Path) -> None:
    _open(teacher, data, tmp_path / "store", keys=1)
    other = digits_data(tmp_path / "data", Recipe.model_validate({"seed": 1}))
    with pytest.raises(UsageError, match="belong to another data set, or to other splits of it") as error:
        _stored(tmp_path / "store", other, tmp_path / "elsewhere")
    assert error.value.hint == "give the data.source, split shares and seed that `edgekd teach` had"


def test_a_store_of_another_augmentation_or_too_few_is_refused(teacher: Teacher, data: Dataset, tmp_path: Path) -> None:
    _open(teacher, data, tmp_path / "store")
    stored = _stored(tmp_path / "store", data, tmp_path / "elsewhere")
    with pytest.raises(
        UsageError, match="augmented by crop_padding 1, flip false, the recipe has crop_padding 2, flip true"
    ) as e:
        _open(stored, data, tmp_path / "x", options=Augment(crop_padding=2, flip=True))
    assert e.value.hint == "set data.augment.crop_padding=1 data.augment.flip=false"
    with pytest.raises(UsageError, match="are of 2 augmentations, and this training takes 3") as error:
        _open(stored, data, tmp_path / "x", keys=3)
    assert "distill.soft_targets.augmentations=2" in str(error.value.hint)


def _rewrite(store: Path, name: str, change: Callable[[Path], None]) -> None:
    """Change a file of a store, and its checksum with it, as someone who means harm would."""
    change(store / name)
    content = json.loads((store / HEADER).read_text())
    content["files"][name] = {
        "sha256": hashlib.sha256((store / name).read_bytes()).hexdigest(), "size": (store / name).stat().st_size
    }  # fmt: skip
    (store / HEADER).write_text(json.dumps(content))


def _changed(field: str, value: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        rows = np.load(path)
        rows[field].flat[0] = value
        np.save(path, rows)

    return change


def _pickled(canary: Path) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, np.asarray([gadgets(canary)["os.system"]], object), allow_pickle=True)

    return change


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pickle", "is no array"), ("zip", "is no array"), ("few rows", "is no array of the right type and shape"),
        ("more members", "is no array of the right type and shape"), ("plain", "is no array of the right type and shape"),
        ("nan", "holds logits that are NaN, infinite or above the largest"), ("above", "holds logits that are NaN"),
        ("infinite", "holds logits that are NaN"),
    ],
)  # fmt: skip
def test_hostile_files_are_refused_though_their_checksums_fit(
    kind: str, message: str, teacher: Teacher, data: Dataset, tmp_path: Path
) -> None:
    canary, store, count = tmp_path / "canary", tmp_path / "store", len(data.splits.train)
    rows = np.zeros((count, 1), row_type(10))

    def zipped(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, rows=rows)

    hostile: dict[str, Callable[[Path], None]] = {
        "pickle": _pickled(canary), "zip": zipped, "few rows": lambda path: np.save(path, rows[:-1]),
        "more members": lambda path: np.save(path, np.repeat(rows, 2, 1)),
        "plain": lambda path: np.save(path, np.zeros((count, 1), np.float32)),
        "nan": _changed("peak", np.nan), "above": _changed("logits", 1.0), "infinite": _changed("logits", -np.inf),
    }  # fmt: skip
    _open(teacher, data, store, keys=1)
    _rewrite(store, augmentation_file(0), hostile[kind])
    stored = _stored(store, data, tmp_path / "elsewhere")
    with pytest.raises(DamagedStore, match=message) as error:
        _open(stored, data, tmp_path / "x", keys=1)
    assert (error.value.exit_code, "\n" in error.value.message) == (3, False)
    assert not canary.exists()


def test_hostile_logits_of_other_splits_are_refused(teacher: Teacher, data: Dataset, tmp_path: Path) -> None:
    store, count = tmp_path / "store", len(data.splits.test)
    _open(teacher, data, store, keys=1)
    for value, shape, message in ((np.nan, (count, 10), "holds NaN"), (0.0, (count, 11), "type and shape")):
        _rewrite(store, TEST_LOGITS, lambda path, v=value, s=shape: np.save(path, np.full(s, v, "<f4")))  # type: ignore[misc]
        with pytest.raises(DamagedStore, match=f"test_logits.npy .*{message}"):
            _stored(store, data, tmp_path / "elsewhere")


@pytest.mark.parametrize("junk", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff(((((", b"\x93NUMPY\x01\x00\x0e\x00" + b"{'descr': 'O'}",
                                  b"\x93NUMPY\x03\x00\x10\x00\x00\x00{'''            ", b"\x80\x04K\x01.", b"PK\x03\x04junk"])  # fmt: skip
def test_files_that_are_no_arrays(junk: bytes, teacher: Teacher, data: Dataset, tmp_path: Path) -> None:
    store = tmp_path / "store"
    _open(teacher, data, store, keys=1)

    def write(path: Path) -> None:
        path.write_bytes(junk)

    _rewrite(store, augmentation_file(0), write)
    with pytest.raises(DamagedStore, match=r"augmentation-000\.npy is no array"):
        open_augmentation(store, read_header(store), 0)


@pytest.mark.parametrize(
    ("field", "place", "value", "message"),
    [
        ("classes", 31, 999, "names class 999, and there are 200"),
        ("classes", 0, 250, "names class 250"),
        ("classes", 1, 0, "names a class twice, or out of order"),
        ("span", 0, 101, "holds a range of the rest that cannot be"),
        ("span", 0, -1, "a range of the rest"),
        ("span", 0, np.nan, "a range of the rest"),
        ("high", 0, 1, "a range of the rest"),
        ("high", 0, -np.inf, "a range of the rest"),
        ("peak", 0, np.inf, "holds logits that are NaN, infinite"),
        ("logits", 5, np.nan, "holds logits that are NaN"),
    ],
)
def test_hostile_rows_of_many_classes(field: str, place: int, value: float, message: str) -> None:
    rows = encode(np.random.default_rng(0).normal(0, 2, (3, 200)).astype(np.float32))
    assert soft_target_format._wrong_rows(rows, 200) is None
    rows[field].flat[place] = value
    assert message in str(soft_target_format._wrong_rows(rows, 200))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": {"../../etc/passwd": {"sha256": "0" * 64, "size": 1}}}, "names a file that is none of a store"),
        ({"files": {augmentation_file(0): {"sha256": "x", "size": 1}}}, "sha256"),
        ({"files": {augmentation_file(0): {"sha256": "0" * 64, "size": -1}}}, "size"),
        ({"classes": 1}, "classes"),
        ({"classes": 10.5}, "classes"),
        ({"samples": -3}, "samples"),
        ({"seed": 3}, "the seed is not that of the data"),
        ({"version": 2}, "version"),
        ({"more": 1}, "more"),
        ({"precision": "int1"}, "precision"),
        ({"augment": {"crop_padding": 1, "flip": "yes"}}, "flip"),
        ({"teacher": {}}, "teacher"),
    ],
)
def test_hostile_headers(change: dict[str, Any], message: str, teacher: Teacher, data: Dataset, tmp_path: Path) -> None:
    store = tmp_path / "store"
    _open(teacher, data, store, keys=1)
    content = json.loads((store / HEADER).read_text())
    (store / HEADER).write_text(json.dumps({**content, **change}))
    with pytest.raises(DamagedStore, match=f"soft targets in .* are damaged: store.json: .*{message}") as error:
        read_header(store)
    assert "\n" not in error.value.message
    assert error.value.hint


@settings(max_examples=100, deadline=None)
@given(junk=st.binary(max_size=200), at=st.integers(0, 2000))
def test_a_header_of_any_bytes_is_read_or_refused(
    junk: bytes, at: int, teacher: Teacher, data: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = tmp_path_factory.mktemp("fuzz") / "store"
    store.mkdir()
    wanted = soft_targets._identity(teacher, data, CROPS, "fp32").model_dump_json().encode()
    (store / HEADER).write_bytes(wanted[:at] + junk + wanted[at + len(junk) :])
    try:
        read_header(store)
    except (DamagedStore, NoStore) as error:
        assert "\n" not in error.message
    except EdgekdError as error:
        pytest.fail(repr(error))


def test_an_empty_folder_is_no_store(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(NoStore, match="holds no soft targets") as error:
        _stored(tmp_path, data, tmp_path / "elsewhere")
    assert error.value.hint == "fill it by `edgekd teach`"
