"""Which frames show an object best: the paper's rule, and one that also looks at sharpness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from egoray.core.boxes import pixel_slices
from egoray.core.masks import area
from egoray.core.video import Image
from egoray.schema import Box, MaskRLE, Trajectory

_CANDIDATES_A_FRAME = 3


def candidates(
    masks: Mapping[int, MaskRLE], boxes: Mapping[int, Box], trajectories: Sequence[Trajectory], *, rule: str, num: int
) -> list[int]:
    """The frames to decode before choosing, ascending; the paper's rule needs no more than it will choose.

    Args:
        masks: the object's masks by annotation frame; frames without a pixel are never candidates.
        boxes: its boxes by annotation frame.
        trajectories: its appearances.
        rule: "paper": the appearances are cut into at most ``num`` chunks in time, the largest box (width times height) of each
            is taken, and the next largest of all fill up. "clear": the largest mask of each of ``3 * num`` stretches of the
            visible time, for `choose` to pick from.
        num: frames wanted in the end; fewer where the object has fewer.

    Source: EgoMask section on expressions. The released code can take more than three chunks and can repeat a frame; we do neither.
    """
    visible = sorted(frame for frame, rle in masks.items() if area(rle))
    if rule == "clear":
        parts = np.array_split(np.array(visible), max(1, min(len(visible), _CANDIDATES_A_FRAME * num)))
        return [max(part.tolist(), key=lambda f: (area(masks[f]), -f)) for part in parts if len(part)]
    by_size = sorted((f for f in visible if f in boxes), key=lambda f: (-_box_area(boxes[f]), f))
    appearances = [[f for f in by_size if t.start <= f < t.stop] for t in sorted(trajectories, key=lambda t: t.start)]
    seen = [appearance for appearance in appearances if appearance]
    chunks = np.array_split(np.arange(len(seen)), min(len(seen), num)) if seen else []
    chosen = [min((seen[i][0] for i in chunk), key=by_size.index) for chunk in chunks]
    return sorted((chosen + [f for f in by_size if f not in chosen])[:num])


def choose(areas: Mapping[int, int], sharpness: Mapping[int, float], num: int) -> list[int]:
    """At most ``num`` of the candidates, ascending: large, sharp and far apart.

    A frame's worth is the product of its side length (root of the mask's area) and its sharpness, each relative to the best
    candidate; one that lies near a chosen frame counts for less, in proportion to the distance, up to an even spread.

    Args:
        areas: pixels of the mask by candidate frame.
        sharpness: what `sharpness` says of each.
        num: frames wanted.
    """
    if len(areas) <= num:
        return sorted(areas)
    most_area, most_sharp = max(areas.values()), max(sharpness.values()) or 1.0
    worth = {f: (areas[f] / most_area) ** 0.5 * (sharpness[f] / most_sharp) for f in areas}
    even = max(1.0, (max(areas) - min(areas)) / num)
    chosen: list[int] = []
    while len(chosen) < num:
        left = [f for f in areas if f not in chosen]
        chosen.append(max(left, key=lambda f: (worth[f] * min([1.0, *(abs(f - c) / even for c in chosen)]), -f)))
    return sorted(chosen)


def sharpness(frame_rgb: Image, box: Box) -> float:
    """Root mean square of the Laplacian of the grey levels inside the box, 0 for a box outside the ``(H, W, 3)`` frame."""
    rows, columns = pixel_slices(box, frame_rgb.shape[:2])
    crop = frame_rgb[rows, columns]
    if not crop.size:
        return 0.0
    return float(np.sqrt(np.mean(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_64F) ** 2)))


def _box_area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
