"""From an int8 file that is too bad to one that is not: rules, sensitivity and search together, with made-up qualities."""

import json
import math
from collections.abc import Mapping

import pytest

from edgekd.quantize.layers import Group, Layer, Layers
from edgekd.quantize.mixing import Mixed, mix_precision
from edgekd.quantize.quality import Quality
from edgekd.quantize.range_file import Ranges
from edgekd.quantize.sensitivity import measure_sensitivity

CHAIN = Layers(
    tuple(Layer(name, "Conv", macs, macs, (f"t{place}",), (f"t{place + 1}",)) for place, (name, macs) in enumerate(
        (("a", 5), ("b", 40), ("c", 10), ("d", 20), ("e", 5), ("f", 20))
    )),
    ("t0",), ("t6",),
)  # fmt: skip


def _quality(noise: float) -> Quality:
    return Quality(0.5, 0.0, 1.0, -10 * math.log10(noise + 1e-12), 10)


def _mix(harm: Mapping[str, float], goal_db: float, keep: tuple[str, ...] = ()) -> tuple[Mixed, int]:
    """Mix the chain, whose layers add noise unless they are in floating point; return also how many files were judged."""
    asked = set()

    def judge(ranges: Ranges, kept: tuple[str, ...]) -> Quality:
        assert kept not in asked and not ranges
        asked.add(kept)
        return _quality(sum(each for name, each in harm.items() if name not in kept))

    mixed = mix_precision(CHAIN, {}, judge, lambda each: each.sqnr_db >= goal_db, keep)
    return mixed, len(asked)


def test_the_layers_that_harm_are_kept_and_named_with_the_reason() -> None:
    mixed, _ = _mix({"a": 0.001, "b": 0.001, "c": 0.5, "d": 0.001, "e": 0.3, "f": 0.001}, 20)
    assert mixed.holds and mixed.keep == ("c", "e")
    assert mixed.quality.sqnr_db > 20 > mixed.plain.sqnr_db
    facts = json.loads(json.dumps(mixed.to_json()))
    assert [(each["layer"], each["why"]) for each in facts["kept"]] == [("c", "sensitivity"), ("e", "sensitivity")]
    assert facts["kept"][0]["harm"] == pytest.approx(0.5, rel=1e-3)
    (chosen,) = (each for each in facts["curve"] if each["kept"] == ["c", "e"])
    assert chosen["int8_macs"] == pytest.approx(0.85) and chosen["holds"]
    shares = [each["int8_macs"] for each in facts["curve"]]
    assert shares == sorted(shares, reverse=True) and shares[0] == 1 and facts["curve"][0]["kept"] == []


def test_a_rule_that_is_enough_ends_the_search() -> None:
    mixed, judged = _mix({"f": 0.5, "c": 0.001}, 20)
    assert mixed.keep == ("f",) and mixed.sensitivity == ()
    assert [(each.finding.rule, each.treatment is not None) for each in mixed.applied] == [
        ("first layer", False), ("last layer", True),
    ]  # fmt: skip
    assert judged <= 4


def test_a_file_that_is_good_already_costs_one_look() -> None:
    mixed, judged = _mix({"c": 0.001}, 20)
    assert mixed.holds and mixed.keep == () and judged == 1


def test_what_is_to_be_kept_is_kept_whatever_it_brings() -> None:
    mixed, _ = _mix({"c": 0.5}, 20, keep=("b",))
    assert mixed.holds and mixed.keep == ("b", "c")


def test_out_of_reach_the_best_that_was_seen_is_returned() -> None:
    mixed, _ = _mix({"c": 0.5, "nothing can be done": 0.4}, 20)
    assert not mixed.holds and "c" in mixed.keep
    assert mixed.quality == max((each.quality for each in mixed.curve), key=lambda each: each.sqnr_db)


def _sensitivity(noise_without: Mapping[str, float], noise: float) -> dict[str, tuple[float, bool]]:
    """Measure groups ``a``, ``b``, ``c``, of which those left in int8 make the loudest noise heard: it hides the others."""
    groups = [Group((name,), 1, 1) for name in "abc"]

    def quality_of(kept: tuple[str, ...]) -> Quality:
        return _quality(max((each for name, each in noise_without.items() if name not in kept), default=noise))

    return {each.group.layers[0]: (each.harm, each.in_int8 is not None) for each in measure_sensitivity(groups, quality_of)}


def test_groups_that_hide_behind_each_other_are_measured_alone() -> None:
    found = _sensitivity({"a": 9.0, "b": 9.0, "c": 0.01}, 0.0)
    assert all(measured_alone for _, measured_alone in found.values())
    assert [harm for harm, _ in found.values()] == pytest.approx([9, 9, 0.01])


def test_where_one_group_explains_the_noise_the_others_are_not_measured_again() -> None:
    found = _sensitivity({"a": 9.0, "b": 0.01, "c": 0.01}, 0.0)
    assert not any(measured_alone for _, measured_alone in found.values())
    assert [harm for harm, _ in found.values()] == pytest.approx([8.99, 0, 0], abs=1e-9)
