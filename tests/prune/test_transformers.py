"""Networks of transformers after a cut: their configurations, directories that transformers loads itself, and files of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from edgekd.cli.prune import command
from edgekd.errors import ModelError, UsageError
from edgekd.models.pretrained import load_pretrained_body
from edgekd.models.spec import build, call, load
from edgekd.models.tensors import ModelSpec, TensorSpec, classifier, image_input
from edgekd.prune.groups import find_groups
from edgekd.prune.prune import cut_copy, prune_model
from edgekd.prune.record import cut, make_record, read_record, with_record
from edgekd.prune.target import parse_target
from edgekd.prune.transformers_config import sayable, told
from edgekd.prune.transformers_folder import write_transformers
from tests.prune.conversion import converted
from tests.texts import write_texts

transformers = pytest.importorskip("transformers")
TEXT = (
    TensorSpec("input_ids", "int32", (12,), "NC", "tokens", vocabulary=60),
    TensorSpec("attention_mask", "int32", (12,), "NC", "mask"),
)
IMAGE = (image_input((16, 16, 3), (0.5,) * 3, (0.5,) * 3),)
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WORDS: dict[str, Any] = {"vocab_size": 60, "max_position_embeddings": 16, "num_labels": 3, "initializer_range": 0.2}


def _kinds() -> dict[str, tuple[Any, str, tuple[TensorSpec, ...]]]:
    text, own = "SequenceClassification", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    vision = transformers.ViTConfig(**SIZES, image_size=16, patch_size=4, num_labels=3, initializer_range=0.2)
    return {
        "bert": (transformers.BertConfig(**SIZES, **WORDS), text, TEXT),
        "distilbert": (transformers.DistilBertConfig(**own, **WORDS), text, TEXT),
        "llama": (transformers.LlamaConfig(**SIZES, **WORDS, pad_token_id=0), text, TEXT),
        "vit": (vision, "ImageClassification", IMAGE),
    }


def network(name: str, folder: Path) -> tuple[nn.Module, ModelSpec]:
    """Return a small network with random weights from a directory of transformers, and its spec."""
    config, head, inputs = _kinds()[name]
    torch.manual_seed(0)
    getattr(transformers, f"AutoModelFor{head}").from_config(config).save_pretrained(folder / name)
    spec = classifier(f"hf:{folder / name}", inputs, ("a", "b", "c"))
    model = build(spec)
    load_pretrained_body(model, spec)
    return model.eval(), spec


def samples(spec: ModelSpec, count: int = 16) -> dict[str, Tensor]:
    torch.manual_seed(1)
    if spec.inputs[0].meaning == "image":
        return {"image": torch.randn(count, 3, 16, 16)}
    lengths = torch.arange(count)[:, None] % 12
    return {
        "input_ids": torch.randint(1, 60, (count, 12), dtype=torch.int32),
        "attention_mask": (torch.arange(12) <= lengths).int(),
    }


def outputs(model: nn.Module, spec: ModelSpec) -> Tensor:
    with torch.no_grad():
        return call(model.eval(), spec, samples(spec))["logits"]


def alone(folder: Path, spec: ModelSpec) -> Tensor:
    """Return what transformers itself makes of a directory, called as its documentation has it."""
    given = samples(spec)
    if spec.inputs[0].meaning == "image":
        model = transformers.AutoModelForImageClassification.from_pretrained(folder, local_files_only=True)
        given = {"pixel_values": given["image"]}
    else:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
    with torch.no_grad():
        logits: Tensor = model.eval()(**given).logits
    return logits


def config_of(model: nn.Module) -> Any:
    return model.get_submodule("model").config


def test_every_field_of_a_vision_transformer_follows(tmp_path: Path) -> None:
    model, spec = network("vit", tmp_path)
    made = prune_model(model, spec, parse_target("ratio=0.5"), scope="layer")
    for config in (config_of(made.model), config_of(build(made.spec))):
        assert (config.intermediate_size, config.num_attention_heads, config.head_dim, config.hidden_size) == (32, 2, 8, 32)
    assert config_of(model).intermediate_size == 64 and not hasattr(config_of(model), "head_dim")
    written = write_transformers(made.model, model, made.spec, tmp_path)
    assert written.folder == tmp_path / "transformers" and written.changed["num_attention_heads"] == (4, 2)
    assert torch.equal(alone(written.folder, spec), outputs(made.model, made.spec))


@pytest.mark.parametrize(("name", "field"), [("bert", "intermediate_size"), ("distilbert", "hidden_dim")])
def test_heads_whose_size_has_no_field(name: str, field: str, tmp_path: Path) -> None:
    model, spec = network(name, tmp_path)
    found = find_groups(model, spec)
    made = prune_model(model, spec, parse_target("ratio=0.5"), scope="layer", found=found)
    config = config_of(made.model)
    assert (getattr(config, field), config.num_attention_heads, config.hidden_size) == (32, 4, 32)
    written = write_transformers(made.model, model, made.spec, tmp_path)
    assert written.folder is None and not (tmp_path / "transformers").exists()
    (line,) = [each for each in written.lines() if "not loadable by transformers alone" in each]
    assert "attention has 2 heads, and their size has no field" in line and "record" in line
    # What it has fields for can be cut so that it needs no record.
    made = prune_model(model, spec, parse_target("ratio=0.5"), scope="layer", found=sayable(model, found, spec.reference))
    assert {row["kind"] for row in made.widths()} == {"channels"} and len(made.widths()) == 2
    written = write_transformers(made.model, model, made.spec, tmp_path)
    assert written.folder is not None and written.changed == {field: (64, 32)}
    assert torch.equal(alone(written.folder, spec), outputs(made.model, made.spec))


def test_layers_of_different_widths(tmp_path: Path) -> None:
    """The field keeps its value, until a further cut makes the layers alike."""
    model, spec = network("bert", tmp_path)
    groups = sayable(model, find_groups(model, spec), spec.reference).groups
    first, second = (each.name for each in groups)
    uneven, record = cut_copy(model, spec, groups, {first: list(range(48)), second: list(range(16))})
    assert config_of(uneven).intermediate_size == 64
    assert told(uneven.get_submodule("model")).reasons == ("layers have intermediate_size 48, 16",)
    again = with_record(spec, record)
    groups = sayable(uneven, find_groups(uneven, again), spec.reference).groups
    even, record = cut_copy(uneven, again, groups, {first: list(range(0, 48, 3))})
    assert config_of(even).intermediate_size == config_of(build(with_record(spec, record))).intermediate_size == 16
    assert told(even.get_submodule("model")).reasons == ()


@pytest.mark.parametrize(("name", "layers", "left"), [("bert", "bert.encoder.layer", 1), ("llama", "model.layers", 2)])
def test_layers_that_are_gone(name: str, layers: str, left: int, tmp_path: Path) -> None:
    """Llama counts its layers by the configuration as it runs, pass-throughs too: there the field stays in the live network."""
    model, spec = network(name, tmp_path)
    pruned = copy.deepcopy(model)
    record = make_record(spec.reference, model, {}, {}, {f"model.{layers}.0": 0})
    cut(pruned, record)
    assert config_of(pruned).num_hidden_layers == left
    assert not torch.equal(outputs(pruned, spec), outputs(model, spec))
    without = copy.deepcopy(model)
    del without.get_submodule(f"model.{layers}")[0]  # type: ignore[operator]
    config_of(without).num_hidden_layers = 1
    for module in without.modules():
        if hasattr(module, "layer_idx"):
            module.layer_idx = 0  # type: ignore[assignment]
    assert torch.equal(outputs(pruned, spec), outputs(without, spec))
    written = write_transformers(pruned, model, with_record(spec, record), tmp_path)
    assert written.folder is not None and written.changed == {"num_hidden_layers": (2, 1)}
    assert torch.equal(alone(written.folder, spec), outputs(pruned, spec))


def test_a_part_of_a_layer_that_is_gone(tmp_path: Path) -> None:
    model, spec = network("vit", tmp_path)
    cut(model, make_record(spec.reference, model, {}, {}, {"model.vit.layers.1.mlp": 0}))
    (reason,) = told(model.get_submodule("model")).reasons
    assert "vit.layers.1.mlp" in reason and reason.endswith("is gone")


def test_rotary_embeddings_do_not_send_it_round_for_ever(tmp_path: Path) -> None:
    model, spec = network("llama", tmp_path)
    found = find_groups(model, spec)
    assert [each.name for each in found.groups] == [f"model.model.layers.{index}.mlp.gate_proj" for index in (0, 1)]
    assert "circles" in found.refused["model.model.layers.0.self_attn.q_proj"]


def test_channels_that_are_followed_wrongly_are_one_line(tmp_path: Path) -> None:
    """In ModernBERT's fused projections torch-pruning names channels that there are none of."""
    marks = {f"{name}_token_id": index for index, name in enumerate(("pad", "cls", "sep", "bos", "eos"))}
    config = transformers.ModernBertConfig(**SIZES, **WORDS, **marks)
    transformers.ModernBertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    spec = classifier(f"hf:{tmp_path / 'model'}", TEXT, ("a", "b", "c"))
    with pytest.raises(ModelError, match="has no channels that can be cut"):
        find_groups(build(spec), spec)


