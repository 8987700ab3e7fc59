"""Losses on inner layers of whole networks: gradients everywhere they belong, and values written out by hand."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekd.distill.layer_loss import LayerTerm
from edgekd.distill.layer_terms import describe_pairs, layer_term
from edgekd.distill.losses.adapters import batchnorm_margin
from edgekd.distill.losses.registry import LOSSES
from edgekd.distill.taps import Taps
from edgekd.errors import ModelError, UsageError
from edgekd.models.builders import OnlyLogits
from edgekd.recipe_distill import DistillLoss, LayerPair, unfit_for_recipes
from tests.distill.networks import TEXT, Network, as_network, image_inputs, images, network, texts

INNER = [name for name, each in LOSSES.items() if each.inner_layers and unfit_for_recipes(name) is None]
TRANSFORMER = ["minilmv1", "minilmv2", "tinybert_hidden", "tinybert_att"]


def _term(loss: DistillLoss | str, student: Network, teacher: Network) -> LayerTerm:
    meant = DistillLoss(name=loss) if isinstance(loss, str) else loss
    return layer_term(meant, student.module, student.spec, teacher.module, teacher.ask)


def _seen(
    term: LayerTerm, student: Network, teacher: Network, inputs: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Run both; return what their taps saw, and the student's logits."""
    own = Taps(student.module, {*term.student_names, term.deepest})
    others = Taps(teacher.module, set(term.teacher_names))
    logits = student.run(inputs)
    teacher.ask(inputs)
    found = own.take(), others.take(), logits
    own.close()
    others.close()
    return found


def _check_gradients(name: str, student: Network, teacher: Network, inputs: dict[str, Tensor]) -> LayerTerm:
    term = _term(name, student, teacher).train()
    student.module.train()
    own, others, logits = _seen(term, student, teacher, inputs)
    value = term(own, others)
    assert value.ndim == 0
    assert torch.isfinite(value)
    at = own[term.deepest]
    for each in (value, functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))):
        (gradient,) = torch.autograd.grad(each, at, retain_graph=True)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0
    value.backward()
    learns = [each.grad for each in student.module.parameters() if each.grad is not None]
    assert sum(float(each.abs().sum()) for each in learns) > 0
    assert all(torch.isfinite(each).all() for each in learns)
    for adapter, parameter in term.named_parameters():
        assert parameter.grad is not None, adapter
        assert torch.isfinite(parameter.grad).all(), adapter
        # A convolution before a batch norm has no use for its bias.
        assert parameter.grad.abs().sum() > 0, adapter
    assert all(each.grad is None for each in teacher.module.parameters())
    return term


def test_every_loss_that_a_recipe_can_name_is_tried() -> None:
    assert set(INNER) >= {*TRANSFORMER, "fitnet", "at", "fsp", "vid", "ofd", "nst", "ab", "reviewkd_hcl", "pkd", "rkd", "sp"}


@pytest.mark.parametrize("name", [each for each in INNER if each not in TRANSFORMER])
def test_gradients_reach_the_student_and_adapters(name: str) -> None:
    term = _check_gradients(name, network("resnet8", image_inputs()), network("resnet20", image_inputs(), 1), images())
    assert term.name == name
    assert term.between_samples == (name in {"rkd", "rkd_distance", "rkd_angle", "sp", "cc_gaussian", "pkt"})
    assert not term.warnings
    assert bool(list(term.parameters())) == (name in {"fitnet", "vid", "ofd", "ab", "reviewkd_hcl"})


@pytest.mark.parametrize("name", [each for each in INNER if each not in TRANSFORMER])
def test_channels_and_sizes_may_differ(name: str) -> None:
    student, teacher = network("resnet8", image_inputs(), width=0.5), network("resnet20", image_inputs(64), 1)

    def ask(inputs: dict[str, Tensor]) -> Tensor:
        return teacher.ask({"image": functional.interpolate(inputs["image"], (64, 64))})

    term = layer_term(DistillLoss(name=name), student.module, student.spec, teacher.module, ask)
    resized = {"image": functional.interpolate(images()["image"], (64, 64))}
    taps, others = Taps(student.module, term.student_names), Taps(teacher.module, term.teacher_names)
    student.run(images())
    teacher.ask(resized)
    value = term(taps.take(), others.take())
    assert torch.isfinite(value)
    value.backward()
    assert all(each.grad is not None and torch.isfinite(each.grad).all() for each in term.parameters())


