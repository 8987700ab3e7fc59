"""Teachers that are modules, programs and folders of transformers: opened, described, fed, and every mismatch told."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgekd.errors import EdgekdError, ModelError, UsageError
from edgekd.models.pretrained import Opened, content_digest, open_pretrained, open_untrained
from edgekd.models.spec import build
from edgekd.models.tensors import TensorSpec, classifier, image_input
from edgekd.recipe import TeacherMember
from tests.safe.hostile import Gadget

IMAGES = (image_input((8, 8, 1), (0.5,), (0.5,)),)
TEXTS = (
    TensorSpec("input_ids", "int32", (12,), "NC", "tokens", vocabulary=50),
    TensorSpec("attention_mask", "int32", (12,), "NC", "mask"),
)
SOUNDS = (TensorSpec("waveform", "float32", (4000,), "NC", "waveform", (-1.0, 1.0), sample_rate=16000),)
LABELS = ("a", "b", "c")


def _open(reference: str, specs: tuple[TensorSpec, ...], log: Path, labels: tuple[str, ...] = LABELS, **member: Any) -> Opened:
    with open_pretrained(TeacherMember(model=reference, **member), specs, labels, log, False) as opened:
        return opened


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders that transformers itself saved: tiny random networks for images, texts and sounds."""
    transformers = pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("hf")
    torch.manual_seed(0)
    named = {"id2label": dict(enumerate(("ant", "bee", "cow"))), "label2id": {"ant": 0, "bee": 1, "cow": 2}}
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vit = transformers.ViTConfig(image_size=16, patch_size=8, num_channels=3, **small, **named)
    transformers.ViTForImageClassification(vit).save_pretrained(root / "vit")
    transformers.ViTForImageClassification(vit).save_pretrained(root / "vit_processed")
    processor = {
        "image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}, "do_rescale": True,
        "rescale_factor": 1 / 127.5, "do_normalize": True, "image_mean": [1, 1, 1], "image_std": [2, 2, 2],
    }  # fmt: skip
    (root / "vit_processed" / "preprocessor_config.json").write_text(json.dumps(processor))
    bert = transformers.BertConfig(vocab_size=50, max_position_embeddings=12, num_labels=3, **small)
    transformers.BertForSequenceClassification(bert).save_pretrained(root / "bert")
    wav = transformers.Wav2Vec2Config(
        conv_dim=(16, 16), conv_kernel=(10, 8), conv_stride=(5, 4), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        classifier_proj_size=8, **small, **named,
    )  # fmt: skip
    transformers.Wav2Vec2ForSequenceClassification(wav).save_pretrained(root / "wav")
    return root


@pytest.mark.parametrize("name", ["vit", "vit_processed"])
def test_a_vision_transformer_is_described_and_gives_its_own_logits(name: str, folders: Path, tmp_path: Path) -> None:
    import transformers

    opened = _open(f"hf:{folders / name}", IMAGES, tmp_path / "log")
    described = opened.described
    assert described.labels == ("ant", "bee", "cow")
    assert described.inputs[0]["shape"] == [3, None, None]
    assert described.size == (16, 16)
    if name == "vit_processed":
        assert described.value_range == pytest.approx((0, 2))
        assert (described.mean, described.std) == ((1, 1, 1), (2, 2, 2))
    pixels = torch.randn(5, 3, 16, 16)
    direct = transformers.ViTForImageClassification.from_pretrained(folders / name).eval()
    with torch.no_grad():
        assert torch.allclose(opened.run({"image": pixels})["logits"], direct(pixels).logits, atol=1e-6)
    assert opened.cost.params == sum(each.numel() for each in direct.parameters())


@pytest.mark.parametrize("name", ["vit", "vit_processed", "bert", "wav"])
def test_an_untrained_teacher_tells_of_itself_what_the_trained_one_does_and_needs_no_weights(
    name: str, folders: Path, tmp_path: Path
) -> None:
    specs = {"bert": TEXTS, "wav": SOUNDS}.get(name, IMAGES)
    trained = _open(f"hf:{folders / name}", specs, tmp_path / "log")
    bare = tmp_path / name
    bare.mkdir()
    for path in (folders / name).glob("*.json"):
        (bare / path.name).write_bytes(path.read_bytes())
    fresh = open_untrained(TeacherMember(model=f"hf:{bare}"), specs, LABELS)
    assert replace(fresh.described, name="") == replace(trained.described, name="")
    assert fresh.module is not None
    assert trained.module is not None
    shapes = {key: value.shape for key, value in trained.module.state_dict().items()}
    assert {key: value.shape for key, value in fresh.module.state_dict().items()} == shapes


