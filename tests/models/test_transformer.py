"""The text network against transformers' BERT."""

import pytest
import torch

from edgekd.models.transformer import tiny_transformer
from tests.models.other_networks import assert_same, params


@pytest.mark.parametrize(("layers", "hidden", "heads"), [(2, 128, 2), (4, 96, 3)])
def test_it_is_bert_with_and_without_padding(layers: int, hidden: int, heads: int) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=1000, num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads,
        intermediate_size=4 * hidden, max_position_embeddings=64, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.BertForSequenceClassification(config).eval()
    with torch.no_grad():  # biases that are not 0, attention that is not flat
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    ours = tiny_transformer(1000, 3, layers, hidden, heads, 4 * hidden, 64).eval()
    ours.load_state_dict({name.removeprefix("bert."): tensor for name, tensor in theirs.state_dict().items()}, strict=True)
    assert params(ours) == params(theirs)
    tokens, whole = torch.randint(0, 1000, (6, 48)), torch.ones(6, 48, dtype=torch.int64)
    padded = (torch.arange(48) < torch.tensor([48, 40, 17, 3, 2, 1])[:, None]).long()
    with torch.no_grad():
        for mask in (whole, padded):
            assert_same(ours(tokens, mask), theirs(input_ids=tokens, attention_mask=mask).logits)
        changed = torch.where(padded == 1, tokens, 0)
        assert torch.allclose(ours(tokens, padded), ours(changed, padded), atol=1e-5)
        assert not torch.allclose(ours(tokens, padded), ours(tokens, whole), atol=1e-3)


def test_bert_tiny_has_the_published_number_of_parameters() -> None:
    """4.4 M in Turc et al., 2019, Table 1; exactly, from the shapes in Devlin et al., 2019."""
    network = tiny_transformer(30_522, 2)
    classifier = 128 * 2 + 2
    embeddings = (30_522 + 512 + 2) * 128 + 2 * 128
    layer = 4 * (128 * 128 + 128) + (128 * 512 + 512) + (512 * 128 + 128) + 2 * 2 * 128
    assert params(network) - classifier == embeddings + 2 * layer + (128 * 128 + 128) == 4_385_920
