"""A network as a graph of PyTorch operators, in which operators can be found, looked at and put in."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from edgekd.errors import ModelError
from edgekd.models.spec import example_inputs
from edgekd.models.tensors import ModelSpec


def trace(model: nn.Module, spec: ModelSpec) -> GraphModule:
    """Return ``model`` in evaluation mode as a graph, for any batch size.

    The graph holds the very parameters of ``model``, under the same names. Dropout is gone from it, and batch norm keeps its
    running statistics whatever mode the graph is in.

    Raises:
        ModelError: What the network computes depends on the numbers that it is given, so that it is no graph.
    """
    # An example batch of 2, because torch.export bakes a dimension of 1 into the graph.
    inputs = tuple(example_inputs(spec, batch=2).values())
    shapes: tuple[Any, ...] = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    if any(each.kind is each.VAR_POSITIONAL for each in inspect.signature(model.forward).parameters.values()):
        shapes = (shapes,)  # forward(*inputs) is one parameter
    try:
        program = torch.export.export(model.eval(), inputs, dynamic_shapes=shapes, strict=False)
    except (RuntimeError, ValueError, TypeError, torch._dynamo.exc.UserError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{spec.reference} cannot be written down as a graph: {first}",
            "its forward must do the same whatever the numbers are: no `if` on a tensor, no .item()",
        ) from error
    exported = program.module(check_guards=False)
    assert isinstance(exported, GraphModule)
    return GraphModule(exported, exported.graph)  # a plain one: exported ones refuse train() and eval()


def constant_name(node: Any) -> str | None:
    """Return the name of the parameter or buffer that a node of a graph stands for; ``None`` if it stands for none."""
    return str(node.target) if isinstance(node, Node) and node.op == "get_attr" else None


def argument(node: Node, index: int, name: str) -> Any:
    """Return an argument of an operator, given by position or by name; ``None`` if it is left out."""
    return node.args[index] if index < len(node.args) else node.kwargs.get(name)
