"""SIGKILL at random moments; ``tools/kill_test.py`` does the same at length."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import QUICK

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_artifacts() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "kill_test.py"), "--kills", "2", "--seed", "5", *QUICK],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=550, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "2 of 2 identical"
