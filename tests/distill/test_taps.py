"""Taps against outputs computed by hand, and against everything a training does to a network meanwhile."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgekd.distill.taps import Taps
from edgekd.errors import ModelError
from tests.distill.networks import TEXT, image_inputs, images, network, texts


def test_taps_keep_outputs_and_inputs_and_change_nothing() -> None:
    found = network("resnet20", image_inputs())
    module, image = found.module, images()["image"]
    expected = module(image)
    inside = dict(module.named_modules())
    stem = torch.relu(inside["bn"](inside["conv"](image)))
    stages = list(inside["stages"].children())
    maps = stem
    for stage in stages[:6]:
        maps = stage(maps)
    vector = nn.Sequential(*stages[6:])(maps).mean((2, 3))
    taps = Taps(module, ["stages.5", "classifier:input", ":input"])
    assert torch.equal(module(image), expected)
    seen = taps.take()
    assert torch.equal(seen["stages.5"], maps)
    assert torch.equal(seen["classifier:input"], vector)
    assert seen[":input"] is image


@pytest.mark.parametrize("name", ["1", "2:input"])
def test_an_activation_in_place_changes_nothing_that_was_seen(name: str) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).eval()
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    before = module[1](module[0](x)).detach()
    taps = Taps(module, [name])
    after = module(x)
    assert (before < 0).any()
    assert torch.equal(taps.take()[name], before)
    assert torch.equal(after, before.clamp_min(0))


def test_gradients_of_all_that_follows_pass_what_is_kept() -> None:
    found = network("resnet8", image_inputs())
    taps = Taps(found.module, ["stages.1", "classifier:input"])
    logits = found.run(images())
    seen = taps.take()
    for value in seen.values():
        (gradient,) = torch.autograd.grad(logits.square().sum(), value, retain_graph=True)
        assert gradient.abs().sum() > 0
    # The classifier is linear: the gradient at its input is 2 z W.
    weight = found.module.get_submodule("classifier").weight
    assert torch.allclose(gradient, 2 * logits @ weight, atol=1e-5)  # type: ignore[operator]


def test_the_mask_is_the_second_input_of_a_text_network() -> None:
    found, batch = network("tiny_transformer", TEXT), texts()
    taps = Taps(found.module, [":input1"])
    found.run(batch)
    assert taps.take()[":input1"] is batch["attention_mask"]


def test_the_first_tensor_of_a_tuple() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, str, Tensor]:
            return x + 1, "kept", x + 2

    module = nn.Sequential(Both())
    taps = Taps(module, ["0"])
    first, word, second = module(torch.zeros(2))
    assert (first.tolist(), word, second.tolist()) == ([1, 1], "kept", [2, 2])
    assert taps.take()["0"].tolist() == [1, 1]


def test_taking_forgets_and_a_silent_module_is_an_error() -> None:
    found = network("resnet8", image_inputs())
    taps = Taps(found.module, ["stages.0"])
    with pytest.raises(ModelError, match=r"stages\.0 did not run"):
        taps.take()
    found.run(images(2))
    taps.take()
    with pytest.raises(ModelError, match=r"stages\.0 did not run"):
        taps.take()


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(ModelError, match=r"no module stages\.9"):
        Taps(network("resnet8", image_inputs()).module, ["stages.0", "stages.9"])


def test_closing_leaves_no_hook_and_the_state_dict_never_had_one() -> None:
    found = network("resnet8", image_inputs())
    names = list(found.module.state_dict())
    taps = Taps(found.module, ["stages.0", "stages.1:input"])
    assert list(found.module.state_dict()) == names
    taps.close()
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in found.module.modules())
    taps.close()


def test_a_copy_does_not_speak_for_the_network() -> None:
    found = network("resnet8", image_inputs())
    taps = Taps(found.module, ["stages.1", "classifier:input"])
    found.run(images(2))
    copied = copy.deepcopy(found.module)  # while outputs with gradients are kept
    kept = taps._seen["stages.1"]
    copied(images(4)["image"])
    seen = taps.take()
    assert seen["stages.1"] is kept
    taps.close()
    exported = torch.export.export(found.module.eval(), (images(2)["image"],))
    assert torch.allclose(exported.module()(images(2)["image"]), found.run(images(2)), atol=1e-5)


def test_under_autocast_and_channels_last() -> None:
    found = network("resnet8", image_inputs())
    found.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    taps = Taps(found.module, ["stages.1", "stages.1.bn2"])
    with torch.autocast("cpu", torch.bfloat16):
        found.run({"image": images()["image"].contiguous(memory_format=torch.channels_last)})
    seen = taps.take()
    assert seen["stages.1.bn2"].dtype == torch.bfloat16
    assert seen["stages.1"].is_contiguous(memory_format=torch.channels_last)


def test_a_teacher_without_gradients() -> None:
    found = network("resnet8", image_inputs())
    taps = Taps(found.module, ["stages.1"])
    found.ask(images())
    assert not taps.take()["stages.1"].requires_grad


def test_a_compiled_network_is_seen_too() -> None:
    found = network("resnet8", image_inputs())
    taps = Taps(found.module, ["stages.1", "classifier:input"])
    logits = found.run(images())
    expected = taps.take()
    fast = torch.compile(found.module, backend="eager")
    assert torch.allclose(fast(images()["image"]), logits, atol=1e-5)
    for name, value in taps.take().items():
        assert torch.allclose(value, expected[name], atol=1e-5)


def test_inside_of_what_several_processes_share(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self, network: nn.Module, taps: Taps) -> None:
            super().__init__()
            self.network, self._taps = network, taps

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.network(x)
            return logits.sum() + self._taps.take()["stages.1"].sum()

    found = network("resnet8", image_inputs())
    taps = Taps(found.module, ["stages.1"])
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        shared = nn.parallel.DistributedDataParallel(Wrapped(found.module, taps))
        for _ in range(2):
            shared(images(4)["image"]).backward()
    finally:
        torch.distributed.destroy_process_group()
    weight = found.module.get_parameter("conv.weight")
    alone = network("resnet8", image_inputs())
    own = Taps(alone.module, ["stages.1"])
    (2 * (alone.run(images(4)).sum() + own.take()["stages.1"].sum())).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert torch.allclose(weight.grad, alone.module.get_parameter("conv.weight").grad, rtol=1e-3, atol=1e-3)  # type: ignore[arg-type]
