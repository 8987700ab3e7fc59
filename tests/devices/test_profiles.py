"""Device profiles: every shipped one is complete and agrees with its data; a broken one is refused in one line."""

import csv
import os
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekd.abilities import devices, why_not
from edgekd.devices.profiles import (
    Profile,
    cores,
    fast_clusters,
    load_profile,
    peak_gops,
    profile_folder,
    profile_names,
    usable_cores,
)
from edgekd.errors import UsageError

_DEVICES = [name for name in profile_names() if name != "host"]
# Ids of the folder of published data that are spelt otherwise.
_SPECS = {
    "iphone12": "iphone_12", "iphone15": "iphone_15", "pi_zero2w": "rpi_zero2w", "pi3bplus": "rpi3b_plus", "pi4": "rpi4b",
    "pi5": "rpi5", "snapdragon7": "midrange_sd765g", "lowend_a53": "lowend_sd625",
}  # fmt: skip


def test_the_host_is_measured_at_one_thread_and_at_all() -> None:
    host = load_profile("host")
    assert host.threads == (1, "all")
    assert host.runtimes == {"onnx": "onnxruntime", "ort": "onnxruntime", "tflite": "litert"}
    assert usable_cores() >= 1


@pytest.mark.parametrize("name", ["hosst", "pi44"])
def test_an_unknown_profile_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{name[:2]}") as error:
        load_profile(name)
    assert error.value.exit_code == 2


def test_the_targets_are_there() -> None:
    assert len(_DEVICES) >= 23
    assert {load_profile(name).kind for name in _DEVICES} == set(devices())


@pytest.mark.parametrize("name", _DEVICES)
def test_a_shipped_profile_is_whole(name: str) -> None:
    profile = load_profile(name)
    assert profile.id == name
    speeds = [peak_gops(each, "fp32") for each in profile.clusters]
    assert speeds == sorted(speeds, reverse=True)
    fastest = cores()[profile.clusters[0].core]
    assert (profile.dot_product, profile.fp16_arithmetic) == (fastest.dot_product, fastest.fp16_arithmetic)
    assert profile.i8mm == fastest.i8mm
    assert profile.artifacts
    assert all(why_not(artifact, profile.kind) is None for artifact in profile.artifacts)  # type: ignore[arg-type]
    assert set(profile.versions) == set(profile.runtimes.values())
    assert profile.memory_bytes is not None
    assert profile.memory_bytes >= 512 * 2**20


@pytest.mark.parametrize("name", _DEVICES)
def test_every_value_has_a_source_and_what_is_recalled_says_so_first(name: str) -> None:
    content = tomllib.loads((profile_folder() / f"{name}.toml").read_text())
    structure = {"schema", "id", "name", "kind", "sources", "accelerators", "published", "remarks", "clusters", "measure"}
    facts = set(content) - structure | {"clusters.core", "clusters.ghz", "threads"}
    assert set(content["sources"]) == facts
    lists = [each for key in ("accelerators", "published", "remarks") for each in content.get(key, [])]
    texts = [*content["sources"].values(), *(each["source"] for each in lists)]
    assert all(texts)
    for text in texts:
        unsure = re.search(r"estimate|recalled|assumed|guess", text)
        assert text.startswith("estimate: ") or unsure is None, text


def test_every_operation_per_cycle_has_a_source() -> None:
    for core in cores().values():
        assert set(core.sources) == {"fp32_per_cycle", "fp16_per_cycle", "int8_per_cycle", "isa"}
        assert (core.fp16_per_cycle > 0) == core.fp16_arithmetic
        assert core.int8_per_cycle / core.fp32_per_cycle == (4 if core.dot_product else 2), core.id


def test_jetsons_without_integer_units_get_16_bits() -> None:
    for name in ("jetson_nano", "jetson_tx2"):
        assert load_profile(name).artifacts[0] == "onnx-fp16"
    for name in ("jetson_xavier_nx", "jetson_orin_nano"):
        assert load_profile(name).artifacts[0] == "onnx-int8-tensorrt"
    assert load_profile("pi4").artifacts[0] == "tflite-int8"


