"""Boundary F: how well the outline of a predicted mask follows that of the true one.

Source: the DAVIS benchmark's contour measure, as EgoMask's released evaluator uses it: an outline pixel is matched when the
other outline comes within ceil(0.008 x diagonal) pixels. Only the part of the frame around both masks is drawn, and
distances stand in for dilating by a disk; the figure is the same to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from egoray.core.runs import Runs, draw, edges, extent, read_runs
from egoray.schema import MaskRLE

TOLERANCE = 0.008
"""Share of the frame's diagonal."""
MEASURED = 50_000
"""Pairs of pixels up to which measuring each is quicker than a distance for every pixel of the window."""


@dataclass(frozen=True, slots=True, eq=False)
class Foreground:
    """A mask of ``(height, width)`` as first pixels and pixels after the last of its runs, in column order."""

    starts: Runs
    stops: Runs
    size_hw: tuple[int, int]

    @classmethod
    def of(cls, rle: MaskRLE) -> Foreground:
        """The mask's runs."""
        return cls(*edges(read_runs(rle.counts)), rle.size)

    @property
    def area(self) -> int:
        """Pixels."""
        return int((self.stops - self.starts).sum())


def boundary_f(gold: MaskRLE | None, predicted: MaskRLE | None) -> float:
    """The F measure in [0, 1] of one frame; None is the empty mask. Two masks without an outline agree: 1.

    A mask that fills its frame has no outline, as in the source.

    Raises:
        ValueError: if the sizes differ.
    """
    if gold is not None and predicted is not None and gold.size != predicted.size:
        raise ValueError(f"masks of {gold.size} and {predicted.size} cannot be compared")
    return boundary_f_of_runs(*(Foreground.of(rle) if rle else None for rle in (gold, predicted)))


def boundary_f_of_runs(gold: Foreground | None, predicted: Foreground | None) -> float:
    """`boundary_f` of masks of one size whose runs are at hand."""
    given = [mask for mask in (gold, predicted) if mask is not None and mask.area]
    if not given:
        return 1.0
    height, width = given[0].size_hw
    boxes = [extent(mask.starts, mask.stops, height) for mask in given]
    window = (
        max(0, min(b[0] for b in boxes) - 1),  # an outline lies up to one pixel above and left of its mask
        max(0, min(b[1] for b in boxes) - 1),
        min(height, max(b[2] for b in boxes) + 1),
        min(width, max(b[3] for b in boxes) + 1),
    )
    outlines = [_outline(draw(mask.starts, mask.stops, height, window)) for mask in given]
    counts = [int(np.count_nonzero(outline)) for outline in outlines]
    if len(given) == 1 or not all(counts):
        return float(not any(counts))
    reach = math.ceil(TOLERANCE * math.hypot(height, width))
    precision = _num_near(outlines[1], outlines[0], reach) / counts[1]
    recall = _num_near(outlines[0], outlines[1], reach) / counts[0]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels that differ from the next one right, below or right below; on the last row and column only along them.

    The mask may be transposed: the rule is the same in both directions.
    """
    outline = np.zeros_like(mask)
    corner = mask[:-1, :-1]
    outline[:-1, :-1] = (corner ^ mask[:-1, 1:]) | (corner ^ mask[1:, :-1]) | (corner ^ mask[1:, 1:])
    outline[-1, :-1] = mask[-1, :-1] ^ mask[-1, 1:]
    outline[:-1, -1] = mask[:-1, -1] ^ mask[1:, -1]
    return outline


def _num_near(pixels: NDArray[np.bool_], others: NDArray[np.bool_], reach: int) -> int:
    """How many of the pixels have one of the others within ``reach``, by Euclidean distance.

    Most do within the square that fits in the disk, which costs little to see; the rest are measured.
    """
    inside = int(reach / math.sqrt(2))
    square = cv2.dilate(others.view(np.uint8), np.ones((2 * inside + 1, 2 * inside + 1), np.uint8))
    open_questions = pixels & (square == 0)
    num_open = int(np.count_nonzero(open_questions))
    num_near = int(np.count_nonzero(pixels)) - num_open
    if not num_open:
        return num_near
    if num_open * int(np.count_nonzero(others)) > MEASURED:
        # squared distances are whole numbers, so that float32 roots tell reach from the next one
        distance = cv2.distanceTransform((~others).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return num_near + int(np.count_nonzero(distance[open_questions] <= reach))
    (y, x), (other_y, other_x) = np.nonzero(open_questions), np.nonzero(others)
    squared = (y[:, None] - other_y) ** 2 + (x[:, None] - other_x) ** 2
    return num_near + int(np.count_nonzero(squared.min(1) <= reach * reach))
