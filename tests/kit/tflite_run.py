"""A made-up run that says that its file is TFLite: enough for programs that are only compiled or parsed."""

import hashlib
import json
from pathlib import Path

import numpy as np

from tests.kit.made_up import list_files

CONTENT = b"\x1c\0\0\0TFL3 not one"


def as_tflite(run: Path, dtype: str, precision: str = "int8") -> None:
    """Change the ONNX file of a run of :func:`tests.kit.made_up.write_run` into one that calls itself TFLite.

    Args:
        run: The run folder.
        dtype: Of its inputs and outputs; integers are quantized.
        precision: In its name.
    """
    report = json.loads((run / "report.json").read_text())
    (entry,) = report["artifacts"]
    old, new = Path(entry["path"]).name, f"student.{precision}.tflite"
    (run / "artifacts" / old).unlink()
    (run / "artifacts" / new).write_bytes(CONTENT)
    (run / "golden" / old).rename(run / "golden" / new)
    golden = json.loads((run / "golden" / new / "golden.json").read_text())
    entry |= {"path": f"artifacts/{new}", "format": "tflite", "precision": precision, "size_bytes": len(CONTENT),
              "sha256": hashlib.sha256(CONTENT).hexdigest()}  # fmt: skip
    quantized = {"scale": 0.5, "zero_point": -3} if dtype != "float32" else {"scale": None, "zero_point": None}
    for each, values in zip([*entry["inputs"], *entry["outputs"]], [*golden["inputs"], *golden["outputs"]], strict=True):
        each |= {"dtype": dtype, "shape": [1, *each["shape"][1:]], **quantized}
        path = run / "golden" / new / values["file"]
        content = np.fromfile(path, "<f4").astype(dtype).tobytes()
        path.write_bytes(content)
        values |= {"dtype": dtype, "sha256": hashlib.sha256(content).hexdigest(), **quantized}
    (run / "golden" / new / "golden.json").write_text(json.dumps(golden))
    (run / "report.json").write_text(json.dumps(report))
    list_files(run)
