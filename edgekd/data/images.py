"""Images: decoded by Pillow, and collected in one array of one size."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from edgekd.data.cache import ArrayFile
from edgekd.data.rows import RowFile
from edgekd.errors import DataError

IMAGES = "image.npy"
_SLICE_BYTES = 1 << 23
_GREY = frozenset({"1", "L", "LA", "I;16"})
Pixels = NDArray[np.uint8]


def decode_image(source: Path | IO[bytes], image_size: int | None) -> tuple[Pixels, bool] | str:
    """Return RGB pixels ``[height, width, 3]`` and whether the image was grey, or why it cannot be decoded.

    Images are turned upright by their EXIF tag. With ``image_size`` they are scaled so that the shorter side fits, and
    cropped to the centre square.
    """
    from PIL import Image, ImageOps

    try:
        if _is_empty(source):
            return "is empty"
        with Image.open(source) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
            is_grey = image.mode in _GREY
            if image.mode == "I;16":
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image = image.convert("RGB")
            if image_size is not None and image.size != (image_size, image_size):
                image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
            return np.asarray(image), is_grey
    # Pillow's decoders raise many types on broken files (SyntaxError and struct.error among them);
    # whatever it is, this file is bad, and its name and the reason are reported.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, OSError) and reason.startswith("cannot identify image file"):
            return "is no image that Pillow knows"
        return reason.replace(f" {str(source)!r}", "")[:120]


def image_size_of(source: Path | IO[bytes]) -> str:
    """Return ``WIDTHxHEIGHT MODE`` of an image, decoding no pixel, or that it cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(source) as image:
            return f"{image.width}x{image.height} {image.mode}"
    except Exception:  # PIL raises anything; which image is broken is for the run to tell, by its name
        return "is empty" if _is_empty(source) else "cannot be decoded"


def kept_shape(sources: Iterable[Path | IO[bytes]], image_size: int | None) -> tuple[int, int, int] | None:
    """Return height, width and channels that images like ``sources`` are brought to.

    ``None`` if they differ in size and there is no ``image_size``, or none can be decoded: which is broken is for the run to
    tell, by its name.
    """
    sizes, grey = set(), True
    for source in sources:
        decoded = decode_image(source, image_size)
        if not isinstance(decoded, str):
            pixels, is_grey = decoded
            sizes.add((pixels.shape[0], pixels.shape[1]))
            grey = grey and is_grey
    return (*sizes.pop(), 1 if grey else 3) if len(sizes) == 1 else None


def _is_empty(source: Path | IO[bytes]) -> bool:
    if isinstance(source, Path):
        return source.stat().st_size == 0
    empty = not source.read(1)
    source.seek(0)
    return empty


class ImageWriter(AbstractContextManager["ImageWriter"]):
    """Writes decoded images of one size to ``image.npy``; at the end they become grey if all of them are.

    Args:
        cache: The folder that gets the file.
    """

    def __init__(self, cache: Path) -> None:
        self._path, self._stack = cache / IMAGES, ExitStack()
        self._file: ArrayFile | None = None
        self._first, self._grey = "", True

    def __enter__(self) -> ImageWriter:
        return self

    @property
    def shape(self) -> list[int]:
        """Number of images, height, width and channels of what is written."""
        assert self._file is not None, "no image was written"
        count, (height, width, channels) = self._file.count, self._file.row_shape
        return [count, height, width, 1 if self._grey else channels]

    def append(self, pixels: Pixels, is_grey: bool, name: str) -> None:
        """Add one image: RGB pixels, whether its three channels are the same, and its name for messages.

        Raises:
            DataError: It has another size than those before.
        """
        if self._file is None:
            self._file = self._stack.enter_context(ArrayFile(self._path, np.uint8, pixels.shape))
            self._first = name
        height, width = self._file.row_shape[:2]
        if pixels.shape != self._file.row_shape:
            raise DataError(
                f"images differ in size: {self._first} has {width}x{height} pixels, "
                f"{name} has {pixels.shape[1]}x{pixels.shape[0]}",
                "set data.image_size to bring them to one size",
            )
        self._grey = self._grey and is_grey
        self._file.append(pixels[np.newaxis])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        done = self._stack.__exit__(kind, error, trace)
        if kind is None and self._file is not None and self._grey:
            colored = RowFile(self._path)
            height, width = colored.shape[1:3]
            step = max(1, _SLICE_BYTES // (3 * height * width))
            with ArrayFile(self._path, np.uint8, (height, width, 1)) as grey:
                for start in range(0, len(colored), step):
                    grey.append(colored[start : start + step][..., :1])
        return done
