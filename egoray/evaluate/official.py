"""The released evaluator's own figures, bug for bug, wherever it finishes; where it crashes or depends on what it scored before, why.

Source: EgoMask's released evaluator. It goes by the keys of the two files, not by what the masks hold: a key whose masks are
both empty repeats the overlap of the last frame that had any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum
from typing import Any

from egoray.core.masks import from_json
from egoray.core.runs import extent
from egoray.errors import FormatError
from egoray.evaluate.boundary import Foreground
from egoray.evaluate.expression import Compared, compare
from egoray.schema import MaskRLE


def score_as_released(
    frames: Sequence[str], gold: Mapping[str, Any], predicted: Mapping[str, Any], detection: Mapping[str, Any] | None, where: str
) -> dict[str, float]:
    """The metrics in [0, 1] by our names, from the two files as JSON holds them.

    Args:
        frames: the frames judged; one given twice counts twice.
        gold: {frame name: run-length mask or null}, as in the file.
        predicted: likewise.
        detection: the detection file, if there is one.
        where: names the expression in an error.

    Raises:
        FormatError: where the released evaluator stops, or its figure depends on the expression it scored before.
    """
    if not gold:
        raise FormatError(f"{where}: the gold file holds no mask; the released evaluator takes the last expression's size")
    if next(iter(gold.values())) is None:
        raise FormatError(f"{where}: the gold file begins with null; the released evaluator stops there")
    if not frames:
        raise FormatError(f"{where}: no frames; the released evaluator stops there")
    truth = {name: _mask(value, where, name) for name, value in gold.items()}
    size = next(iter(truth.values())).size  # type: ignore[union-attr]
    answer = {name: _mask(value, where, name) for name, value in predicted.items()}
    compared: list[Compared] = []
    last: float | None = None
    gold_ious: list[float] = []
    either_ious: list[float] = []
    found = {"detection_flag": 0.0, "detection_box_iou": 0.0, "detection_mask_iou": 0.0}
    for name in frames:
        masks = truth.get(name), answer.get(name)
        for mask in masks:
            if mask is not None and mask.size != size:
                raise FormatError(f"{where}, frame {name}: a mask of {mask.size} among masks of {size}; the released evaluator stops there")
        frame = compare(*masks)
        compared.append(frame)
        if frame.gold or frame.predicted:
            last = frame.iou
        told = name in gold or name in predicted
        chosen = detection is not None and name == detection["frame_name"]
        if last is None and (told or chosen):
            raise FormatError(f"{where}, frame {name}: no mask so far; the released evaluator repeats the last expression's overlap")
        if name in gold:
            gold_ious.append(last or 0.0)
        if told:
            either_ious.append(last or 0.0)
        if chosen and detection is not None:
            found["detection_mask_iou"] = last or 0.0
            if masks[0] is not None:
                found |= {"detection_flag": 1.0, "detection_box_iou": _inclusive_iou(detection["input_boxes"], masks[0])}
    if not gold_ious:
        raise FormatError(f"{where}: no frame of the gold file is judged; the released evaluator's average becomes nan")
    j, f = (fsum(values) / len(frames) for values in ((c.iou for c in compared), (c.f for c in compared)))
    return {
        **_temporal(compared),
        "IoU_all": j,
        "IoU_gold": fsum(gold_ious) / len(gold_ious),
        "IoU_gold_pred": fsum(either_ious) / len(either_ious),
        "J": j,
        "F": f,
        "J&F": (j + f) / 2,
        **found,
    }


def _mask(value: Any, where: str, name: str) -> MaskRLE | None:
    if isinstance(value, dict) and not isinstance(value.get("counts"), str):
        raise FormatError(f"{where}, frame {name}: counts that are not text; the released evaluator stops there")
    return from_json(value, f"{where}, frame {name}")


def _temporal(compared: Sequence[Compared]) -> dict[str, float]:
    hits = sum(c.gold and c.predicted for c in compared)
    num_gold, num_predicted = sum(c.gold for c in compared), sum(c.predicted for c in compared)
    precision, recall = hits / num_predicted if num_predicted else 0.0, hits / num_gold if num_gold else 0.0
    return {
        "T_recall": recall,
        "T_precision": precision,
        "T_f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "T_accuracy": (len(compared) - num_gold - num_predicted + 2 * hits) / len(compared),
    }


def _inclusive_iou(box: Sequence[float], mask: MaskRLE) -> float:
    """Of the box with that of the mask, whose last pixel's own width is left out; an empty mask has the box 0, 0, 0, 0."""
    x1, y1, x2, y2 = (float(v) for v in box)
    truth = Foreground.of(mask)
    left, top, right, bottom = 0.0, 0.0, 0.0, 0.0
    if truth.area:
        top, left, bottom, right = (float(v) for v in extent(truth.starts, truth.stops, mask.size[0]))
        bottom, right = bottom - 1, right - 1
    both = max(min(x2, right) - max(x1, left), 0) * max(min(y2, bottom) - max(y1, top), 0)
    union = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - both
    return both / union if union != 0 else 0.0
