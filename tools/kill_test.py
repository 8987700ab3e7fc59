"""Kill `edgekd compress` with SIGKILL at random moments, resume it, and compare what it makes.

    python tools/kill_test.py --kills 20 --seed 0 [KEY=VALUE ...]

One run is left alone for reference. Each of the others starts in a fresh folder, is killed at a moment
drawn evenly over 95 % of the reference's duration, and is started again with the same command until it ends.
Passes if every run ends with the reference's artifact hashes and no temporary file is left.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def run(out: Path, overrides: list[str], kill_after_s: float | None = None) -> int:
    """Run `edgekd compress` into ``out``; kill it after ``kill_after_s`` seconds. Return its exit status."""
    command = [sys.executable, "-m", "edgekd", "compress", "digits", *overrides, "--out", str(out), "--quiet"]
    process = subprocess.Popen(command)
    try:
        return process.wait(timeout=kill_after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        return process.wait()


def hashes(out: Path) -> dict[str, str]:
    """Return ``{path: sha256}`` of the artifacts in ``out``."""
    report = json.loads((out / "report.json").read_text())
    return {each["path"]: each["sha256"] for each in report["artifacts"]}


def stages_done(out: Path) -> int:
    """Return how many stages the journal of ``out`` lists."""
    journal = out / "stages" / "journal.jsonl"
    return sum(1 for line in journal.read_bytes().splitlines() if line) if journal.is_file() else 0


def leftovers(out: Path) -> list[Path]:
    """Return temporary files and checkpoints that a finished run should not have."""
    return [*out.rglob(".*.tmp*"), *out.rglob("checkpoint.safetensors")]


def main() -> None:
    """Parse arguments, run, print one line per kill and the verdict; exit with 1 on any difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="edgekd-kill-") as folder:
        started = time.monotonic()
        if run(Path(folder, "reference"), options.overrides) != 0:
            sys.exit("the reference run failed")
        duration = time.monotonic() - started
        expected = hashes(Path(folder, "reference"))
        print(f"reference: {duration:.1f} s, {len(expected)} artifacts", flush=True)
        same = 0
        for index in range(options.kills):
            out = Path(folder, str(index))
            moment = moments.uniform(0, 0.95 * duration)  # runs differ by some percent: kill each before its end
            killed = run(out, options.overrides, moment) == -signal.SIGKILL
            done = stages_done(out)
            status = run(out, options.overrides)
            identical = status == 0 and hashes(out) == expected and not leftovers(out)
            same += identical
            what = f"killed after {moment:5.1f} s with {done:2} stages done" if killed else f"ended before {moment:.1f} s"
            print(f"{index + 1:3}: {what}, resumed: {'identical' if identical else f'DIFFERENT (exit {status})'}", flush=True)
        print(f"{same} of {options.kills} identical")
        sys.exit(0 if same == options.kills else 1)


if __name__ == "__main__":
    main()