@pytest.mark.parametrize("name", [*TRANSFORMER, "fitnet", "rkd"])
@pytest.mark.parametrize("hidden", [128, 64])
def test_transformers(name: str, hidden: int) -> None:
    student = network("tiny_transformer", TEXT, layers=2, hidden=hidden, dropout=0.0)
    teacher = network("tiny_transformer", TEXT, 1, layers=4, dropout=0.0)
    term = _check_gradients(name, student, teacher, texts())
    if name == "tinybert_hidden":
        assert bool(list(term.parameters())) == (hidden != 128)


def test_at_is_what_is_written_out_by_hand() -> None:
    student, teacher = network("resnet8", image_inputs()), network("resnet20", image_inputs(), 1)
    layers = (LayerPair(student="stages.1", teacher="stages.5"), LayerPair(student="stages.2", teacher="stages.8"))
    term = _term(DistillLoss(name="at", layers=layers), student, teacher)
    own, others, _ = _seen(term, student, teacher, images())
    inside, above, image = dict(student.module.named_modules()), dict(teacher.module.named_modules()), images()["image"]
    total = 0.0
    with torch.no_grad():
        x = torch.relu(inside["bn"](inside["conv"](image)))
        y = torch.relu(above["bn"](above["conv"](image)))
        for stage, until in ((0, 3), (1, 6), (2, 9)):
            x = inside[f"stages.{stage}"](x)
            for index in range(until - 3, until):
                y = above[f"stages.{index}"](y)
            if stage:
                a, b = (functional.normalize(each.square().mean(1).flatten(1)) for each in (x, y))
                total += float((a - b).square().mean())
    assert term(own, others).item() == pytest.approx(total, rel=1e-4)


def test_minilm_is_what_is_written_out_by_hand() -> None:
    student = network("tiny_transformer", TEXT, layers=2, hidden=64, dropout=0.0)
    teacher = network("tiny_transformer", TEXT, 1, layers=4, hidden=96, heads=4, dropout=0.0)
    term = _term("minilmv2", student, teacher)
    assert term.hyperparameters["relation_heads"] == 2
    inputs, length = texts(count=3, padded_from=11), 11
    own, others, _ = _seen(term, student, teacher, inputs)
    value = term(own, others).item()
    total = 0.0
    for what in ("query", "key", "value"):
        relations = []
        for seen, block in ((own, "encoder.layer.1"), (others, "encoder.layer.3")):
            vectors = seen[f"{block}.attention.self.{what}"][:, :length].detach().double()
            heads = vectors.reshape(3, length, 2, -1).transpose(1, 2)
            relations.append((heads @ heads.transpose(2, 3) / math.sqrt(heads.shape[3])).log_softmax(3))
        total += float(functional.kl_div(relations[0], relations[1], reduction="sum", log_target=True)) / (3 * 2 * length)
    assert value == pytest.approx(total, rel=1e-4)


def test_scores_are_those_before_the_softmax_of_the_network() -> None:
    student = network("tiny_transformer", TEXT, layers=2, dropout=0.0)
    teacher = network("tiny_transformer", TEXT, 1, layers=4, dropout=0.0)
    term = _term("tinybert_att", student, teacher)
    caught: list[Tensor] = []
    place = student.module.get_submodule("encoder.layer.0.attention.self.dropout")
    handle = place.register_forward_pre_hook(lambda _module, inputs: caught.append(inputs[0].detach()))
    own, _, _ = _seen(term, student, teacher, texts())
    handle.remove()
    scores = term.own[0].scores(own, texts()["attention_mask"])  # type: ignore[union-attr, index]
    assert torch.allclose(scores.softmax(3), caught[0], atol=1e-6)
    assert scores[:, :, :, 10:].unique().tolist() == [-10_000.0]


def test_padding_does_not_count() -> None:
    student = network("tiny_transformer", TEXT, layers=2, dropout=0.0)
    teacher = network("tiny_transformer", TEXT, 1, layers=4, dropout=0.0)
    for name in ("minilmv1", "minilmv2"):
        term = _term(name, student, teacher)
        own, others, _ = _seen(term, student, teacher, texts(padded_from=10))
        value = term(own, others).item()
        for seen in (own, others):
            for tensor in seen.values():
                if tensor.is_floating_point():
                    tensor.data[:, 10:] = 7.0
        assert term(own, others).item() == pytest.approx(value, rel=1e-5)


