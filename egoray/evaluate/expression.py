"""All figures of one expression: its predicted masks against the gold ones, frame by frame, on the run lengths.

Every figure follows from four counts and three values a frame, so nothing is decoded but the part of a frame where an
outline is drawn. What a mask without a pixel, a missing one and null mean is one thing here: absent.
Source: EgoMask's metrics (section 4.1 of the paper, the released evaluator); docs/evaluate.md says where we differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

import numpy as np

from egoray.core.runs import extent
from egoray.evaluate.boundary import Foreground, boundary_f_of_runs
from egoray.evaluate.slices import AGES
from egoray.schema import Box, MaskRLE

METRICS = ("T_recall", "T_precision", "T_f1", "T_accuracy", "IoU_all", "IoU_gold", "IoU_gold_pred", "J", "F", "J&F", "vIoU", "tIoU")
DETECTION = ("detection_flag", "detection_box_iou", "detection_mask_iou")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One frame: whether the object is there in truth (``gold``) and in the answer (``predicted``), and how far they agree.

    ``iou``, ``f`` and ``box_iou`` are in [0, 1]; where neither is there they are 1, where one is, 0 (``f`` is 1 for a mask
    that fills its frame, against none: neither has an outline). ``area`` is the gold mask's share of the frame.
    """

    gold: bool
    predicted: bool
    iou: float
    f: float
    box_iou: float
    area: float


def compare(gold: MaskRLE | None, predicted: MaskRLE | None) -> Compared:
    """One frame's two masks, None for absent.

    Raises:
        ValueError: if the sizes differ.
    """
    if gold is not None and predicted is not None and gold.size != predicted.size:
        raise ValueError(f"masks of {gold.size} and {predicted.size} cannot be compared")
    truth, answer = (Foreground.of(rle) if rle is not None else None for rle in (gold, predicted))
    gold_area, predicted_area = (mask.area if mask else 0 for mask in (truth, answer))
    share = gold_area / (truth.size_hw[0] * truth.size_hw[1]) if truth else 0.0
    f = boundary_f_of_runs(truth, answer)
    if not (gold_area and predicted_area):
        agree = float(not (gold_area or predicted_area))
        return Compared(gold=gold_area > 0, predicted=predicted_area > 0, iou=agree, f=f, box_iou=agree, area=share)
    assert truth is not None
    assert answer is not None
    both = intersection(truth, answer)
    iou = both / (gold_area + predicted_area - both)
    return Compared(gold=True, predicted=True, iou=iou, f=f, box_iou=_box_iou(_box(truth), _box(answer)), area=share)


def intersection(a: Foreground, b: Foreground) -> int:
    """Pixels in both masks of one size."""
    lengths = b.stops - b.starts
    before = lengths.cumsum() - lengths

    def covered(at: np.ndarray) -> int:
        """Sum over ``at`` of the pixels of b that come before."""
        i = np.maximum(np.searchsorted(b.starts, at, "right") - 1, 0)
        return int((before[i] + np.clip(at - b.starts[i], 0, lengths[i])).sum())

    return covered(a.stops) - covered(a.starts) if len(lengths) and len(a.starts) else 0


def score_expression(
    frames: Sequence[str],
    gold: Mapping[str, MaskRLE],
    predicted: Mapping[str, MaskRLE],
    detection: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A row of figures: the metrics in [0, 1] by name, None where one is undefined, and what slices need.

    Args:
        frames: the frames judged, in time order; a name given twice counts once, masks at other frames are ignored.
        gold: the true masks by frame.
        predicted: the answer's, of the same size.
        detection: ``frame_name`` and ``input_boxes`` (xyxy px) of the box that the answer began with, if it has one.

    Raises:
        ValueError: if two masks of a frame differ in size; the message names the frame.
    """
    compared: dict[str, Compared] = {}
    for frame in dict.fromkeys(frames):
        try:
            compared[frame] = compare(gold.get(frame), predicted.get(frame))
        except ValueError as error:
            raise ValueError(f"frame {frame}: {error}") from error
    each = list(compared.values())
    row: dict[str, Any] = _metrics(each)
    row |= dict.fromkeys(DETECTION) if detection is None else _detection(compared, gold, detection)
    present = [c.gold for c in each]
    areas = [c.area for c in each if c.gold]
    return row | {
        "num_frames": len(each),
        "num_gold": sum(present),
        "num_pred": sum(c.predicted for c in each),
        "num_both": sum(c.gold and c.predicted for c in each),
        "object_area": fsum(areas) / len(areas) if areas else 0.0,
        "presence": sum(present) / len(each) if each else 0.0,
        "num_trajectories": sum(now and not before for before, now in zip([False, *present], present, strict=False)),
        "since_last_seen": _since_last_seen(each),
    }


def _metrics(each: Sequence[Compared]) -> dict[str, float | None]:
    num_gold, num_predicted = sum(c.gold for c in each), sum(c.predicted for c in each)
    hits = sum(c.gold and c.predicted for c in each)
    either = num_gold + num_predicted - hits
    overlap = fsum(c.iou for c in each if c.gold and c.predicted)
    agreement = _ratio(overlap + len(each) - either, len(each))
    f = _ratio(fsum(c.f for c in each), len(each))
    return {
        "T_recall": _ratio(hits, num_gold),
        "T_precision": hits / num_predicted if num_predicted else float(not num_gold),
        "T_f1": 2 * hits / (num_gold + num_predicted) if either else 1.0,
        "T_accuracy": _ratio(len(each) - either + hits, len(each)),
        "IoU_all": agreement,
        "IoU_gold": _ratio(overlap, num_gold),
        "IoU_gold_pred": _ratio(overlap, either),
        "J": agreement,
        "F": f,
        "J&F": None if agreement is None or f is None else (agreement + f) / 2,
        "vIoU": _ratio(fsum(c.box_iou for c in each if c.gold and c.predicted), either),
        "tIoU": _ratio(hits, either),
    }


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _detection(compared: Mapping[str, Compared], gold: Mapping[str, MaskRLE], detection: Mapping[str, Any]) -> dict[str, float]:
    """Whether the box stands in a gold frame, how well it fits the gold mask's box, and the mask there."""
    frame = str(detection["frame_name"])
    at = compared.get(frame)
    if at is None or not at.gold:
        return dict.fromkeys(DETECTION, 0.0)
    x1, y1, x2, y2 = (float(v) for v in detection["input_boxes"])
    return {
        "detection_flag": 1.0,
        "detection_box_iou": _box_iou((x1, y1, x2, y2), _box(Foreground.of(gold[frame]))),
        "detection_mask_iou": at.iou if at.predicted else 0.0,
    }


def _box(mask: Foreground) -> Box:
    """The tightest box around at least one pixel, x2 and y2 one past the last."""
    top, left, bottom, right = extent(mask.starts, mask.stops, mask.size_hw[0])
    return float(left), float(top), float(right), float(bottom)


def _box_iou(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - both
    return both / union if union > 0 else 0.0


def _since_last_seen(each: Sequence[Compared]) -> dict[str, tuple[float, int, int]]:
    """(sum of IoU, frames found, frames) of the gold frames, by how long ago the object was last there."""
    groups: dict[str, list[Compared]] = {}
    last: int | None = None
    for i, frame in enumerate(each):
        if frame.gold:
            age = 0 if last is None else i - last
            label = next((name for most, name in AGES if age <= most), "more than 20 frames")
            groups.setdefault(label, []).append(frame)
            last = i
    return {k: (fsum(c.iou for c in v if c.predicted), sum(c.predicted for c in v), len(v)) for k, v in groups.items()}
