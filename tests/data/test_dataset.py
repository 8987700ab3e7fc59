"""Batches: the same in memory and from the disk, and what they cost."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.data.batches import batches
from edgekd.data.dataset import Dataset
from edgekd.data.rows import RowFile
from tests.data.loading import load

Both = tuple[Dataset, Dataset]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """One data set of 1.2 MiB, in memory and streamed."""
    folder = tmp_path_factory.mktemp("both")
    generator = np.random.default_rng(0)
    np.savez(folder / "a.npz", x=generator.integers(0, 256, (400, 32, 33, 3), np.uint8), y=np.arange(400) % 4)
    source = f"npz:{folder / 'a.npz'}"
    return load(source, folder / "out"), load(source, folder / "out", memory_mib=1)


def test_the_budget_changes_nothing_but_where_rows_are(both: Both) -> None:
    whole, streamed = both
    assert isinstance(whole.raw["image"].array, np.ndarray)
    assert isinstance(streamed.raw["image"].array, RowFile)
    assert (whole.digest, whole.inputs, whole.splits.digest()) == (streamed.digest, streamed.inputs, streamed.splits.digest())


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 90), st.integers(0, 2**32 - 1), st.integers(0, 50))
def test_batches_are_identical(both: Both, size: int, seed: int, epoch: int) -> None:
    whole, streamed = both
    steps = zip(batches(whole.splits.train, size, seed, epoch), batches(streamed.splits.train, size, seed, epoch), strict=True)
    for one, other in list(steps)[:3]:
        assert np.array_equal(one, other)
        assert np.array_equal(whole.batch(one)["image"], streamed.batch(other)["image"])


def test_slices_of_a_split_are_its_batches(both: Both) -> None:
    whole, streamed = both
    parts = [each["image"] for each in streamed.batches(streamed.splits.test, 7)]
    assert np.array_equal(np.concatenate(parts), whole.batch(whole.splits.test)["image"])
    assert [len(each) for each in parts[:-1]] == [7] * (len(parts) - 1)


def test_values_are_normalised_channels_first(both: Both) -> None:
    data = both[1]
    indices = data.splits.train[[5, 3]]
    raw = np.load(data.raw["image"].path)[indices]
    expected = (raw / 255 - np.asarray(data.inputs[0].mean)) / np.asarray(data.inputs[0].std)
    assert np.allclose(data.batch(indices)["image"], expected.transpose(0, 3, 1, 2), atol=1e-6)


_PEAK = """
import sys, resource
from tests.data.loading import load
from pathlib import Path
from edgekd.data.batches import batches
data = load(sys.argv[1], Path(sys.argv[2]), memory_mib=1)
for indices in batches(data.splits.train, 64, 0, 0):
    data.batch(indices)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts kibibytes as Linux does")
@pytest.mark.parametrize("save", ["savez", "savez_compressed"])
def test_memory_stays_flat_when_the_data_grows_tenfold(tmp_path: Path, save: str) -> None:
    peaks = []
    for count in (1_500, 15_000):
        code = (
            f"import numpy as np; x = (np.arange({count} * 3072) % 251).astype(np.uint8).reshape(-1, 32, 32, 3); "
            f"np.{save}({str(tmp_path / f'{count}.npz')!r}, x=x, y=np.arange({count}) % 4)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
        # Through a small process: a child's peak begins with its parent's, and that of the tests is large.
        run = [sys.executable, "-c", _PEAK, f"npz:{tmp_path / f'{count}.npz'}", str(tmp_path / f"out-{count}")]
        launcher = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
        done = subprocess.run([sys.executable, "-c", launcher, *run], check=True, capture_output=True, text=True)
        peaks.append(int(done.stdout))
    # 13,500 more images are 40 MiB; their labels, names and order may cost a little.
    assert peaks[1] - peaks[0] < 8 * 1024, peaks
