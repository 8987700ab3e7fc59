"""A small data set of sounds for tests: tones, sweeps and noise, as WAV files in class folders."""

from pathlib import Path

import numpy as np
from scipy.io import wavfile

RATE = 4_000


def write_sounds(root: Path, count: int = 60, rate: int = RATE, seed: int = 0) -> None:
    """Write ``count`` sounds of 0.3 to 0.6 s for each of three classes."""
    random = np.random.default_rng(seed)
    for name in ("low", "high", "noise"):
        (root / name).mkdir(parents=True)
        for index in range(count):
            length = int(rate * random.uniform(0.3, 0.6))
            time = np.arange(length) / rate
            hertz = random.uniform(150, 400) if name == "low" else random.uniform(900, 1_600)
            sound = random.normal(size=length) if name == "noise" else np.sin(2 * np.pi * hertz * time + random.uniform(0, 6))
            sound = sound * 10 ** random.uniform(-2, -0.3) + random.normal(size=length) * 1e-3
            wavfile.write(root / name / f"{index}.wav", rate, np.clip(sound * 32_767, -32_768, 32_767).astype(np.int16))