def _data(name: str) -> Path:
    folder = os.environ.get("EDGEKD_DATA")
    if not folder or not (Path(folder) / "devices" / name).is_file():
        pytest.skip(f"EDGEKD_DATA names no folder with devices/{name}")
    return Path(folder) / "devices" / name


def test_peaks_are_those_of_the_data_folder() -> None:
    specs = tomllib.loads(_data("device_specs.toml").read_text())["device"]
    compared = 0
    for name in _DEVICES:
        profile, spec = load_profile(name), specs[_SPECS.get(name, name)]
        for precision in ("fp32", "fp16", "int8"):
            unit = "gops" if precision == "int8" else "gflops"
            if f"peak_{precision}_{unit}_one_core" not in spec:
                continue
            # The figures of the folder have one decimal.
            one = peak_gops(profile.clusters[0], precision)
            assert one == pytest.approx(spec[f"peak_{precision}_{unit}_one_core"], abs=0.06)
            fast = sum(each.count * peak_gops(each, precision) for each in fast_clusters(profile))
            assert fast == pytest.approx(spec[f"peak_{precision}_{unit}_all_big"], abs=0.06)
            compared += 1
        assert profile.memory_gb_s == spec["memory_bw_gbs"]
        if "measured" in spec and not profile.is_estimate("copy_gb_s"):
            measured = re.search(r"memcpy ([\d.]+) GB/s", spec["measured"])
            assert measured is not None
            assert profile.copy_gb_s == float(measured[1])
        if "isa_dotprod" in spec:
            assert (profile.dot_product, profile.fp16_arithmetic) == (spec["isa_dotprod"], spec["isa_fp16_arith"])
            assert profile.i8mm == spec["isa_i8mm"]
    assert compared > 50


def test_published_ratios_are_those_of_the_rows() -> None:
    with _data("published_latency.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    known = {row["device_id"] for row in rows}
    compared = 0
    for name in _DEVICES:
        profile = load_profile(name)
        for figure in profile.published:
            base = [
                row for row in rows
                if row["device_id"] in profile.published_as and row["source_repo_or_title"] == figure.source
                and row["runtime"].partition(" (")[0] == figure.runtime and "fall back" not in row["delegate"]
                and row["delegate"].lower().split(" ")[0] == figure.where
            ]  # fmt: skip
            if figure.what == "int8_speedup":
                same = [row for row in base if (int(row["threads"]) if row["threads"].isdigit() else None) == figure.threads]
                slow = _by_model([row for row in same if row["precision"].rstrip("?") == figure.precision])
                fast = _by_model([row for row in same if row["precision"] == "int8"])
            else:
                same = [row for row in base if row["precision"].rstrip("?") == figure.precision]
                slow = _by_model([row for row in same if row["threads"] == "1"])
                fast = _by_model([row for row in same if row["threads"] == str(figure.threads)])
            ratios = [slow[model] / fast[model] for model in slow if model in fast]
            assert len(ratios) == figure.models, (name, figure)
            assert statistics.median(ratios) == pytest.approx(figure.value, abs=0.0051), (name, figure)
            compared += 1
        assert (
            profile.published
            or not set(profile.published_as) & known
            or name in {"pixel6", "iphone12", "jetson_tx2", "jetson_xavier_nx"}
        )
    assert compared >= 40


def _by_model(rows: list[dict[str, str]]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row["model"], row["input"]), []).append(float(row["latency_ms"]))
    return {model: statistics.median(times) for model, times in found.items()}


def _pi4() -> str:
    return (profile_folder() / "pi4.toml").read_text()


def _changed(tmp_path: Path, old: str, new: str) -> Path:
    text = _pi4()
    assert text.count(old) >= 1, old
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_a_profile_is_read_from_a_path(tmp_path: Path) -> None:
    path = _changed(tmp_path, 'id = "pi4"', 'id = "mine"')
    assert load_profile(str(path)).id == "mine"


