"""Sounds by class: ``PATH/CLASS/*.wav``, or ``PATH/{train,test}/CLASS/*.wav`` with splits of their own.

They are brought to ``data.sample_rate`` and ``data.seconds``, see :mod:`edgekd.data.sounds`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.data.bad_samples import check_bad
from edgekd.data.cache import Advanced, Preview, SampleWriter
from edgekd.data.class_folders import list_class_folders
from edgekd.data.folder import check_classes_left
from edgekd.data.sounds import FULL_SCALE, Sound, SoundWriter, decode_sound, kept_length, kept_rate
from edgekd.data.sources import source_path
from edgekd.safe import stop

if TYPE_CHECKING:
    from edgekd.recipe import Data

SUFFIXES = frozenset({".wav", ".wave"})
_BATCH = 64


def fingerprint(options: Data) -> dict[str, Any]:
    """Return names, sizes and modification times of all sounds, hashed, and what they are brought to."""
    found = list_class_folders(source_path(options), SUFFIXES, "sounds")
    return {
        "sounds": found.fingerprint(), "sample_rate": options.sample_rate, "seconds": options.seconds,
        "skip_bad": options.skip_bad,
    }  # fmt: skip


def preview(options: Data) -> Preview:
    """Return classes, counts and three sounds, opening none of the others."""
    root = source_path(options)
    found = list_class_folders(root, SUFFIXES, "sounds")
    samples, rates = [], []
    for file in found.examples():
        sound = _decode(root / file.relative)
        rates += [sound.rate] if isinstance(sound, Sound) else []
        shown = sound if isinstance(sound, str) else f"{len(sound.values) / sound.rate:.2f} s at {sound.rate:,} Hz"
        samples.append(f"{file.relative}, {shown}: {found.classes[file.label]}")
    rate = kept_rate(rates, options)
    shape = (kept_length(rate, options.seconds),) if rate is not None else None
    return Preview("waveform", found.classes, found.totals(), found.parts(), tuple(samples), shape, rate)


def write_cache(cache: Path, options: Data, advanced: Advanced) -> dict[str, Any]:
    """Decode every sound of the folder into ``cache``.

    Raises:
        DataError: Files that are no sounds (unless ``skip_bad``), or of different rates without ``sample_rate``.
        ResourceError: The disk is full.
    """
    root = source_path(options)
    found = list_class_folders(root, SUFFIXES, "sounds")
    bad: list[str] = []
    with SampleWriter(cache) as samples, SoundWriter(cache, options) as sounds:
        for seen, file in enumerate(found, 1):
            sound = _decode(root / file.relative)
            if isinstance(sound, str):
                bad.append(f"{file.relative} ({sound})")
            else:
                sounds.append(sound, str(root / file.relative))
                samples.append(file.label, file.part, file.relative)
            if seen % _BATCH == 0 or seen == len(found):
                stop.check_stop()
                advanced(seen, len(found), f"{len(bad)} bad" if bad else "")
        check_bad(bad, "waveform", options)
        check_classes_left(samples, found)
    return {
        "kind": "waveform", "classes": list(found.classes), "shape": sounds.shape, "full_scale": FULL_SCALE,
        "sample_rate": sounds.rate, "skipped": bad,
    }  # fmt: skip


def _decode(path: Path) -> Sound | str:
    try:
        with path.open("rb") as file:
            return decode_sound(file)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
