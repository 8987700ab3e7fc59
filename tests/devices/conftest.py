"""Tests know nothing of what the user calibrated."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def nothing_calibrated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder, where calibrations go."""
    folder = tmp_path_factory.mktemp("data_home")
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    return folder
