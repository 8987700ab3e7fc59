"""What the report tells of weights that are zero: one table of text cells, and what zeros do for speed."""

from __future__ import annotations

from edgekd.artifacts import file_name
from edgekd.report.report import Report
from edgekd.report.rows import Row, size

HEADINGS = ("", "zero weights", "sparsity", "size", "deflated", "of its size")

SPEED = (
    "Zero weights: of the layers that were to have some. Deflated: as in a zip, an APK or gzip, level 9. Stored smaller, not "
    "faster: ONNX Runtime and LiteRT compute with zeros as with any number. TensorRT has 2:4 kernels for Ampere and later "
    "(Jetson Orin; fp16 and int8, trtexec --sparsity=enable) and takes them where they win; XNNPACK has kernels for sparse 1x1 "
    "convolutions, but for files that store sparse tensors, which these do not."
)
"""Sources: microsoft/onnxruntime#2121; "Sparse Inference" in TensorFlow's ``lite/delegates/xnnpack/README.md``, which wants two
thirds of zeros, too; "Sparsity" in NVIDIA's TensorRT documentation, and NVIDIA/TensorRT#3849: from some 256 channels on."""


def zero_rows(report: Report) -> list[Row]:
    """Return a row for every file under :data:`HEADINGS`; nothing where no weights were set to zero."""
    pruning = report.student.pruning
    if pruning is None or not pruning.zeros:
        return []
    asked = pruning.zeros[-1]["asked"]
    rows = []
    for each in report.artifacts:
        zeros = each.zeros
        if zeros is None:
            continue
        share, pattern = "", "not looked into"
        if zeros.zeros is not None and zeros.weights:
            share = f"{100 * zeros.zeros / zeros.weights:.1f} %"
            broken = zeros.lost or zeros.broken_groups
            pattern = f"{asked}: {zeros.lost:,} lost, {zeros.broken_groups:,} groups broken" if broken else f"{asked} holds"
        cells = (
            file_name(each.name), share, pattern, size(zeros.size_bytes), size(zeros.deflated_bytes),
            f"{100 * zeros.deflated_bytes / zeros.size_bytes:.0f} %",
        )  # fmt: skip
        rows.append(Row(cells, each.folder == "rejected"))
    return rows
