"""Transcripts of several versions of the native tools, read; sources in ``transcripts/README.md``."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.benchmark.native_parsers import (
    PARSERS,
    NativeRun,
    parse_benchmark_model,
    parse_perf_test,
    parse_trtexec,
    trtexec_version,
)
from edgekd.errors import DeviceError

TRANSCRIPTS = Path(__file__).parent / "transcripts"
MIB = 2**20


def text(name: str) -> str:
    return (TRANSCRIPTS / f"{name}.txt").read_text()


EXPECTED = {
    "benchmark_model_2018": NativeRun(
        "benchmark_model", None, 50, 137.722, 137.079, 143.416, 0.896, first_ms=146.161, load_ms=4.452
    ),
    "benchmark_model_2.4_android": NativeRun(
        "benchmark_model", None, 50, 249.684, 247.067, 254.474, 1.442, first_ms=360.262, load_ms=16.242,
        memory_bytes=int(138.809 * MIB),
    ),
    "benchmark_model_litert_am62": NativeRun(
        "benchmark_model", None, 50, 1240.27, 1238.588, 1252.566, 2.565, p50=1239.807, first_ms=1357.602, load_ms=5.579,
        memory_bytes=int(109.832 * MIB),
    ),
    "benchmark_model_partly_delegated": NativeRun(
        "benchmark_model", None, 50, 223.914, 214.077, 240.981, 6.021, p50=223.480, first_ms=237.814, load_ms=95.112,
        memory_bytes=int(73.4102 * MIB), delegated=(642, 685),
    ),
    "perf_test_2019": NativeRun(
        "onnxruntime_perf_test", None, 1000, 58.8053, 55.9777, 62.3472, p50=58.7108, p90=59.9845, p99=61.9517
    ),
    "perf_test_1.3": NativeRun(
        "onnxruntime_perf_test", None, 10, 144.871, 144.871, 144.871, load_ms=127.918, memory_bytes=158171136
    ),
    "perf_test_1.15": NativeRun(
        "onnxruntime_perf_test", None, 10, 44.6395, 42.9274, 49.022, p50=44.6158, p90=49.022, p99=49.022, first_ms=60,
        load_ms=708.476, memory_bytes=53567488,
    ),
    "perf_test_1.24": NativeRun(
        "onnxruntime_perf_test", None, 5, 98.961997, 95.8204, 101.519, p50=99.5086, p90=101.519, p99=101.519, first_ms=196,
        load_ms=217.932, memory_bytes=271122432,
    ),
    "trtexec_7": NativeRun("trtexec", None, 56, 55.2468, 55.0791, 57.4766, p50=55.2111, p99=57.4766),
    "trtexec_8.4": NativeRun("trtexec", "8.4.1", 74, 42.0431, 41.1855, 43.0625, p50=41.9604, p99=43.0625, load_ms=41.2),
    "trtexec_8.6": NativeRun(
        "trtexec", "8.6.1", 136, 22.4855, 21.4507, 26.4669, p50=22.0431, p90=24.1021, p99=26.1577, load_ms=35.7642
    ),
    "trtexec_10": NativeRun(
        "trtexec", "10.2.0", 391, 7.58404, 5.34595, 13.3388, p50=7.14139, p90=10.2881, p99=12.9485, load_ms=212.037
    ),
}  # fmt: skip


def tool_of(name: str) -> str:
    return next(each for each in PARSERS if name.startswith(each.removeprefix("onnxruntime_")))


def test_every_transcript_is_read() -> None:
    assert {each.stem for each in TRANSCRIPTS.glob("*.txt")} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_transcript_says_what_was_measured(name: str) -> None:
    found, expected = PARSERS[tool_of(name)](text(name)), EXPECTED[name]
    for key, value in vars(expected).items():
        got = getattr(found, key)
        assert got == (pytest.approx(value) if isinstance(value, float) else value), key


def test_times_of_every_inference_are_those_of_the_gpu() -> None:
    rows = [{"startInMs": 1.0, "inMs": 0.1, "computeMs": 2.0 + index, "outMs": 0.1, "latencyMs": 9.0} for index in range(5)]
    found = parse_trtexec(text("trtexec_8.6"), json.dumps(rows))
    assert found.times == (2.0, 3.0, 4.0, 5.0, 6.0)
    assert found.runs == 5


@pytest.mark.parametrize("exported", ["[", "{}", "[1]", '[{"computeMs": "fast"}]', "[" * 100_000, '[{"computeMs": NaN}]'])
def test_broken_times_are_one_clear_line(exported: str) -> None:
    with pytest.raises(DeviceError) as caught:
        parse_trtexec(text("trtexec_8.6"), exported)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("spelled", "version"),
    [("v8205", "8.2.5"), ("v8412", "8.4.12"), ("v8602", "8.6.2"), ("v7103", "7.1.3"), ("v100300", "10.3.0"), ("v101303", "10.13.3"),
     ("v110300", "11.3.0")],
)  # fmt: skip
def test_versions_are_spelled_out(spelled: str, version: str) -> None:
    assert trtexec_version(f"&&&& RUNNING TensorRT.trtexec [TensorRT {spelled}] [b9] # trtexec --help") == version


def test_no_version_is_none() -> None:
    assert trtexec_version("bash: trtexec: command not found") is None


@pytest.mark.parametrize("parser", [parse_benchmark_model, parse_perf_test, parse_trtexec])
@given(noise=st.text(max_size=400))
def test_garbage_is_one_clear_line(parser: object, noise: str) -> None:
    with pytest.raises(DeviceError) as caught:
        parser(noise)  # type: ignore[operator]
    assert "\n" not in caught.value.message
    assert caught.value.message.isprintable()


@given(name=st.sampled_from(sorted(EXPECTED)), data=st.data())
def test_a_damaged_transcript_is_read_or_refused(name: str, data: st.DataObject) -> None:
    """Cut off, or with characters in it replaced."""
    whole = text(name)
    damaged = whole[: data.draw(st.integers(0, len(whole)))]
    if damaged:
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged = damaged[:place] + data.draw(st.text(max_size=5)) + damaged[place + 1 :]
    try:
        found = PARSERS[tool_of(name)](damaged)
    except DeviceError as error:
        assert "\n" not in error.message
    else:
        assert found.runs >= 1
        assert found.mean > 0
