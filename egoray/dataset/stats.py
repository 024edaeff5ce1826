"""The paper's table of dataset statistics, from run lengths: figures of one object, added as sums and counts in any order.

The unit of every column is the object: a figure is taken per object, then averaged over the objects that have it.
Source: the EgoMask paper's table; where its words allow two readings both are given, by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from egoray.core.masks import area, iou
from egoray.core.storage import Folder
from egoray.evaluate.region import present
from egoray.evaluate.scores import ScoreSums
from egoray.formats import rvos
from egoray.formats.egomask import TIERS, read_gold, read_items, read_train
from egoray.schema import GroundingItem, MaskRLE

FIGURES = {
    "frames": "frames",
    "total_duration": "total duration %",
    "mask_area": "mask area %",
    "trajectories": "trajectories",
    "trajectory_length": "avg trajectory %",
    "disappear_gaps_present": "disappear % (gaps/present)",
    "disappear_absent_present": "disappear % (absent/present)",
    "adjacent_iou_both": "adjacent IoU % (both present)",
    "adjacent_iou_either": "adjacent IoU % (either present)",
    "videos": "videos",
    "objects": "objects",
    "expressions": "expressions",
    "expression_words": "words an expression",
}
_PUBLISHED = tuple(key for key in FIGURES if key not in ("disappear_absent_present", "adjacent_iou_either"))
_PLAIN = {"frames", "trajectories", "videos", "objects", "expressions", "expression_words"}
# ReasonVOS' mask area was published as 1247.75: masks of value 255 that were summed as they are; it is 1247.75 / 255.
PAPER = {
    name: dict(zip(_PUBLISHED, row, strict=True))
    for name, row in {
        "Ref-DAVIS val": (65.31, 98.77, 5.92, 1.10, 95.88, 1.09, 71.13, 30, 61, 244, 6.11),
        "MeViS valid_u": (76.55, 88.14, 4.92, 1.36, 74.77, 11.44, 60.82, 50, 198, 793, 7.70),
        "ReasonVOS": (98.12, 89.34, 4.89, 1.34, 72.03, 15.73, 66.61, 91, 105, 458, 14.09),
        "EgoMask short": (24.30, 80.31, 1.83, 1.66, 57.13, 21.92, 8.51, 200, 200, 400, 13.27),
        "EgoMask medium": (116.30, 36.69, 1.87, 4.62, 11.10, 187.84, 21.15, 100, 100, 200, 17.34),
        "EgoMask long": (361.32, 27.48, 1.86, 14.60, 1.81, 450.29, 19.53, 15, 50, 100, 17.34),
        "Ref-DAVIS train": (71.18, 94.33, 5.84, 1.22, 87.45, 5.85, 64.96, 60, 142, 572, 6.27),
        "MeViS train": (69.67, 77.51, 5.34, 1.43, 68.52, 20.29, 54.83, 1662, 6719, 23051, 7.05),
        "Ref-YouTube-VOS train": (26.53, 93.57, 10.23, 1.11, 89.65, 5.97, 61.62, 3471, 6459, 12913, 9.63),
        "EgoMask-Train": (369.94, 21.56, 1.20, 17.00, 1.33, 655.82, 14.96, 2624, 9592, 47968, 21.67),
    }.items()
}


_EXOCENTRIC = {
    (rvos.REF_DAVIS, "valid"): "Ref-DAVIS val",
    (rvos.REF_DAVIS, "train"): "Ref-DAVIS train",
    (rvos.MEVIS, "valid_u"): "MeViS valid_u",
    (rvos.MEVIS, "train"): "MeViS train",
    (rvos.REASON, "test"): "ReasonVOS",
    (rvos.REVOS, "valid"): "ReVOS valid",
    (rvos.REVOS, "train"): "ReVOS train",
    (rvos.REF_YOUTUBE, "train"): "Ref-YouTube-VOS train",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One object of one video: an exocentric set's ``target``, else EgoMask's object that ``item`` is about.

    ``masks`` by frame name, or None: read them from ``root`` when they are wanted.
    """

    root: str
    item: GroundingItem
    masks: Mapping[str, MaskRLE] | None = None
    target: rvos.Target | None = None


