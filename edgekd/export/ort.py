"""ONNX to ONNX Runtime's own format, for its reduced builds on phones."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from edgekd.export.ort_order import in_order
from edgekd.safe.files import write_bytes, write_text

CONFIG_SUFFIX = ".required_operators.config"


def export_ort(model: str, out: str) -> dict[str, Any]:
    """Write the ONNX file ``model`` as ``.ort`` to ``out``, and beside it which operators a reduced build must have.

    Graph optimizations are made now, without those that only hold for the processor at hand. Runs in a child process.

    Args:
        model: Path of the ONNX file.
        out: Path of the file to write; the list of operators gets its name with ``.required_operators.config``.
    """
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    with tempfile.TemporaryDirectory(dir=Path(out).parent, prefix=".", suffix=".tmp") as scratch:
        source = Path(scratch, "model.onnx")
        os.link(model, source)
        # "arm": without the layout that x86 alone has.
        convert_onnx_models_to_ort(source, Path(scratch), [OptimizationStyle.Fixed], target_platform="arm")
        (config,) = Path(scratch).glob("*.config")
        lines = [line for line in config.read_text().splitlines() if line and not line.startswith("#")]
        write_bytes(Path(out), in_order(Path(scratch, "model.ort").read_bytes()))
    write_text(Path(out).with_suffix(CONFIG_SUFFIX), "".join(f"{line}\n" for line in lines))
    return {}