@pytest.mark.parametrize(
    ("old", "new", "line_of", "message"),
    [
        ("ghz = 1.8", "ghz = -1.8", "ghz = -1.8", "clusters[0].ghz: must be above 0, found -1.8"),
        ("ghz = 1.8", "ghz = nan", "ghz = nan", "clusters[0].ghz: must be a finite number, found nan"),
        ("ghz = 1.8", "", "[[clusters]]", "clusters[0].ghz: is missing"),
        ("ghz = 1.8", 'ghz = "fast"', "ghz = ", "clusters[0].ghz: must be a number, found 'fast'"),
        ("count = 4", "count = 0", "count = 0", "clusters[0].count: must be at least 1, found 0"),
        ("count = 4", "count = true", "count = true", "clusters[0].count: must be a whole number, found true"),
        ("count = 4", "cout = 4", "[[clusters]]", "clusters[0].count: is missing"),
        ("count = 4", "count = 4\nclock = 3", "clock = 3", "clusters[0].clock: unknown key, allowed: core, count, ghz, role"),
        ("copy_gb_s = 2.33", "copy_gb_s = 0", "copy_gb_s = 0", "copy_gb_s: must be above 0, found 0"),
        ("copy_gb_s = 2.33", "copy_gb_s = 20.0", "copy_gb_s = 20", "copy_gb_s: a copy of 20 GB/s is more than the memory's 12.8"),
        ('core = "A72"', 'core = "A27"', 'core = "A27"', "clusters[0].core: unknown core 'A27', allowed: A7, A53"),
        ("dot_product = false", "dot_product = true", "dot_product", "dot_product: must be false: A72 does not have it"),
        ('"tflite-int8", ', '"tflite-int9", ', "artifacts", "artifacts[0]: unknown value 'tflite-int9', allowed: onnx-fp32"),
        ('"tflite-int8", ', '"tflite-int16x8", ', "artifacts", "'tflite-int16x8' is of no use on raspberry-pi: XNNPACK has no"),
        ('tflite = "litert"', 'tflite = "litret"', "tflite =", "runtimes.tflite: unknown runtime 'litret', allowed: litert"),
        ('tflite = "litert"', 'tflight = "litert"', "tflight", "runtimes.tflight: unknown format, allowed: onnx, ort, tflite"),
        ('tflite = "litert"', 'onnx-x = "litert"', "onnx-x", "runtimes.onnx-x: unknown format, allowed: onnx, ort, tflite"),
        ('onnx = "onnxruntime"', "", "artifacts", "artifacts: 'onnx-int8' needs a runtime for onnx under [runtimes]"),
        ("litert = ", "litret = ", "litret", "versions.litret: runs nothing here, allowed: litert, onnxruntime"),
        ('soc = "BCM2711"', "", "schema", "soc: is missing, kind 'raspberry-pi' needs it"),
        ('kind = "raspberry-pi"', 'kind = "raspberrypi"', "kind", "kind: unknown value 'raspberrypi', allowed: host, android"),
        ("schema = 1", "schema = 2", "schema", "schema: this edgekd reads schema 1"),
        ("threads = [1, 4]", "threads = [0]", "threads", "measure.threads[0]"),
        ("threads = [1, 4]", "threads = []", "threads", "measure.threads: is empty"),
        ("memory_bytes = 1_073_741_824", "memory_bytes = 4", "memory_bytes", "memory_bytes: must be at least 1048576, found 4"),
        ('id = "pi4"', 'id = "../pi4"', "id", "id: must be small letters, digits, - and _, found '../pi4'"),
        ('name = "Raspberry Pi 4 Model B"', 'name = "a\\u001b[2Jb"', "name", "name: must be printable text of one line"),
        ("i8mm = false", "i8mm = false\nturbo = 1", "turbo", "turbo: unknown key, allowed: schema, id, name"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_place(tmp_path: Path, old: str, new: str, line_of: str, message: str) -> None:
    path = _changed(tmp_path, old, new)
    with pytest.raises(UsageError) as error:
        load_profile(str(path))
    assert message in error.value.message
    assert "\n" not in error.value.message
    place = re.match(rf"{re.escape(str(path))}:(\d+): ", error.value.message)
    assert place is not None, error.value.message
    if "is missing, kind" not in message:
        assert path.read_text().splitlines()[int(place[1]) - 1].lstrip().startswith(line_of)


def test_a_value_without_a_source_is_refused(tmp_path: Path) -> None:
    text = re.sub(r"(?m)^copy_gb_s = \"measured.*$", "", _pi4())
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"sources.copy_gb_s: is missing: say where the value of copy_gb_s is from"):
        load_profile(str(path))


def test_the_fastest_cluster_stands_first(tmp_path: Path) -> None:
    path = _changed(tmp_path, "[runtimes]", '[[clusters]]\ncore = "A72"\ncount = 1\nghz = 2.0\nrole = "prime"\n\n[runtimes]')
    with pytest.raises(UsageError, match=r"clusters\[1\].core: is faster than the cluster before it"):
        load_profile(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"schema = ", "is no TOML: Invalid value"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"", "schema: this edgekd reads schema 1"),
        (b"schema = true", "schema: this edgekd reads schema 1"),
        (b"schema = 1\nid = " + b"[" * 100_000, "nested too deep"),
        (b"schema = " + b"1" * 5_000, "is no TOML"),
        (b"#" * (1 << 20) + b"##", "too large"),
    ],
)
def test_what_is_no_profile_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        load_profile(str(path))
    assert "\n" not in error.value.message


