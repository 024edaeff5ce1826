"""The everyday names of the colours of an object's pixels."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

_MAIN = 0.5  # share of the pixels that makes one colour enough
_SECOND = 0.25  # and that makes a second colour worth its name
_HUES = ((12, "red"), (40, "orange"), (68, "yellow"), (165, "green"), (195, "turquoise"), (260, "blue"), (290, "purple"), (345, "pink"))

NAMES = frozenset(name for _, name in _HUES) | {"black", "white", "grey", "beige", "brown"}


def pixel_names(rgb: NDArray[np.uint8]) -> list[str]:
    """The name of each of ``(N, 3)`` uint8 RGB pixels; hue decides, unless there is too little of it or of light."""
    if not len(rgb):
        return []
    lab = cv2.cvtColor(rgb[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    hsv = cv2.cvtColor(rgb[None].astype(np.float32) / 255, cv2.COLOR_RGB2HSV)[0]
    return [_name(*map(float, (pixel[0], np.hypot(pixel[1], pixel[2]), h, s))) for pixel, (h, s, _) in zip(lab, hsv, strict=True)]


def _name(lightness: float, chroma: float, hue: float, saturation: float) -> str:
    """Of CIELAB lightness (0 to 100) and chroma, HSV hue (degrees) and saturation (0 to 1)."""
    if lightness < 16 or (chroma < 8 and lightness < 28):
        return "black"
    if chroma < 11:
        return "white" if lightness > 80 else "grey"
    name = next((name for limit, name in _HUES if hue < limit), "red")
    if name in ("orange", "yellow", "red") and lightness > 72 and chroma < 38:
        return "beige"
    if name in ("orange", "red") and lightness < 55 and hue >= 12 and saturation < 0.9:
        return "brown"
    if name == "red" and lightness > 60 and saturation < 0.6:
        return "pink"
    return name


def dominant(pixels: Iterable[NDArray[np.uint8]], limit: int = 2000) -> tuple[str, ...]:
    """One or two names that cover the pixels of all pictures; () where no colours do (none above a quarter, or no pixels).

    Args:
        pixels: ``(N, 3)`` uint8 RGB of each picture; at most ``limit`` of each are looked at, evenly spread.
        limit: see above.
    """
    names = [name for rgb in pixels for name in pixel_names(rgb[:: max(1, len(rgb) // limit)])]
    counted = sorted(((names.count(name) / len(names), name) for name in set(names)), key=lambda pair: (-pair[0], pair[1]))
    if not counted or counted[0][0] < _SECOND:
        return ()
    if counted[0][0] >= _MAIN and (len(counted) == 1 or counted[1][0] < _SECOND):
        return (counted[0][1],)
    return tuple(name for share, name in counted[:2] if share >= _SECOND)
