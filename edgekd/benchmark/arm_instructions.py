"""How many ARM instructions one inference takes: a figure without noise for comparing two files, counted by emulation.

It is no latency. Instructions differ in what they cost, and a file that waits for memory waits longer than it computes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

from edgekd.benchmark import device_runner, instruction_runner
from edgekd.benchmark.model_facts import kind_of
from edgekd.benchmark.transports.emulated import COUNTS, emulated_transport
from edgekd.errors import DeviceError

_RUNS = 9
_MOST_S = 1800.0


def count_instructions(file: Path, root: Path | None = None) -> int:
    """Return the instructions of one inference, by one thread, on fixed random inputs: the median of some runs.

    Args:
        file: An ``.onnx``, ``.ort`` or ``.tflite`` file.
        root: The emulated device; ``None``: where ``tools/make_arm64_device.py`` makes it.

    Raises:
        DeviceError: There is no emulated device, it was made without a counter, or the file does not run there.
    """
    kind = kind_of(file)
    with emulated_transport(root, counting=True) as device, tempfile.TemporaryDirectory(prefix="edgekd-count-") as folder:
        for source in (device_runner, instruction_runner):
            path = Path(str(source.__file__))
            device.push(path, path.name)
        device.push(file, f"model.{kind}")
        ended = device.run(["python3", "instruction_runner.py", f"model.{kind}", kind, str(_RUNS)], timeout_s=_MOST_S)
        if ended.code != 0:
            said = ended.stderr.decode(errors="replace").strip().splitlines()
            raise DeviceError(f"{device.name}: {file} does not run there: {said[-1] if said else ended.code}")
        device.pull(COUNTS, Path(folder, COUNTS))
        counted = Path(folder, COUNTS).read_text()
    try:
        at = {int(mark): int(executed) for mark, executed in (line.split() for line in counted.splitlines())}
        return round(median(at[2 * number + 1] - at[2 * number] for number in range(_RUNS)))
    except (ValueError, KeyError):
        raise DeviceError(f"{device.name}: its counter wrote {counted[:80]!r}", "make the device again") from None