def test_bert_takes_tokens_and_mask_and_says_that_its_labels_say_nothing(folders: Path, tmp_path: Path) -> None:
    import transformers

    opened = _open(f"hf:{folders / 'bert'}", TEXTS, tmp_path / "log")
    assert opened.described.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    ids = torch.randint(50, (4, 12), dtype=torch.int32)
    mask = (torch.arange(12) < 7).int().expand(4, 12)
    direct = transformers.BertForSequenceClassification.from_pretrained(folders / "bert").eval()
    with torch.no_grad():
        expected = direct(input_ids=ids, attention_mask=mask).logits
    found = opened.run({"input_ids": ids, "attention_mask": mask})["logits"]
    assert torch.allclose(found, expected, atol=1e-6)
    changed = opened.run({"input_ids": torch.where(mask.bool(), ids, 3).int(), "attention_mask": mask})["logits"]
    assert torch.allclose(changed, expected, atol=1e-5)  # the mask does mask


def test_wav2vec2_takes_waveforms(folders: Path, tmp_path: Path) -> None:
    import transformers

    opened = _open(f"hf:{folders / 'wav'}", SOUNDS, tmp_path / "log")
    assert opened.described.labels == ("ant", "bee", "cow")
    sound = torch.randn(2, 4000)
    direct = transformers.Wav2Vec2ForSequenceClassification.from_pretrained(folders / "wav").eval()
    with torch.no_grad():
        assert torch.allclose(opened.run({"waveform": sound})["logits"], direct(sound).logits, atol=1e-6)


def test_weights_beside_a_folder_of_transformers_have_its_own_names(folders: Path, tmp_path: Path) -> None:
    import transformers

    other = transformers.BertForSequenceClassification(transformers.BertConfig.from_pretrained(folders / "bert")).eval()
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    opened = _open(f"hf:{folders / 'bert'}", TEXTS, tmp_path / "log", weights=str(tmp_path / "w.safetensors"))
    given = {"input_ids": torch.ones(1, 12, dtype=torch.int32), "attention_mask": torch.ones(1, 12, dtype=torch.int32)}
    with torch.no_grad():
        assert torch.allclose(opened.run(given)["logits"], other(**given).logits, atol=1e-6)


@pytest.mark.parametrize(
    "broken", ["no folder", "no config", "torn config", "torn weights", "pickle", "remote code", "other task"]
)
def test_broken_folders_are_one_clear_line(broken: str, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder, canary = tmp_path / "bert", tmp_path / "canary"
    specs: tuple[TensorSpec, ...] = TEXTS
    shutil.copytree(folders / "bert", folder)
    if broken == "no folder":
        folder = tmp_path / "nowhere"
    elif broken == "no config":
        (folder / "config.json").unlink()
    elif broken == "torn config":
        (folder / "config.json").write_text('{"model_type": ')
    elif broken == "torn weights":
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    elif broken == "pickle":
        (folder / "model.safetensors").unlink()
        torch.save({"x": Gadget(exec, f"open({str(canary)!r}, 'w')")}, folder / "pytorch_model.bin")
    elif broken == "remote code":
        config = json.loads((folder / "config.json").read_text())
        names = {"AutoConfig": "evil.Evil", "AutoModelForSequenceClassification": "evil.Evil"}
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "evil", "auto_map": names}))
        (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\n")
    else:
        specs = IMAGES
    with pytest.raises(ModelError, match=f"cannot load hf:{folder}") as error:
        _open(f"hf:{folder}", specs, tmp_path / "log")
    assert "\n" not in error.value.message
    assert not canary.exists()


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(64, 3)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        flat = image.flatten(1)
        return self.dense(flat), flat


@pytest.mark.parametrize("fixed", [False, True])
def test_a_program_runs_at_any_batch(fixed: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = _Pair().eval()
    sizes = None if fixed else ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (torch.randn(4, 1, 8, 8),), dynamic_shapes=sizes)
    torch.export.save(program, tmp_path / "m.pt2")
    opened = _open(f"pt2:{tmp_path / 'm.pt2'}", IMAGES, tmp_path / "log")
    (described,) = opened.described.inputs
    assert described["shape"] == [1, 8, 8]
    assert opened.described.notes == (("4 sample(s) at a time",) if fixed else ())
    assert opened.cost.params == 64 * 3 + 3
    for batch in (1, 4, 7, 13):
        images = torch.randn(batch, 1, 8, 8)
        found = opened.run({described["name"]: images})
        with torch.no_grad():
            logits, flat = network(images)
        assert torch.allclose(found["logits"], logits, atol=1e-6)
        assert torch.equal(found["output_1"], flat)


def test_a_program_that_cannot_run_the_images_says_so(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(_Pair().eval(), (torch.randn(4, 1, 8, 8),)), tmp_path / "m.pt2")
    opened = _open(f"pt2:{tmp_path / 'm.pt2'}", IMAGES, tmp_path / "log")
    with pytest.raises(ModelError, match=r"failed on inputs of shape \[4, 1, 9, 9\]") as error:
        opened.run({opened.described.inputs[0]["name"]: torch.randn(4, 1, 9, 9)})
    assert "\n" not in error.value.message


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_network_of_the_zoo_with_weights(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build(classifier("zoo:shallow_cnn", IMAGES, LABELS)).eval()
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": network.state_dict(), "epoch": 1}, path)
    else:
        save_file(network.state_dict(), path)
    opened = _open("zoo:shallow_cnn", IMAGES, tmp_path / "log", weights=str(path))
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(opened.run({"image": images})["logits"], network(images))
    with pytest.raises(ModelError, match=r"its last layer has 3 outputs \(.*\), the data 5 classes"):
        _open("zoo:shallow_cnn", IMAGES, tmp_path / "log", tuple("abcde"), weights=str(path))
    with pytest.raises(ModelError, match=r"keys: 18 missing \(.*, and 8 more\); 16 of another shape \("):
        _open("zoo:digits_teacher", IMAGES, tmp_path / "log", weights=str(path))


def test_a_network_of_the_users_own_with_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make(num_classes, in_channels, hidden=4):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, hidden), nn.Linear(hidden, num_classes))\n"
    )
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Linear(6, 3)).eval()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    member: dict[str, Any] = {"weights": str(tmp_path / "w.pt"), "arguments": {"hidden": 6}}
    opened = _open("python:net.py:make", IMAGES, tmp_path / "log", **member)
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(opened.run({"image": images})["logits"], network(images))
    assert opened.module is not None
    first = content_digest(TeacherMember(model="python:net.py:make", **member))
    with (tmp_path / "net.py").open("a") as file:
        file.write("# changed\n")
    second = content_digest(TeacherMember(model="python:net.py:make", **member))
    assert first["weights"] == second["weights"]
    assert first["code"] != second["code"]
    with pytest.raises(ModelError, match=r"cannot take these arguments: .*hiden") as error:
        _open("python:net.py:make", IMAGES, tmp_path / "log", arguments={"hiden": 3}, trained=True, weights=member["weights"])
    assert "it takes num_classes, in_channels, hidden" in str(error.value.hint)


