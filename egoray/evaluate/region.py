"""Region overlap of one object's masks with the truth, counted on run lengths; and the two box baselines.

A mask without foreground is treated as absent, wherever it stands: no key, an empty mask and nothing predicted are one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import fsum
from typing import TypeVar

import numpy as np

from egoray.core.boxes import pixel_slices
from egoray.core.masks import area, ellipse_inside, encode, iou
from egoray.schema import Box, MaskRLE

Frame = TypeVar("Frame", int, str)


def present(masks: Mapping[Frame, MaskRLE], frames: Iterable[Frame]) -> dict[Frame, MaskRLE]:
    """The masks of these frames that have any foreground, in the order of ``frames``."""
    return {frame: masks[frame] for frame in frames if frame in masks and area(masks[frame])}


def mean_ious(gold: Mapping[Frame, MaskRLE], predicted: Mapping[Frame, MaskRLE], frames: Iterable[Frame]) -> dict[str, float]:
    """Mean intersection over union of one object, in [0, 1], over three choices of frames.

    ``IoU_gold`` is the mean over the gold frames (where the truth is present), ``IoU_gold_pred`` over the frames where the
    truth or the prediction is present, ``IoU_all`` over all frames, a frame without either counting 1. A mean over no
    frame is left out of the answer: no gold frame, no ``IoU_gold``.

    Args:
        gold: the true masks by frame.
        predicted: the masks to judge, of the same size.
        frames: the frames judged; masks at other frames are ignored.

    Raises:
        ValueError: if two masks of a frame differ in size.

    Source: EgoMask's released evaluator. It goes by the keys of the two files; here an empty mask is no mask, which is the
    same wherever the files hold none, and which never lets a frame inherit the value of the one before.
    """
    frames = list(frames)
    truth, answer = present(gold, frames), present(predicted, frames)
    overlap = {frame: iou(truth[frame], answer[frame]) for frame in truth if frame in answer}
    total, num_either = fsum(overlap.values()), len(truth.keys() | answer.keys())
    sums = {
        "IoU_gold": (total, len(truth)),
        "IoU_gold_pred": (total, num_either),
        "IoU_all": (total + len(frames) - num_either, len(frames)),
    }
    return {metric: value / count for metric, (value, count) in sums.items() if count}


def box_fill(box: Box, size_hw: tuple[int, int]) -> MaskRLE:
    """The baseline that takes the whole box for the object; empty for a box outside the image of (height, width)."""
    mask = np.zeros(size_hw, dtype=bool)
    mask[pixel_slices(box, size_hw)] = True
    return encode(mask)


def box_ellipse(box: Box, size_hw: tuple[int, int]) -> MaskRLE:
    """The baseline that takes the ellipse inscribed in the box; see `ellipse_inside` for its empty cases."""
    return encode(ellipse_inside(box, size_hw))
