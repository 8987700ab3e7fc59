"""Where networks of the zoo are rounded. That the int8 files round there, too, is tested with a real run of QAT."""

import math

import numpy as np
import torch

from edgekd.models.spec import build
from edgekd.models.trace import trace
from edgekd.quantize.qat.graph import (
    QUANTIZERS,
    find_rounding,
    put_in_fake_quantizers,
    quantizers_of,
    rounded_weights,
    values_at,
)
from tests.models.zoo_specs import random_inputs, spec_for


def test_batch_norm_and_relu_are_rounded_with_what_is_before_them() -> None:
    spec = spec_for("resnet8")
    model = build(spec)
    found = find_rounding(trace(model, spec))
    assert [each.name for each in found.values] == [
        "image", "relu_", "relu__1", "batch_norm_2", "relu__2", "relu__3", "batch_norm_4", "conv2d_5", "relu__4", "relu__5",
        "batch_norm_6", "conv2d_8", "relu__6", "mean", "linear",
    ]  # fmt: skip
    weights = {name for name, each in model.named_parameters() if each.ndim > 1}
    assert {each.name for each in found.weights} == weights
    assert all(each.ceiling == math.inf for each in found.values)


def test_relu6_is_a_ceiling() -> None:
    spec = spec_for("mobilenet_v1", arguments={"width": 0.25})
    ceilings = {each.name: each.ceiling for each in find_rounding(trace(build(spec), spec)).values}
    assert {ceiling for name, ceiling in ceilings.items() if not math.isinf(ceiling)} == {6.0}
    assert sum(ceiling == 6 for ceiling in ceilings.values()) == 27
    assert math.isinf(ceilings["linear"])


def test_nothing_is_rounded_before_a_logarithm() -> None:
    spec = spec_for("ds_cnn")
    names = [each.name for each in find_rounding(trace(build(spec), spec)).values]
    assert names == [
        "log",
        "batch_norm",
        *(f"relu_{suffix}" for suffix in ["", *(f"_{i}" for i in range(1, 9))]),
        "mean",
        "linear",
    ]


def test_the_network_rounds_and_learns() -> None:
    spec = spec_for("shallow_cnn")
    model = build(spec)
    graph = trace(model, spec)
    rounding = find_rounding(graph)
    (image,) = random_inputs(spec, 6).values()
    exact = model(image)
    seen = values_at(graph, [each.name for each in rounding.values], (image,))
    assert torch.equal(seen["linear"], exact)
    ranges = {name: (each.min().item(), each.max().item()) for name, each in seen.items()}
    put_in_fake_quantizers(graph, rounding, ranges)
    rounded = graph(image)
    step = (ranges["linear"][1] - ranges["linear"][0]) / 255
    assert len(np.unique(rounded.detach().numpy())) <= 256
    assert 0 < (rounded - exact).abs().max() < 20 * step
    rounded.square().sum().backward()
    trained = {name: each for name, each in graph.named_parameters() if each.requires_grad}
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in trained.values())
    assert {name for name, _ in graph.named_parameters()} - set(trained) == {f"features.{i}.1.weight" for i in range(3)}
    assert set(model.state_dict()) == {name for name in graph.state_dict() if not name.startswith(QUANTIZERS)}
    assert list(quantizers_of(graph)) == [each.name for each in rounding.values]
    for name, weight in rounded_weights(graph).items():
        assert len(np.unique(weight[0].numpy())) <= 255
        assert (weight - model.get_parameter(name)).abs().max() > 0
