"""Labels: what is left of the names that converters write."""

from edgekd.inspect.labels import labels


def test_the_way_to_a_layer_is_left_of_litert_torch_names() -> None:
    names = [
        "e.tflite._Named/e.net.Net_model/e.blocks.ConvBN_stem/torch.nn.modules.conv.Conv2d_conv;2",
        "e.tflite._Named/e.net.Net_model/torch.nn.modules.container.Sequential_blocks/e.SqueezeExcite_0/e.SE_squeeze_excite;",
        "e.tflite._Named/e.net.Net_model/e.blocks.ConvBN_stem/torch.nn.ReLU_act;;e.tflite._Named/e.net.Net_model/x.Y_z;;",
        "logits",
    ]
    assert list(labels(names).values()) == ["stem/conv", "blocks/0/squeeze_excite", "stem/act", "logits"]


def test_other_names_stay() -> None:
    names = ["node_Conv_12", "/layer1/conv/Conv", "/layer1/relu/Relu", "tensor#3", "e.Net_model", "torch.relu", "", "a;1"]
    found = labels(names)
    assert found["node_Conv_12"] == "node_Conv_12"
    assert found["/layer1/conv/Conv"] == "conv/Conv"
    assert found["tensor#3"] == "tensor#3"
    assert found["torch.relu"] == "torch.relu"
    assert found[""] == ""
    assert found["a;1"] == "a"
