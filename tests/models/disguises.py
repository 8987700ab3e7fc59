"""One small classifier of scikit-learn's digits, in every disguise that teachers come in.

It is ``dense(tanh(conv(x)))`` for grey 8x8 images in [0, 1]; tanh, so that it is right only for the value range it was
made for. Its filters are random, its dense layer is the closed-form solution of a ridge regression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_FLOAT = TensorProto.FLOAT


def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return all images, ``[1797, 1, 8, 8]`` in [0, 1], and their classes."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32), labels.astype(np.int64)


def weights() -> dict[str, NDArray[np.float32]]:
    """Return the classifier: ``conv [8, 1, 3, 3]``, ``conv_bias [8]``, ``dense [10, 512]``, ``dense_bias [10]``."""
    random = np.random.default_rng(0)
    made: dict[str, NDArray[np.float32]]
    drawn: dict[str, Array] = {"conv": random.normal(0, 1.5, (8, 1, 3, 3)), "conv_bias": random.normal(0, 0.5, 8)}
    made = {name: value.astype(np.float32) for name, value in drawn.items()}
    images, labels = digits()
    features = np.c_[_features(made, images), np.ones(len(images))].astype(np.float64)
    target = 10.0 * np.eye(10)[labels]
    dense = np.linalg.solve(features.T @ features + 5 * np.eye(513), features.T @ target).T
    return made | {"dense": dense[:, :512].astype(np.float32), "dense_bias": dense[:, 512].astype(np.float32)}


def _features(made: dict[str, Array], images: Array) -> Array:
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    found = np.einsum("nchwij,ocij->nohw", windows, made["conv"]) + made["conv_bias"][:, None, None]
    flat: Array = np.tanh(found).reshape(len(images), -1)
    return flat


def logits(made: dict[str, Array], images: Array) -> Array:
    """Return the classifier's logits in numpy, ``[n, 10]``."""
    scored: Array = _features(made, images) @ made["dense"].T + made["dense_bias"]
    return scored


