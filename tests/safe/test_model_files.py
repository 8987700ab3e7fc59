"""What a model file must not do: read files elsewhere, or run code. Each attack against the real runtime's own ways."""

import copy
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from edgekd.errors import EdgekdError, ExportError, ModelError, UsageError
from edgekd.safe.child import run_in_child
from edgekd.safe.model_files import check_file, check_keras, check_onnx, check_tflite, folder_bytes
from edgekd.safe.worker import Worker
from tests.models.disguises import digits, logits, weights

OPEN = "edgekd.models.black_box:open_model"


def form_of(path: str) -> str:
    """Check a Keras model without allowing code; called in a child."""
    return check_keras(Path(path), allow_code=False)


def _form(path: Path, log: Path) -> str:
    """Check in a child: that of a SavedModel imports TensorFlow, and with it Keras on a backend other tests do not want."""
    form: str = run_in_child("tests.safe.test_model_files:form_of", {"path": str(path)}, log=log)
    return form


def _moved(model: onnx.ModelProto, location: str) -> onnx.ModelProto:
    """Say that the weights of ``model`` are in the file ``location``."""
    model = copy.deepcopy(model)
    for tensor in model.graph.initializer:
        if tensor.dims and int(np.prod(tensor.dims)) > 8:
            external_data_helper.set_external_data(tensor, location)
    return model


@pytest.fixture
def model(onnx_models: Path, tmp_path: Path) -> tuple[onnx.ModelProto, bytes]:
    """A model, and what its external file is to hold."""
    loaded = onnx.load(str(onnx_models / "nchw.onnx"))
    moved = [each for each in loaded.graph.initializer if int(np.prod(each.dims)) > 8]
    return loaded, b"".join(numpy_helper.to_array(each).tobytes() for each in moved)


def _write(model: onnx.ModelProto, path: Path, data: Path, content: bytes, location: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_bytes(content)
    model, offset = _moved(model, location or os.path.relpath(data, path.parent)), 0
    for tensor in model.graph.initializer:
        if tensor.external_data:
            length = 4 * int(np.prod(tensor.dims))
            external_data_helper.set_external_data(tensor, tensor.external_data[0].value, offset, length)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            offset += length
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("where", ["m.onnx.data", "sub/folder/weights.bin", "./m.data"])
def test_weights_in_a_plain_file_beside_the_model_run(where: str, model: tuple[onnx.ModelProto, bytes], tmp_path: Path) -> None:
    path = tmp_path / "good" / "m.onnx"
    _write(model[0], path, path.parent / where, model[1], where)
    assert check_onnx(path) == path.stat().st_size + len(model[1])
    images, _ = digits()
    with Worker(OPEN, {"kind": "onnx", "path": str(path), "allow_code": False}, log=tmp_path / "log") as worker:
        found = worker({"pixels": images[:5]})["scores"]
        assert worker.description["size_bytes"] == path.stat().st_size + len(model[1])
    assert np.abs(found - logits(weights(), images[:5])).max() < 1e-4


def _link(kind: str, folder: Path, elsewhere: Path) -> str:
    """Make the way of ``kind`` from ``folder`` to ``elsewhere``; return the location that a model would name."""
    if kind == "absolute":
        return str(elsewhere)
    if kind == "parent":
        return f"../{elsewhere.parent.name}/{elsewhere.name}"
    if kind == "parent inside":
        (folder / "sub").mkdir()
        return f"sub/../../{elsewhere.parent.name}/{elsewhere.name}"
    if kind == "symbolic link":
        (folder / "w.bin").symlink_to(elsewhere)
        return "w.bin"
    if kind == "link inside the folder":
        shutil.copy(elsewhere, folder / "real.bin")
        (folder / "w.bin").symlink_to("real.bin")
        return "w.bin"
    if kind == "hard link":
        (folder / "w.bin").hardlink_to(elsewhere)
        return "w.bin"
    if kind == "linked folder":
        (folder / "sub").symlink_to(elsewhere.parent, target_is_directory=True)
        return f"sub/{elsewhere.name}"
    if kind == "folder":
        (folder / "w.bin").mkdir()
        return "w.bin"
    if kind == "pipe":
        os.mkfifo(folder / "w.bin")
        return "w.bin"
    return {"missing": "nowhere.bin", "empty": "", "dot": ".", "backslash": "..\\w.bin", "long": "x" * 5000}[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("absolute", "outside its folder"), ("parent", "outside its folder"), ("parent inside", "outside its folder"),
        ("symbolic link", "behind a link"), ("link inside the folder", "behind a link"), ("linked folder", "behind a link"),
        ("hard link", "2 hard links"), ("folder", "is no file"), ("pipe", "is no file"), ("missing", "No such file"),
        ("empty", "outside its folder"), ("dot", "outside its folder"), ("backslash", "outside its folder"),
        ("long", "cannot be read"),
    ],
)  # fmt: skip
def test_weights_elsewhere_are_refused(kind: str, message: str, model: tuple[onnx.ModelProto, bytes], tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "model", tmp_path / "secret" / "weights.bin"
    folder.mkdir()
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(model[1])
    _write(model[0], folder / "m.onnx", tmp_path / "unused", model[1], _link(kind, folder, elsewhere))
    with pytest.raises(ModelError, match=message) as error:
        check_onnx(folder / "m.onnx")
    assert "\n" not in error.value.message
    assert "beside the model" in str(error.value.hint)
    with pytest.raises(ModelError, match=message):
        Worker(OPEN, {"kind": "onnx", "path": str(folder / "m.onnx"), "allow_code": False}, log=tmp_path / "log")


def _outside() -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "w")
    external_data_helper.set_external_data(tensor, "/etc/passwd")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


