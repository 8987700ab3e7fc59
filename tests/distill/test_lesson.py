"""What a lesson does with its networks."""

import shutil
from pathlib import Path

import pytest

from edgekd.data.dataset import Dataset
from edgekd.distill.lesson import Lesson
from edgekd.distill.taps import Taps
from tests.digits_data import digits_data
from tests.distill.lessons import batch_of, student_of


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return digits_data(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_is_seen_although_its_class_was_compiled_before_without_eyes_on_it(data: Dataset) -> None:
    first, second = student_of(data), student_of(data, seed=1)
    lesson = Lesson({"student": first})
    lesson.compile_networks()
    lesson(batch_of(data))
    taps = Taps(second.module, ["features.1", "classifier:input"])
    lesson = Lesson({"student": second})
    lesson(batch_of(data))
    expected = taps.take()
    lesson.compile_networks()
    lesson(batch_of(data))
    seen = taps.take()
    for name, value in expected.items():
        assert seen[name].detach().numpy() == pytest.approx(value.detach().numpy(), abs=1e-4)
