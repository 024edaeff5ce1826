"""Low-resolution mask logits to masks of the frame's size: hole filling, enlarging only where an object is, non-overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from egoray.core.patch import Patch

FILLED = 0.1
"""Logit that a filled hole gets: just inside the object."""
Logits = NDArray[np.float32]


def fill_holes(logits: Logits, max_area: int) -> Logits:
    """The ``(h, w)`` logits, with every hole (8-connected background not above 0) of at most ``max_area`` pixels set to 0.1."""
    background = (logits <= 0).astype(np.uint8)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(background, connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] <= max_area
    small[0] = False
    return np.where(small[parts], np.float32(FILLED), logits)


def to_patches(logits: Sequence[Logits], size_hw: tuple[int, int], non_overlapping: bool = False) -> list[Patch]:
    """Masks of a frame of ``size_hw``, one for each ``(h, w)`` map of logits, True where the bilinear enlargement is above 0.

    With ``non_overlapping``, each pixel belongs to the map that is highest there (the first of equals).
    """
    enlarged = [_enlarge(each, size_hw) for each in logits]
    if not non_overlapping:
        return [Patch(values > 0, top, left, size_hw) for values, top, left in enlarged]
    highest, owner = np.zeros(size_hw, np.float32), np.full(size_hw, -1)
    regions = [(slice(top, top + v.shape[0]), slice(left, left + v.shape[1])) for v, top, left in enlarged]
    for i, ((values, _, _), region) in enumerate(zip(enlarged, regions, strict=True)):
        higher = values > highest[region]
        highest[region][higher] = values[higher]
        owner[region][higher] = i
    return [Patch(owner[region] == i, top, left, size_hw) for i, ((_, top, left), region) in enumerate(zip(enlarged, regions, strict=True))]


def _enlarge(logits: Logits, size_hw: tuple[int, int]) -> tuple[Logits, int, int]:
    """The part of the bilinear enlargement that can be above 0, with its first row and column.

    A pixel is above 0 only if one of the four values around it is, so the part reaches one value beyond those. It begins
    and ends where a whole number of values meets a whole number of pixels, so that it is sampled as the whole would be.
    """
    rows, cols = np.flatnonzero((logits > 0).any(1)), np.flatnonzero((logits > 0).any(0))
    if not rows.size:
        return np.zeros((0, 0), np.float32), 0, 0
    spans = [_span(int(at[0]), int(at[-1]), small, large) for at, small, large in zip((rows, cols), logits.shape, size_hw, strict=True)]
    (top, bottom), (left, right) = spans
    part = torch.from_numpy(np.ascontiguousarray(logits[top:bottom, left:right]))[None, None]
    scales = [large / small for small, large in zip(logits.shape, size_hw, strict=True)]
    top, bottom, left, right = (round(at * scales[axis]) for axis, span in enumerate(spans) for at in span)
    enlarged = torch.ops.aten.upsample_bilinear2d(part, [bottom - top, right - left], False, *scales)
    return enlarged[0, 0].numpy(), top, left


def _span(first: int, last: int, small: int, large: int) -> tuple[int, int]:
    """The range of values that covers ``first - 1`` to ``last + 1`` and begins and ends on whole pixels."""
    step = small // math.gcd(small, large)
    return max(0, first - 1) // step * step, min(small, -(-(last + 2) // step) * step)
