"""Scores as sums and counts, which any number of workers may add in any order; and an annotation run's score by the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from egoray.core.boxes import scale_box
from egoray.core.storage import Folder
from egoray.core.workfolder import read_masklets, read_objects
from egoray.errors import FormatError
from egoray.evaluate.expression import score_expression
from egoray.evaluate.region import box_ellipse, box_fill, present
from egoray.formats.egomask import clip_of, frame_name, read_gold, read_items
from egoray.schema import GroundingItem, MaskRLE, ObjectTrack


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSums:
    """Per metric the sum of its values and how many there were; ``ScoreSums()`` is the sum of nothing.

    The sums are exact (a float is a fraction), so ``+`` commutes and associates to the last bit: one machine and a hundred
    print the same figures.
    """

    sums: Mapping[str, Fraction] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, float]) -> ScoreSums:
        """One value of each metric, as one object or one expression gives them; a metric it lacks is not counted.

        Raises:
            ValueError: if a value is not finite.
        """
        try:
            return cls(sums={metric: Fraction(value) for metric, value in values.items()}, counts=dict.fromkeys(values, 1))
        except (ValueError, OverflowError) as error:
            raise ValueError(f"scores must be finite numbers, got {dict(values)}; leave out a metric that has no value") from error

    def __add__(self, other: ScoreSums) -> ScoreSums:
        metrics = sorted(self.sums.keys() | other.sums.keys())
        return ScoreSums(
            sums={m: self.sums.get(m, Fraction()) + other.sums.get(m, Fraction()) for m in metrics},
            counts={m: self.counts.get(m, 0) + other.counts.get(m, 0) for m in metrics},
        )

    def compute(self) -> dict[str, float]:
        """The mean of each metric by name; a metric without values has no entry."""
        return {metric: float(total / self.counts[metric]) for metric, total in sorted(self.sums.items())}


def score(dataset: str, annotations: str, split: str) -> dict[str, Any]:
    """Compare an annotation folder's masks with a dataset's truth, object by object, at 1 fps.

    Both go by the same clip ids, object ids and 5 fps frame numbers. An object of the truth that the folder lacks counts as
    one without masks. The two baselines draw the folder's own boxes at the same frames; a frame without a box has no mask.

    Args:
        dataset: the truth, in EgoMask's layout.
        annotations: the work folder of `egoray annotate`.
        split: short, medium, long or full.

    Returns:
        ``rows``: one mapping an object, in the truth's order: video_id, object_id, title, num_gold and num_pred (frames),
        and iou_gold, iou_gold_pred, box_fill_iou_gold, ellipse_iou_gold in [0, 1], None for a mean over no frame.
        ``means``: those four, each a mean over the objects that have it.

    Raises:
        FormatError: if the split holds no object with a gold mask, or masks of one object differ in size.
    """
    work = Folder(annotations)
    masklets = read_masklets(work)
    tracks = {(track.video_id, track.object_id): track for track, _ in read_objects(work)}
    items: dict[tuple[str, str], GroundingItem] = {}
    for item in read_items(dataset, split):  # several expressions ask for one object
        items.setdefault((item.video_id, item.object_id), item)
    rows, total = [], ScoreSums()
    for item in items.values():
        key = (clip_of(item.video_id, item.tier), item.object_id)
        masks = {frame_name(frame): rle for frame, rle in masklets[key].masks.items()} if key in masklets else {}
        track = tracks.get(key)
        gold = read_gold(dataset, item)
        if len(sizes := {rle.size for rle in (*gold.values(), *masks.values())}) > 1:
            raise FormatError(
                f"{dataset}: masks of {item.video_id}/{item.object_id} have other sizes than the annotations': {sorted(sizes)}"
            )
        values = _values(gold, masks, track, item.frame_names)
        total += ScoreSums.of(values)
        rows.append(
            {
                "video_id": item.video_id,
                "object_id": item.object_id,
                "title": track.title if track else "",
                "num_gold": len(present(gold, item.frame_names)),
                "num_pred": len(present(masks, item.frame_names)),
                **{column: values.get(column) for column in ("iou_gold", "iou_gold_pred", "box_fill_iou_gold", "ellipse_iou_gold")},
            }
        )
    means = total.compute()
    if "iou_gold" not in means:
        raise FormatError(f"{dataset}: split {split} holds no object with a gold mask; choose another split or dataset")
    return {"rows": rows, "means": means}


def _values(
    gold: Mapping[str, MaskRLE], masks: Mapping[str, MaskRLE], track: ObjectTrack | None, frames: tuple[str, ...]
) -> dict[str, float]:
    """The four columns of one object that have a value."""
    candidates = {"": masks, "box_fill_": {}, "ellipse_": {}}
    if track and gold:
        height, width = next(iter(gold.values())).size
        scale = (width / track.size_hw[1], height / track.size_hw[0])
        boxes = {frame_name(frame): scale_box(box, *scale) for frame, box in track.boxes.items()}
        for prefix, shape in (("box_fill_", box_fill), ("ellipse_", box_ellipse)):
            candidates[prefix] = {name: shape(boxes[name], (height, width)) for name in gold if name in boxes}
    rows = {prefix: score_expression(frames, gold, candidate) for prefix, candidate in candidates.items()}
    values = {f"{prefix}iou_gold": row["IoU_gold"] for prefix, row in rows.items()} | {"iou_gold_pred": rows[""]["IoU_gold_pred"]}
    return {name: value for name, value in values.items() if value is not None}
