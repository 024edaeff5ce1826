"""How much a mask needs a look, from what its run lengths, its box and its score say: no model, no pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from egoray.core.boxes import pixel_slices
from egoray.core.masks import decode, to_coco
from egoray.schema import Box, MaskRLE

_SAMPLED = 12
"""Masks of an object that are drawn to see how they meet their box."""
_TOUCHES = 0.3
"""The share of its tight box's border that a round thing covers."""
_WEIGHTS = {"low score": 0.8, "flicker": 0.9, "clipped": 0.7, "no mask": 1.0}
_NOTED = 0.4
"""A sign at least this strong on a tenth of the frames is named."""


class Doubts(NamedTuple):
    """``frames[i]`` ascend; ``values[i]`` in [0, 1] says how much frame i needs a look; ``hardness`` and ``reasons`` are the object's."""

    frames: NDArray[np.int64]
    values: NDArray[np.float64]
    hardness: float
    reasons: tuple[str, ...]


def doubts(boxes: Mapping[int, Box], masks: Mapping[int, MaskRLE], scores: Mapping[int, float]) -> Doubts:
    """The doubts about one object on the frames that have a box or a mask; empty and 1.0 hard without any.

    Signs: a low score of the tracker; a mask whose share of its box jumps between neighbours (flicker); a mask that was cut
    by its box along much of the border (clipped); a box without a mask. The hardness is the mean of the worst tenth.
    """
    frames = np.array(sorted(boxes.keys() | masks.keys()), np.int64)
    if not frames.size:
        return Doubts(frames, np.zeros(0), 1.0, ("no mask",))
    codes = [to_coco(masks[f]) if f in masks else None for f in frames.tolist()]
    areas = np.array([0.0 if code is None else float(coco.area(code)) for code in codes])
    box_areas = np.array([_area(boxes[f]) if f in boxes else 0.0 for f in frames.tolist()])
    fill = np.where(box_areas > 0, areas / np.maximum(box_areas, 1), 0)
    missing = (areas == 0) & (box_areas > 0)
    signs = {
        "low score": np.where(missing, 0, 1 - np.array([scores.get(f, 1.0) for f in frames.tolist()])),
        "flicker": np.where(missing, 0, _jumps(frames, fill)),
        "clipped": _clipped(frames, boxes, masks),
        "no mask": missing.astype(float),
    }
    values = np.max([_WEIGHTS[name] * sign for name, sign in signs.items()], axis=0).clip(0, 1)
    worst = np.sort(values)[-max(1, len(values) // 10) :]
    named = tuple(name for name, sign in signs.items() if (sign >= _NOTED).mean() >= 0.1)
    return Doubts(frames, values, float(worst.mean()), named)


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _jumps(frames: NDArray[np.int64], fill: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each frame's fill is from the nearer of its two neighbours', as a share of a halving or doubling."""
    safe = np.log2(np.maximum(fill, 1e-3))
    step = np.where(np.diff(frames) <= 2, np.abs(np.diff(safe)), np.inf)
    before, after = np.concatenate([[np.inf], step]), np.concatenate([step, [np.inf]])
    nearer = np.minimum(before, after)
    return np.where(np.isfinite(nearer), nearer, 0).clip(0, 1)


def _clipped(frames: NDArray[np.int64], boxes: Mapping[int, Box], masks: Mapping[int, MaskRLE]) -> NDArray[np.float64]:
    """How much of the box's border is mask, beyond what a round thing touches; on a sample of frames, between them as on the one before."""
    both = [(n, f) for n, f in enumerate(frames.tolist()) if f in boxes and f in masks]
    found = np.zeros(len(frames))
    picked = both[:: max(1, len(both) // _SAMPLED)]
    for (n, frame), until in zip(picked, [n for n, _ in picked[1:]] + [len(frames)], strict=True):
        rows, cols = pixel_slices(boxes[frame], masks[frame].size)
        inside = decode(masks[frame])[rows, cols]
        if inside.size:
            border = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
            found[n:until] = min(1.0, max(0.0, (float(border.mean()) - _TOUCHES) / (1 - _TOUCHES)))
    return found