def test_networks_of_the_hub_teach_one_another() -> None:
    transformers = pytest.importorskip("transformers")
    bert = transformers.BertConfig(
        vocab_size=100, hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64, num_labels=4
    )
    small = transformers.DistilBertConfig(vocab_size=100, dim=32, n_layers=2, n_heads=4, hidden_dim=64, num_labels=4)
    names = ("input_ids", "attention_mask")
    teacher = as_network(OnlyLogits(transformers.BertForSequenceClassification(bert), names), TEXT)
    student = as_network(OnlyLogits(transformers.DistilBertForSequenceClassification(small), names), TEXT)
    for name in TRANSFORMER:
        term = _check_gradients(name, student, teacher, texts())
        if name.startswith("minilm"):
            assert term.hyperparameters["relation_heads"] == 4
        student.module.zero_grad()


def test_relation_heads() -> None:
    wide = network("tiny_transformer", TEXT, layers=2, hidden=96)
    assert _term("minilmv2", wide, wide).hyperparameters["relation_heads"] == 48
    assert _term("minilmv1", wide, wide).hyperparameters["relation_heads"] == 2
    mine = DistillLoss(name="minilmv2", arguments={"relation_heads": 8})
    assert _term(mine, wide, wide).hyperparameters["relation_heads"] == 8
    with pytest.raises(ModelError, match="relation_heads is 7, which does not divide"):
        _term(DistillLoss(name="minilmv2", arguments={"relation_heads": 7}), wide, wide)


def test_margins_are_those_of_the_teachers_batch_norm() -> None:
    student, teacher = network("resnet8", image_inputs()), network("resnet20", image_inputs(), 1)
    last = teacher.module.get_submodule("stages.8.bn2")
    assert isinstance(last, nn.BatchNorm2d)
    nn.init.normal_(last.bias)
    term = _term("ofd", student, teacher)
    assert torch.equal(term.get_buffer("margin1"), batchnorm_margin(last))
    assert term.teacher_names == ("stages.5.relu:input", "stages.8.relu:input")
    assert term.pairs == (("stages.1", "stages.5"), ("stages.2", "stages.8"))
    assert not any("margin" in name for name in term.state_dict())
    _, others, _ = _seen(term, student, teacher, images())
    assert (others["stages.8.relu:input"] < 0).any()


def test_a_hint_can_reach_negative_values() -> None:
    plain, linear = network("resnet8", image_inputs(64)), network("mobilenet_v2", image_inputs(64), 1)
    layers = (LayerPair(student="stages.2", teacher="blocks.2"),)
    term = _term(DistillLoss(name="fitnet", layers=layers), plain, linear)
    adapter = next(iter(term.adapters))  # type: ignore[arg-type]
    assert (adapter(torch.randn(4, 64, 16, 16)) < 0).any()
    rectified = next(iter(_term("fitnet", plain, network("resnet20", image_inputs(64))).adapters))  # type: ignore[arg-type]
    assert (rectified(torch.randn(4, 32, 32, 32)) >= 0).all()


def test_tokens_become_a_grid_beside_maps() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=32, patch_size=4, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        num_labels=4,
    )  # fmt: skip
    teacher = as_network(OnlyLogits(transformers.ViTForImageClassification(config), ("pixel_values",)), image_inputs())
    student = network("resnet8", image_inputs())
    loss = DistillLoss(name="at", layers=(LayerPair(student="stages.2", teacher="model.vit.layers.1"),))
    term = _term(loss, student, teacher)
    own, others, _ = _seen(term, student, teacher, images())
    grid = others["model.vit.layers.1"][:, 1:].transpose(1, 2).reshape(8, 32, 8, 8)
    assert term(own, others).item() == pytest.approx(LOSSES["at"].load()(own["stages.2"], grid).item())
    # 3 rows of 15: tokens, but no grid.
    rows = as_network(nn.Sequential(nn.Flatten(2), nn.Linear(1024, 15), nn.Flatten(1), nn.Linear(45, 4)), image_inputs())
    odd = DistillLoss(name="at", layers=(LayerPair(student="stages.2", teacher="1"),))
    with pytest.raises(ModelError, match="1 has 3 tokens, with or without a class token no square grid"):
        _term(odd, student, rows)


def test_warnings_between_families() -> None:
    teacher = network("resnet20", image_inputs(64))
    for name, figure in (("at", "59.40 %"), ("fitnet", "63.16 %"), ("nst", "58.16 %")):
        for student in (network("mobilenet_v2", image_inputs(64)), network("mobilenet_v1", image_inputs(64))):
            (warning,) = _term(name, student, teacher).warnings
            assert figure in warning
            assert "64.60 % alone (CIFAR-100, Tian et al., 2020)" in warning
            assert "it has depthwise convolutions, the teacher full convolutions" in warning
    assert not _term("rkd", network("mobilenet_v2", image_inputs(64)), teacher).warnings
    assert not _term("at", network("resnet8", image_inputs(64)), teacher).warnings
    assert not _term("at", network("mobilenet_v2", image_inputs(64)), network("mobilenet_v1", image_inputs(64))).warnings