def _hidden(where: str) -> onnx.ModelProto:
    """Return a model whose only tensor elsewhere is not among the weights of the main graph."""
    float4 = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y", "z")]
    flag = numpy_helper.from_array(np.asarray(True), "flag")
    nodes, functions, initializers = [helper.make_node("Identity", ["x"], ["y"])], [], [flag]
    if where.startswith("subgraph"):
        if where == "subgraph weight":
            branch = helper.make_graph([helper.make_node("Identity", ["w"], ["z"])], "b", [], float4[2:], [_outside()])
        else:
            branch = helper.make_graph([helper.make_node("Constant", [], ["z"], value=_outside())], "b", [], float4[2:])
        nodes = [helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)]
    elif where == "constant":
        nodes += [helper.make_node("Constant", [], ["z"], value=_outside())]
    elif where == "list of tensors":
        nodes[0].attribute.append(helper.make_attribute("odd", [_outside()]))
    elif where == "sparse":
        indices = numpy_helper.from_array(np.arange(4), "i")
        nodes += [helper.make_node("Constant", [], ["z"], sparse_value=helper.make_sparse_tensor(_outside(), indices, [4]))]
    elif where == "function":
        body = [helper.make_node("Constant", [], ["b"], value=_outside()), helper.make_node("Add", ["a", "b"], ["c"])]
        functions = [helper.make_function("own", "F", ["a"], ["c"], body, [helper.make_opsetid("", 18)])]
        nodes = [helper.make_node("F", ["x"], ["y"], domain="own")]
    graph = helper.make_graph(nodes, "g", float4[:1], float4[1:2], initializers)
    if where == "two locations":
        tensor = _outside()
        tensor.external_data.insert(0, onnx.StringStringEntryProto(key="location", value="m.onnx"))
        graph.initializer.append(tensor)
    return helper.make_model(graph, functions=functions)


@pytest.mark.parametrize(
    "where",
    ["subgraph weight", "subgraph constant", "constant", "list of tensors", "sparse", "function", "two locations"],
)
def test_weights_elsewhere_are_found_wherever_they_hide(where: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(_hidden(where).SerializeToString())
    with pytest.raises(ModelError, match="'/etc/passwd', outside its folder"):
        check_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize("content", [b"", b"\n", b"not a model", b"\x08\x09", b"\xff" * 100])
def test_what_is_no_onnx_file_is_one_clear_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"is no ONNX") as error:
        check_onnx(tmp_path / "m.onnx")
    assert "\n" not in error.value.message


