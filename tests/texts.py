"""A small data set of texts for tests: good and bad words, told apart by a few of them."""

import random
from pathlib import Path

_PLAIN = ("the", "film", "a", "plot", "with", "actors", "and", "scenes", "of", "some", "story", "about", "people", "in", "town")
_GOOD = ("great", "lovely", "funny", "moving", "wonderful", "charming")
_BAD = ("dull", "boring", "awful", "clumsy", "tedious", "empty")


def write_texts(path: Path, count: int = 400, seed: int = 0) -> None:
    """Write ``count`` lines of ``text TAB label``, labels in turn."""
    words = random.Random(seed)
    lines = []
    for index in range(count):
        label = index % 2
        text = words.choices(_PLAIN, k=words.randrange(3, 14)) + words.choices(_GOOD if label else _BAD, k=2)
        words.shuffle(text)
        lines.append(f"{' '.join(text)}\t{label}\n")
    path.write_text("".join(lines))
