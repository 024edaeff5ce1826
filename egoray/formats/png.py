"""Masks in PNG files: numbers of objects, or one object's certainty, a pixel."""

from __future__ import annotations

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from egoray.core.storage import Folder
from egoray.errors import FormatError

Numbers = NDArray[np.uint8]


def read_png(folder: Folder, name: str) -> Numbers:
    """The file's ``(H, W)`` numbers: a palette's indices, not its colours; grey values; 0 and 1 of a 1-bit picture.

    Raises:
        FormatError: if the file is missing or no picture, or has colours in place of numbers; the message names it.
    """
    where = f"{folder.uri}/{name}"
    try:
        with Image.open(io.BytesIO(folder.read_bytes(name))) as picture:
            mode, pixels = picture.mode, np.asarray(picture)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FormatError(f"{where}: not a readable PNG ({error})") from error
    if mode in ("RGB", "RGBA"):  # grey, but saved as a colour picture
        if (pixels[..., :1] != pixels[..., 1:3]).any():
            raise FormatError(f"{where}: has colours in place of object numbers; save it with its palette, or as a grey picture")
        return np.ascontiguousarray(pixels[..., 0])
    if mode not in ("P", "L", "1"):
        raise FormatError(f"{where}: a PNG of mode {mode} is no mask; save it as 8 bits a pixel")
    return pixels.astype(np.uint8)


def write_png(folder: Folder, name: str, numbers: Numbers) -> None:
    """Write ``(H, W)`` numbers as a grey PNG; the file appears whole or not at all."""
    _, data = cv2.imencode(".png", numbers)
    folder.write_bytes(name, data.tobytes())


def png_size(folder: Folder, name: str) -> tuple[int, int]:
    """(height, width) of a picture of any kind, from its header.

    Raises:
        FormatError: if it is missing or no picture; the message names it.
    """
    try:
        with Image.open(io.BytesIO(folder.read_bytes(name))) as picture:
            return picture.height, picture.width
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FormatError(f"{folder.uri}/{name}: not a readable picture ({error})") from error
