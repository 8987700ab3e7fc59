"""Sounds: WAV files read by SciPy, brought to one rate and one length, and collected in one array of 16-bit values.

Raw values are ``int16``, and 32,768 stands for 1: a 16-bit mono file of the right rate is kept bit for bit.
"""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekd.data.cache import ArrayFile
from edgekd.errors import DataError

if TYPE_CHECKING:
    from edgekd.recipe import Data

SOUNDS = "waveform.npy"
FULL_SCALE = 32_768
LOWEST_RATE, HIGHEST_RATE = 1_000, 192_000
_EDGE = 10
"""Half the length of resample_poly's filter, in samples of the lower of the two rates."""


@dataclass(frozen=True)
class Sound:
    """A decoded sound.

    Attributes:
        rate: Samples per second.
        values: One channel, ``float64 [n]``, 1 is full scale.
    """

    rate: int
    values: NDArray[np.float64]


def decode_sound(file: IO[bytes]) -> Sound | str:
    """Return the sound of a WAV file, its channels averaged, or why it cannot be used.

    PCM of 8 to 64 bits and floats of 32 or 64 bits; floats beyond [-1, 1] are clipped, as a loudspeaker would.

    Args:
        file: The open file.
    """
    from scipy.io import wavfile

    if not file.read(1):
        return "is empty"
    file.seek(0)
    try:
        with warnings.catch_warnings():
            # Unknown chunks are of no interest; a file that ends before its header says is cut off.
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            warnings.filterwarnings("error", "Reached EOF prematurely", wavfile.WavFileWarning)
            rate, values = wavfile.read(file)
    except wavfile.WavFileWarning:
        return "is cut off"
    # SciPy raises these, and ZeroDivisionError or UnboundLocalError, on headers that make no sense.
    except (ValueError, struct.error, EOFError, OSError, ArithmeticError, UnboundLocalError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return "is no WAV file" if reason.startswith("File format") else f"is no WAV file that SciPy reads: {reason[:100]}"
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        return f"has {rate:,} samples per second; allowed are {LOWEST_RATE:,} to {HIGHEST_RATE:,}"
    if values.size == 0:
        return "holds no sound"
    if not np.isfinite(values).all():
        return "holds NaN or infinity"
    scaled = _scaled(values)
    return Sound(int(rate), scaled if scaled.ndim == 1 else scaled.mean(axis=1))


def _scaled(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return samples as full-scale floats. SciPy gives 24-bit ones in the upper three bytes of 32."""
    if values.dtype.kind == "u":
        return (values.astype(np.float64) - 128) / 128
    if values.dtype.kind == "i":
        return values.astype(np.float64) / float(1 << (8 * values.dtype.itemsize - 1))
    return np.clip(values.astype(np.float64), -1, 1)


def fit_sound(sound: Sound, rate: int, length: int) -> NDArray[np.int16]:
    """Return ``sound`` as ``int16 [length]`` at ``rate``: resampled, then cut or padded with silence at its end.

    Resampled by ``scipy.signal.resample_poly``: a polyphase filter with a Kaiser window.
    """
    values = sound.values
    if sound.rate != rate:
        from scipy.signal import resample_poly

        divisor = math.gcd(sound.rate, rate)
        up, down = rate // divisor, sound.rate // divisor
        # Samples further behind the cut than the filter is long change nothing before it.
        needed = math.ceil(length * down / up) + math.ceil(_EDGE * max(up, down) / up) + 1
        values = resample_poly(values[:needed], up, down)
    fitted = np.zeros(length, np.int16)
    kept = np.clip(np.round(values[:length] * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
    fitted[: len(kept)] = kept.astype(np.int16)
    return fitted


def kept_length(rate: int, seconds: float) -> int:
    """Return how many values are kept of a sound: at least one."""
    return max(1, round(seconds * rate))


def kept_rate(rates: Sequence[int], options: Data) -> int | None:
    """Return the rate that sounds of these rates are brought to: that of the recipe, or theirs if it is one; else ``None``."""
    return options.sample_rate or (rates[0] if len(set(rates)) == 1 else None)


class SoundWriter(AbstractContextManager["SoundWriter"]):
    """Writes sounds to ``waveform.npy``, at the recipe's rate and length.

    Args:
        cache: The folder that gets the file.
        options: The recipe's data section; without a sample rate, the first sound decides.

    Attributes:
        rate: Samples per second; 0 before the first sound.
    """

    def __init__(self, cache: Path, options: Data) -> None:
        self._path, self._stack, self._options = cache / SOUNDS, ExitStack(), options
        self._file: ArrayFile | None = None
        self._first = ""
        self.rate = options.sample_rate or 0

    def __enter__(self) -> SoundWriter:
        return self

    @property
    def shape(self) -> list[int]:
        """Number of sounds, and values of each."""
        assert self._file is not None, "no sound was written"
        return [self._file.count, *self._file.row_shape]

    def append(self, sound: Sound, name: str) -> None:
        """Add one sound, by its name for messages.

        Raises:
            DataError: It has another rate than those before, and the recipe names none.
        """
        if self._file is None:
            self.rate, self._first = self.rate or sound.rate, name
            length = kept_length(self.rate, self._options.seconds)
            self._file = self._stack.enter_context(ArrayFile(self._path, np.int16, (length,)))
        if self._options.sample_rate is None and sound.rate != self.rate:
            raise DataError(
                f"sounds differ in sample rate: {self._first} has {self.rate:,} Hz, {name} has {sound.rate:,} Hz",
                "set data.sample_rate to bring them to one rate",
            )
        self._file.append(fit_sound(sound, self.rate, self._file.row_shape[0])[np.newaxis])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)
