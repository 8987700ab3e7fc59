"""Programs of torch.export: good ones run as they were, hostile ones run nothing.

Every attack is a real archive, changed the way an attacker would; each of them would leave a canary behind if
PyTorch's own loader and module got it.
"""

import contextlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekd.errors import ModelError
from edgekd.safe.exported_program import callable_module, load_exported_program
from tests.safe.hostile import Gadget, gadgets, mutants

Members = dict[str, bytes]
MODEL, SAMPLES = "m/models/model.json", "m/data/sample_inputs/model.pt"
WEIGHTS, CONSTANTS = "m/data/weights/model_weights_config.json", "m/data/constants/model_constants_config.json"


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(64, 10)
        self.offset = torch.linspace(0, 1, 10)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.norm(self.conv(image)).relu()
        features = features.reshape(features.shape[0], -1)
        return {"logits": self.head(features) + self.offset, "features": features}


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return _Net().eval()


@pytest.fixture(scope="module")
def good(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "m.pt2"
    program = torch.export.export(net, (torch.randn(4, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)
    return path


def _members(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _written(members: Members, path: Path, twice: tuple[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if twice is not None:
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr(*twice)
    return path


def _changed(content: bytes, change: Callable[[Any], None]) -> bytes:
    tree = json.loads(content)
    change(tree)
    return json.dumps(tree).encode()


def _saved(thing: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def test_a_program_runs_as_it_was_for_any_batch(good: Path, net: nn.Module) -> None:
    module = callable_module(load_exported_program(good))
    for batch in (1, 3, 300):
        images = torch.randn(batch, 1, 8, 8)
        with torch.no_grad():
            found, expected = module(images), net(images)
        assert list(found) == ["logits", "features"]
        assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)


def test_programs_with_sizes_computed_from_the_batch_load(tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            joined = torch.cat([image, image]).reshape(image.shape[0], 2, -1)
            return joined.mean(1) * mask[:, :1], joined.reshape(image.shape[0] * 2, image.shape[1] ** 2, -1)

    images, mask = torch.randn(3, 2, 4), torch.ones(3, 8)
    sizes = {0: torch.export.Dim("batch")}
    torch.export.save(torch.export.export(Mixed(), (images, mask), dynamic_shapes=(sizes, sizes)), tmp_path / "m.pt2")
    found = callable_module(load_exported_program(tmp_path / "m.pt2"))(images, mask)
    assert all(torch.equal(one, other) for one, other in zip(found, Mixed()(images, mask), strict=True))


def _node(tree: Any) -> Any:
    return tree["graph_module"]["graph"]["nodes"][0]


def _size(tree: Any) -> Any:
    return next(
        size["as_expr"]
        for tensor in tree["graph_module"]["graph"]["tensor_values"].values()
        for size in tensor["sizes"]
        if "as_expr" in size
    )


def _attacks(command: str) -> dict[str, Callable[[Members], None]]:
    """Return changes to the members of an archive, each of which would run ``command``, Python source, somewhere."""

    def model(change: Callable[[Any], None]) -> Callable[[Members], None]:
        return lambda members: members.update({MODEL: _changed(members[MODEL], change)})

    def table(name: str, entry: dict[str, Any], file: str, content: bytes) -> Callable[[Members], None]:
        def change(members: Members) -> None:
            members[name] = _changed(members[name], lambda tree: tree["config"].update({"x": entry}))
            members[file] = content

        return change

    def tree_of(kind: str, context: Any, escaped: bool = False) -> Callable[[Members], None]:
        text = json.dumps([1, {"type": kind, "context": context, "children_spec": []}])
        if escaped:
            text = text.replace("defaultdict", "\\u0064efaultdict")
        return model(lambda tree: tree["graph_module"]["module_call_graph"][0]["signature"].update(out_spec=text))

    def call(function: str, *arguments: dict[str, Any]) -> Callable[[Members], None]:
        given = [{"name": "", "arg": each, "kind": 1} for each in arguments]
        return model(lambda tree: _node(tree).update(target=function, inputs=given))

    def rename(tree: Any, new: str) -> None:
        graph = tree["graph_module"]["graph"]
        text = json.dumps(graph).replace('"image"', json.dumps(new))
        tree["graph_module"]["graph"] = json.loads(text)
        tree["graph_module"]["signature"] = json.loads(
            json.dumps(tree["graph_module"]["signature"]).replace('"image"', json.dumps(new))
        )

    evil = pickle.dumps(Gadget(exec, command))
    meta = {"path_name": "weight_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    default = {"default_factory_module": "this", "default_factory_name": "s", "dict_context": []}
    guard = f"({command}) or True"
    hidden = {"target": "torch.ops.aten.sym_size.int"}
    return {
        "sample inputs": lambda members: members.update({SAMPLES: _saved(Gadget(exec, command))}),
        "sample inputs, plain pickle": lambda members: members.update({SAMPLES: evil}),
        "another program": lambda members: members.update({"m/data/sample_inputs/other.pt": evil} | {
            "m/models/other.json": members[MODEL]}),
        "pickled weight": table(WEIGHTS, meta, "m/data/weights/weight_0", _saved(Gadget(exec, command))),
        "pickled constant": table(CONSTANTS, meta | {"path_name": "tensor_9"}, "m/data/constants/tensor_9", evil),
        "custom object": table(CONSTANTS, meta | {"path_name": "custom_obj_0"}, "m/data/constants/custom_obj_0", evil),
        "opaque object": table(
            CONSTANTS, meta | {"path_name": "opaque_obj_0", "use_pickle": False}, "m/data/constants/opaque_obj_0", evil
        ),
        "legacy weights": lambda members: (
            members.update({"m/data/weights/model.pt": _saved(Gadget(exec, command))}), members.pop(WEIGHTS))[1],
        "size": model(lambda tree: _size(tree).update(expr_str=command)),
        "size, dunder": model(lambda tree: _size(tree).update(expr_str="().__class__.__base__.__subclasses__()")),
        "size, lambda": model(lambda tree: _size(tree).update(expr_str=f"(lambda: exec({command!r}))()")),
        "size, text": model(lambda tree: _size(tree).update(expr_str=f"Symbol({command!r})")),
        "size, import": model(lambda tree: _size(tree).update(expr_str="Max(__import__('this'), 1)")),
        "size, long": model(lambda tree: _size(tree).update(expr_str="Pow(Integer(9), Pow(Integer(9), Integer(9)))")),
        "size, longer": model(lambda tree: _size(tree).update(expr_str="9**9**9**9")),
        "size, deep": model(lambda tree: _size(tree).update(expr_str="(" * 900 + "1" + ")" * 900)),
        "target": call("torch.hub.os.system", {"as_string": "true"}),
        "target, operator": call("_operator.methodcaller", {"as_string": "x"}),
        "target, math": call("math.__loader__.load_module", {"as_string": "this"}),
        "target, extension": call("#anything", {"as_string": "x"}),
        "target, saves a file": call("torch.ops.aten.save.default", {"as_string": "x"}),
        "target, maps a file": call("torch.ops.aten.from_file.default", {"as_string": "/etc/passwd"}),
        "target, without inputs": model(lambda tree: (_node(tree).pop("inputs"), _node(tree).update(target="torch.hub.os.system"))[1]),
        "operator as argument": call(
            "torch.ops.higher_order.wrap_with_set_grad_enabled", {"as_bool": True}, {"as_operator": "torch.hub.os.system"},
            {"as_string": "true"},
        ),
        "tree": tree_of("collections.defaultdict", default),
        "tree, escaped": tree_of("collections.defaultdict", default, escaped=True),
        "tree, enumeration": tree_of("builtins.dict", json.dumps([{"__enum__": True, "fqn": "this:s", "name": "x"}])),
        "tree, other type": tree_of("collections.namedtuple", "x"),
        "name": model(lambda tree: rename(tree, f"x=exec({command!r}), y")),
        "name, of a node": model(lambda tree: _node(tree).update(name=f"x\n    exec({command!r})\n")),
        "name, of an argument": call("torch.ops.aten.relu.default", {"as_tensor": {"name": f"x), exec({command!r}"}}),
        "model file of another ending": lambda members: members.update(
            {"m/models/model.jsom": _changed(members.pop(MODEL), lambda tree: _size(tree).update(expr_str=command))}),
        "old format beside a broken new one": lambda members: members.update({
            "version": b"8.20", "serialized_exported_program.json": members[MODEL], "serialized_state_dict.pt": evil}),
        "compiled code": lambda members: members.update({"m/data/aotinductor/model/a.so": b"\x7fELF"}),
        "guards": model(lambda tree: tree.update(guards_code=[guard])),
        "metadata": model(lambda tree: _node(tree)["metadata"].update(source_fn_stack="x,torch.hub.os.system", stack_trace=guard)),
        "namedtuple fields": model(lambda tree: tree["graph_module"].update(
            treespec_namedtuple_fields={"x": {"field_names": [command]}})),
        "hidden node": model(lambda tree: tree["graph_module"]["graph"]["nodes"].append(hidden)),
    }  # fmt: skip


_HARMLESS = {"another program", "guards", "metadata", "namedtuple fields"}
"""Attacks on what is never handed to PyTorch: such a file loads and runs, without them."""


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("attack", _attacks(""))
def test_attacks_run_nothing_and_are_one_clear_line(attack: str, good: Path, net: nn.Module, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    members = _members(good)
    _attacks(f"__import__('pathlib').Path({str(canary)!r}).touch()")[attack](members)
    path = _written(members, tmp_path / "evil.pt2")
    if attack in _HARMLESS:
        images = torch.randn(2, 1, 8, 8)
        found = callable_module(load_exported_program(path))(images)
        assert torch.allclose(found["logits"], net(images)["logits"], atol=1e-5)
    else:
        with pytest.raises(ModelError) as error:
            load_exported_program(path)
        assert "\n" not in error.value.message
        assert str(path) in error.value.message
        assert error.value.hint
    assert not canary.exists()


@pytest.mark.filterwarnings("ignore")
def test_these_attacks_are_real(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of them, given to PyTorch's own loader and module, do run their command: the tests above can fail."""
    monkeypatch.setattr("logging.raiseExceptions", False)
    for attack in ("sample inputs", "size", "guards"):
        canary = tmp_path / attack
        members = _members(good)
        _attacks(f"__import__('pathlib').Path({str(canary)!r}).touch()")[attack](members)
        path = _written(members, tmp_path / f"{attack}.pt2")
        with contextlib.suppress(Exception):  # some break what they attack
            torch.export.load(path).module()(torch.randn(2, 1, 8, 8))
        assert canary.exists(), attack


@pytest.mark.parametrize("kind", ["os.system", "eval", "exec", "method", "open", "nested"])
def test_pickles_of_every_kind_in_sample_inputs_are_refused(kind: str, good: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    members = _members(good)
    members[SAMPLES] = _saved((gadgets(canary)[kind],))
    with pytest.raises(ModelError, match="sample inputs are more than tensors"):
        load_exported_program(_written(members, tmp_path / "evil.pt2"))
    assert not canary.exists()


@pytest.mark.parametrize("name", [MODEL, SAMPLES, WEIGHTS])
def test_a_member_that_is_there_twice_is_refused(name: str, good: Path, tmp_path: Path) -> None:
    members = _members(good)
    path = _written(members, tmp_path / "twice.pt2", (name, members[name]))
    with pytest.raises(ModelError, match="twice"):
        load_exported_program(path)


def test_two_top_folders_are_refused(good: Path, tmp_path: Path) -> None:
    members = _members(good) | {"other/models/other.json": b"{}"}
    with pytest.raises(ModelError, match="no program in the pt2 format"):
        load_exported_program(_written(members, tmp_path / "two.pt2"))


def test_what_is_no_program_says_what_it_should_be(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "a.pt2")
    with pytest.raises(ModelError, match="no program in the pt2 format") as error:
        load_exported_program(tmp_path / "a.pt2")
    assert "torch.export.save" in str(error.value.hint)
    (tmp_path / "b.pt2").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="broken pt2 file"):
        load_exported_program(tmp_path / "b.pt2")


def test_mutants_never_escape_as_anything_but_a_model_error(good: Path, tmp_path: Path) -> None:
    path, refused = tmp_path / "mutant.pt2", 0
    for broken in mutants(good.read_bytes(), 200, seed=2):
        path.write_bytes(broken)
        try:
            load_exported_program(path)
        except ModelError as error:
            assert "\n" not in error.message
            refused += 1
    assert refused > 100


def test_changed_descriptions_never_escape_as_anything_but_a_model_error(good: Path, tmp_path: Path) -> None:
    """Mutants of the JSON alone: the checksums of the archive are right, so PyTorch's deserializer gets to see them."""
    members, path, refused = _members(good), tmp_path / "mutant.pt2", 0
    for name in (MODEL, WEIGHTS):
        for broken in mutants(members[name], 60, seed=3):
            try:
                load_exported_program(_written(members | {name: broken}, path))
            except ModelError as error:
                assert "\n" not in error.message
                refused += 1
    assert refused > 60