def test_a_network_that_asserts_what_it_takes_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers of timm do with images of another size than their own."""
    (tmp_path / "sized.py").write_text(
        "from torch import nn\nclass Sized(nn.Module):\n    def forward(self, x):\n"
        "        assert x.shape[2] == 224, 'Input height doesn\\'t match model'\n\ndef make():\n    return Sized()\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"cannot take image of shape \(1, 8, 8\): Input height doesn't match model"):
        build(classifier("python:sized.py:make", IMAGES, LABELS))


def test_a_changed_file_of_a_teacher_is_seen(tmp_path: Path, onnx_models: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes((onnx_models / "nchw.onnx").read_bytes())
    (tmp_path / "labels.txt").write_text("a\nb\n")
    member = TeacherMember(model=f"onnx:{path}", labels=str(tmp_path / "labels.txt"))
    first = content_digest(member)
    assert content_digest(member) == first
    (tmp_path / "labels.txt").write_text("b\na\n")
    second = content_digest(member)
    path.write_bytes((onnx_models / "nhwc.onnx").read_bytes())
    third = content_digest(member)
    assert len({json.dumps(each) for each in (first, second, third)}) == 3
    (tmp_path / "labels.txt").unlink()
    with pytest.raises(UsageError, match=r"labels file .*labels.txt does not exist"):
        content_digest(member)


def test_a_black_box_is_described_and_its_child_is_gone_afterwards(onnx_models: Path, tmp_path: Path) -> None:
    member = TeacherMember(model=f"onnx:{onnx_models / 'fixed1.onnx'}")
    with open_pretrained(member, IMAGES, LABELS, tmp_path / "log", False) as opened:
        assert opened.described.layout == "NCHW"
        assert opened.described.notes == ("one sample at a time",)
        assert opened.cost.params is None
        assert opened.cost.size_bytes == (onnx_models / "fixed1.onnx").stat().st_size
        assert opened.run({"pixels": torch.zeros(3, 1, 8, 8)})["scores"].shape == (3, 10)
        run = opened.run
    with pytest.raises((EdgekdError, ValueError)):
        run({"pixels": torch.zeros(3, 1, 8, 8)})


@pytest.mark.parametrize("kind", ["onnx", "keras", "tflite", "pt2"])
def test_folders_empty_files_and_other_files_are_one_clear_line(kind: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"a": np.ones(3)}))
    for name, message in (("folder", "is a folder, not a file|is no SavedModel"), ("empty", "is empty"), ("pickle", " is ")):
        with pytest.raises((ModelError, UsageError), match=message) as error:
            _open(f"{kind}:{tmp_path / name}", IMAGES, tmp_path / "log")
        assert "\n" not in error.value.message
