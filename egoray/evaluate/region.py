"""Masks that are there, and the two baselines that a box alone gives.

A mask without foreground is treated as absent, wherever it stands: no key, an empty mask and nothing predicted are one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np

from egoray.core.boxes import pixel_slices
from egoray.core.masks import area, ellipse_inside, encode
from egoray.schema import Box, MaskRLE

Frame = TypeVar("Frame", int, str)


def present(masks: Mapping[Frame, MaskRLE], frames: Iterable[Frame]) -> dict[Frame, MaskRLE]:
    """The masks of these frames that have any foreground, in the order of ``frames``."""
    return {frame: masks[frame] for frame in frames if frame in masks and area(masks[frame])}


def box_fill(box: Box, size_hw: tuple[int, int]) -> MaskRLE:
    """The baseline that takes the whole box for the object; empty for a box outside the image of (height, width)."""
    mask = np.zeros(size_hw, dtype=bool)
    mask[pixel_slices(box, size_hw)] = True
    return encode(mask)


def box_ellipse(box: Box, size_hw: tuple[int, int]) -> MaskRLE:
    """The baseline that takes the ellipse inscribed in the box; see `ellipse_inside` for its empty cases."""
    return encode(ellipse_inside(box, size_hw))