def test_nothing_that_the_configuration_can_say(tmp_path: Path) -> None:
    config = transformers.ConvNextConfig(hidden_sizes=[16, 32], depths=[1, 1], num_stages=2, num_labels=3)
    transformers.ConvNextForImageClassification(config).save_pretrained(tmp_path / "model")
    spec = classifier(f"hf:{tmp_path / 'model'}", IMAGE, ("a", "b", "c"))
    model = build(spec)
    with pytest.raises(ModelError, match="has no field for a width that can be cut"):
        sayable(model, find_groups(model, spec), spec.reference)


def _prune(*arguments: str) -> str:
    done = CliRunner().invoke(command, [*arguments, "--no-measure"])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_on_the_command_line(tmp_path: Path) -> None:
    from tokenizers import BertWordPieceTokenizer

    write_texts(tmp_path / "texts.tsv", 200)
    words = BertWordPieceTokenizer(lowercase=True)
    words.train([str(tmp_path / "texts.tsv")], vocab_size=60, min_frequency=1, show_progress=False)
    _, spec = network("bert", tmp_path)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words._tokenizer, pad_token="[PAD]")
    tokenizer.save_pretrained(tmp_path / "bert")
    out = tmp_path / "out"
    shared = (
        spec.reference,
        "--data",
        f"tsv:{tmp_path / 'texts.tsv'}",
        "data.max_tokens=12",
        "--multiple",
        "4",
        "--out",
        str(out),
    )
    found = json.loads(_prune(*shared, "--to", "macs=0.7x", "--criterion", "taylor", "--for-transformers", "--json"))
    assert found["after"]["macs"] <= 0.7 * found["before"]["macs"]
    assert found["transformers"]["folder"] == str(out / "transformers") and found["transformers"]["reasons"] == []
    width = found["transformers"]["configuration"]["intermediate_size"]["after"]
    assert json.loads((out / "transformers" / "config.json").read_text())["intermediate_size"] == width < 64
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / "transformers" / name).read_bytes() == (tmp_path / "bert" / name).read_bytes()
    two = classifier(spec.reference, TEXT, ("0", "1"))
    left = load(with_record(two, read_record(out / "prune.json")), out / "pruned.safetensors")
    assert torch.equal(alone(out / "transformers", two), outputs(left, two))
    # What cannot be loaded so is said in one line, and no directory of an earlier cut stays.
    printed = _prune(*shared, "--to", "ratio=0.5", "--per-layer")
    assert sum("not loadable by transformers alone" in each for each in printed.splitlines()) == 1
    assert sorted(each.name for each in out.iterdir()) == ["prune.json", "pruned.safetensors", "report.json", "sensitivity.svg"]


