"""An ``.ort`` file in order says the same as before, and the same whatever order ONNX Runtime wrote it in."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgekd.export import ort_order
from edgekd.export.ort_order import in_order
from edgekd.report.report import Report


@pytest.fixture(scope="module")
def plain(finished: Report, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file as ONNX Runtime writes it in this process."""
    path = tmp_path_factory.mktemp("ort") / "plain.ort"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(finished.path("onnx-fp32"), options, providers=["CPUExecutionProvider"])
    return path.read_bytes()


def _said(content: bytes) -> tuple[Any, Any]:
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    session = InferenceSession.GetRootAsInferenceSession(content, 0)
    graph = session.Model().Graph()
    nodes = [(graph.Nodes(index).OpType(), graph.Nodes(index).Name()) for index in range(graph.NodesLength())]
    return ort_order._constraints(session.KernelTypeStrResolver())[0], (session.OrtVersion(), nodes)


def test_the_file_in_order_says_the_same_and_computes_the_same(plain: bytes) -> None:
    ordered = in_order(plain)
    assert _said(ordered) == _said(plain)
    assert len(_said(plain)[0]) > 1
    image = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    results = []
    for content in (plain, ordered):
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        results.append(session.run(None, {session.get_inputs()[0].name: image})[0])
    np.testing.assert_array_equal(*results)


def test_every_order_gives_the_same_bytes(plain: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    ordered, sorted_constraints = in_order(plain), ort_order._constraints

    def reversed_constraints(resolver: Any) -> Any:
        operators, last = sorted_constraints(resolver)
        return [(name, own[::-1]) for name, own in operators[::-1]], last

    with monkeypatch.context() as patch:
        patch.setattr(ort_order, "_constraints", reversed_constraints)
        other = in_order(plain)
    assert other != ordered
    assert in_order(other) == ordered
    assert in_order(ordered) == ordered


def test_a_file_without_type_constraints_is_an_error() -> None:
    import flatbuffers

    builder = flatbuffers.Builder(0)
    builder.StartObject(3)
    builder.Finish(builder.EndObject(), file_identifier=b"ORTM")
    with pytest.raises(ValueError, match="no model or no type constraints"):
        in_order(bytes(builder.Output()))


def test_the_file_in_order_lies_where_phones_read_it(plain: bytes, tmp_path: Path) -> None:
    """ONNX Runtime can map the file and use weights in place, which must then be aligned."""
    path = tmp_path / "ordered.ort"
    path.write_bytes(in_order(plain))
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_ort_model_bytes_directly", "1")
    options.add_session_config_entry("session.use_ort_model_bytes_for_initializers", "1")
    content = path.read_bytes()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    assert session.run(None, {session.get_inputs()[0].name: np.zeros((1, 1, 8, 8), np.float32)})[0].shape == (1, 10)
