"""The table of files is whole: names, sources, functions."""

import importlib
import inspect

import pytest

from edgekd.artifacts import file_name, files_beside
from edgekd.flavours import (
    ARTIFACT_NAMES,
    DEFAULT_ARTIFACTS,
    FLAVOURS,
    ArtifactName,
    flavour_of,
    format_of,
    precision_of,
    sources,
)


def test_every_name_has_a_flavour_and_a_file_of_its_own() -> None:
    assert tuple(FLAVOURS) == ARTIFACT_NAMES
    assert set(DEFAULT_ARTIFACTS) <= set(ARTIFACT_NAMES)
    names = [file_name(name) for name in ARTIFACT_NAMES] + [each for name in ARTIFACT_NAMES for each in files_beside(name)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ARTIFACT_NAMES)
def test_the_functions_of_a_flavour_take_what_it_gives_them(name: ArtifactName) -> None:
    flavour = FLAVOURS[name]
    given = {"out", *flavour.arguments} | ({"model"} if flavour.source else {"spec", "weights"})
    for reference, extra in ((flavour.function, flavour.activations in {"static", "auto"}), (flavour.dynamic, False)):
        if reference is None:
            continue
        module, _, function = reference.partition(":")
        takes = inspect.signature(getattr(importlib.import_module(module), function)).parameters
        needed = {each for each, parameter in takes.items() if parameter.default is parameter.empty}
        wanted = given | ({"calibration"} if extra else set())
        assert needed <= wanted <= set(takes)
    assert (flavour.activations == "auto") == (flavour.dynamic is not None)
    assert flavour.source is None or format_of(flavour.source) == format_of(name) or format_of(name) == "ort"
    assert flavour.what and flavour.devices


def test_sources_come_first_and_once() -> None:
    assert sources(("ort-int8", "onnx-int8", "tflite-fp16")) == (
        "onnx-fp32", "onnx-int8", "ort-int8", "tflite-fp32", "tflite-fp16",
    )  # fmt: skip
    ordered = sources(tuple(reversed(ARTIFACT_NAMES)))
    assert sorted(ordered) == sorted(ARTIFACT_NAMES)


def test_a_name_says_format_precision_and_flavour() -> None:
    assert [(format_of(each), precision_of(each), flavour_of(each)) for each in ("tflite-int16x8", "onnx-int8-tensorrt")] == [
        ("tflite", "int16x8", ""), ("onnx", "int8", "tensorrt"),
    ]  # fmt: skip
    assert file_name("tflite-int8-float-io") == "student.int8-float-io.tflite"
    assert files_beside("ort-int8") == ("student.int8.required_operators.config",)
