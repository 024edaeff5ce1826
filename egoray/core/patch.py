"""A mask as the part of its frame that can hold it: clipping and run-length coding cost the object's size, not the frame's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco

from egoray.core.boxes import pixel_slices
from egoray.core.masks import Mask
from egoray.schema import Box, MaskRLE


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """``pixels`` ``(h, w)`` bool, whose first pixel is row ``top``, column ``left`` of a frame of ``size_hw``; all else is background.

    The empty mask is any patch without a True pixel, also one of no rows or columns.
    """

    pixels: Mask
    top: int
    left: int
    size_hw: tuple[int, int]

    @classmethod
    def of(cls, mask: Mask) -> Patch:
        """The ``(H, W)`` bool mask, cut to its foreground."""
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not rows.size:
            return cls.empty(mask.shape)
        top, left = int(rows[0]), int(cols[0])
        return cls(mask[top : rows[-1] + 1, left : cols[-1] + 1], top, left, mask.shape)

    @classmethod
    def empty(cls, size_hw: tuple[int, int]) -> Patch:
        """No foreground at all."""
        return cls(np.zeros((0, 0), bool), 0, 0, size_hw)

    def any(self) -> bool:
        """Whether there is a foreground pixel."""
        return bool(self.pixels.any())

    def dense(self) -> Mask:
        """The whole ``(H, W)`` bool mask."""
        mask = np.zeros(self.size_hw, bool)
        height, width = self.pixels.shape
        mask[self.top : self.top + height, self.left : self.left + width] = self.pixels
        return mask

    def inside(self, box: Box) -> Patch:
        """The foreground inside the box, by the same rule as `masks.keep_inside`; shares its memory."""
        rows, cols = pixel_slices(box, self.size_hw)
        top, left = max(self.top, rows.start), max(self.left, cols.start)
        bottom = min(self.top + self.pixels.shape[0], rows.stop)
        right = min(self.left + self.pixels.shape[1], cols.stop)
        if bottom <= top or right <= left:
            return Patch.empty(self.size_hw)
        return Patch(self.pixels[top - self.top : bottom - self.top, left - self.left : right - self.left], top, left, self.size_hw)

    def encode(self) -> MaskRLE:
        """The same run lengths, letter for letter, as `masks.encode` of the whole mask."""
        height, width = self.size_hw
        rows, cols = self.pixels.shape
        columns = self.pixels.T
        if rows < height:  # one background pixel under each column keeps the runs of neighbouring columns apart
            columns = np.concatenate([columns, np.zeros((cols, 1), bool)], axis=1)
            rows += 1
        flat = np.concatenate([[False], columns.ravel(), [False]])
        column, row = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), rows)
        edges = (self.left + column) * height + self.top + row
        runs = np.diff(edges, prepend=0, append=height * width)
        counts = runs.tolist() if runs[-1] else runs[:-1].tolist()
        rle = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        return MaskRLE(size=self.size_hw, counts=rle["counts"].decode("ascii"))
