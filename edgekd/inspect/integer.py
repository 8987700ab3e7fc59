"""Read a QDQ graph as a runtime does: operators between DequantizeLinear and QuantizeLinear compute on integers.

ONNX writes an int8 network as a float one with a pair of QuantizeLinear and DequantizeLinear around each operator. The
runtimes that know this form run an operator with its pairs as one integer operator, which neither takes nor makes floats.
An operator is fused when all of its real-valued inputs come from DequantizeLinear, one of them an activation, and each of
its outputs goes to one QuantizeLinear alone.
"""

from __future__ import annotations

from dataclasses import replace

from edgekd.inspect.graph import GraphDescription, OperatorDescription

QUANTIZERS = frozenset({"QuantizeLinear", "QUANTIZE"})
DEQUANTIZERS = frozenset({"DequantizeLinear", "DEQUANTIZE"})


def fuse(graph: GraphDescription) -> GraphDescription:
    """Return ``graph`` with its quantized operators fused; one of TFLite, which stores them so, is returned as it is."""
    if graph.format == "tflite":
        return graph
    made_by = {name: operator for operator in graph.operators for name in operator.outputs if name}
    read_by = graph.consumers()
    operators = [_fused(operator, graph, made_by, read_by) for operator in graph.operators]
    needed = {name for operator in operators for name in operator.inputs} | set(graph.outputs)
    made = {name for operator in operators if operator.kind not in QUANTIZERS for name in operator.outputs}
    kept: list[OperatorDescription] = []
    for operator in reversed(operators):
        output = operator.outputs[0] if operator.outputs else ""
        if operator.kind in QUANTIZERS and output in made:
            continue  # what it makes, the operator before it makes now
        if operator.kind in DEQUANTIZERS and output not in needed:
            continue
        kept.append(operator)
    return replace(graph, operators=tuple(kept[::-1]))


def _fused(
    operator: OperatorDescription, graph: GraphDescription, made_by: dict[str, OperatorDescription],
    read_by: dict[str, list[OperatorDescription]],
) -> OperatorDescription:  # fmt: skip
    if operator.kind in QUANTIZERS | DEQUANTIZERS or graph.is_folded(operator):
        return operator
    inputs, activations = [], 0
    for name in operator.inputs:
        source = made_by.get(name)
        if source is not None and source.kind in DEQUANTIZERS:
            inputs.append(source.inputs[0])
            activations += graph.tensors[name].role == "activation"
        elif name and "float" in graph.tensors[name].dtype and graph.tensors[name].role == "activation":
            return operator
        else:
            inputs.append(name)
    if not activations:
        return operator
    outputs = []
    for name in operator.outputs:
        readers = read_by.get(name, [])
        if name in graph.outputs or len(readers) > 1 or any(each.kind not in QUANTIZERS for each in readers):
            return operator
        outputs.append(readers[0].outputs[0] if readers else name)
    return (
        replace(operator, inputs=tuple(inputs), outputs=tuple(outputs))
        if any(read_by.get(n) for n in operator.outputs)
        else operator
    )
