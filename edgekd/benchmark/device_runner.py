"""Measures and checks model files on the device it is copied to. One file; needs Python 3.9, numpy and a runtime, not edgekd.

    python3 device_runner.py REQUEST.json

reads one JSON request and writes JSON Lines: one object per line, each with ``event``; the last is ``done``. Requests, by
``command``:

``describe``: what this device is.
``measure``: one block of a measurement. Every file gets a process of its own (load, first inference, warm-up, runs), those
    processes take turns of ``turn_s`` seconds, and a fixed piece of arithmetic, the canary, runs before and after.
``verify``: golden vectors of one file; see :func:`verify`.
``check``: nothing but whether the ``files`` (``path, sha256``, ``kind`` none) arrived whole, as every request does.

Of a TFLite file the invocation is timed, of an ONNX file the session's run: what ``benchmark_model`` and
``onnxruntime_perf_test`` time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path("/")
"""Where ``proc`` and ``sys`` are."""
RUNTIMES = {
    "onnx": (("onnxruntime", ("onnxruntime", "onnxruntime-gpu")),),
    "tflite": (
        ("ai_edge_litert", ("ai-edge-litert",)),
        ("tflite_runtime", ("tflite-runtime",)),
        ("tensorflow", ("tensorflow", "tensorflow-cpu", "tensorflow-aarch64")),
    ),
}
"""By kind of file: modules that run it, the best first, and the names of their packages."""
_KEPT_PER_TURN, _LEAST_PER_TURN = 1000, 3
_SEED = 20240229
_LOAD_S = 300.0
_log: Any = None


def emit(event: str, **content: Any) -> None:
    """Write one line, to standard output and to the log on the device, from which a broken connection loses nothing."""
    line = json.dumps({"event": event, **content}, allow_nan=False)
    for stream in (sys.stdout, _log):
        if stream is not None:
            stream.write(line + "\n")
            stream.flush()


# The device


def read(path: Any) -> str | None:
    """Return what a file of ``/proc`` or ``/sys`` says; ``None``: nothing there, or not for us."""
    try:
        return Path(path).read_bytes().decode(errors="replace").replace("\0", " ").strip() or None
    except OSError:
        return None


def tool(*command: str) -> str | None:
    """Return what a program of the device prints; ``None``: there is none, or it fails."""
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout.decode(errors="replace").strip() or None if ended.returncode == 0 else None


def environment() -> dict[str, Any]:
    """Return what decides how fast this device is, and what is installed; ``None`` where it does not tell."""
    memory = _kilobytes("proc/meminfo")
    release = dict(line.partition("=")[::2] for line in (read(ROOT / "etc/os-release") or "").splitlines())
    cores = os.cpu_count() or 1
    installed = {name: found for each in RUNTIMES.values() for name, packages in each if (found := _version(name, packages))}
    return {
        "model": read(ROOT / "proc/device-tree/model") or tool("getprop", "ro.product.model")
        or read(ROOT / "sys/class/dmi/id/product_name"),
        "soc": tool("getprop", "ro.soc.model") or read(ROOT / "sys/devices/soc0/machine")
        or read(ROOT / "proc/device-tree/compatible"),
        "cpu": _cpu_name(),
        "os": (release.get("PRETTY_NAME") or "").strip('"') or platform.system(), "kernel": platform.release(),
        "build": tool("getprop", "ro.build.fingerprint") or platform.version(), "machine": platform.machine(),
        "python": platform.python_version(), "numpy": _version("numpy", ("numpy",)), "runtimes": installed,
        "cores": cores, "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_bytes": memory.get("MemTotal"), "memory_available_bytes": memory.get("MemAvailable"),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "cpus": frequencies(("scaling_governor", "scaling_min_freq", "scaling_max_freq", "scaling_cur_freq",
                             "cpuinfo_max_freq")),
        "power_mode": tool("nvpmodel", "-q"), "supplies": _supplies(), "home": str(Path.home()),
        "energy": "measurable" if power_w() else "not measurable", **state(),
    }  # fmt: skip


def _version(module: str, packages: tuple[str, ...]) -> str | None:
    """Return the version of an installed package without importing it."""
    try:
        if importlib.util.find_spec(module) is None:
            return None
    except (ImportError, ValueError):
        return None
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def _kilobytes(path: str) -> dict[str, int]:
    """Return the sizes that a file such as ``/proc/meminfo`` lists, in bytes."""
    found = {}
    for line in (read(ROOT / path) or "").splitlines():
        name, _, value = line.partition(":")
        if value.strip().endswith("kB"):
            found[name] = int(value.split()[0]) * 1024
    return found


def _cpu_name() -> str | None:
    rows = dict(line.partition(":")[::2] for line in (read(ROOT / "proc/cpuinfo") or "").splitlines())
    names = {name.strip(): value.strip() for name, value in rows.items()}
    part = " ".join(f"{key} {names[key]}" for key in ("CPU implementer", "CPU part") if key in names)
    return names.get("model name") or part or None


def _supplies() -> dict[str, dict[str, str | None]]:
    folder = ROOT / "sys/class/power_supply"
    return {each.name: {key: read(each / key) for key in ("type", "status", "capacity", "online")}
            for each in (sorted(folder.iterdir()) if folder.is_dir() else [])}  # fmt: skip


def frequencies(keys: tuple[str, ...]) -> dict[str, dict[str, str | None]]:
    """Return files of ``cpufreq`` (frequencies in kHz) for each CPU that has them."""
    cpus = sorted((ROOT / "sys/devices/system/cpu").glob("cpu[0-9]*"), key=lambda each: int(each.name[3:]))
    return {each.name: {key: read(each / "cpufreq" / key) for key in keys} for each in cpus if (each / "cpufreq").is_dir()}


def state() -> dict[str, Any]:
    """Return what changes under load: temperatures in degrees Celsius, current frequencies in kHz, and throttling."""
    temperatures = {}
    for zone in sorted((ROOT / "sys/class/thermal").glob("thermal_zone*")):
        value = read(zone / "temp")
        if value is not None and value.lstrip("-").isdigit():
            temperatures[f"{zone.name} {read(zone / 'type') or ''}".strip()] = int(value) / 1000
    measured = tool("vcgencmd", "measure_temp")  # temp=48.3'C
    if measured is not None and measured.startswith("temp="):
        temperatures["vcgencmd"] = float(measured[5:].split("'")[0])
    throttled = tool("vcgencmd", "get_throttled")  # throttled=0x50000
    counts = [read(each) for each in (ROOT / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    current = {cpu: int(each["scaling_cur_freq"] or 0) for cpu, each in frequencies(("scaling_cur_freq",)).items()}
    return {
        "temperatures": temperatures, "frequencies": {cpu: khz for cpu, khz in current.items() if khz},
        "throttled": int(throttled.partition("=")[2], 16) if throttled and throttled.startswith("throttled=0x") else None,
        "throttle_count": sum(int(each) for each in counts if each and each.isdigit()) if counts else None,
    }  # fmt: skip


def power_w() -> dict[str, float] | None:
    """Return the power drawn now in watts by its source; ``None``: this device cannot tell.

    Jetson: the rails of its INA3221; where one of them feeds the whole board, that one alone. A phone: its fuel gauge, unless
    it is charging.
    """
    rails = {}
    for chip in sorted((ROOT / "sys/bus/i2c/drivers").glob("ina3221*/*")):
        for label in sorted(chip.glob("hwmon/hwmon*/in[1-3]_label")):
            number = label.name[2]
            volts, amperes = read(label.with_name(f"in{number}_input")), read(label.with_name(f"curr{number}_input"))
            if volts and amperes:
                rails[read(label) or number] = int(volts) * int(amperes) / 1e6
        for label in sorted(chip.glob("iio:device*/rail_name_[0-2]")):  # JetPack 4
            milliwatts = read(label.with_name(f"in_power{label.name[-1]}_input"))
            if milliwatts:
                rails[read(label) or label.name] = int(milliwatts) / 1e3
    whole = {name: watts for name, watts in rails.items() if name in ("VDD_IN", "POM_5V_IN")}
    if rails:
        return whole or rails
    battery = ROOT / "sys/class/power_supply/battery"
    current, volts = read(battery / "current_now"), read(battery / "voltage_now")  # microamperes, microvolts
    if current and volts and (read(battery / "status") or "").lower() == "discharging":
        return {"battery": abs(int(current)) * int(volts) / 1e12}
    return None


class PowerMeter:
    """Samples :func:`power_w` twenty times a second while its block runs; ``mean_w`` is ``None`` where nothing can be read."""

    def __init__(self) -> None:
        self._samples: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PowerMeter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while (found := power_w()) is not None:
            self._samples.append(sum(found.values()))
            if self._stop.wait(0.05):
                break

    @property
    def mean_w(self) -> float | None:
        """Mean power in watts."""
        return sum(self._samples) / len(self._samples) if self._samples else None


# Models


def runtime_module(kind: str) -> str | None:
    """Return the module that runs files of a kind (``onnx``, ``ort`` or ``tflite``); ``None``: none is installed."""
    candidates = RUNTIMES["tflite" if kind == "tflite" else "onnx"]
    return next((name for name, packages in candidates if _version(name, packages)), None)


def import_runtime(kind: str) -> Any:
    """Import and return the module that runs files of a kind; for TFLite the one that has ``Interpreter``."""
    name = runtime_module(kind) or ("tflite_runtime" if kind == "tflite" else "onnxruntime")
    if kind == "tflite":
        name = f"{name}.lite" if name == "tensorflow" else f"{name}.interpreter"
    return importlib.import_module(name)


def open_model(path: str, kind: str, threads: int) -> Any:
    """Return the inputs (position, name, shape, dtype) of a file, and functions that set them, run it once and read outputs."""
    import numpy as np

    runtime = import_runtime(kind)
    if kind != "tflite":
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        given: dict[str, Any] = {}
        taken: list[list[Any]] = [[]]
        dtypes = {"float": "float32", "double": "float64"}
        inputs = [(index, each.name, list(each.shape), dtypes.get(each.type[7:-1], each.type[7:-1]))
                  for index, each in enumerate(session.get_inputs())]  # fmt: skip

        def put(values: dict[int, Any]) -> None:
            given.update({names[index]: each for index, each in values.items()})

        def run() -> None:
            taken[0] = session.run(None, given)

        return inputs, put, run, lambda: taken[0]
    interpreter = runtime.Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    places = [each["index"] for each in interpreter.get_input_details()]
    outputs = [each["index"] for each in interpreter.get_output_details()]
    inputs = [(index, each["name"], [int(size) for size in each["shape"]], np.dtype(each["dtype"]).name)
              for index, each in enumerate(interpreter.get_input_details())]  # fmt: skip

    def set_inputs(values: dict[int, Any]) -> None:
        for index, each in values.items():
            interpreter.set_tensor(places[index], each)

    return inputs, set_inputs, interpreter.invoke, lambda: [interpreter.get_tensor(each) for each in outputs]


def random_inputs(inputs: list[Any]) -> dict[int, Any]:
    """Return one sample of fixed random values for each input by position; of wide integers 0 and 1, which any table has."""
    import numpy as np

    chance = np.random.default_rng(_SEED)
    drawn = {}
    for index, name, shape, dtype in inputs:
        sizes = [1 if place == 0 and not (isinstance(size, int) and size > 0) else size for place, size in enumerate(shape)]
        if any(not isinstance(size, int) or size < 1 for size in sizes):
            raise ValueError(f"input {name!r} has open sizes {shape}: measure it with its golden vectors")
        kind = np.dtype(dtype)
        if kind.kind == "f":
            drawn[index] = chance.standard_normal(sizes).astype(kind)
        elif kind.itemsize == 1 and kind.kind in "iu":
            drawn[index] = chance.integers(np.iinfo(kind).min, np.iinfo(kind).max, sizes, endpoint=True).astype(kind)
        else:
            drawn[index] = chance.integers(0, 2, sizes).astype(kind)
    return drawn


def stored_inputs(path: str) -> dict[int, Any]:
    """Return the first golden sample: arrays ``i0``, ``i1``, ... of an ``.npz`` file."""
    import numpy as np

    with np.load(path, allow_pickle=False) as archive:
        return {int(name[1:]): np.ascontiguousarray(archive[name][:1]) for name in archive.files if name.startswith("i")}


def memory(key: str) -> int | None:
    """Return ``VmRSS`` or ``VmHWM`` (its peak) of this process in bytes."""
    found = _kilobytes("proc/self/status").get(key)
    if found is None and key == "VmHWM":
        import resource

        found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return found


def worker() -> None:
    """Run one file: a request per line of standard input, an answer per line of what was standard output at the start."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what runtimes print must not be taken for answers

    def answer(**content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    asked = json.loads(sys.stdin.readline())
    signal.alarm(int(asked["give_up_s"]))
    try:
        import_runtime(asked["kind"])  # its import is not part of loading the file
        before = memory("VmRSS")
        started = time.perf_counter()
        inputs, put, run, _ = open_model(asked["path"], asked["kind"], asked["threads"])
        load_ms = 1e3 * (time.perf_counter() - started)
        put(stored_inputs(asked["inputs"]) if asked["inputs"] else random_inputs(inputs))
        first_ms = _timed(run)
        warm, passed, started = 0, 0.0, time.perf_counter()
        while (warm < asked["warmup_runs"] or passed < asked["warmup_s"]) and passed < asked["most_s"]:
            run()
            warm, passed = warm + 1, time.perf_counter() - started
        answer(load_ms=load_ms, first_ms=first_ms, warmup_runs=warm)
        for line in sys.stdin:
            turn = json.loads(line)
            if turn["settle"]:
                run()  # the caches hold another model
            times: list[float] = []
            end = time.perf_counter() + turn["seconds"]
            while time.perf_counter() < end or len(times) < turn["least"]:
                times.append(_timed(run))
            stride = -(-len(times) // _KEPT_PER_TURN)
            answer(ms=[round(each, 4) for each in times[::stride]], runs=len(times), busy_ms=sum(times), max_ms=max(times))
        answer(rss_before_bytes=before, peak_rss_bytes=memory("VmHWM"))
    except Exception as error:  # the reason goes to the host; the process ends either way
        answer(failed=f"{type(error).__name__}: {str(error).strip()[:500]}")


def _timed(run: Callable[[], Any]) -> float:
    started = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - started) / 1e6


class Worker:
    """A process that runs one file.

    Attributes:
        failed: Why it cannot go on; empty while it can.
    """

    def __init__(self, request: dict[str, Any], file: dict[str, Any]) -> None:
        self.failed, self.runs, self.busy_ms = "", 0, 0.0
        self.started = time.monotonic()
        self._pending = b""
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._limit_s = float(request["most_s"]) + _LOAD_S
        self._send({**file, **{key: request[key] for key in ("threads", "warmup_runs", "warmup_s", "most_s", "give_up_s")}})
        self.loaded = self._answer()

    def turn(self, seconds: float, least: int, settle: bool) -> dict[str, Any]:
        """Run for ``seconds``, ``least`` times at least, and return the times."""
        self._send({"seconds": seconds, "least": least, "settle": settle})
        return self._answer()

    def end(self) -> dict[str, Any]:
        """Stop it, and return what memory it needed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        last = {} if self.failed else self._answer()
        self._process.kill()
        self._process.wait()
        return last

    def _send(self, content: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(content).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died: its answer will be missing

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + self._limit_s
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                return self._fail(f"no answer within {self._limit_s:.0f} s")
            block = os.read(self._process.stdout.fileno(), 1 << 16)
            if not block:
                status = self._process.wait(timeout=_LOAD_S)
                why = f"signal {-status}" if status < 0 else f"exit status {status}"
                return self._fail(f"its process died ({why})" + (": most likely out of memory" if status == -9 else ""))
            self._pending += block
        line, _, self._pending = self._pending.partition(b"\n")
        content: dict[str, Any] = json.loads(line)
        return self._fail(content["failed"]) if "failed" in content else content

    def _fail(self, why: str) -> dict[str, Any]:
        self.failed = why
        self._process.kill()
        self._process.wait()
        return {}


# Requests


def canary(seconds: float) -> list[float]:
    """Return times in ms of a fixed piece of arithmetic: it slows down when the device does, whatever file is measured."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # before numpy is imported: one thread
    import numpy as np

    matrix = np.random.default_rng(_SEED).standard_normal((160, 160)).astype(np.float32) / 13
    times: list[float] = []
    end = time.perf_counter() + seconds

    def work() -> None:
        product = matrix
        for _ in range(4):
            product = np.tanh(product @ matrix)

    for _ in range(3):
        work()
    while time.perf_counter() < end or len(times) < 10:
        times.append(_timed(work))
    return [round(each, 4) for each in times]


def measure(request: dict[str, Any]) -> None:
    """Measure one block.

    Request: ``files`` (each ``path, kind, inputs``), ``block``, ``threads``, ``runs`` and ``seconds`` (both are reached for
    each file, unless ``most_s`` is over), ``warmup_runs, warmup_s, turn_s, canary_s, together`` (take turns, else one after
    the other), ``state_s`` (seconds between states). Events: ``state, canary, power, loaded, samples, unloaded, failed``.
    """
    began, block = time.monotonic(), request["block"]
    environ = dict(os.environ)

    def tell(event: str, **content: Any) -> None:
        emit(event, block=block, t_s=round(time.monotonic() - began, 3), **content)

    tell("state", **state())
    idle_w = None
    if power_w() is not None:
        with PowerMeter() as meter:
            time.sleep(request["idle_s"])
        idle_w = meter.mean_w
        tell("power", file=None, watts=idle_w)
    tell("canary", ms=canary(request["canary_s"]))
    os.environ.clear()
    os.environ.update(environ)
    files = list(enumerate(request["files"]))
    if block % 2:
        files.reverse()  # so that a drift does not always favour the same file
    for group in [files] if request["together"] else [[each] for each in files]:
        _measure_group(request, group, tell)
    tell("canary", ms=canary(request["canary_s"]))
    tell("state", **state())


def _measure_group(request: dict[str, Any], group: list[Any], tell: Callable[..., None]) -> None:
    workers: dict[int, Worker] = {}
    try:
        for index, file in group:
            workers[index] = Worker(request, file)
            if not workers[index].failed:
                tell("loaded", file=index, **workers[index].loaded)
        turn, told = 0, time.monotonic()
        while not all(_finished(each, request) for each in workers.values()):
            for index, each in workers.items():
                if each.failed:
                    continue  # the others go on in step, so that each turn has its neighbour
                if not turn:
                    each.started = time.monotonic()
                with PowerMeter() as meter:
                    done = each.turn(request["turn_s"], _LEAST_PER_TURN, len(group) > 1)
                if done:
                    each.runs, each.busy_ms = each.runs + done["runs"], each.busy_ms + done["busy_ms"]
                    tell("samples", file=index, turn=turn, **done)
                    if meter.mean_w is not None:
                        tell("power", file=index, watts=meter.mean_w, seconds=done["busy_ms"] / 1e3, runs=done["runs"])
                if time.monotonic() - told >= request["state_s"] or turn == 0:
                    told = time.monotonic()
                    tell("state", **state())
            turn += 1
    finally:
        for index, each in workers.items():
            last = each.end()
            if each.failed:
                tell("failed", file=index, why=each.failed)
            else:
                tell("unloaded", file=index, **last)


def _finished(each: Worker, request: dict[str, Any]) -> bool:
    enough = each.runs >= request["runs"] and each.busy_ms >= 1e3 * request["seconds"]
    return bool(each.failed) or enough or (each.runs > 0 and time.monotonic() - each.started > request["most_s"])


def verify(request: dict[str, Any]) -> None:
    """Run golden vectors one by one.

    Request: ``path, kind, threads``; ``vectors``, an ``.npz`` file of arrays ``i0, i1, ...`` and ``o0, o1, ...`` by position
    in the file, a row per sample; ``tolerances`` by output and sample; ``ranked``, the output whose first class counts, or
    null; ``top1`` and ``margins`` of each sample. Events: ``vector`` for each (``row, identical, agrees, worst``, the largest
    difference as a share of what is allowed, ``why``).
    """
    import numpy as np

    _, put, run, outputs = open_model(request["path"], request["kind"], request["threads"])
    with np.load(request["vectors"], allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    for row in range(len(arrays["i0"])):
        put({int(name[1:]): np.ascontiguousarray(each[row : row + 1]) for name, each in arrays.items() if name[0] == "i"})
        run()
        found = outputs()
        emit("vector", row=row, **_compared(request, row, [(int(name[1:]), each[row : row + 1], found[int(name[1:])])
                                                           for name, each in arrays.items() if name[0] == "o"]))  # fmt: skip


def _compared(request: dict[str, Any], row: int, outputs: list[tuple[int, Any, Any]]) -> dict[str, Any]:
    import numpy as np

    identical, worst, why = True, 0.0, ""
    for number, wanted, got in sorted(outputs, key=lambda each: each[0]):
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            return {"identical": False, "agrees": False, "worst": None,
                    "why": f"output {number} is {got.dtype} {got.shape} instead of {wanted.dtype} {wanted.shape}"}  # fmt: skip
        identical = identical and bool(np.array_equal(got, wanted))
        allowed = request["tolerances"][str(number)][row]
        difference = float(np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max()) if got.size else 0.0
        if not difference <= allowed:  # NaN is not
            why = why or f"output {number} differs by {difference:.4g}, allowed are {allowed:.4g}"
        elif number == request["ranked"] and request["margins"][row] > allowed and int(got.argmax()) != request["top1"][row]:
            why = why or f"output {number} has class {int(got.argmax())} first instead of {request['top1'][row]}"
        share = difference / allowed if allowed else (0.0 if difference == 0 else float("inf"))
        worst = max(worst, share if share == share else float("inf"))
    return {"identical": identical, "agrees": not why, "worst": worst if worst != float("inf") else None, "why": why}


def problems(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what keeps this device from a request: ``what`` is ``python``, ``runtime`` or ``checksum``."""
    kinds = sorted({each["kind"] for each in request.get("files", [])} - {"none"})
    if sys.version_info < (3, 9):  # noqa: UP036 - a device may have an older one than edgekd
        yield {"what": "python", "found": platform.python_version(), "kinds": kinds}
    for kind in kinds:
        if runtime_module(kind) is None or _version("numpy", ("numpy",)) is None:
            yield {"what": "runtime", "found": None, "kinds": [kind]}
    for each in request.get("files", []):
        digest = hashlib.sha256()
        with open(each["path"], "rb") as file:  # noqa: PTH123 - a path as it was given
            for part in iter(lambda: file.read(1 << 20), b""):
                digest.update(part)
        if digest.hexdigest() != each["sha256"]:
            yield {"what": "checksum", "found": digest.hexdigest(), "path": each["path"]}


def main() -> int:
    """Answer the request of the command line."""
    global _log
    if sys.argv[1:] == ["--worker"]:
        worker()
        return 0
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    signal.alarm(int(request["give_up_s"]))  # whatever becomes of the connection, nothing stays behind
    os.environ["TMPDIR"] = str(Path.cwd())  # ONNX Runtime leaves a file there, and this folder is removed
    if request.get("log"):
        _log = open(request["log"], "a", encoding="utf-8")  # noqa: PTH123, SIM115 - open until the end
    found = list(problems(request))
    for each in found:
        emit("problem", **each)
    if found:
        return 3
    if request["command"] == "describe":
        emit("environment", **environment())
    elif request["command"] == "measure":
        measure(request)
    elif request["command"] == "verify":
        verify({**request, **request["files"][0]})
    emit("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