@dataclass
class Onnx:
    """An ONNX file in the making: ``step`` adds an operation on the latest result."""

    shape: Sequence[int | str]
    dtype: int = _FLOAT
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    outputs: list[tuple[str, Sequence[int | str], int]] = field(default_factory=list)
    latest: str = "pixels"

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def step(self, operation: str, *constants: Any, **attributes: Any) -> Onnx:
        name = f"{operation.lower()}{len(self.nodes)}"
        given = [self.latest, *(self.constant(each) for each in constants)]
        self.nodes.append(helper.make_node(operation, given, [name], **attributes))
        self.latest = name
        return self

    def classify(self, made: dict[str, Array]) -> Onnx:
        """Add the classifier; what comes in is NCHW, grey, in [0, 1]."""
        self.step("Conv", made["conv"], made["conv_bias"], pads=[1, 1, 1, 1])
        return self.step("Tanh").step("Flatten").step("Gemm", made["dense"], made["dense_bias"], transB=1)

    def output(self, name: str, shape: Sequence[int | str], dtype: int = _FLOAT) -> Onnx:
        """Make the latest result an output."""
        self.nodes.append(helper.make_node("Identity", [self.latest], [name]))
        self.outputs.append((name, shape, dtype))
        return self

    def proto(self) -> onnx.ModelProto:
        given = helper.make_tensor_value_info("pixels", self.dtype, list(self.shape))
        values = [helper.make_tensor_value_info(name, dtype, list(shape)) for name, shape, dtype in self.outputs]
        graph = helper.make_graph(self.nodes, "disguise", [given], values, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model

    def save(self, path: Path) -> Path:
        path.write_bytes(self.proto().SerializeToString())
        return path


def onnx_disguises(folder: Path) -> None:
    """Write every ONNX disguise into ``folder``."""
    made = weights()
    nchw, ten = ("n", 1, 8, 8), ("n", 10)
    three = ("n", 3, 8, 8)
    std, mean = np.asarray(STD, np.float32).reshape(1, 3, 1, 1), np.asarray(MEAN, np.float32).reshape(1, 3, 1, 1)
    order = np.asarray([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
    wide = np.r_[made["dense"][[7, 2]] * 0.3, made["dense"][order]]
    superset = made | {"dense": wide, "dense_bias": np.r_[made["dense_bias"][[7, 2]] - 2, made["dense_bias"][order]]}

    def save(name: str, model: Onnx) -> None:
        model.save(folder / f"{name}.onnx")

    save("nchw", Onnx(nchw).classify(made).output("scores", ten))
    save("nhwc", Onnx(("n", 8, 8, 1)).step("Transpose", perm=[0, 3, 1, 2]).classify(made).output("scores", ten))
    save("fixed1", Onnx((1, 1, 8, 8)).classify(made).output("scores", (1, 10)))
    save("fixed7", Onnx((7, 1, 8, 8)).classify(made).output("scores", (7, 10)))
    save("softmax", Onnx(nchw).classify(made).step("Softmax", axis=1).output("probs", ten))
    save("log_softmax", Onnx(nchw).classify(made).step("LogSoftmax", axis=1).output("scores", ten))
    cast = Onnx(("n", 8, 8, 1), TensorProto.UINT8).step("Cast", to=_FLOAT).step("Transpose", perm=[0, 3, 1, 2])
    save("uint8", cast.step("Div", np.float32(255)).classify(made).output("scores", ten))
    save("range255", Onnx(nchw).step("Div", np.float32(255)).classify(made).output("scores", ten))
    signed = Onnx(nchw).step("Add", np.float32(1)).step("Mul", np.float32(0.5))
    save("signed", signed.classify(made).output("scores", ten))
    colour = Onnx(three).step("Mul", std).step("Add", mean).step("ReduceMean", np.asarray([1]), keepdims=1)
    save("imagenet", colour.classify(made).output("scores", ten))
    odd = Onnx(nchw).step("Mul", np.float32(0.7)).step("Add", np.float32(0.2))
    save("oddnorm", odd.classify(made).output("scores", ten))
    large = Onnx(("n", 1, 16, 16)).step("AveragePool", kernel_shape=[2, 2], strides=[2, 2])
    save("large", large.classify(made).output("scores", ten))
    save("permuted", Onnx(nchw).classify(made).step("Gather", order, axis=1).output("scores", ten))
    save("superset", Onnx(nchw).classify(superset).output("scores", ("n", 12)))
    save("superset_softmax", Onnx(nchw).classify(superset).step("Softmax", axis=1).output("probs", ("n", 12)))
    two = Onnx(nchw).step("Conv", made["conv"], made["conv_bias"], pads=[1, 1, 1, 1]).step("Tanh").step("Flatten")
    two = two.output("features", ("n", 512)).step("Gemm", made["dense"], made["dense_bias"], transB=1).output("scores", ten)
    save("two_outputs", two)
    both = Onnx(nchw).classify(made).output("logits", ten).step("Softmax", axis=1).output("probs", ten)
    save("logits_and_probs", both)
    unclear = Onnx(nchw).classify(made).output("a", ten).step("Softmax", axis=1).output("b", ten)
    save("unclear", unclear)
    flat = Onnx(("n", 64)).step("Reshape", np.asarray([-1, 1, 8, 8]))
    save("flat", flat.classify(made).output("scores", ten))
    matrix = Onnx(("n", 8, 8)).step("Unsqueeze", np.asarray([1]))
    save("matrix", matrix.classify(made).output("scores", ten))
    double = Onnx(nchw, TensorProto.DOUBLE).step("Cast", to=_FLOAT)
    save("double", double.classify(made).output("scores", ten))
    half = Onnx(nchw, TensorProto.FLOAT16).step("Cast", to=_FLOAT).classify(made).step("Softmax", axis=1)
    save("half_softmax", half.step("Cast", to=TensorProto.FLOAT16).output("probs", ten, TensorProto.FLOAT16))
    # As scikit-learn's converters make them: the winner's name beside the scores.
    named = Onnx(nchw).classify(made).output("scores", ten).step("ArgMax", axis=1, keepdims=0)
    save("label_output", named.step("Cast", to=TensorProto.STRING).output("label", ("n",), TensorProto.STRING))
    for name, sign in (("sigmoid", 1), ("sigmoid_reversed", -1)):
        difference = sign * (made["dense"][1] - made["dense"][0]), sign * (made["dense_bias"][1] - made["dense_bias"][0])
        one = made | {"dense": difference[0][None], "dense_bias": np.asarray([difference[1]], np.float32)}
        save(name, Onnx(nchw).classify(one).step("Sigmoid").output("probability", ("n", 1)))
        save(f"{name}_logit", Onnx(nchw).classify(one).output("score", ("n", 1)))


def keras_model() -> Any:
    """Return the classifier in Keras, NHWC. Imports TensorFlow."""
    import keras

    made = weights()
    pixels = keras.Input((8, 8, 1), name="pixels")
    hidden = keras.layers.Conv2D(8, 3, padding="same", activation="tanh")(pixels)
    scores = keras.layers.Dense(10, name="scores")(keras.layers.Flatten()(hidden))
    model = keras.Model(pixels, scores)
    dense = made["dense"].reshape(10, 8, 8, 8).transpose(2, 3, 1, 0).reshape(512, 10)
    model.set_weights([made["conv"].transpose(2, 3, 1, 0), made["conv_bias"], dense, made["dense_bias"]])
    return model


def build_frameworks(folder: str) -> None:
    """Write what needs TensorFlow into ``folder``: good models, and hostile ones. Runs in a child process."""
    import keras
    import tensorflow as tf

    out = Path(folder)
    model = keras_model()
    model.save(out / "model.keras")
    model.save(out / "model.h5")
    model.export(out / "saved_model", verbose=False)
    probable = keras.Sequential([model, keras.layers.Rescaling(1.0), keras.layers.Softmax()])
    probable.compile("adam", loss=keras.losses.sparse_categorical_crossentropy, metrics=["accuracy"])
    probable.save(out / "probabilities.keras")
    images, _ = digits()
    rows = images.transpose(0, 2, 3, 1)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    (out / "model.tflite").write_bytes(converter.convert())
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Sequential([model, keras.layers.Softmax()]))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in rows[:200])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    (out / "uint8_softmax.tflite").write_bytes(converter.convert())
    _hostile_keras(out, keras)
    _hostile_graphs(out, tf)


def _hostile_keras(out: Path, keras: Any) -> None:
    pixels = keras.Input((8, 8, 1))
    canary = str(out / "canary")
    # It is saved as byte code, so the path must be a constant of it.
    code = eval(f"lambda x: (open({canary!r}, 'w').close(), x * 2)[1]")
    hidden = keras.layers.Lambda(code, output_shape=(8, 8, 1))(pixels)
    hidden = keras.layers.Flatten()(hidden)
    model = keras.Model(pixels, keras.layers.Dense(10)(hidden))
    model.save(out / "lambda.keras")
    model.save(out / "lambda.h5")
    Path(canary).unlink(missing_ok=True)  # building the model ran it


def _hostile_graphs(out: Path, tf: Any) -> None:
    spec = [tf.TensorSpec((None, 8, 8, 1), tf.float32)]

    class Model(tf.Module):  # type: ignore[misc]
        def __init__(self, act: Any) -> None:
            self.weight, self.act = tf.Variable(tf.ones((64, 10))), act

        @tf.function(input_signature=spec)
        def __call__(self, pixels):  # type: ignore[no-untyped-def]
            rows = tf.reshape(pixels, (-1, 64))
            self.act(rows, self.weight)
            return {"scores": rows @ self.weight}

    canary = str(out / "graph_canary")
    acts = {
        "calls_python": lambda rows, weight: tf.py_function(lambda x: x, [rows], tf.float32),
        "writes": lambda rows, weight: tf.io.write_file(canary, "x"),
        "reads": lambda rows, weight: tf.io.read_file("/etc/hostname"),
        "saves": lambda rows, weight: tf.raw_ops.SaveV2(
            prefix=canary, tensor_names=["a"], shape_and_slices=[""], tensors=[weight]
        ),
        "saves_in_loop": lambda rows, weight: tf.while_loop(
            lambda i: i < 1,
            lambda i: (tf.raw_ops.SaveV2(prefix=canary, tensor_names=["a"], shape_and_slices=[""], tensors=[weight]), i + 1)[
                1:
            ],
            [tf.constant(0)],
        ),
        "plain": lambda rows, weight: None,
    }
    for name, act in acts.items():
        tf.saved_model.save(Model(act), str(out / name))


def build_int8_tflite(folder: str) -> None:
    """Write ``int8.tflite``, int8 in and out, by AI Edge Quantizer. Runs in a child process."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    out = Path(folder)
    images, _ = digits()
    (signature, described), *_ = Interpreter(str(out / "model.tflite")).get_signature_list().items()
    rows = [{described["inputs"][0]: row[None]} for row in images.transpose(0, 2, 3, 1)[::6]]
    work = quantizer.Quantizer(str(out / "model.tflite"), recipe.static_wi8_ai8())
    made = work.quantize(work.calibrate({signature: rows}))
    (out / "int8.tflite").write_bytes(bytes(made.quantized_model))
