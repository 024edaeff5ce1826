"""A mask from clicks without a network: GrabCut around the object, certain where a person said so."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from egoray.core.boxes import clip_box, pixel_slices
from egoray.core.masks import Mask
from egoray.core.video import Image
from egoray.schema import Box

Point = tuple[float, float]
_ROOM = 0.35
"""What is looked at around box, mask and clicks, as a share of their extent."""
_DAB = 0.04
"""Radius of what a click makes certain, as a share of that extent; at least 2 px."""

_UNKNOWN = 0.4
"""That extent where a click alone says what is meant, as a share of the image."""


def segment(image: Image, *, inside: Sequence[Point], outside: Sequence[Point], box: Box | None, before: Mask | None) -> Mask:
    """``(H, W)`` bool: the object that the clicks ``inside``, (x, y) in pixels, are on and those ``outside`` are not.

    A mask to mend only gains where it was clicked inside, and only loses where outside.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        inside: clicks on the object.
        outside: clicks beside it.
        box: where the object is; nothing beyond it is taken, unless it was clicked.
        before: ``(H, W)`` bool, the mask to mend; None or empty: start from the box.

    Raises:
        ValueError: if neither a box, a mask nor a click inside says where the object is.
    """
    size_hw = image.shape[:2]
    mended = before is not None and before.any()
    spots = [(x, y, x + 1, y + 1) for x, y in (*inside, *outside)]
    if mended:
        rows, cols = np.flatnonzero(before.any(1)), np.flatnonzero(before.any(0))
        spots.append((cols[0], rows[0], cols[-1] + 1, rows[-1] + 1))
    if box:
        spots.append(box)
    elif not mended and not inside:
        raise ValueError("click on the object, or draw a box around it")
    x1, y1, x2, y2 = (fold(s[i] for s in spots) for i, fold in enumerate((min, min, max, max)))
    extent = max(x2 - x1, y2 - y1, 24 if box or mended else _UNKNOWN * min(size_hw))
    region = clip_box((x1 - _ROOM * extent, y1 - _ROOM * extent, x2 + _ROOM * extent, y2 + _ROOM * extent), size_hw)
    if region is None:
        return np.zeros(size_hw, bool)
    rows, cols = pixel_slices(region, size_hw)
    labels = np.full(size_hw, cv2.GC_PR_BGD if box is None else cv2.GC_BGD, np.uint8)
    if box:
        labels[pixel_slices(box, size_hw)] = cv2.GC_PR_BGD if mended else cv2.GC_PR_FGD
    if mended:
        labels[before] = cv2.GC_PR_FGD
    radius = max(2, round(_DAB * extent))
    for points, label, maybe in ((inside, cv2.GC_FGD, cv2.GC_PR_FGD), (outside, cv2.GC_BGD, cv2.GC_PR_BGD)):
        for x, y in points:
            around = np.zeros(size_hw, np.uint8)
            cv2.circle(around, (int(x), int(y)), 4 * radius, 1, -1)
            labels[(around > 0) & (labels != cv2.GC_FGD) & (labels != cv2.GC_BGD)] = maybe
            cv2.circle(labels, (int(x), int(y)), radius, int(label), -1)
    cut = np.ascontiguousarray(labels[rows, cols])
    if (cut & 1).any() and not (cut & 1).all():
        cv2.setRNGSeed(0)
        try:
            cv2.grabCut(
                np.ascontiguousarray(image[rows, cols, ::-1]), cut, None, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK
            )
        except cv2.error:
            cut = labels[rows, cols]  # too few pixels of one kind to tell them apart: what the person said stands
    found = np.zeros(size_hw, bool)
    found[rows, cols] = (cut & 1).astype(bool)
    if not mended:
        return _without_specks(found, inside)
    return (before | _clicked(found & ~before, inside, radius)) & ~_clicked(before & ~found, outside, radius)


def _clicked(change: Mask, points: Sequence[Point], radius: int) -> Mask:
    """The connected parts of the change that a click reaches: what nobody clicked on stays as it was."""
    _, parts = cv2.connectedComponents(change.astype(np.uint8), connectivity=8)
    reached = np.zeros(change.shape, np.uint8)
    for x, y in points:
        cv2.circle(reached, (int(x), int(y)), radius + 1, 1, -1)
    wanted = np.unique(parts[(reached > 0) & change])
    return np.isin(parts, wanted) & change


def _without_specks(mask: Mask, inside: Sequence[Point]) -> Mask:
    """The mask without specks: parts that were clicked, and those of at least a tenth of the largest."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA]
    keep = areas >= 0.1 * areas[1:].max()
    height, width = mask.shape
    for x, y in inside:
        keep[parts[min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)]] = True
    keep[0] = False
    return keep[parts]