def test_files_that_are_folders_or_empty_are_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        check_file(tmp_path)
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(UsageError, match="is empty"):
        check_file(tmp_path / "a")
    (tmp_path / "b").write_bytes(b"12345678")
    check_file(tmp_path / "b")
    with pytest.raises(ModelError, match="is no TFLite file"):
        check_tflite(tmp_path / "b")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c").write_bytes(b"123")
    assert (folder_bytes(tmp_path), folder_bytes(tmp_path / "b")) == (11, 8)


@pytest.mark.parametrize(
    ("name", "form"),
    [("model.keras", "keras"), ("model.h5", "h5"), ("probabilities.keras", "keras"), ("saved_model", "saved_model"),
     ("plain", "saved_model")],
)  # fmt: skip
def test_good_keras_models_pass(name: str, form: str, framework_models: Path, tmp_path: Path) -> None:
    assert _form(framework_models / name, tmp_path / "log") == form


@pytest.mark.parametrize("name", ["lambda.keras", "lambda.h5"])
def test_a_lambda_layer_is_refused_and_does_not_run(name: str, framework_models: Path, tmp_path: Path) -> None:
    path, canary = framework_models / name, framework_models / "canary"
    canary.unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"holds code that would run when it is loaded: .*Lambda") as error:
        Worker(OPEN, {"kind": "keras", "path": str(path), "allow_code": False}, log=tmp_path / "log")
    assert "--allow-code" in str(error.value.hint)
    assert not canary.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lambda.keras", "lambda.h5"])
def test_a_lambda_layer_runs_with_allow_code(name: str, framework_models: Path, tmp_path: Path) -> None:
    path, canary = framework_models / name, framework_models / "canary"
    canary.unlink(missing_ok=True)
    with Worker(OPEN, {"kind": "keras", "path": str(path), "allow_code": True}, log=tmp_path / "log") as worker:
        (taken,) = worker.description["inputs"]
        (given,) = worker({taken["name"]: np.ones((2, 8, 8, 1), np.float32)}).values()
    assert given.shape == (2, 10)
    assert canary.exists()


@pytest.mark.parametrize(
    ("name", "operation"),
    [("calls_python", "EagerPyFunc"), ("writes", "WriteFile"), ("reads", "ReadFile"), ("saves", "SaveV2"), ("saves_in_loop", "SaveV2")],
)  # fmt: skip
def test_graphs_that_run_python_or_touch_files_are_refused(
    name: str, operation: str, framework_models: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=f"operations that run code or touch files: .*{operation}") as error:
        _form(framework_models / name, tmp_path / "log")
    assert "--allow-code" in str(error.value.hint)
    assert check_keras(framework_models / name, allow_code=True) == "saved_model"


@pytest.mark.slow
def test_a_graph_that_writes_does_so_only_with_allow_code(framework_models: Path, tmp_path: Path) -> None:
    canary = framework_models / "graph_canary"
    canary.unlink(missing_ok=True)
    arguments = {"kind": "keras", "path": str(framework_models / "writes")}
    with pytest.raises(ModelError):
        Worker(OPEN, arguments | {"allow_code": False}, log=tmp_path / "log")
    assert not canary.exists()
    with Worker(OPEN, arguments | {"allow_code": True}, log=tmp_path / "log") as worker:
        worker({worker.description["inputs"][0]["name"]: np.ones((1, 8, 8, 1), np.float32)})
    assert canary.exists()


