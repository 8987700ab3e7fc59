"""Networks that plain static int8 ruins are found, and mended by the mildest means that works, in their runtimes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd.models.spec import build
from edgekd.models.tensors import TensorSpec, classifier
from edgekd.quantize.layers import Layer, Layers
from edgekd.quantize.mixing import mix_precision
from edgekd.quantize.quality import Quality
from edgekd.quantize.range_file import Ranges
from edgekd.quantize.rescue import rescue
from edgekd.quantize.rescue_rules import Finding, Treatment, find_killers
from tests.quantize.judging import Judged, judged

GOAL_DB = 18.0
MENDED = {
    "concat": ("concat of unlike ranges", "the concatenation and what reads it in floating point"),
    "hard_swish": ("self-gated activations", "ranges of what hard-swish reads end where it gives 0 below"),
    "silu": ("self-gated activations", "ranges of what SiLU reads end where it gives 0 below"),
    "gelu": ("self-gated activations", "ranges of what GELU reads end where it gives 0 below"),
    "depthwise": ("depthwise with spread channels", "the depthwise convolution and what reads it in floating point"),
    "head": ("head of unlike ranges", "the last concatenation and the output in floating point"),
    "first": ("first layer", "the first layer in floating point"),
    "last": ("last layer", "the last layer and the output in floating point"),
}
TFLITE = ("concat", "hard_swish", "head", "first")


def _judged(name: str, kind: str, folder: Path) -> Judged:
    image = TensorSpec("image", "float32", (3, 8, 8), "NCHW", "image", (0.0, 1.0))
    spec = classifier(f"python:tests.quantize.killers:{name}", (image,), tuple("abcd"))
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    images = random.normal(size=(200, 3, 8, 8)) + random.normal(size=(200, 3, 1, 1))
    if name == "first":
        images[:, 0] *= 1000
    return judged(spec, build(spec).eval(), {"image": images.astype(np.float32)}, kind, folder)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [*((name, "onnx") for name in MENDED), *((name, "tflite") for name in TFLITE)])
def test_a_killer_is_found_and_mended(name: str, kind: str, tmp_path: Path) -> None:
    network = _judged(name, kind, tmp_path)
    found = mix_precision(network.layers(), network.observed(), network.quality, lambda each: each.sqnr_db >= GOAL_DB)
    assert found.plain.sqnr_db < 0
    assert found.holds and found.quality.sqnr_db >= GOAL_DB
    assert network.quality(found.ranges, found.keep) == found.quality
    rule, treatment = MENDED[name]
    (applied,) = (each for each in found.applied if each.finding.rule == rule)
    assert applied.treatment == treatment
    assert applied.after.sqnr_db - applied.before.sqnr_db > 12
    first_and_last = {each.finding.rule for each in found.applied if each.treatment is not None} - {rule}
    assert first_and_last <= {"first layer", "last layer"}
    assert {name for each in found.applied for name in each.keep} == set(found.keep)
    assert found.to_json()["rules"][0]["rule"] == found.applied[0].finding.rule
    if kind == "onnx" and "ranges" in treatment:
        assert found.keep == ()


def _layer(name: str, operator: str, inputs: str, outputs: str, macs: int = 0, spread: float = 1.0) -> Layer:
    return Layer(name, operator, macs, macs, tuple(inputs.split()), tuple(outputs.split()), True, spread)


def test_a_sound_network_has_no_killers_but_first_and_last_layer() -> None:
    layers = Layers((
        _layer("a", "Conv", "x", "1", 9), _layer("b", "Relu", "1", "2"), _layer("c", "Conv", "2", "3", 9, 7.9),
        _layer("d", "Concat", "2 3", "4"), _layer("e", "Mul", "4 4", "5"), _layer("f", "Gemm", "5", "y", 9),
    ), ("x",), ("y",))  # fmt: skip
    observed = {"x": (-1.0, 1.0), "1": (-9.0, 9.0), "2": (0.0, 9.0), "3": (-1.0, 1.0), "4": (-1.0, 9.0), "5": (0.0, 81.0)}
    assert [each.rule for each in find_killers(layers, observed)] == ["first layer", "last layer"]
    (first, last) = find_killers(layers, observed)
    assert first.treatments[0].keep == ("a",) and last.treatments[0].keep == ("f",)


def test_what_a_clip_would_change_for_others_is_not_clipped() -> None:
    """The tensor before the hard-swish is read by another layer too, which needs its lower part."""
    gate = _layer("h", "HARD_SWISH", "1", "2")
    alone = Layers((_layer("a", "CONV_2D", "x", "1", 9), gate), ("x",), ("2",))
    shared = Layers((*alone.layers, _layer("b", "CONV_2D", "1", "3", 9)), ("x",), ("2", "3"))
    observed = {"1": (-50.0, 2.0)}
    (found,) = find_killers(alone, observed)
    assert found.treatments[0] == Treatment(found.treatments[0].what, {"1": (-3.0, 2.0)})
    (found,) = find_killers(shared, observed)
    assert [each.ranges for each in found.treatments] == [{}]
    assert found.treatments[0].keep == ("h",)


def test_a_decomposed_layer_norm_is_found_whole_and_the_residual_sum_before_it() -> None:
    """As LiteRT's converter writes it, behind a sum and before a dense layer and the next sum."""
    layers = Layers((
        _layer("dense", "FULLY_CONNECTED", "w", "d", 9), _layer("sum", "ADD", "d w", "x"), _layer("mean", "MEAN", "x", "m"),
        _layer("shaped", "RESHAPE", "m", "m2"), _layer("square", "SQUARED_DIFFERENCE", "x m2", "s"),
        _layer("variance", "MEAN", "s", "v"), _layer("epsilon", "ADD", "v", "v2"), _layer("root", "RSQRT", "v2", "r"),
        _layer("scaled", "MUL", "x r", "n"), _layer("shifted", "MUL", "m2 r", "n2"), _layer("out", "SUB", "n n2", "y"),
        _layer("next", "FULLY_CONNECTED", "y", "z", 9), _layer("residual", "ADD", "z y", "o"),
    ), ("w",), ("o",))  # fmt: skip
    (found,) = (each for each in find_killers(layers, {}) if each.rule == "layer norm")
    members = ("mean", "shaped", "square", "variance", "epsilon", "root", "scaled", "shifted", "out")
    assert [each.keep for each in found.treatments] == [members, ("sum", *members)]


