"""Files of weights: pickles that run code, wrappers and prefixes, keys that do not fit, broken files."""

import contextlib
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgekd.errors import ModelError
from edgekd.safe.weights import load_into, read_weights
from tests.safe.hostile import gadgets, mutants


def _model(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, outputs))


def _same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


def test_both_formats_give_back_what_was_saved(tmp_path: Path) -> None:
    state = _model().state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert _same(dict(sorted(read_weights(tmp_path / "a.safetensors").items())), dict(sorted(state.items())))
    assert _same(read_weights(tmp_path / "a.pt"), state)
    assert _same(read_weights(tmp_path / "old.pt"), state)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"step": torch.tensor(7), "model_state_dict": state, "loss": torch.tensor(0.1)},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
        lambda state: {"net": {f"module._orig_mod.{name}": value for name, value in state.items()}},
    ],
)
def test_wrappers_and_prefixes_of_training_scripts_come_off(wrapped: Any, tmp_path: Path) -> None:
    state = _model().state_dict()
    torch.save(wrapped(dict(state)), tmp_path / "a.pt")
    assert _same(read_weights(tmp_path / "a.pt"), state)


def test_a_prefix_that_only_some_names_have_is_part_of_them(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pt")
    assert list(read_weights(tmp_path / "a.pt")) == ["module.a", "b"]


@pytest.mark.parametrize("kind", ["os.system", "eval", "exec", "method", "open", "nested"])
@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle", "nested in a state dict", "zip by hand"])
def test_pickles_that_run_code_are_refused_and_run_nothing(kind: str, form: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "evil.pt"
    gadget: Any = gadgets(canary)[kind]
    if form == "zip":
        torch.save(gadget, path)
    elif form == "legacy":
        torch.save({"weight": torch.ones(2), "bias": gadget}, path, _use_new_zipfile_serialization=False)
    elif form == "plain pickle":
        path.write_bytes(pickle.dumps({"weight": gadget}))
    elif form == "nested in a state dict":
        torch.save({"state_dict": {"weight": torch.ones(2)}, "optimizer": {"extra": [gadget]}}, path)
    else:
        torch.save({"weight": torch.ones(2)}, tmp_path / "good.pt")
        with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(path, "w") as bad:
            for name in good.namelist():
                bad.writestr(name, pickle.dumps(gadget) if name.endswith("data.pkl") else good.read(name))
    with pytest.raises(ModelError) as error:
        read_weights(path)
    assert not canary.exists()
    assert str(path) in error.value.message
    assert "\n" not in error.value.message
    assert error.value.hint


@pytest.mark.parametrize("hostile_first", [True, False])
def test_a_second_member_of_the_same_name_smuggles_no_code_in(hostile_first: bool, tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "good.pt")
    canary, path = tmp_path / "canary", tmp_path / "evil.pt"
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(path, "w") as bad:
        members = [(name, good.read(name)) for name in good.namelist()]
        evil = ("good/data.pkl", pickle.dumps(gadgets(canary)["os.system"]))
        with pytest.warns(UserWarning, match="Duplicate name"):
            for name, content in [evil, *members] if hostile_first else [*members, evil]:
                bad.writestr(name, content)
    with contextlib.suppress(ModelError):  # whichever of the two is read
        assert list(read_weights(path)) == ["weight"]
    assert not canary.exists()


def test_the_refusal_names_what_the_pickle_wants_to_run(tmp_path: Path) -> None:
    torch.save({"weight": gadgets(tmp_path / "canary")["os.system"]}, tmp_path / "evil.pt")
    with pytest.raises(ModelError, match=r"loading it would run code \((posix|os|nt)\.system\); nothing was run") as error:
        read_weights(tmp_path / "evil.pt")
    assert "safetensors" in str(error.value.hint)


def test_a_whole_model_is_no_state_dict(tmp_path: Path) -> None:
    torch.save(_model(), tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"would run code \(torch.nn.modules"):
        read_weights(tmp_path / "model.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.jit")
def test_torchscript_is_told_apart(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "a.pt")  # type: ignore[no-untyped-call]
    with pytest.raises(ModelError, match="is a TorchScript program") as error:
        read_weights(tmp_path / "a.pt")
    assert "pt2:FILE" in str(error.value.hint)


def test_a_file_named_safetensors_is_never_unpickled(tmp_path: Path) -> None:
    torch.save({"weight": gadgets(tmp_path / "canary")["os.system"]}, tmp_path / "evil.safetensors")
    with pytest.raises(ModelError, match="broken safetensors file"):
        read_weights(tmp_path / "evil.safetensors")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n", "Git LFS pointer"),
        (b"not weights at all", "is no file of weights, or broken: Unsupported operand 110$"),
        (pickle.dumps({"a": 1}, protocol=2), "is a broken PyTorch file: Invalid magic number; corrupt file"),
    ],
)
def test_what_is_no_file_of_weights_is_one_clear_line(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ModelError) as error:
        read_weights(tmp_path / "a.pt")
    assert re.search(message, error.value.message)
    assert "\n" not in error.value.message


