"""What the report shows of files with layers in floating point."""

import re
from dataclasses import replace
from typing import Any

import pytest

from edgekd.quantize.layers import Layer, Layers
from edgekd.quantize.mixing import mix_precision
from edgekd.quantize.quality import Quality
from edgekd.quantize.range_file import Ranges
from edgekd.report.charts import int8_share, short_layer
from edgekd.report.mixed import mixed_tables
from edgekd.report.page import report_page
from edgekd.report.report import Report

LONG = "model/torch.nn.modules.container.Sequential_blocks/_Block_0/Conv2d_conv<b>;1"


def _facts() -> dict[str, Any]:
    names = ("first", LONG, "third", "last")
    layers = tuple(Layer(name, "Conv", 10, 10, (f"{place}",), (f"{place + 1}",)) for place, name in enumerate(names))

    def judge(_ranges: Ranges, kept: tuple[str, ...]) -> Quality:
        good = LONG in kept
        return Quality(0.95 if good else 0.7, 0.5 if good else 25.5, 0.99 if good else 0.7, 30.0 if good else 2.0, 200)

    return mix_precision(Layers(layers, ("0",), ("4",)), {}, judge, lambda each: each.drop <= 1).to_json()


@pytest.fixture
def mixed(finished: Report) -> Report:
    """A finished run as if layers of one of its files had been kept in floating point."""
    artifacts = []
    for each in finished.artifacts:
        if each.name == "onnx-int8":
            facts = {**(each.verified.artifact.quantization or {}), "mixed": _facts()}
            each = replace(each, verified=replace(each.verified, artifact=replace(each.verified.artifact, quantization=facts)))
        artifacts.append(each)
    return replace(finished, artifacts=tuple(artifacts))


@pytest.mark.slow
def test_the_chart_names_the_layers_and_has_a_point_for_every_file(finished: Report, mixed: Report) -> None:
    assert int8_share(finished) is None
    chart = int8_share(mixed)
    assert chart is not None and chart == int8_share(mixed)
    assert "Conv2d_conv&lt;b&gt;;1" in chart and "onnx int8" in chart and "<b>" not in chart
    points = len(_facts()["curve"])
    assert points > 3
    assert len(re.findall(r"<use ", chart)) >= points + 1


@pytest.mark.slow
def test_the_page_and_the_json_tell_what_each_rule_brought(mixed: Report) -> None:
    (table,) = mixed_tables(mixed)
    assert [(each.rule, each.treatment) for each in table.rules] == [
        ("first layer", "none needed"), ("last layer", "none needed"),
    ]  # fmt: skip
    assert "70.0% (2.0 dB)" in table.told and "with 1 layer in" in table.told and "99.0% (30.0 dB)" in table.told
    assert table.told in report_page(mixed, mixed.to_json()["environment"])
    (found,) = (each for each in mixed.to_json()["artifacts"] if (each["quantization"] or {}).get("mixed"))
    assert found["quantization"]["mixed"]["kept"][0]["layer"] == LONG


def test_layers_of_tflite_files_are_shown_by_their_own_part() -> None:
    assert short_layer("node_Conv_83") == "node_Conv_83"
    assert short_layer("a/b.Conv2d_conv;;c/d.BatchNorm2d_bn;1;") == "d.BatchNorm2d_bn;1"
    assert len(short_layer("x" * 100)) == 40
