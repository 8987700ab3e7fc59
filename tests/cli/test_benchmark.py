"""``edgekd benchmark`` and ``edgekd verify --on``: what is printed, and how they exit."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgekd.benchmark.golden_vectors import read_golden
from edgekd.benchmark.measurements import DeviceBenchmark, Measurement
from edgekd.benchmark.statistics import Verdict, compare_turns, summarise_turns
from edgekd.cli.benchmark import _seconds, _show, command
from edgekd.cli.verify import command as verify_command
from edgekd.errors import DeviceError, EdgekdError, GateMissed, UsageError
from tests.benchmark.models import QUICK, onnx_model, tflite_model
from tests.benchmark.test_golden_vectors import golden_of, made, run, set_output  # noqa: F401 - fixtures
from tests.benchmark.test_statistics import turns

FAST = ["--runs", "3", "--seconds", "0.01", "--blocks", "2", "--threads", "1"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep warm-up and canary short; what options say stays."""
    monkeypatch.setattr("edgekd.benchmark.on_device.Protocol", lambda **asked: replace(QUICK, **asked))


def invoke(*arguments: str, of: Any = command) -> Any:
    return CliRunner().invoke(of, list(arguments), catch_exceptions=True)


def error_of(result: Any, kind: type[EdgekdError]) -> EdgekdError:
    assert isinstance(result.exception, kind), result.exception
    return result.exception


def test_a_table_an_environment_and_a_comparison_are_printed(tmp_path: Path) -> None:
    files = [str(onnx_model(tmp_path / "a.onnx")), str(tflite_model(tmp_path / "b.tflite"))]
    shown = invoke(*files, *FAST, "--out", str(tmp_path / "out"))
    assert shown.exit_code == 0, shown.exception
    for expected in (
        "a.onnx",
        "b.tflite",
        "p50 ms (95 %)",
        "p99",
        "first",
        "load",
        "python via local",
        "onnxruntime ",
        "energy: not measurable",
    ):
        assert expected in shown.output, expected
    assert "no difference beyond noise" in shown.output or " than a.onnx (" in shown.output
    assert {each.name for each in (tmp_path / "out").iterdir()} == {"samples.jsonl", "benchmark.json", "benchmark.svg"}


def test_json_is_one_document(tmp_path: Path) -> None:
    shown = invoke(str(onnx_model(tmp_path / "a.onnx")), *FAST, "--out", str(tmp_path / "out"), "--json", "-q")
    content = json.loads(shown.output)
    assert content == json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert (content["target"], content["via"], content["runner"], content["schema"]) == ("host", "local", "python", 1)
    assert content["files"][0]["summary"]["p50"] > 0


def test_another_machine_needs_a_way_to_it(tmp_path: Path) -> None:
    file = str(onnx_model(tmp_path / "a.onnx"))
    error = error_of(invoke(file, "--on", "pi4"), UsageError)
    assert "Raspberry Pi 4" in error.message
    assert error.hint is not None
    assert "--via ssh://pi@raspberrypi.local" in error.hint
    assert "edgekd devices predict FILE --on pi4" in error.hint
    assert "--via adb" in (error_of(invoke(file, "--on", "pixel6"), UsageError).hint or "")
    assert "predicts" in (error_of(invoke(file, "--on", "iphone12"), UsageError).hint or "")
    assert "no latency" in error_of(invoke(file, "--on", "pi4", "--via", "emulated"), UsageError).message
    assert "pi4" in error_of(invoke(file, "--on", "pi44"), UsageError).message


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600), ("90s", 90), ("1h", 3600), ("1.5m", 90), ("5", 5)])
def test_a_time_is_read(text: str, seconds: float) -> None:
    assert _seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "-1m", "10 m", "ten", "1d", "1e9", "9" * 50, "nan"])
def test_what_is_no_time_is_refused(tmp_path: Path, text: str) -> None:
    shown = invoke(str(onnx_model(tmp_path / "a.onnx")), "--sustained", text or "x", "--out", str(tmp_path / "out"))
    assert shown.exit_code == 2
    assert "must be a time" in shown.output