def test_masked_scores_get_the_steps_that_the_others_need() -> None:
    layers = Layers((
        _layer("scores", "MatMul", "q k", "s", 9), _layer("scale", "Mul", "s", "s2"), _layer("invert", "Sub", "mask", "m"),
        _layer("below", "Mul", "m", "m2"), _layer("widen", "Unsqueeze", "m2", "m3"), _layer("masked", "Add", "s2 m3", "t"),
        _layer("softmax", "Softmax", "t", "p"),
    ), ("q", "k", "mask"), ("p",))  # fmt: skip
    observed = {"s2": (-4.0, 6.0), "m2": (-10_000.0, 0.0), "m3": (-10_000.0, 0.0), "t": (-10_004.0, 6.0)}
    (found,) = find_killers(layers, observed)
    assert found.treatments[0].ranges == {"t": (-14.0, 6.0), "m2": (-20.0, 0.0), "m3": (-20.0, 0.0)}
    assert set(found.treatments[1].keep) == {"scale", "invert", "below", "widen", "masked", "softmax"}
    masked, least = np.exp(-14.0), np.exp(-4.0)
    assert masked / least < 1e-4


def _finding(name: str, *treatments: Treatment) -> Finding:
    return Finding(name, "", (name,), treatments)


def _rescue(
    findings: list[Finding], needed: Mapping[str, tuple[str, ...]], goal: float = 20.0
) -> tuple[dict[str, str | None], float, list[tuple[Ranges, tuple[str, ...]]]]:
    """Treat killers of which each in ``needed`` costs 30 dB unless a treatment whose words it lists was chosen."""
    asked = []

    def quality_of(ranges: Ranges, keep: tuple[str, ...]) -> Quality:
        asked.append((ranges, keep))
        given = {*ranges, *keep}
        noise = sum(10.0 for each in needed.values() if not given & set(each)) + 10 ** -(goal / 10 + 0.5)
        return Quality(1, 0, 1, float(-10 * np.log10(noise)), 9)

    rescued = rescue(findings, quality_of({}, ()), quality_of, lambda each: each.sqnr_db >= goal, {"big": 9})
    assert asked[-1] is not None and quality_of(rescued.ranges, rescued.keep) == rescued.quality
    return {each.finding.rule: each.treatment for each in rescued.applied}, rescued.quality.sqnr_db, asked


MILD, STRONG = Treatment("mild", {"range": (0, 1)}), Treatment("strong", {"range": (0, 1)}, ("big",))
OTHER = Treatment("other", {}, ("small",))


def test_of_two_killers_that_hide_each_other_both_are_treated_and_a_third_is_not() -> None:
    findings = [_finding("first", MILD, STRONG), _finding("second", OTHER), _finding("third", Treatment("x", {}, ("third",)))]
    treated, reached, asked = _rescue(findings, {"first": ("range",), "second": ("small",)})
    assert treated == {"first": "mild", "second": "other", "third": None}
    assert reached >= 20 and len(asked) <= 2 + 4 + 1


def test_the_strong_treatment_is_taken_where_the_mild_one_fails() -> None:
    assert _rescue([_finding("first", MILD, STRONG)], {"first": ("big",)})[0] == {"first": "strong"}


def test_where_the_goal_is_out_of_reach_what_helps_is_kept() -> None:
    findings = [_finding("first", MILD, STRONG), _finding("second", OTHER)]
    treated, reached, _ = _rescue(findings, {"first": ("range",), "beyond": ()})
    assert treated == {"first": "mild", "second": None}
    assert reached < 0


def test_nothing_is_treated_that_does_not_help_or_that_is_good_already() -> None:
    assert _rescue([_finding("first", MILD)], {"beyond": ()})[0] == {"first": None}
    treated, reached, asked = _rescue([_finding("first", MILD)], {})
    assert treated == {"first": None} and reached >= 20 and len(asked) == 2
