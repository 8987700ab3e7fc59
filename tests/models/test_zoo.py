"""The zoo: published parameter and MAC counts, and what holds for every network of it."""

import csv
import importlib
import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgekd.errors import ModelError
from edgekd.models.catalog import ZOO
from edgekd.models.spec import build, call, cost, load, save_weights
from edgekd.models.tensors import TensorSpec, classifier, image_input, spec_from_json
from tests.models.other_networks import params
from tests.models.zoo_specs import random_inputs, spec_for

IMAGE_NETWORKS = [name for name, entry in ZOO.items() if entry.inputs == "image"]
IMAGENET_NETWORKS = [
    "resnet18", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_lite0",
]  # fmt: skip
LITE = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2), 3: (1.2, 1.4), 4: (1.4, 1.8)}
"""Width and depth of each EfficientNet-Lite, from its reference code."""


def _factory(name: str) -> Callable[..., torch.nn.Module]:
    module, _, function = ZOO[name].factory.partition(":")
    found: Callable[..., torch.nn.Module] = getattr(importlib.import_module(module), function)
    return found


def _counts(name: str, size: int, classes: int, **arguments: Any) -> tuple[int, int, int]:
    """Return parameters, weights (without biases and batch norm) and MACs on RGB images, without computing anything."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = _factory(name)(3, classes, **arguments).eval()
        model(torch.zeros(1, 3, size, size))
    weights = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)
    return params(model), weights, counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("name", "inputs", "classes", "counted", "macs"),
    [
        # MLPerf Tiny: 78,666 with 2 x 240 batch-norm statistics; 12.5 M MACs.
        ("resnet8", image_input((32, 32, 3), (0.0,) * 3, (1.0,) * 3), 10, 78_666 - 480, 12.5e6),
        # He et al., 2016, Table 6: 0.27 M and 0.85 M parameters.
        ("resnet20", image_input((32, 32, 3), (0.0,) * 3, (1.0,) * 3), 10, 269_722, 40.6e6),
        ("resnet56", image_input((32, 32, 3), (0.0,) * 3, (1.0,) * 3), 10, 853_018, 125.5e6),
        # torchvision's documentation: num_params, and GFLOPS, which are MACs there.
        ("resnet18", image_input((224, 224, 3), (0.0,) * 3, (1.0,) * 3), 1000, 11_689_512, 1.814e9),
        ("mobilenet_v2", image_input((224, 224, 3), (0.0,) * 3, (1.0,) * 3), 1000, 3_504_872, 0.3008e9),
        ("mobilenet_v3_large", image_input((224, 224, 3), (0.0,) * 3, (1.0,) * 3), 1000, 5_483_032, 0.2166e9),
        ("mobilenet_v3_small", image_input((224, 224, 3), (0.0,) * 3, (1.0,) * 3), 1000, 2_542_856, 0.0565e9),
        # Howard et al., 2017, Table 4: 569 M and 4.2 M; Keras counts 4,231,976 trained ones.
        ("mobilenet_v1", image_input((224, 224, 3), (0.0,) * 3, (1.0,) * 3), 1000, 4_231_976, 569e6),
        # Published: 4.7 M and 407 M, which counts more than convolutions and matrix products: 385 M of them.
        ("efficientnet_lite0", image_input((224, 224, 3), (0.0,) * 3, (1.0,) * 3), 1000, 4_652_008, 385.2e6),
        # Ours: by arithmetic on what their docstrings say.
        ("shallow_cnn", image_input((8, 8, 1), (0.0,), (1.0,)), 10, 5_026, 64 * 9 * 8 + 16 * 9 * (8 * 16 + 16 * 24) + 240),
        ("digits_teacher", image_input((8, 8, 1), (0.0,), (1.0,)), 10, 288_170,
         9 * (64 * (32 + 32 * 32) + 16 * (32 * 64 + 64 * 64) + 4 * (64 * 128 + 128 * 128)) + 1280),
        ("mlp", TensorSpec("features", "float32", (64,), "NC", "features"), 10, 64 * 64 * 2 + 640 + 138, 64 * 64 * 2 + 640),
    ],
)  # fmt: skip
def test_costs_are_the_published_ones(name: str, inputs: TensorSpec, classes: int, counted: int, macs: float) -> None:
    spec = classifier(f"zoo:{name}", (inputs,), tuple(map(str, range(classes))))
    found = cost(build(spec), spec)
    assert found.params == counted
    assert found.macs == pytest.approx(macs, rel=0.002)
    text = inspect.getdoc(_factory(name)) or ""
    assert f"{counted:,} parameters" in text or f"{counted:,} trained parameters" in text
    said = re.search(r"([\d.,]+)( k| M| G)? MACs", text)
    assert said is not None
    exact = float(said[1].replace(",", "")) * {None: 1, " k": 1e3, " M": 1e6, " G": 1e9}[said[2]]
    assert exact == pytest.approx(macs, rel=0.01)


def test_the_text_network_costs_what_its_docstring_says() -> None:
    tokens = TensorSpec("input_ids", "int32", (128,), "NC", "tokens", vocabulary=30_522)
    spec = classifier(
        "zoo:tiny_transformer", (tokens, TensorSpec("attention_mask", "int32", (128,), "NC", "mask")), ("no", "yes"),
        {"positions": 512},
    )  # fmt: skip
    found = cost(build(spec), spec)
    layer = 128 * (4 * 128 * 128 + 2 * 128 * 512) + 2 * 128 * 128 * 128
    assert found.macs == 2 * layer + 128 * 128 + 2 * 128 == pytest.approx(58.7e6, rel=0.002)
    assert found.params is not None
    assert found.params - (2 * 128 + 2) == 4_385_920
    text = inspect.getdoc(_factory("tiny_transformer")) or ""
    assert "4,385,920 parameters" in text
    assert "58.7 M MACs" in text


@pytest.mark.parametrize(
    ("name", "width", "counted", "macs", "rounding"),
    [
        # Howard et al., 2017, Table 6.
        ("mobilenet_v1", 0.75, 2.6e6, 325e6, 0.05e6), ("mobilenet_v1", 0.5, 1.3e6, 149e6, 0.05e6),
        ("mobilenet_v1", 0.25, 0.5e6, 41e6, 0.05e6),
        # The table of the reference code of MobileNetV2, whose MACs are those of 1,001 classes.
        ("mobilenet_v2", 1.4, 6.06e6, 582e6, 0.06e6), ("mobilenet_v2", 0.75, 2.61e6, 209e6, 0.03e6),
        ("mobilenet_v2", 0.5, 1.95e6, 97e6, 0.03e6), ("mobilenet_v2", 0.35, 1.66e6, 59e6, 0.03e6),
        # Howard et al., 2019, Tables 3 and 4.
        ("mobilenet_v3_large", 0.75, 4.0e6, 155e6, 0.05e6), ("mobilenet_v3_small", 0.75, 2.0e6, 44e6, 0.05e6),
    ],
)  # fmt: skip
def test_narrow_networks_cost_what_their_papers_say(
    name: str, width: float, counted: float, macs: float, rounding: float
) -> None:
    found, _, multiplied = _counts(name, 224, 1000, width=width)
    assert found == pytest.approx(counted, abs=rounding)
    assert multiplied == pytest.approx(macs, rel=0.015)


@pytest.mark.slow
def test_macs_are_those_of_an_independent_table() -> None:
    """Every width and resolution of MobileNetV1 and V2, V3 at full width, and EfficientNet-Lite0 to Lite4: to the last MAC."""
    folder = os.environ.get("EDGEKD_DATA")
    table = Path(folder or ".", "devices", "mobilenet_grid_macs.csv")
    if folder is None or not table.exists():
        pytest.skip("EDGEKD_DATA names no folder with devices/mobilenet_grid_macs.csv")
    compared = 0
    for row in csv.DictReader(table.open()):
        size = int(row["input"].partition("x")[0])
        mobile = re.fullmatch(r"(mobilenet_v[12]|mobilenet_v3_(?:large|small)(?=_1\.0))_([\d.]+)", row["model"])
        lite = re.fullmatch(r"efficientnet_lite(\d)", row["model"])
        if mobile:
            _, weights, macs = _counts(mobile[1], size, 1001, width=float(mobile[2]))
        elif lite:
            width, depth = LITE[int(lite[1])]
            _, weights, macs = _counts("efficientnet_lite0", size, 1000, width=width, depth=depth)
        else:
            continue  # V3 without squeeze-and-excite, and V3 at widths where the table rounds otherwise than Google does
        assert (row["model"], weights, macs) == (row["model"], int(row["params"]), int(row["macs_total"]))
        compared += 1
    assert compared >= 45


@pytest.mark.parametrize("name", ZOO)
def test_every_network_builds_saves_and_loads_to_the_same_outputs(name: str, tmp_path: Path) -> None:
    spec = spec_for(name)
    torch.manual_seed(0)
    model = build(spec)
    save_weights(model, tmp_path / "weights.safetensors")
    again = load(spec_from_json(spec.to_json()), tmp_path / "weights.safetensors")
    inputs = random_inputs(spec, 4)
    first, second = call(model, spec, inputs)["logits"], call(again, spec, inputs)["logits"]
    assert first.shape == (4, 3)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ZOO)
def test_every_network_learns(name: str) -> None:
    """A few steps on 24 samples lower the loss, and every parameter has a gradient."""
    spec = spec_for(name, arguments={"width": 0.5, **({"dropout": 0.0} if name == "tiny_transformer" else {})})
    torch.manual_seed(0)
    model = build(spec).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    inputs, labels = random_inputs(spec, 24), torch.arange(24) % 3
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(call(model, spec, inputs)["logits"], labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", ZOO)
def test_every_network_takes_a_width(name: str) -> None:
    narrow, full, wide = (params(build(spec_for(name, arguments={"width": width}))) for width in (0.5, 1.0, 1.5))
    assert full == params(build(spec_for(name)))
    assert narrow < 0.75 * full
    assert wide > 1.3 * full


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("width", [0, -1, float("nan"), 1e30, "half", True])
def test_a_width_that_is_none_is_one_clear_line(name: str, width: Any) -> None:
    with pytest.raises(ModelError, match=rf"zoo:{name} cannot be built: width is .*, allowed: a number above 0") as caught:
        build(spec_for(name, arguments={"width": width}))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_the_narrowest_networks_still_work(name: str) -> None:
    assert call(build(spec_for(name, arguments={"width": 0.01})), spec_for(name), random_inputs(spec_for(name), 2))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mobilenet_v2", {"stem_stride": 0}, "stem_stride is 0, allowed: a whole number from 1"),
        ("resnet18", {"stem_stride": 1.5}, "stem_stride is 1.5, allowed: a whole number"),
        ("efficientnet_lite0", {"depth": -1}, "depth is -1, allowed: a number above 0"),
        ("tiny_transformer", {"heads": 3}, "hidden is 128, allowed: a multiple of 3 heads"),
        ("tiny_transformer", {"layers": 0}, "layers is 0, allowed: a whole number from 1"),
        ("tiny_transformer", {"dropout": 1.5}, "dropout is 1.5, allowed: a number from 0"),
        ("mlp", {"hidden": "wide"}, "hidden is 'wide', allowed: a whole number"),
        ("mlp", {"layers": -1}, "layers is -1, allowed: a whole number from 0"),
        ("resnet8", {"depth": 2}, "cannot take these arguments: .*'depth'"),
    ],
)
def test_other_arguments_out_of_range_are_one_clear_line(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(spec_for(name, arguments=arguments))


@pytest.mark.parametrize("name", IMAGENET_NETWORKS)
def test_a_stem_stride_of_one_doubles_the_maps_of_small_images_and_keeps_the_weights(name: str) -> None:
    sizes = {}
    for stride in (1, 2):
        model = build(spec_for(name, arguments={"stem_stride": stride}))
        maps: list[torch.Size] = []
        final = model.get_submodule("stages" if name == "resnet18" else "blocks")
        final.register_forward_hook(lambda _, __, output, maps=maps: maps.append(output.shape[2:]))
        model(torch.zeros(1, 3, 32, 32))
        sizes[stride] = maps[0]
    assert sizes == {1: torch.Size([2, 2]), 2: torch.Size([1, 1])}
    model.load_state_dict(build(spec_for(name, arguments={"stem_stride": 1})).state_dict(), strict=True)


@pytest.mark.parametrize("name", ZOO)
def test_every_factory_has_a_docstring_and_every_summary_is_one_line(name: str) -> None:
    text = inspect.getdoc(_factory(name)) or ""
    assert re.search(r"\([A-Z][^)]*\b(19|20)\d\d|edgekd's own", text)  # its paper
    assert re.search(r"\d parameters", text) or "trained parameters" in text
    assert re.search(r"\d( k| M| G)? MACs", text)
    assert re.search(r"\d( k| M)? parameters", ZOO[name].summary)
    assert "\n" not in ZOO[name].summary
    assert len(ZOO[name].summary) <= 100


def test_a_network_that_gives_other_outputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.models.cnn.shallow_cnn", lambda channels, classes: torch.nn.Flatten())
    with pytest.raises(ModelError, match=r"shape \(3072,\), expected \(10,\)"):
        build(spec_for("shallow_cnn", 10))
