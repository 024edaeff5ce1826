"""Boxes as ``(x1, y1, x2, y2)`` float pixels: clipping, interpolation, and the pixels that they cover."""

from __future__ import annotations

import math

from egoray.schema import Box


def clip_box(box: Box, size_hw: tuple[int, int]) -> Box | None:
    """The part of ``box`` inside an image of (height, width), or None where nothing of it has an area."""
    height, width = size_hw
    x1, y1, x2, y2 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def pixel_slices(box: Box, size_hw: tuple[int, int]) -> tuple[slice, slice]:
    """Row and column slices of the pixels inside: floor(x1) <= x < ceil(x2), same in y, cut at the image's border.

    Empty slices for a box outside the image.
    """
    height, width = size_hw
    x1, x2 = (min(max(v, 0), width) for v in (math.floor(box[0]), math.ceil(box[2])))
    y1, y2 = (min(max(v, 0), height) for v in (math.floor(box[1]), math.ceil(box[3])))
    return slice(y1, max(y1, y2)), slice(x1, max(x1, x2))


def scale_box(box: Box, scale_x: float, scale_y: float) -> Box:
    """The box in an image whose width and height were multiplied by the two factors."""
    return (box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y)


def interpolate_boxes(boxes: dict[int, Box], start: int, stop: int) -> dict[int, Box]:
    """A box for every frame of ``[start, stop)``: the given ones, and between two given ones the linear mixture.

    Raises:
        ValueError: if no box is given at ``start`` or at ``stop - 1``: nothing is extrapolated.
    """
    if start not in boxes or stop - 1 not in boxes:
        raise ValueError(f"frames {start} and {stop - 1} need a box each to interpolate between")
    filled: dict[int, Box] = {}
    known = [f for f in sorted(boxes) if start <= f < stop]
    for left, right in zip(known, known[1:] + known[-1:], strict=True):
        filled[left] = boxes[left]
        for frame in range(left + 1, right):
            t = (frame - left) / (right - left)
            x1, y1, x2, y2 = (a + t * (b - a) for a, b in zip(boxes[left], boxes[right], strict=True))
            filled[frame] = (x1, y1, x2, y2)
    return filled