def test_a_file_without_tensors_by_name_says_how_to_save(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(ModelError, match="holds no tensors by name") as error:
        read_weights(tmp_path / "list.pt")
    assert "state_dict()" in str(error.value.hint)


def test_weights_that_fit_are_loaded_exactly() -> None:
    source, target = _model(), _model()
    with torch.no_grad():
        for each in source.parameters():
            each.add_(1)
    load_into(target, source.state_dict(), "a.pt")
    assert _same(target.state_dict(), source.state_dict())


def test_missing_and_extra_keys_list_the_first_ten_and_leave_the_model_alone() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(8)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {f"other.{index}": torch.ones(1) for index in range(12)} | {"0.weight": torch.ones(1, 1)}
    with pytest.raises(ModelError) as error:
        load_into(model, weights, "a.pt")
    message = error.value.message
    missing = [name for name in before if name != "0.weight"]
    assert f"15 missing ({', '.join(missing[:10])}, and 5 more)" in message
    assert f"12 extra ({', '.join(f'other.{index}' for index in range(10))}, and 2 more)" in message
    assert _same(model.state_dict(), before)


def test_shapes_that_differ_are_named() -> None:
    weights = dict(_model().state_dict())
    weights["0.weight"], weights["2.weight"] = torch.ones(8, 5), torch.ones(3, 9)
    with pytest.raises(ModelError, match=r"0.weight \[8, 5\] instead of \[8, 4\], 2.weight \[3, 9\] instead of \[3, 8\]"):
        load_into(_model(), weights, "a.pt")


def test_a_head_of_another_number_of_classes_is_told_in_terms_of_classes() -> None:
    with pytest.raises(ModelError, match=r"a.pt: its last layer has 12 outputs \(2\), the data 3 classes") as error:
        load_into(_model(3), _model(12).state_dict(), "a.pt")
    assert "teacher.labels" in str(error.value.hint)


@pytest.mark.parametrize(
    "odd",
    [
        torch.full((3,), torch.nan),
        torch.full((3,), torch.inf),
        torch.zeros(3).to_sparse(),
        torch.zeros(3, dtype=torch.complex64),
        "quantized",
        torch.empty(3, device="meta"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*quantized tensor")
def test_values_that_are_no_finite_numbers_are_refused(odd: torch.Tensor | str) -> None:
    model, weights = _model(), dict(_model().state_dict())
    weights["2.bias"] = torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8) if isinstance(odd, str) else odd
    with pytest.raises(ModelError, match=r"2\.bias (holds NaN or infinity|is not stored as plain numbers)"):
        load_into(model, weights, "a.pt")
    assert bool(torch.isfinite(model.state_dict()["2.bias"]).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_other_float_types_are_brought_to_the_models(dtype: torch.dtype) -> None:
    model, weights = _model(), dict(_model().state_dict())
    weights["2.bias"] = torch.tensor([0.5, 1, -2]).to(dtype)
    load_into(model, weights, "a.pt")
    assert model.state_dict()["2.bias"].tolist() == [0.5, 1, -2]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_mutants_never_escape_as_anything_but_a_model_error(suffix: str, tmp_path: Path) -> None:
    state, path = _model().state_dict(), tmp_path / f"a{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    refused = 0
    for broken in mutants(path.read_bytes(), 300, seed=1):
        path.write_bytes(broken)
        try:
            load_into(_model(), read_weights(path), str(path))
        except ModelError as error:
            assert "\n" not in error.message
            refused += 1
    assert refused > 100
