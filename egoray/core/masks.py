"""Masks as run lengths: encode, decode and measure without ever holding a video of dense masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from egoray.core.boxes import pixel_slices
from egoray.core.runs import read_runs
from egoray.errors import FormatError
from egoray.schema import Box, MaskRLE

Mask = NDArray[np.bool_]


def encode(mask: Mask) -> MaskRLE:
    """The ``(H, W)`` bool mask as COCO compressed run lengths; an empty mask encodes too."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    height, width = rle["size"]
    return MaskRLE(size=(int(height), int(width)), counts=rle["counts"].decode("ascii"))


def decode(rle: MaskRLE) -> Mask:
    """The ``(H, W)`` bool mask."""
    return coco.decode(to_coco(rle)).astype(bool)


def to_coco(rle: MaskRLE) -> dict:
    """The dict that pycocotools takes."""
    return {"size": list(rle.size), "counts": rle.counts.encode("ascii")}


def area(rle: MaskRLE) -> int:
    """Number of foreground pixels."""
    return int(coco.area(to_coco(rle)))


def bounding_box(rle: MaskRLE) -> Box:
    """The tightest (x1, y1, x2, y2) around the foreground, x2 and y2 one past the last pixel; zeros when empty."""
    x, y, width, height = (float(v) for v in coco.toBbox(to_coco(rle)))
    return (x, y, x + width, y + height)


def intersection_union(a: MaskRLE, b: MaskRLE) -> tuple[int, int]:
    """Pixels in both and pixels in either, counted on the run lengths.

    Raises:
        ValueError: if the two sizes differ.
    """
    if a.size != b.size:
        raise ValueError(f"masks of {a.size} and {b.size} cannot be compared")
    pair = [to_coco(a), to_coco(b)]
    return int(coco.area(coco.merge(pair, intersect=True))), int(coco.area(coco.merge(pair)))


def union(masks: Sequence[MaskRLE]) -> MaskRLE:
    """The pixels in any of at least one mask.

    Raises:
        ValueError: if the sizes differ.
    """
    if len(sizes := {rle.size for rle in masks}) > 1:
        raise ValueError(f"masks of {sorted(sizes)} cannot be joined")
    if len(masks) == 1:
        return masks[0]
    both = coco.merge([to_coco(rle) for rle in masks])
    return MaskRLE(size=masks[0].size, counts=both["counts"].decode("ascii"))


def iou(a: MaskRLE, b: MaskRLE) -> float:
    """Intersection over union in [0, 1]; 1.0 when both are empty."""
    inter, union = intersection_union(a, b)
    return inter / union if union else 1.0


def keep_inside(mask: Mask, box: Box) -> Mask:
    """A copy of the ``(H, W)`` mask with every pixel outside the box cleared."""
    rows, cols = pixel_slices(box, mask.shape)
    kept = np.zeros_like(mask)
    kept[rows, cols] = mask[rows, cols]
    return kept


def ellipse_inside(box: Box, size_hw: tuple[int, int]) -> Mask:
    """``(H, W)`` bool mask of the ellipse inscribed in the box: a pixel is inside when its centre is.

    Empty for a box without area, for one outside the image of (height, width), and for one that holds no pixel centre.
    """
    x1, y1, x2, y2 = box
    if x2 <= x1 or y2 <= y1:
        return np.zeros(size_hw, dtype=bool)
    y, x = np.ogrid[: size_hw[0], : size_hw[1]]
    return (2 * x + 1 - x1 - x2) ** 2 / (x2 - x1) ** 2 + (2 * y + 1 - y1 - y2) ** 2 / (y2 - y1) ** 2 <= 1


def from_json(value: object, where: str) -> MaskRLE | None:
    """A mask from its JSON form: ``{"size": [h, w], "counts": str or list of runs}``, or None for null.

    Args:
        value: what the file holds.
        where: file and frame, for the error.

    Raises:
        FormatError: if it is neither, or the runs do not cover the size.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or not {"size", "counts"} <= value.keys():
        raise FormatError(f"{where}: not a run-length mask; expected {{'size': [h, w], 'counts': ...}}")
    try:
        height, width = (int(v) for v in value["size"])
        counts = value["counts"]
        if isinstance(counts, list):
            counts = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
        text = counts.decode("ascii") if isinstance(counts, bytes) else str(counts)
    except (TypeError, ValueError, OverflowError, UnicodeDecodeError) as error:
        raise FormatError(f"{where}: unreadable run-length mask ({error})") from error
    try:
        covered = read_runs(text).sum()
    except ValueError:
        covered = None
    if min(height, width) < 1 or covered != height * width:  # such a mask would decode to arbitrary pixels
        raise FormatError(f"{where}: the runs do not cover the mask's size of {height} x {width}")
    return MaskRLE(size=(height, width), counts=text)
