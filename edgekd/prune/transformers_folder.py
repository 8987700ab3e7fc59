"""What is left of a transformers network as a directory that transformers loads by itself, proven by loading it."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekd.errors import UsageError
from edgekd.models.builders import OnlyLogits, hub_error, transformers_class, transformers_names
from edgekd.models.references import kind_of, model_path, name_of
from edgekd.models.spec import call
from edgekd.models.tensors import ModelSpec
from edgekd.prune.groups import random_inputs
from edgekd.prune.transformers_config import configured, new_names, told
from edgekd.safe.files import TEMPORARY_SUFFIX, disk_errors, sync_folder

FOLDER = "transformers"
_BESIDE = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
    "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "preprocessor_config.json",
    "processor_config.json",
)  # fmt: skip
"""Files of a model that say how texts, images and sounds are fed."""


@dataclass(frozen=True)
class TransformersFolder:
    """Whether transformers can load what is left.

    Attributes:
        folder: Of the directory that it loads; ``None``: it cannot.
        reasons: Why not.
        changed: Fields of the configuration that are no longer what they were: before and after.
    """

    folder: Path | None
    reasons: tuple[str, ...]
    changed: dict[str, tuple[Any, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "folder": None if self.folder is None else str(self.folder), "reasons": list(self.reasons),
            "configuration": {name: {"before": before, "after": after} for name, (before, after) in self.changed.items()},
        }  # fmt: skip

    def lines(self) -> list[str]:
        """Return it as lines for people."""
        changed = ", ".join(
            f"{name} {after}" if before is None else f"{name} {before} -> {after}"
            for name, (before, after) in self.changed.items()
        )
        lines = [f"  configuration: {changed}"] if changed else []
        if self.folder is None:
            reasons = "; ".join(self.reasons)
            return [*lines, f"  not loadable by transformers alone: {reasons}; edgekd loads it by its record"]
        return [*lines, f"{self.folder}"]


def check_place(reference: str, out: Path, report: str) -> None:
    """Refuse to write over a directory that no earlier cut wrote.

    Args:
        reference: Of the model that is to be cut.
        out: Folder that the directory will lie in.
        report: Name of the report that an earlier cut left there.

    Raises:
        UsageError: Something else lies there.
    """
    folder = out / FOLDER
    if kind_of(reference) != "hf" or not folder.exists():
        return
    try:
        ours = json.loads((out / report).read_text("utf-8"))["transformers"]["folder"] is not None
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours or folder.resolve() == model_path(reference).resolve():
        raise UsageError(
            f"{folder} is there already, and is not what this command wrote for another cut", "choose another --out"
        )


def write_transformers(left: nn.Module, whole: nn.Module, spec: ModelSpec, out: Path) -> TransformersFolder:
    """Write ``out/transformers`` if the class of the network can be built from its configuration alone.

    Args:
        left: The network that is left, of an ``hf:`` reference.
        whole: The network before the cut.
        spec: Of ``left``.
        out: An existing folder; the directory of an earlier cut in it goes.
    """
    assert isinstance(left, OnlyLogits) and isinstance(whole, OnlyLogits)
    network: Any = left.model
    said = told(network)
    config = configured(network, said.fields)
    changed = _changed(whole.model.config, config)
    target = out / FOLDER
    with disk_errors(target):
        if target.exists():
            shutil.rmtree(target)
        if said.reasons:
            return TransformersFolder(None, said.reasons, changed)
        with tempfile.TemporaryDirectory(dir=out, prefix=".", suffix=TEMPORARY_SUFFIX) as scratch:
            folder = Path(scratch, FOLDER)
            names = new_names(network)
            with torch.random.fork_rng(devices=[]):
                alone = type(network)(config).to(network.dtype)
            alone.load_state_dict({names[key]: value for key, value in network.state_dict().items()}, strict=True)
            alone.save_pretrained(folder)
            _copy_beside(spec.reference, folder)
            if not _gives_the_same(folder, left, spec):
                return TransformersFolder(None, ("built from its configuration it gives other outputs",), changed)
            folder.replace(target)
            sync_folder(out)
    return TransformersFolder(target, (), changed)


def _gives_the_same(folder: Path, left: nn.Module, spec: ModelSpec) -> bool:
    """Whether transformers alone loads a network from ``folder`` whose outputs are those of ``left``, bit for bit."""
    head = transformers_class(spec)
    loaded = head.from_pretrained(folder, local_files_only=True, trust_remote_code=False).eval()
    again = OnlyLogits(loaded, transformers_names(spec))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        given = {name: each.float() if each.is_floating_point() else each for name, each in random_inputs(spec).items()}
        old, new = call(left.eval(), spec, given), call(again, spec, given)
    return all(torch.equal(old[name], new[name]) for name in old)


def _copy_beside(reference: str, folder: Path) -> None:
    source = model_path(reference)
    if not source.is_dir():
        from huggingface_hub import snapshot_download

        try:
            source = Path(snapshot_download(name_of(reference), allow_patterns=list(_BESIDE)))
        except (OSError, ValueError) as error:
            raise hub_error(reference, error) from error
    for name in _BESIDE:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _changed(before: Any, after: Any) -> dict[str, tuple[Any, Any]]:
    old, new = before.to_dict(), after.to_dict()
    return {name: (old.get(name), new[name]) for name in sorted(new) if new[name] != old.get(name)}