def result(word: str, name: str = "a.onnx") -> DeviceBenchmark:
    first, second = turns(0), turns(1, 1.5)
    reasons = () if word == "stable" else ("because",)

    def measurement(each: str, samples: Any) -> Measurement:
        return Measurement(each, Path(each), "onnx", "0" * 64, 2048, 1, summarise_turns(samples), Verdict(word, reasons), 1.0, 2.0,  # type: ignore[arg-type]
                           3 << 20, 1 << 20, 4.2, 0.25, (40.0, 61.0), (1800.0, 1200.0), (642, 685), tuple(samples))  # fmt: skip

    comparison = compare_turns((name, "b.onnx"), first, second)
    assert comparison is not None
    return DeviceBenchmark("pi4", "ssh://pi@x", "python", None, {"model": "Pi", "runtimes": {}, "energy": "measurable"},
                           (measurement(name, first), measurement("b.onnx", second)), (comparison,), (("c.onnx", 1, "it broke"),), (), None)  # fmt: skip


def test_everything_worth_knowing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    _show(result("throttled", "a\x1b[31m.onnx"))
    shown = capsys.readouterr().out
    for expected in ("throttled: because", "+25% from beginning to end", "took 642 of 685 operators", "c.onnx, threads 1: failed: it broke",
                     "b.onnx is 50", "slower than a", "40 to 61 °C", "4.2 mJ", "3.0 MiB", "2.0 KiB"):  # fmt: skip
        assert expected in shown, expected
    assert "\x1b" not in shown


@pytest.mark.parametrize("word", ["stable", "noisy"])
def test_stability_is_demanded_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    made_up = replace(result(word), failed=())
    monkeypatch.setattr("edgekd.benchmark.on_device.benchmark_files", lambda *_, **__: made_up)
    file = str(tmp_path / "a.onnx")
    assert invoke(file).exit_code == 0
    shown = invoke(file, "--require-stable")
    if word == "stable":
        assert shown.exit_code == 0
        return
    error = error_of(shown, DeviceError)
    assert (error.exit_code, error.message) == (5, "the measurement is noisy")
    as_json = invoke(file, "--require-stable", "--json")
    assert as_json.exit_code == 5
    json.loads(as_json.stdout)


def test_golden_vectors_agree_on_this_machine(made: Path) -> None:  # noqa: F811
    file = str(made / "artifacts" / "student.fp32.onnx")
    shown = invoke(file, "--on", "host", of=verify_command)
    assert shown.exit_code == 0, shown.exception
    assert "10 of 10 agree, 10 to the last bit" in shown.output
    content = json.loads(invoke(file, "--on", "host", "--json", of=verify_command).output)
    assert (content["agree"], content["differ"]) == (10, 0)


def test_golden_vectors_that_differ_exit_with_4(run: Path) -> None:  # noqa: F811
    golden = read_golden(golden_of(run))
    set_output(run, golden.outputs[0] + 7)
    file = str(run / "artifacts" / "student.fp32.onnx")
    shown = invoke(file, "--via", "local", of=verify_command)
    assert error_of(shown, GateMissed).message == "10 of 10 golden vectors differ on host"
    assert "sample '0'" in shown.output
    as_json = invoke(file, "--on", "host", "--json", of=verify_command)
    assert as_json.exit_code == 4
    assert json.loads(as_json.output)["differ"] == 10


def test_verify_on_a_device_is_of_one_file(made: Path) -> None:  # noqa: F811
    file = str(made / "artifacts" / "student.fp32.onnx")
    assert invoke(file, file, "--on", "host", of=verify_command).exit_code == 2
    assert invoke(file, "--golden", str(made), of=verify_command).exit_code == 2


def test_help_needs_no_runtime() -> None:
    code = "import sys\nfrom edgekd.cli.benchmark import command\n" \
           "command(['--help'], standalone_mode=False)\n" \
           "sys.exit(','.join({'torch', 'tensorflow', 'onnxruntime', 'onnx', 'numpy'} & set(sys.modules)))"  # fmt: skip
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stderr.strip() == "", ended.stderr