def test_what_the_plan_says() -> None:
    student, teacher = network("resnet8", image_inputs(), width=0.5), network("resnet20", image_inputs())
    losses = [DistillLoss(name=each) for each in ("kd", "fitnet", "rkd")]
    assert describe_pairs(losses, student.module, student.spec, teacher.module, teacher.ask) == [
        "fitnet: stages.1 (16x16x16) <- stages.5 (32x16x16), conv 1x1",
        "fitnet: stages.2 (32x8x8) <- stages.8 (64x8x8), conv 1x1",
        "rkd: classifier:input (32) <- classifier:input (64)",
    ]


def test_the_exported_student_has_no_adapter() -> None:
    student, teacher = network("resnet8", image_inputs()), network("resnet20", image_inputs())
    before = list(student.module.state_dict())
    expected = student.ask(images())
    term = _term("reviewkd_hcl", student, teacher)
    taps = Taps(student.module, term.student_names)
    student.run(images())
    taps.close()
    student.module.eval()
    program = torch.export.export(student.module, (images()["image"],))
    assert sorted(program.state_dict) == sorted(before)
    assert torch.allclose(program.module()(images()["image"]), expected, atol=1e-5)


def test_errors_are_one_line() -> None:
    student, teacher = network("resnet8", image_inputs()), network("resnet20", image_inputs())
    single = DistillLoss(name="fsp", layers=(LayerPair(student="stages.1", teacher="stages.5"),))
    with pytest.raises(ModelError, match=r"fsp compares neighbouring stages, and only stages\.1 and stages\.5 match"):
        _term(single, student, teacher)
    with pytest.raises(UsageError, match=r"the teacher has no module 'stages\.99'"):
        _term(DistillLoss(name="at", layers=(LayerPair(student="stages.1", teacher="stages.99"),)), student, teacher)
    text, other = network("tiny_transformer", TEXT, layers=2), network("tiny_transformer", TEXT, layers=2, heads=4)
    with pytest.raises(
        ModelError, match=r"encoder\.layer\.0 of the student has 2, encoder\.layer\.0 of the teacher 4"
    ) as caught:
        _term("tinybert_att", text, other)
    assert caught.value.hint is not None
    assert "minilmv2" in caught.value.hint
    dense = DistillLoss(name="minilmv2", layers=(LayerPair(student="encoder.layer.0.output", teacher="encoder.layer.1"),))
    with pytest.raises(
        ModelError, match=r"no queries, keys and values in encoder\.layer\.0\.output of the student: looked for"
    ):
        _term(dense, text, other)


@pytest.mark.parametrize("name", ["fitnet", "vid", "ofd", "reviewkd_hcl", "nst", "rkd"])
def test_under_autocast_and_channels_last(name: str) -> None:
    student, teacher = network("resnet8", image_inputs()), network("resnet20", image_inputs(), 1)
    for each in (student, teacher):
        each.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs = {"image": images()["image"].contiguous(memory_format=torch.channels_last)}
    term = _term(name, student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        own, others, _ = _seen(term, student, teacher, inputs)
        value = term(own, others)
    assert value.dtype == torch.float32
    wide, wide_others, _ = _seen(term, student, teacher, inputs)
    assert value.item() == pytest.approx(term(wide, wide_others).item(), rel=0.2, abs=0.02)
    value.backward()
    assert all(each.grad is not None and torch.isfinite(each.grad).all() for each in term.parameters())


def test_a_compiled_transformer_gives_the_same_loss() -> None:
    student = network("tiny_transformer", TEXT, layers=2, dropout=0.0)
    teacher = network("tiny_transformer", TEXT, 1, layers=4, dropout=0.0)
    term, inputs = _term("tinybert_att", student, teacher), texts()
    own, others, _ = _seen(term, student, teacher, inputs)
    taps = Taps(student.module, {*term.student_names, term.deepest})
    torch.compile(student.module, backend="eager")(inputs["input_ids"], inputs["attention_mask"])
    seen = taps.take()
    taps.close()
    assert term(seen, others).item() == pytest.approx(term(own, others).item(), rel=1e-5)
