"""Sound teachers of transformers hear through their own feature extractor."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd.errors import ModelError
from edgekd.models.pretrained import open_pretrained
from edgekd.models.sound_features import FromWaveform
from edgekd.models.tensors import TensorSpec
from edgekd.recipe import TeacherMember

transformers = pytest.importorskip("transformers")
CLASSES = ("down", "left", "up")


def _spectrogram_folder(folder: Path) -> Path:
    config = transformers.ASTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_mel_bins=32, max_length=64,
        num_labels=3, id2label=dict(enumerate(CLASSES)), label2id={name: i for i, name in enumerate(CLASSES)},
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.ASTForAudioClassification(config).save_pretrained(folder)
    transformers.ASTFeatureExtractor(sampling_rate=8_000, num_mel_bins=32, max_length=64).save_pretrained(folder)
    return folder


def _waveform(rate: int = 8_000) -> tuple[TensorSpec, ...]:
    return (TensorSpec("waveform", "float32", (8_000,), "NC", "waveform", (-1.0, 1.0), sample_rate=rate),)


def test_logits_are_those_of_extractor_and_model(tmp_path: Path) -> None:
    folder = _spectrogram_folder(tmp_path / "ast")
    sounds = np.random.default_rng(0).normal(0, 0.1, (3, 8_000)).astype(np.float32)
    model = transformers.ASTForAudioClassification.from_pretrained(folder).eval()
    extractor = transformers.ASTFeatureExtractor.from_pretrained(folder)
    with torch.no_grad():
        expected = model(**extractor(list(sounds), sampling_rate=8_000, return_tensors="pt")).logits
    member = TeacherMember(model=f"hf:{folder}")
    with open_pretrained(member, _waveform(), CLASSES, tmp_path / "log.txt", allow_code=False) as opened:
        assert isinstance(opened.module, FromWaveform)
        assert opened.described.labels == CLASSES
        assert any("feature extractor" in note for note in opened.described.notes)
        found = opened.run({"waveform": torch.from_numpy(sounds)})["logits"]
    torch.testing.assert_close(found, expected)


def test_another_sample_rate_is_one_line(tmp_path: Path) -> None:
    folder = _spectrogram_folder(tmp_path / "ast")
    member = TeacherMember(model=f"hf:{folder}")
    with (
        pytest.raises(ModelError, match="sound of 8,000 Hz, the data has 16,000 Hz") as caught,
        open_pretrained(member, _waveform(16_000), CLASSES, tmp_path / "log.txt", allow_code=False),
    ):
        pass
    assert caught.value.hint == "set data.sample_rate=8000"


def test_a_model_of_waveforms_needs_no_extractor(tmp_path: Path) -> None:
    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8), conv_stride=(5, 2),
        conv_kernel=(10, 3), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, num_labels=3, classifier_proj_size=8,
        num_feat_extract_layers=2,
    )  # fmt: skip
    transformers.Wav2Vec2ForSequenceClassification(config).save_pretrained(tmp_path / "w2v")
    member = TeacherMember(model=f"hf:{tmp_path / 'w2v'}")
    with open_pretrained(member, _waveform(), CLASSES, tmp_path / "log.txt", allow_code=False) as opened:
        found = opened.run({"waveform": torch.zeros(2, 8_000)})["logits"]
    assert found.shape == (2, 3)
