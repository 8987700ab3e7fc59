"""Runs a function of a test in several real processes, joined by gloo."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def launch(
    arguments: Sequence[str], count: int = 2, timeout: float = 240.0, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``python ARGUMENTS`` under torchrun in ``count`` processes; a run that hangs fails."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "--standalone"]
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False,
        env={**kept, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), **(environment or {})},
    )  # fmt: skip


def run_function(function: str, folder: Path, count: int = 2) -> None:
    """Call ``module:function`` with ``folder`` in every process; its assertions are the test's."""
    module, _, name = function.partition(":")
    script = folder / "call.py"
    script.write_text(f"from pathlib import Path\nfrom {module} import {name}\n{name}(Path({str(folder)!r}))\n")
    done = launch([str(script)], count)
    assert done.returncode == 0, done.stderr[-4000:]
