"""What went wrong in each frame of an answer: missed, hallucinated, on a wrong object, or with a wrong boundary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from egoray.core.masks import area, iou
from egoray.schema import MaskRLE

RIGHT_FROM = 0.75
"""IoU from which a frame is right; below it the outline is off."""

OTHER_OBJECT_BELOW = 0.1
"""IoU below which the predicted mask is taken to lie on something else."""

FAILURES = {
    "missed": "the object is visible and nothing was predicted",
    "hallucinated": "a mask was predicted and the object is not visible",
    "wrong object": f"both are there, with an IoU below {OTHER_OBJECT_BELOW:g}: the mask lies elsewhere",
    "boundary": f"both are there, with an IoU from {OTHER_OBJECT_BELOW:g} to below {RIGHT_FROM:g}: on the object, of another extent",
}
"""Each kind of failure and its definition, as printed."""


class Verdict(NamedTuple):
    """A frame's verdict: "right", "absent" (on both sides) or one of `FAILURES`; ``iou`` where both masks are there."""

    kind: str
    iou: float | None


def verdicts(gold: Mapping[str, MaskRLE], predicted: Mapping[str, MaskRLE], frames: Iterable[str]) -> list[Verdict]:
    """One verdict a frame, in the order of ``frames``. A mask without foreground is no mask.

    Raises:
        ValueError: if two masks of a frame differ in size.
    """
    return [_verdict(gold.get(frame), predicted.get(frame)) for frame in frames]


def dominant(found: Sequence[Verdict]) -> str:
    """The failure of the most frames; on a tie the first in `FAILURES`; "right" without failing frame."""
    counts = Counter(verdict.kind for verdict in found)
    worst = max(FAILURES, key=lambda kind: counts[kind])
    return worst if counts[worst] else "right"


def _verdict(gold: MaskRLE | None, predicted: MaskRLE | None) -> Verdict:
    visible, answered = (rle is not None and area(rle) > 0 for rle in (gold, predicted))
    if gold is None or predicted is None or not (visible and answered):
        return Verdict("missed" if visible else "hallucinated" if answered else "absent", None)
    overlap = iou(gold, predicted)
    kind = "wrong object" if overlap < OTHER_OBJECT_BELOW else "boundary" if overlap < RIGHT_FROM else "right"
    return Verdict(kind, overlap)
