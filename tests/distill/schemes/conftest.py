"""Data for the schemes' tests."""

import pytest
import torch

from edgekd.data.dataset import Dataset
from tests.digits_data import digits_data


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return the digits."""
    torch.set_num_threads(2)
    return digits_data(tmp_path_factory.mktemp("digits"))
