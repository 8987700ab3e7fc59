"""Checks of model files before a runtime opens them: what such a file must not do is run code or read other files."""

from __future__ import annotations

import json
import os
import stat
import zipfile
import zlib
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
    "optimizers", "quantizers", "random", "regularizers", "engine",
})  # fmt: skip
"""Subpackages of Keras that hold what models are made of. Others, as ``keras.utils``, hold functions that do things."""
_KERAS_VALUES = frozenset(
    {"__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__", "__keras_tensor__", "__tuple__"}
)
"""Plain values in a Keras configuration."""
_KERAS_FILES = frozenset({"vocabulary", "idf_weights"})
"""Arguments of Keras layers that, given as text, are paths of files to read."""
_GRAPH_CODE = frozenset({
    "PyFunc", "PyFuncStateless", "EagerPyFunc", "ReadFile", "WriteFile", "MatchingFiles", "ReaderReadV2", "WholeFileReaderV2",
    "LMDBReader", "PrintV2", "SaveDataset", "SaveDatasetV2", "DatasetToTFRecord", "LoadDataset", "WriteSummary", "DeleteFile",
    "FixedLengthRecordReaderV2", "TextLineReaderV2", "TFRecordReaderV2", "FixedLengthRecordDatasetV2", "TextLineDataset",
    "TFRecordDataset", "CreateSummaryFileWriter", "DebugIdentityV2", "DebugIdentityV3",
})  # fmt: skip
"""TensorFlow operations that run Python or touch files."""
_GRAPH_SAVE = frozenset({"Save", "SaveV2", "SaveSlices", "MergeV2Checkpoints"})
"""TensorFlow operations that write files, and that every SavedModel has, for saving it again."""
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
        raise ModelError(f"{path} is no ONNX file: {str(error).strip()[:200] or type(error).__name__}",
                         "name a file made by an ONNX exporter") from None  # fmt: skip
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
    # Keras goes by the name, so a file must be what its name says: one file can be read as both.
    if start.startswith(b"PK") and path.suffix == ".keras":
        form, config = "keras", _zip_config(path)
    elif start == b"\x89HDF\r\n\x1a\n" and path.suffix in {".h5", ".hdf5"}:
        form, config = "h5", _h5_config(path)
    else:
        told = "a zip archive" if start.startswith(b"PK") else "an HDF5 file" if start.startswith(b"\x89HDF") else "neither"
        raise ModelError(
            f"{path} is no .keras or .h5 file" + (f": it is {told}, whatever its name says" if told != "neither" else ""),
            "save the model again with model.save('NAME.keras'), or give the file its right ending",
        )
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
            names = archive.namelist()
            if len(set(names)) != len(names):
                raise ModelError(f"{path} holds a file twice, so what is checked may not be what is loaded", "save it again")
            if "model.weights.h5" in names:
                _check_links(path, archive)
            if archive.getinfo("config.json").file_size > _MOST_CONFIG_BYTES:
                raise ModelError(f"{path}: its config.json is too large for a model's")
            return json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError, RuntimeError, zlib.error) as error:
        raise ModelError(f"{path} is a broken .keras file: {str(error)[:200]}", "copy or save it again") from None


def _h5_config(path: Path) -> Any:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            _no_links(path, file)
            text = file.attrs.get("model_config")
    # h5py raises many types on broken files, and on attributes of types it does not know.
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, MemoryError) as error:
        raise ModelError(f"{path} is a broken .h5 file: {str(error)[:200]}", "copy or save it again") from None
    if text is None:
        raise ModelError(f"{path} holds weights only, no model", "save the whole model: model.save('NAME.keras')")
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: its model_config is broken: {error}", "save the model again") from None


def _check_links(path: Path, archive: zipfile.ZipFile) -> None:
    import h5py

    with archive.open("model.weights.h5") as weights, h5py.File(weights, "r") as file:
        _no_links(path, file)