def object_figures(masks: Mapping[str, MaskRLE], frame_names: Sequence[str]) -> dict[str, float]:
    """The figures of one object over the frames of its video, in time order; ratios are fractions, not percent.

    A figure that is a mean over nothing is left out: an object never seen has only ``frames`` (their number),
    ``total_duration`` 0 and ``trajectories`` 0; one never seen in two successive frames has no ``adjacent_iou_both``.

    Raises:
        ValueError: if there is no frame, or if two masks differ in size.
    """
    if not frame_names:
        raise ValueError("a video without frames has no statistics")
    total = len(frame_names)
    seen = present(masks, frame_names)
    places = [place for place, name in enumerate(frame_names) if name in seen]
    figures = {"frames": float(total), "total_duration": len(places) / total, "trajectories": 0.0}
    if not places:
        return figures
    runs = 1 + sum(after - before > 1 for before, after in itertools.pairwise(places))
    figures["trajectories"] = float(runs)
    figures["trajectory_length"] = len(places) / runs / total
    areas = [area(rle) / (rle.size[0] * rle.size[1]) for rle in seen.values()]
    figures["mask_area"] = sum(areas) / len(areas)
    gaps = places[-1] - places[0] + 1 - len(places)
    figures["disappear_gaps_present"] = gaps / len(places)
    figures["disappear_absent_present"] = (total - len(places)) / len(places)
    either, both = 0, []
    for before, after in itertools.pairwise(frame_names):
        either += before in seen or after in seen
        if before in seen and after in seen:
            both.append(iou(seen[before], seen[after]))
    if both:
        figures["adjacent_iou_both"] = sum(both) / len(both)
    if either:
        figures["adjacent_iou_either"] = sum(both) / either
    return figures


def subject_sums(subject: Subject) -> ScoreSums:
    """The object's figures as sums and counts, its masks read if need be."""
    masks = subject.masks
    if subject.target is not None:
        masks = rvos.read_masks(subject.root, subject.target, subject.item.frame_names)
    elif masks is None:
        masks = read_gold(subject.root, subject.item)
    return ScoreSums.of(object_figures(masks, subject.item.frame_names))


def read_subjects(root: str) -> dict[str, tuple[list[Subject], list[str], int]]:
    """Per part of a dataset: its objects, the texts of its expressions, and its number of videos.

    Parts of an EgoMask folder: "EgoMask short", "medium" and "long" where they hold a video, "EgoMask-Train" where there
    is a training set. Of an exocentric set: its splits with masks; an object is there if a sentence is about it.

    Raises:
        FormatError: if a file is malformed.
    """
    if splits := rvos.splits_of(root):
        return dict(_exocentric_part(root, split) for split in splits)
    folder, parts = Folder(root), {}
    for tier in TIERS:
        items = read_items(root, tier) if folder.exists(f"subset/{tier}/meta_expressions.json") else []
        if items:
            subjects = {(i.video_id, i.object_id): Subject(root=root, item=i) for i in items}
            parts[f"EgoMask {tier}"] = (list(subjects.values()), [i.text for i in items], len({i.video_id for i in items}))
    if folder.exists("train/mask_dict.json") or folder.exists("egomask-train/train/mask_dict.json"):
        videos = read_train(root)
        trained = [
            Subject(root=root, item=subject_item(v.video_id, o.object_id, v.frame_names), masks=o.masks) for v in videos for o in v.objects
        ]
        parts["EgoMask-Train"] = (trained, [e.text for v in videos for e in v.expressions], len(videos))
    return parts


def _exocentric_part(root: str, split: str) -> tuple[str, tuple[list[Subject], list[str], int]]:
    questions = rvos.read(root, split)
    subjects = [
        Subject(root=root, item=subject_item(video_id, object_id, rvos.judged_frames(root, question)), target=target)
        for (video_id, object_id), (question, target) in rvos.objects_of(questions).items()
    ]
    name = _EXOCENTRIC[rvos.benchmark_of(root) or "", split]
    return name, (subjects, [q.item.text for q in questions], len({q.item.video_id for q in questions}))


def subject_item(video_id: str, object_id: str, frame_names: tuple[str, ...]) -> GroundingItem:
    """An object of a video as a question without a text."""
    return GroundingItem(video_id=video_id, expression_id="", object_id=object_id, text="", frame_names=frame_names, tier="train")


def summarize(sums: ScoreSums, subjects: int, texts: Sequence[str], videos: int) -> dict[str, float]:
    """The row of a part: means (ratios in percent) and counts; a mean over nothing is left out."""
    row = {key: value if key in _PLAIN else 100 * value for key, value in sums.compute().items()}
    row |= {"videos": videos, "objects": subjects, "expressions": len(texts)}
    if texts:
        row["expression_words"] = sum(len(text.split()) for text in texts) / len(texts)
    return {key: row[key] for key in FIGURES if key in row}


def table(parts: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row a part, with the paper's row of the same name below, then the paper's other rows."""
    title = "mean over objects; frames a second: EgoMask short 2, other EgoMask 1, the rest more"
    shown = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("", no_wrap=True)
    for heading in FIGURES.values():
        wrapped = heading.replace(" (", "\n(").replace("/", "/\n")
        shown.add_column(wrapped, justify="right", min_width=max(map(len, wrapped.split())))
    for name in [*parts, *(name for name in PAPER if name not in parts)]:
        for where, row in (("here", parts.get(name)), ("paper", PAPER.get(name))):
            if row:
                cells = [row.get(key) for key in FIGURES]
                shown.add_row(f"{name}, {where}", *("-" if c is None else f"{c:,}" if isinstance(c, int) else f"{c:.2f}" for c in cells))
    return shown
