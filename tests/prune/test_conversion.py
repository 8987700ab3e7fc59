"""What is left of networks of the zoo becomes ONNX and TFLite, in float32 and int8, and computes there what it does here."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from tests.models.zoo_specs import random_inputs
from tests.prune.conversion import FILES, converted, settle
from tests.prune.networks import halved

QUICK, SLOW = ("mlp", "shallow_cnn"), ("ds_cnn",)
"""Those that `test_blocks.py` (resnet20, tiny_transformer) and `test_transformers.py` do not convert; others of the zoo take up to a
minute each.
"""


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)])
def test_all_files_of_half_a_network(name: str, tmp_path: Path) -> None:
    made = halved(name)[2]
    model, inputs = copy.deepcopy(made.model), random_inputs(made.spec, 32)
    settle(model, made.spec, inputs)
    found = converted(model, made.spec, inputs, tmp_path)
    assert set(found) == set(FILES)
    for artifact, parity in found.items():
        # The default limits of a run: its gates for float32 files, and for the noise of int8 ones.
        assert parity.relative_error < (1e-4 if artifact.endswith("fp32") else 0.05), (artifact, parity)
        assert parity.sqnr_db > 10, (artifact, parity)
