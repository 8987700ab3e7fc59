"""Facts inside an ONNX file: ``metadata_props``, which ONNX Runtime gives as ``session.get_modelmeta().custom_metadata_map``.

================== =====
key                value
================== =====
edgekd.name        name of the recipe
edgekd.description what the model does, in words
edgekd.author      ``edgekd``
edgekd.license     license of the model; absent if the recipe names none
edgekd.task        ``classification``
edgekd.inputs      JSON: a list of inputs as in ``report.json``: name, dtype, shape, layout, meaning, value_range, mean, std,
                   sample_rate
edgekd.outputs     JSON: the same of outputs
edgekd.labels      JSON: class names in the order of the first output
edgekd.files       JSON: SHA-256 by name of files that the model needs beside it (``tokenizer.json``, ``vocab.txt``)
================== =====

No version of edgekd is among them: files change when the model does, not when edgekd does.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekd.export.metadata import ModelFacts


def onnx_metadata(facts: ModelFacts) -> dict[str, str]:
    """Return ``facts`` as keys and values."""
    outputs = [{key: value for key, value in each.items() if key != "labels"} for each in facts.outputs]
    told: dict[str, Any] = {"inputs": facts.inputs, "outputs": outputs}
    if "labels" in facts.outputs[0]:
        told["labels"] = facts.outputs[0]["labels"]
    if facts.files:
        told["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in facts.files.items()}
    texts = {"name": facts.name, "description": facts.description, "author": "edgekd", "task": facts.task}
    if facts.license is not None:
        texts["license"] = facts.license
    texts |= {key: json.dumps(value, allow_nan=False) for key, value in told.items()}
    return {f"edgekd.{key}": value for key, value in texts.items()}


def with_onnx_metadata(model: str, facts: ModelFacts) -> bytes:
    """Return the bytes of the ONNX file ``model`` with ``facts`` inside; what other tools noted there is kept."""
    import onnx

    proto = onnx.load(model, load_external_data=False)
    kept = {each.key: each.value for each in proto.metadata_props}
    onnx.helper.set_model_props(proto, kept | onnx_metadata(facts))
    return bytes(proto.SerializeToString(deterministic=True))