def _no_links(path: Path, file: Any) -> None:
    """Refuse an HDF5 file that keeps anything in other files: external links, external or virtual data sets."""
    import h5py

    stack = [file]
    seen = set()
    while stack:
        group = stack.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise ModelError(f"{path} reads '{name[:80]}' from another file ({link.filename[:80]})", "save it as one file")
            if isinstance(link, h5py.SoftLink):
                continue  # to what is in this file, and seen on its own
            each = group[name]
            if isinstance(each, h5py.Group):
                place = h5py.h5o.get_info(each.id).addr
                if place not in seen:
                    seen.add(place)
                    stack.append(each)
            elif isinstance(each, h5py.Dataset) and (each.external or each.is_virtual):
                raise ModelError(f"{path} reads '{name[:80]}' from another file", "save it as one file")


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
            if isinstance(name, str) and name.rpartition(">")[2] in _KERAS_CODE:
                yield f"a {name} layer" if name[0].isupper() else f"a {name}"
            elif name == "function" and (module not in {"keras.activations", "builtins"} or not _is_builtin(each)):
                yield f"the function {module}.{each.get('config')}"
            elif name == "function" or (isinstance(name, str) and name in _KERAS_VALUES):
                continue
            elif module is not None and not (isinstance(module, str) and _is_keras(module)):
                yield f"{module}.{name}"
            elif module is not None and "config" in each and not (isinstance(name, str) and name[:1].isupper()):
                yield f"the function {module}.{name}"  # classes are capitalised, and loading needs no other functions
            for argument in _KERAS_FILES & each.keys():
                if isinstance(each[argument], str):
                    yield f"a layer that reads the file {each[argument]}"


def _is_builtin(entry: dict[str, Any]) -> bool:
    """Whether a function is named as Keras names its own: by one word, that is no registered one of another package."""
    names = [each for each in (entry.get("config"), entry.get("registered_name")) if each is not None]
    return all(isinstance(each, str) and each.isidentifier() for each in names)


def _is_keras(module: str) -> bool:
    first, *rest = [part for part in module.split(".") if part not in {"src", "api"}] or [""]
    return first in {"keras", "tf_keras"} and (rest or [""])[0] in _KERAS_PARTS and "" not in rest


def _check_graph(path: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString((path / "saved_model.pb").read_bytes())
    except Exception as error:  # protobuf raises types of its own, which differ between its versions
        raise ModelError(f"{path / 'saved_model.pb'} is broken: {str(error)[:200]}", "save the model again") from None
    found = set()
    for meta in proto.meta_graphs:
        functions = {each.signature.name: list(each.node_def) for each in meta.graph_def.library.function}
        for nodes in (meta.graph_def.node, *functions.values()):
            found |= {node.op for node in nodes} & _GRAPH_CODE
        found |= _saved_by(meta, functions)
    if found:
        raise ModelError(
            f"{path} holds operations that run code or touch files: {', '.join(sorted(found))}",
            "if you trust where it comes from, run again with --allow-code",
        )


def _saved_by(meta: Any, functions: dict[str, Any]) -> set[str]:
    """Return the writing operations that loading or calling a SavedModel could run, and not only saving it again."""
    nodes = {node.name: node for node in meta.graph_def.node}
    outside = {id(node) for node in nodes.values()}
    asked = {tensor.name for signature in meta.signature_def.values() for tensor in signature.outputs.values()}
    asked |= {name for key in ("saved_model_main_op", "legacy_init_op", "saved_model_init_op") if key in meta.collection_def
              for name in meta.collection_def[key].node_list.value}  # fmt: skip
    stack: list[Any] = [nodes[name] for name in map(_node_name, asked) if name in nodes]
    stack += [node for name in meta.object_graph_def.concrete_functions for node in functions.get(name, ())]
    found, seen = set(), {id(node) for node in stack}
    while stack:
        node = stack.pop()
        found |= {node.op} & _GRAPH_SAVE
        names = {each.func.name for each in node.attr.values()}
        names |= {each.name for value in node.attr.values() for each in value.list.func}
        # A function may also be called by its name alone, as an operation.
        more = [each for name in {*names, node.op} for each in functions.get(name, ())]
        if id(node) in outside:  # inside a function, inputs are its own nodes, and all of those are seen
            more += [nodes[name] for name in map(_node_name, node.input) if name in nodes]
        for each in more:
            if id(each) not in seen:
                seen.add(id(each))
                stack.append(each)
    return found


def _node_name(tensor: str) -> str:
    """Return the node of a tensor or control input: ``^node``, ``node:0``."""
    return tensor.lstrip("^").partition(":")[0]


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