def test_other_directories_stay(tmp_path: Path) -> None:
    _, spec = network("vit", tmp_path)
    (tmp_path / "out" / "transformers").mkdir(parents=True)
    given = ("--shape", "3,16,16", "--classes", "3", "--to", "ratio=0.5", "--out", str(tmp_path / "out"))
    with pytest.raises(UsageError, match="is there already"):
        _prune(spec.reference, *given)
    with pytest.raises(UsageError, match="is no network of transformers"):
        _prune("zoo:resnet8", *given, "--for-transformers")


@pytest.mark.parametrize("name", ["bert", pytest.param("distilbert", marks=pytest.mark.slow)])
def test_half_the_heads_and_units_in_files(name: str, tmp_path: Path) -> None:
    model, spec = network(name, tmp_path)
    made = prune_model(model, spec, parse_target("ratio=0.5"), scope="layer", multiple=4)
    assert {(row["before"], row["after"]) for row in made.widths()} >= {(4, 2), (64, 32)}
    found = converted(made.model, made.spec, samples(spec), tmp_path)
    for artifact, parity in found.items():
        limit = 1e-4 if artifact.endswith("fp32") else 0.05
        assert parity.relative_error < limit, (artifact, parity)
        assert parity.sqnr_db > 20, (artifact, parity)
