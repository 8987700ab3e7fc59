"""Statistics on samples whose truth is known; never the clock."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.benchmark.statistics import Turn, compare_turns, judge, slowdown, summarise_turns

BLOCKS, TURNS, RUNS = 3, 20, 40


def turns(
    seed: int, middle: float = 1.0, noise: float = 0.01, block_noise: float = 0.0, speed: Callable[[float], float] = lambda _: 1.0,
    blocks: int = BLOCKS, count: int = TURNS,
) -> list[Turn]:  # fmt: skip
    """Return turns of lognormal times; ``speed`` of the share of the time that has passed multiplies them."""
    chance = np.random.default_rng(seed)
    made = []
    for block in range(blocks):
        level = middle * math.exp(block_noise * chance.standard_normal())
        for turn in range(count):
            share = (block * count + turn) / (blocks * count)
            ms = level * speed(share) * chance.lognormal(0, noise, RUNS)
            made.append(Turn(block, turn, 100 * share, tuple(ms), RUNS, float(ms.max())))
    return made


def canary(seed: int = 9, speed: Callable[[float], float] = lambda _: 1.0, noise: float = 0.005) -> list[Turn]:
    """Return the fixed work, before and after each of three blocks."""
    made = []
    for index, share in enumerate(np.linspace(0, 0.99, 2 * BLOCKS)):
        (each,) = turns(seed + index, 0.4 * speed(share), noise, blocks=1, count=1)
        made.append(Turn(index // 2, index, 100 * share, each.ms, each.runs, each.max_ms))
    return made


def state(**more: object) -> dict[str, object]:
    return {"temperatures": {}, "frequencies": {}, "throttled": None, "throttle_count": None, **more}


def test_the_summary_is_that_of_numpy() -> None:
    made = turns(0)
    every = np.concatenate([each.ms for each in made])
    found = summarise_turns(made)
    assert (found.runs, found.min, found.max) == (len(every), every.min(), every.max())
    assert (found.p50, found.p90, found.p99) == tuple(np.percentile(every, (50, 90, 99)))
    assert found.cv == pytest.approx(every.std() / every.mean())
    assert found.low is not None and found.high is not None and found.p50 is not None
    assert found.low < found.p50 < found.high
    assert summarise_turns(made) == found  # seeded


def test_the_interval_of_the_median_knows_that_neighbours_resemble_each_other() -> None:
    covered, narrow = 0, 0
    for seed in range(40):
        chance = np.random.default_rng(seed)
        made = []
        for turn in range(40):
            ms = math.exp(0.05 * chance.standard_normal()) * chance.lognormal(0, 0.01, 30)
            made.append(Turn(0, turn, turn, tuple(ms), 30, ms.max()))
        found = summarise_turns(made)
        assert found.low is not None and found.high is not None
        covered += found.low <= 1 <= found.high
        independent = chance.choice(np.concatenate([each.ms for each in made]), (300, 40 * 30))
        low, high = np.percentile(np.median(independent, axis=1), (2.5, 97.5))
        narrow += low <= 1 <= high
    assert covered >= 34, covered  # 38 expected
    assert narrow < covered  # resampling single samples is too sure of itself


def test_steady_times_are_stable() -> None:
    found = judge(turns(1), canary(), [state(throttled=0x50000), state(throttled=0x50000)])
    assert (found.word, found.reasons) == ("stable", ())  # what occurred before this measurement does not count


def test_rare_pauses_of_the_system_do_not_make_it_noisy() -> None:
    made = turns(1)
    made[3] = Turn(made[3].block, 3, made[3].t_s, (*made[3].ms[:-1], 40.0), RUNS, 40.0)
    assert judge(made, canary(), []).word == "stable"
    assert summarise_turns(made).max == 40.0  # but it is told
    assert summarise_turns(made).cv > 0.05


@pytest.mark.parametrize(
    ("made", "fixed", "reason"),
    [
        (turns(2, noise=0.1), canary(), "the file's times scatter"),
        (turns(2, block_noise=0.1), canary(), "the file's blocks disagree"),
        (turns(2), canary(noise=0.2), "the canary's times scatter"),
        (turns(2), canary(speed=lambda share: 1.2 if 0.3 < share < 0.6 else 1.0), "the canary's blocks disagree"),
    ],
)
def test_what_scatters_or_disagrees_is_noisy(made: list[Turn], fixed: list[Turn], reason: str) -> None:
    found = judge(made, fixed, [])
    assert found.word == "noisy"
    assert any(each.startswith(reason) for each in found.reasons), found.reasons


def test_a_cpu_load_in_one_block_is_noisy() -> None:
    """Another process takes a processor for 4 ms every so often, as schedulers do."""
    chance = np.random.default_rng(4)
    made = [
        Turn(each.block, each.turn, each.t_s, tuple(ms + 4.0 * (chance.random() < 0.1) for ms in each.ms), RUNS, 5.0)
        if each.block == 1 else each for each in turns(3)
    ]  # fmt: skip
    assert judge(made, canary(), []).word == "noisy"


def _hot(share: float) -> float:
    return 1.0 if share < 0.5 else 1.4


@pytest.mark.parametrize(
    ("made", "fixed", "states", "reason"),
    [
        (turns(5, speed=_hot), canary(speed=_hot), [], "file and canary slowed down by 40% and 4"),
        (turns(5), canary(), [state(throttled=0), state(throttled=0x4)], "throttled"),
        (turns(5), canary(), [state(throttled=0), state(throttled=0x10000)], "under-voltage"),
        (turns(5), canary(), [state(throttle_count=3), state(throttle_count=5)], "throttled 2 times"),
        (
            turns(5, speed=_hot), [],
            [state(frequencies={"cpu0": 1_800_000}), state(frequencies={"cpu0": 1_200_000})], "its clock fell from 1,800 to 1,200 MHz",
        ),
        (
            turns(5, speed=_hot), [],
            [state(temperatures={"cpu": 45.0}), state(temperatures={"cpu": 85.0})], "while it heated from 45 to 85",
        ),
    ],
)  # fmt: skip
def test_what_slows_itself_down_is_throttled(
    made: list[Turn], fixed: list[Turn], states: list[dict[str, object]], reason: str
) -> None:
    found = judge(made, fixed, states)
    assert found.word == "throttled"
    assert any(reason in each for each in found.reasons), found.reasons


def test_a_file_that_slows_down_alone_is_noisy_not_throttled() -> None:
    """The canary ran as fast as before: the device is as fast as it was."""
    assert judge(turns(6, speed=_hot), canary(), []).word == "noisy"


def test_a_load_that_grows_is_noisy_not_throttled() -> None:
    """It slows file and canary down as heat does, but times within a turn scatter."""
    assert judge(turns(6, speed=_hot), canary(speed=_hot, noise=0.2), []).word == "noisy"


def test_the_slowdown_is_that_of_the_end_to_the_beginning() -> None:
    assert slowdown(turns(7, speed=lambda share: 1 + 0.3 * (share > 0.7))) == pytest.approx(0.3, abs=0.02)
    assert slowdown(turns(7)) == pytest.approx(0, abs=0.02)
    assert slowdown(turns(7, count=1)) is None


@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.1, 3.0])
def test_a_real_difference_is_found_through_a_drift_that_both_share(ratio: float) -> None:
    first = turns(10, speed=lambda share: 1 + share)
    second = turns(11, ratio, speed=lambda share: 1 + share)
    found = compare_turns(("A", "B"), first, second)
    assert found is not None and found.differs
    assert found.low <= ratio <= found.high
    assert found.ratio == pytest.approx(ratio, rel=0.01)
    assert ("slower" if ratio > 1 else "faster") in found.text()


def test_a_file_against_itself_hardly_ever_differs() -> None:
    """A/A with noise within turns and between processes: within 3 %, and called a difference in at most 1 of 20."""
    wrong, far = 0, 0
    for seed in range(100):
        first, second = turns(2 * seed, noise=0.03, block_noise=0.005), turns(2 * seed + 1, noise=0.03, block_noise=0.005)
        found = compare_turns(("A", "A again"), first, second)
        assert found is not None
        wrong += found.differs
        far += abs(found.ratio - 1) > 0.03
        assert found.differs or "no difference beyond noise" in found.text()
    assert far == 0
    assert wrong <= 10, wrong  # 5 expected


def test_files_without_turns_in_common_are_not_compared() -> None:
    assert compare_turns(("A", "B"), turns(0), []) is None


@settings(max_examples=25)
@given(st.lists(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8), min_size=1, max_size=12))
def test_any_times_have_a_summary_and_a_verdict(given_times: list[list[float]]) -> None:
    made = [Turn(index % 2, index // 2, index, tuple(ms), len(ms), max(ms)) for index, ms in enumerate(given_times)]
    found = summarise_turns(made)
    assert found.min <= (found.p50 or 0) <= (found.p90 or 0) <= (found.p99 or 0) <= found.max * (1 + 1e-12)
    assert judge(made, [], []).word in {"stable", "noisy", "throttled"}
    compared = compare_turns(("A", "A"), made, made)
    assert compared is not None and compared.ratio == 1 and not compared.differs
