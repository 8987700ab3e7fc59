"""Checks of model files before a runtime opens them: what such a file must not do is run code or read other files."""

from __future__ import annotations

import json
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekd.errors import ModelError, UsageError

_KERAS_CODE = frozenset({
    "Lambda", "__lambda__", "TorchModuleWrapper", "FlaxLayer", "JaxLayer", "TFSMLayer", "__typespec__",
})  # fmt: skip
"""Classes of a Keras configuration that carry or load code."""
_KERAS_PARTS = frozenset({
    "", "activations", "constraints", "dtype_policies", "initializers", "layers", "losses", "metrics", "models", "ops",
    "optimizers", "quantizers", "random", "regularizers", "engine", "backend",
})  # fmt: skip
"""Subpackages of Keras that hold what models are made of. Others, as ``keras.utils``, hold functions that do things."""
_GRAPH_CODE = frozenset({
    "PyFunc", "PyFuncStateless", "EagerPyFunc", "ReadFile", "WriteFile", "MatchingFiles", "ReaderReadV2", "WholeFileReaderV2",
    "LMDBReader", "PrintV2", "SaveDataset", "SaveDatasetV2",
})  # fmt: skip
"""TensorFlow operations that run Python or touch files. Saving and restoring variables is not among them."""
_MOST_CONFIG_BYTES = 256 << 20


def check_onnx(path: Path) -> int:
    """Check where an ONNX file keeps its weights, and return the bytes of all its files.

    ONNX Runtime opens whatever the file names, through links too. Allowed are plain files below the
    model's folder, reached through no link, soft or hard.

    Raises:
        ModelError: It is no ONNX file, or its external data is elsewhere.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises types of its own, which differ between its versions
        raise ModelError(f"{path} is no ONNX file: {str(error).strip()[:200] or type(error).__name__}") from None
    if not model.graph.node:
        raise ModelError(f"{path} is no ONNX model: it has no operations", "export it again")
    locations = {
        entry.value for tensor in _onnx_tensors(model) for entry in tensor.external_data if entry.key == "location"
    }  # fmt: skip
    return path.stat().st_size + sum(_contained(path, location) for location in sorted(locations))


def _onnx_tensors(message: Any) -> Iterator[Any]:
    """Yield every tensor anywhere in a protobuf message: weights, attributes, subgraphs, functions."""
    import onnx

    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for each in [value] if hasattr(value, "ListFields") else value:
            if isinstance(each, onnx.TensorProto):
                yield each
            elif hasattr(each, "ListFields"):
                yield from _onnx_tensors(each)


def _contained(model: Path, location: str) -> int:
    """Return the size of the external file ``location`` of ``model``; refuse one that is not inside its folder."""
    folder = model.parent
    where = f"{model} keeps weights in '{location[:200]}'"
    mend = "put the weights beside the model as plain files, or save it as one file"
    parts = Path(location).parts
    if not parts or Path(location).is_absolute() or ".." in parts or "\0" in location or "\\" in location:
        raise ModelError(f"{where}, outside its folder", mend)
    step = folder
    for part in parts:
        step = step / part
        try:
            status = step.lstat()
        except OSError as error:
            raise ModelError(f"{where}, which cannot be read: {error.strerror}", mend) from None
        if stat.S_ISLNK(status.st_mode):
            raise ModelError(f"{where}, behind a link", mend)
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{where}, which is no file", mend)
    if status.st_nlink > 1:
        raise ModelError(f"{where}, a file with {status.st_nlink} hard links, so it may lie elsewhere as well", mend)
    return status.st_size


def check_keras(path: Path, allow_code: bool) -> str:
    """Check a Keras model and return which of its three forms it has: ``keras``, ``h5`` or ``saved_model``.

    Raises:
        ModelError: It is none of them, or holds code and ``allow_code`` is false.
    """
    if path.is_dir():
        if not (path / "saved_model.pb").is_file():
            raise ModelError(f"{path} is no SavedModel: it has no saved_model.pb", "name a .keras, .h5 or SavedModel folder")
        if not allow_code:
            _check_graph(path)
        return "saved_model"
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(b"PK"):
        form, config = "keras", _zip_config(path)
    elif start == b"\x89HDF\r\n\x1a\n":
        form, config = "h5", _h5_config(path)
    else:
        raise ModelError(f"{path} is neither a .keras nor an .h5 file", "save the model again with model.save('NAME.keras')")
    if not allow_code:
        found = sorted(set(_code_in(config)))
        if found:
            raise ModelError(
                f"{path} holds code that would run when it is loaded: {', '.join(found)[:300]}",
                "if you trust where it comes from, run again with --allow-code",
            )
    return form


def _zip_config(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("config.json").file_size > _MOST_CONFIG_BYTES:
                raise ModelError(f"{path}: its config.json is too large for a model's")
            return json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError) as error:
        raise ModelError(f"{path} is a broken .keras file: {error}", "copy or save it again") from None


def _h5_config(path: Path) -> Any:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
    except OSError as error:
        raise ModelError(f"{path} is a broken .h5 file: {str(error)[:200]}", "copy or save it again") from None
    if text is None:
        raise ModelError(f"{path} holds weights only, no model", "save the whole model: model.save('NAME.keras')")
    try:
        return json.loads(text)
    except ValueError as error:
        raise ModelError(f"{path}: its model_config is broken: {error}", "save the model again") from None


def _code_in(config: Any) -> Iterator[str]:
    """Yield what in a Keras configuration names code: lambdas, wrapped modules, and anything outside Keras."""
    stack = [config]
    while stack:
        each = stack.pop()
        if isinstance(each, list):
            stack += each
        elif isinstance(each, dict):
            stack += each.values()
            name, module = each.get("class_name"), each.get("module")
            if isinstance(name, str) and name in _KERAS_CODE:
                yield f"a {name} layer" if name[0].isupper() else f"a {name}"
            elif isinstance(module, str) and not _is_keras(module):
                yield f"{module}.{name}"
            elif name == "function" and module != "keras.activations":
                yield f"the function {each.get('config')}"


def _is_keras(module: str) -> bool:
    first, *rest = [part for part in module.split(".") if part not in {"src", "api"}]
    return first in {"keras", "tf_keras"} and (rest or [""])[0] in _KERAS_PARTS


def _check_graph(path: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString((path / "saved_model.pb").read_bytes())
    except Exception as error:  # protobuf raises types of its own, which differ between its versions
        raise ModelError(f"{path / 'saved_model.pb'} is broken: {str(error)[:200]}", "save the model again") from None
    found = set()
    for graph in (meta.graph_def for meta in proto.meta_graphs):
        for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
            found |= {node.op for node in nodes} & _GRAPH_CODE
    if found:
        raise ModelError(
            f"{path} holds operations that run code or touch files: {', '.join(sorted(found))}",
            "if you trust where it comes from, run again with --allow-code",
        )


def folder_bytes(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(Path(root, name).stat().st_size for root, _, names in os.walk(path) for name in names)


def check_tflite(path: Path) -> None:
    """Check that a file is a TFLite flatbuffer.

    Raises:
        ModelError: It is not.
    """
    with path.open("rb") as file:
        start = file.read(8)
    if start[4:8] != b"TFL3":
        raise ModelError(f"{path} is no TFLite file", "name a file made by a TFLite converter")


def check_file(path: Path) -> None:
    """Check that ``path`` is a file with something in it.

    Raises:
        UsageError: It is a folder, or empty.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not a file", "name the model file in it")
    if path.stat().st_size == 0:
        raise UsageError(f"{path} is empty", "copy or save it again")