@pytest.mark.parametrize(
    "name", ["", "/", ".", "a\nb", "a\0b.toml", "no_such.toml", "x" * 5_000, "x" * 5_000 + ".toml", "cores"]
)
def test_a_name_of_nothing_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        load_profile(name)
    assert "\n" not in error.value.message
    assert "\0" not in error.value.message


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(UsageError, match="not a file"):
        load_profile(str(tmp_path / "pipe.toml"))


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just([]), st.just({}),
    st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in children for place in _places(each, (*path, key)))] if path or children else [path]


def _toml_text(value: Any) -> str:
    """Write a value in TOML's inline form; nothing stands for None."""
    if isinstance(value, dict):
        entries = (f"{_toml_text(str(key))} = {_toml_text(each)}" for key, each in value.items() if each is not None)
        return "{" + ", ".join(entries) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_text(each) for each in value if each is not None) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(each):08x}" for each in value if not 0xD800 <= ord(each) < 0xE000) + '"'
    return repr(value)


@given(st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mutated_profile_is_read_or_refused_in_one_line(tmp_path: Path, data: st.DataObject) -> None:
    content = tomllib.loads(_pi4())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from([each for each in _places(content) if each]))
        inside: Any = content
        for key in place[:-1]:
            inside = inside[key]
        if isinstance(inside, dict) and data.draw(st.booleans()):
            inside[data.draw(st.text(max_size=8))] = inside.pop(place[-1])
        else:
            inside[place[-1]] = data.draw(_VALUES)
    path = tmp_path / "mutated.toml"
    path.write_text("\n".join(f"{_toml_text(key)} = {_toml_text(each)}" for key, each in content.items() if each is not None))
    try:
        assert isinstance(load_profile(str(path)), Profile)
    except UsageError as error:
        assert "\n" not in error.message
        assert len(error.message) < 2_000


@given(st.binary(max_size=60), st.integers(0, 3_000))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_overwritten_bytes_never_give_a_traceback(tmp_path: Path, noise: bytes, at: int) -> None:
    raw = _pi4().encode()
    path = tmp_path / "noise.toml"
    path.write_bytes(raw[:at] + noise + raw[at + len(noise) :])
    try:
        load_profile(str(path))
    except UsageError as error:
        assert "\n" not in error.message


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; import edgekd.devices.profiles as p; light = 'pydantic' in sys.modules; p.load_profile('pi4'); p.cores(); "
        "print(light, [name for name in ('torch', 'tensorflow', 'onnxruntime', 'onnx', 'numpy') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert shown == "False []"