_LAYER = "a layer of the model"
_CODE: dict[str, Any] = {
    "lambda": {"module": "keras.layers", "class_name": "Lambda", "config": {}},
    "lambda, registered": {"module": None, "class_name": "x>Lambda", "config": {}},
    "wrapped torch module": {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {}},
    "saved model inside": {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/tmp"}},
    "byte code": {"class_name": "__lambda__", "config": {"value": ["x", None, None]}},
    "type of TensorFlow": {"class_name": "__typespec__", "spec_name": "x", "module": "os", "registered_name": "", "config": []},
    "other module": {"module": "os", "class_name": "system", "config": {"command": "true"}},
    "other module, capital": {"module": "subprocess", "class_name": "Popen", "config": {}},
    "other module, function": {"module": "os", "class_name": "function", "config": "system", "registered_name": "function"},
    "name like Keras": {"module": "keras_evil.layers", "class_name": "X", "config": {}},
    "name below Keras": {"module": "keras.layers", "class_name": "function", "config": "get_file", "registered_name": "x"},
    "utilities": {"module": "keras.utils", "class_name": "get_file", "config": {"origin": "http://localhost"}},
    "utilities, hidden": {"module": "keras.src.utils.file_utils", "class_name": "get_file", "config": {}},
    "utilities, dots": {"module": "keras..utils", "class_name": "Get_file", "config": {}},
    "loader": {"module": "keras.models", "class_name": "load_model", "config": {"filepath": "/tmp/x.keras"}},
    "loader, function": {"module": "keras.saving", "class_name": "function", "config": "load_model", "registered_name": None},
    "unsafe switch": {"module": "keras.config", "class_name": "enable_unsafe_deserialization", "config": {}},
    "built-in": {"module": "builtins", "class_name": "eval", "config": {}},
    "built-in, function": {
        "module": "builtins",
        "class_name": "function",
        "config": "os.system",
        "registered_name": "function",
    },
    "not a text": {"module": ["os"], "class_name": "X", "config": {}},
    "vocabulary file": {"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
}


def _planted(place: str, code: Any) -> Callable[[dict[str, Any]], None]:
    def plant(tree: dict[str, Any]) -> None:
        layer = tree["config"]["layers"][1]
        if place == _LAYER:
            tree["config"]["layers"].append({**code, "name": "planted", "inbound_nodes": []})
        elif place == "an argument of a layer":
            layer["config"]["activation"] = code
        elif place == "a list in an unusual key":
            layer["config"]["unheard_of"] = [[{"deep": [code]}]]
        elif place == "an inbound node":
            layer["inbound_nodes"][0]["kwargs"] = {"mask": code}
        elif place == "the build configuration":
            layer["build_config"] = {"input_shape": code}
        else:
            layer["compile_config"] = {"loss": code}

    return plant


_PLACES = [_LAYER, "an argument of a layer", "a list in an unusual key", "an inbound node", "the build configuration",
           "the compile configuration of a layer"]  # fmt: skip


def _rewritten(source: Path, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                tree = json.loads(content)
                change(tree)
                content = json.dumps(tree).encode()
            new.writestr(name, content)
    return path


@pytest.mark.parametrize("code", _CODE)
@pytest.mark.parametrize("place", _PLACES)
def test_code_in_a_keras_file_is_found_wherever_it_hides(place: str, code: str, framework_models: Path, tmp_path: Path) -> None:
    path = _rewritten(framework_models / "model.keras", tmp_path / "evil.keras", _planted(place, _CODE[code]))
    with pytest.raises(ModelError, match="holds code that would run when it is loaded") as error:
        check_keras(path, allow_code=False)
    assert "\n" not in error.value.message
    assert check_keras(path, allow_code=True) == "keras"


@pytest.mark.parametrize("code", _CODE)
def test_code_in_an_h5_file_is_found(code: str, framework_models: Path, tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "evil.h5"
    shutil.copy(framework_models / "model.h5", path)
    with h5py.File(path, "r+") as file:
        tree = json.loads(file.attrs["model_config"])
        _planted("a list in an unusual key", _CODE[code])(tree)
        file.attrs["model_config"] = json.dumps(tree)
    with pytest.raises(ModelError, match="holds code that would run"):
        check_keras(path, allow_code=False)


@pytest.mark.parametrize(
    "harmless",
    [
        {"module": "keras.activations", "class_name": "function", "config": "gelu", "registered_name": "gelu"},
        {"module": "builtins", "class_name": "function", "config": "relu", "registered_name": "function"},
        {"module": "keras.initializers", "class_name": "GlorotUniform", "config": {"seed": None}, "registered_name": None},
        {"module": "keras.src.ops.numpy", "class_name": "Add", "config": {"name": "add"}, "registered_name": "Add"},
        {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}, "registered_name": None},
        {"class_name": "__tensor__", "config": {"value": [1.0], "dtype": "float32"}},
        {"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": ["a", "b"]}},
    ],
)
@pytest.mark.parametrize("place", _PLACES)
def test_what_ordinary_models_hold_is_not_mistaken_for_code(
    place: str, harmless: dict[str, Any], framework_models: Path, tmp_path: Path
) -> None:
    path = _rewritten(framework_models / "model.keras", tmp_path / "fine.keras", _planted(place, harmless))
    assert check_keras(path, allow_code=False) == "keras"


def test_a_second_configuration_in_the_zip_is_refused(framework_models: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.keras"
    shutil.copy(framework_models / "lambda.keras", path)
    with (
        zipfile.ZipFile(framework_models / "model.keras") as good,
        zipfile.ZipFile(path, "a") as both,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        both.writestr("config.json", good.read("config.json"))
    with pytest.raises(ModelError, match="holds a file twice"):
        check_keras(path, allow_code=False)


def test_a_file_must_be_what_its_name_says(framework_models: Path, tmp_path: Path) -> None:
    """Keras goes by the name: a zip before an HDF5 file of 512 bytes in is both, and what is checked must be what is read."""
    both = tmp_path / "both.h5"
    with zipfile.ZipFile(framework_models / "model.keras") as good, zipfile.ZipFile(both, "w") as archive:
        archive.writestr("config.json", good.read("config.json"))
    with pytest.raises(ModelError, match="it is a zip archive, whatever its name says"):
        check_keras(both, allow_code=False)
    shutil.copy(framework_models / "model.h5", tmp_path / "h5.keras")
    with pytest.raises(ModelError, match="it is an HDF5 file, whatever its name says"):
        check_keras(tmp_path / "h5.keras", allow_code=False)
    (tmp_path / "x.keras").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match=r"x.keras is no .keras or .h5 file\n"):
        check_keras(tmp_path / "x.keras", allow_code=False)
    with pytest.raises(ModelError, match="is no SavedModel"):
        check_keras(tmp_path, allow_code=False)


@pytest.mark.parametrize("kind", ["external link", "external data", "virtual data", "link in the weights of a .keras"])
def test_hdf5_files_that_read_other_files_are_refused(kind: str, framework_models: Path, tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "evil.h5"
    if kind.startswith("link in"):
        with zipfile.ZipFile(framework_models / "model.keras") as good:
            path.write_bytes(good.read("model.weights.h5"))
    else:
        shutil.copy(framework_models / "model.h5", path)
    with h5py.File(path, "r+") as file:
        group = file.create_group("deep/down")
        if kind == "external data":
            group.create_dataset("x", (4,), "u1", external=[("/etc/passwd", 0, 4)])
        elif kind == "virtual data":
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource("/other.h5", "x", (4,))
            group.create_virtual_dataset("x", layout)
        else:
            group["x"] = h5py.ExternalLink("/other.h5", "/x")
        group["cycle"] = file["/"]  # and going round in circles must end
    if kind.startswith("link in"):
        with zipfile.ZipFile(framework_models / "model.keras") as old, zipfile.ZipFile(tmp_path / "evil.keras", "w") as new:
            for name in old.namelist():
                new.writestr(name, path.read_bytes() if name == "model.weights.h5" else old.read(name))
        path = tmp_path / "evil.keras"
    with pytest.raises(ModelError, match="reads 'x' from another file"):
        check_keras(path, allow_code=False)


def test_weights_without_a_model_say_so(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["x"] = [1.0]
    with pytest.raises(ModelError, match="holds weights only, no model"):
        check_keras(tmp_path / "w.h5", allow_code=False)


@pytest.mark.slow
def test_a_broken_saved_model_is_one_clear_line(framework_models: Path, tmp_path: Path) -> None:
    shutil.copytree(framework_models / "plain", tmp_path / "m")
    good = (tmp_path / "m" / "saved_model.pb").read_bytes()
    (tmp_path / "m" / "saved_model.pb").write_bytes(good[: len(good) // 2])
    with pytest.raises((ModelError, ExportError)) as error:
        Worker(OPEN, {"kind": "keras", "path": str(tmp_path / "m"), "allow_code": False}, log=tmp_path / "log")
    assert isinstance(error.value, EdgekdError)
    assert "\n" not in error.value.message
