"""Write the deploy kits of a run: ``RUN/kit/TARGET/``, each whole or not at all."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.abilities import check_device, devices
from edgekd.errors import ModelError, UsageError
from edgekd.kit.choice import Choice, choose
from edgekd.kit.preprocessing import preprocessing
from edgekd.kit.programs import CPP_TYPES, DataFile, programs
from edgekd.kit.run_folder import RunFolder, open_run_folder
from edgekd.safe.files import TEMPORARY_SUFFIX, disk_errors, write_bytes

_TEXT_FILES = ("tokenizer.json", "vocab.txt")
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest that a zip file can tell: the same bytes whenever it is made."""
_LAYOUT = {
    # Where the artifact and its labels go, and where the golden vectors.
    "android": ("assets/edgekd/", "assets/edgekd/golden/"), "ios": ("resources/", "resources/"),
    "raspberry-pi": ("", "golden/"), "jetson": ("", "golden/"),
}  # fmt: skip


@dataclass(frozen=True)
class Kit:
    """A kit that was written.

    Attributes:
        target: For example ``android``.
        artifact: Name of what is in it, for example ``tflite-int8``.
        reason: Why that one.
        folder: Where it is.
        zip: The same as one file, if it was asked for.
        files: Paths under ``folder``, sorted.
    """

    target: str
    artifact: str
    reason: str
    folder: Path
    zip: Path | None
    files: tuple[str, ...]


@dataclass(frozen=True)
class Kits:
    """What was written, and for which targets the run has no file: ``{target: why}``."""

    written: tuple[Kit, ...]
    skipped: dict[str, str]


def write_kits(folder: Path, targets: Sequence[str] = (), zipped: bool = False) -> Kits:
    """Write a kit for each target from a finished run, wherever that was made.

    Args:
        folder: The run folder.
        targets: Names of targets; none: all that the run has a file for.
        zipped: Also write ``kit/TARGET.zip``, the same bytes every time.

    Raises:
        UsageError: No such target; no run folder; or a file that is not what the run wrote.
        ModelError: The run has no file for a target that was asked for, or for none at all.
        ResourceError: The disk is full.
    """
    for target in targets:
        check_device(target)
    run = open_run_folder(folder)
    choices: dict[str, Choice] = {}
    refusals: dict[str, ModelError] = {}
    for target in dict.fromkeys(targets or devices()):
        try:
            choices[target] = choose(target, run.report)
        except ModelError as refusal:
            refusals[target] = refusal
    if refusals and (targets or not choices):
        raise next(iter(refusals.values()))
    # All are made before the first is written.
    contents = {target: _contents(run, target, choice) for target, choice in choices.items()}
    written = tuple(_write(run.folder / "kit", target, choice, contents[target], zipped) for target, choice in choices.items())
    return Kits(written, {target: f"{each.message}; {each.hint}" for target, each in refusals.items()})


def _contents(run: RunFolder, target: str, choice: Choice) -> dict[str, bytes]:
    """Return every file of a kit by its path."""
    artifact = choice.artifact
    place, golden_place = _LAYOUT[target]
    strange = {each.dtype for each in (*artifact.inputs, *artifact.outputs)} - CPP_TYPES.keys()
    if strange:
        raise ModelError(
            f"{artifact.path} takes or gives {', '.join(sorted(strange))}, which the programs of a kit cannot feed or compare",
            "choose a target with another file, or feed it as PREPROCESSING.md of that file would say",
        )
    network = run.read(artifact.path)
    if run.hashes[artifact.path] != artifact.sha256:
        raise UsageError(
            f"{run.folder}/report.json and manifest.json disagree on {artifact.path}",
            "run edgekd compress again with it as --out",
        )
    golden, golden_files = run.golden(artifact)
    labels = next((each.labels for each in artifact.outputs if each.labels is not None), [])
    beside = {"labels.json": (json.dumps(labels, indent=1) + "\n").encode()}
    if not any("\n" in label or "\r" in label for label in labels):
        beside["labels.txt"] = "".join(f"{label}\n" for label in labels).encode("utf-8", "surrogatepass")
    if any(each.meaning == "tokens" for each in artifact.inputs):
        beside |= {name: run.read(f"artifacts/{name}") for name in _TEXT_FILES}
    tensors = [each.file for each in (*golden.inputs, *golden.outputs)]
    prefix = golden_place.removeprefix(place) if target != "ios" else ""
    data = [
        DataFile(artifact.file_name, network),
        *(DataFile(prefix + name, golden_files[name]) for name in tensors),
        *(DataFile(name, content) for name, content in beside.items()),
    ]
    texts = programs(target, run.report.name, choice, golden, data, f"{golden_place}golden.json")
    with_archive = target in {"raspberry-pi", "jetson"}
    return {
        **{place + each.name: each.content for each in data},
        f"{golden_place}golden.json": golden_files["golden.json"],
        **({f"{golden_place}golden.npz": golden_files["golden.npz"]} if with_archive else {}),
        **{name: text.encode() for name, text in texts.items()},
        "PREPROCESSING.md": preprocessing(artifact).encode(),
    }


def _write(root: Path, target: str, choice: Choice, contents: dict[str, bytes], zipped: bool) -> Kit:
    folder, archive = root / target, root / f"{target}.zip"
    with disk_errors(root):
        root.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".", suffix=TEMPORARY_SUFFIX) as scratch:
            made = Path(scratch, target)
            for name, content in contents.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).write_bytes(content)
            if folder.is_dir():
                folder.rename(Path(scratch, "before"))
            made.rename(folder)
        if not zipped:
            archive.unlink(missing_ok=True)  # it would be of another kit
    if zipped:
        write_bytes(archive, zip_bytes(target, contents))
    return Kit(target, choice.artifact.name, choice.reason, folder, archive if zipped else None, tuple(sorted(contents)))


def zip_bytes(root: str, contents: dict[str, bytes]) -> bytes:
    """Return a zip file of ``contents`` under the folder ``root``: sorted, undated, the same bytes for the same contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(f"{root}/{name}", _FIRST_DATE)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # Unix, wherever it is made
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()
