"""EgoMask's folders ↔ records: the benchmark with its gold masks, predictions as the official evaluator reads them, and the
training set.

Benchmark: ``annotations/<clip>/<obj>.json``, ``subset/<tier>/{meta,meta_expressions}.json``, ``{meta,meta_expressions}.json``.
Training set: ``meta_expressions/train/meta_expressions.json``, ``train/{mask_dict,meta}.json``, ``train/rle_save/<clip>/<obj>.json``.
Source: the released EgoMask data set and the code that loads it. An absent object is an absent key: null and empty masks,
which stop the official evaluator or repeat its last score, are never written into a benchmark or a prediction, and are
dropped where read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from egoray.core import paths
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.formats.egomask_json import (
    aligned_masks,
    expression_json,
    json_object,
    mask_json,
    number_order,
    path_part,
    read_expressions,
    read_frames,
    read_masks,
    read_pair,
    read_videos,
    visible,
)
from egoray.schema import Expression, GroundingItem, MaskRLE, Tier

TIERS = ("short", "medium", "long")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkObject:
    """An object of a video: ``masks[frame_name]`` where it is visible; ``status`` is what a reviewer said, empty for nothing."""

    object_id: str
    category: str
    masks: Mapping[str, MaskRLE]
    status: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkVideo:
    """A video of a tier (or of the training set): its frames in time order, its objects and the sentences about them.

    A medium video is ``<clip>--<suffix>``, a slice of the clip's frames; its masks and images are the clip's.
    """

    video_id: str
    tier: Tier
    frame_names: tuple[str, ...]
    objects: tuple[BenchmarkObject, ...]
    expressions: tuple[Expression, ...]


def frame_name(frame: int) -> str:
    """The name of an annotation frame: its number at 5 fps in five digits, without extension."""
    return f"{frame:05d}"


def clip_of(video_id: str, tier: str) -> str:
    """The clip whose images and masks a video uses: the part before "--" for a medium video, else the video itself."""
    return video_id.split("--")[0] if tier == "medium" else video_id


def images_dir(root: str, item: GroundingItem) -> str:
    """The folder of the item's ``<frame_name>.jpg`` files: JPEGImages/egotracks/<clip> or JPEGImages/refego/<clip>.

    The one that exists; where neither does, refego for the short tier and egotracks for the others.

    Raises:
        FormatError: if the video's name would lead out of ``root``.
    """
    clip = path_part(clip_of(item.video_id, item.tier), root)
    egotracks, refego = (paths.join(root, "JPEGImages", source, clip) for source in ("egotracks", "refego"))
    expected, other = (refego, egotracks) if item.tier == "short" else (egotracks, refego)
    return other if not paths.is_folder(expected) and paths.is_folder(other) else expected


def write_benchmark(out: str | os.PathLike[str], videos: Sequence[BenchmarkVideo]) -> None:
    """Write a benchmark folder without its images; the same videos give the same bytes.

    ``exp_id`` counts the video's expressions from "0"; the expression's own id and origin stand beside it. Objects of one
    id in videos of one clip (a long video and its medium slices) share one file of masks. All three tiers are written,
    the empty ones too; medium has a meta.json, which the released one lacks.

    Raises:
        ValueError: for a repeated video, an expression without its object, a tier other than short, medium and long, or
            two different masks for one frame of one object.
        FormatError: for a name that would lead out of ``out``.
    """
    folder = Folder(out)
    gold: dict[str, dict[str, MaskRLE]] = {}
    for video in videos:
        if video.tier not in TIERS:
            raise ValueError(f"{video.video_id}: is of the {video.tier} tier; a benchmark has {', '.join(TIERS)}")
        for item in video.objects:
            name = f"annotations/{path_part(clip_of(video.video_id, video.tier), folder.uri)}/{path_part(item.object_id, folder.uri)}.json"
            masks = gold.setdefault(name, {})
            for frame, rle in visible(item.masks).items():
                if masks.setdefault(frame, rle) != rle:
                    raise ValueError(
                        f"{video.video_id}: object {item.object_id} has another mask for frame {frame} in this clip's other video"
                    )
    meta, sentences = _tables(videos)
    for name, masks in gold.items():
        folder.write_json(name, {frame: mask_json(rle) for frame, rle in masks.items()})
    for tier in TIERS:
        of_tier = [video.video_id for video in videos if video.tier == tier]
        folder.write_json(f"subset/{tier}/meta.json", {"videos": {v: meta[v] for v in of_tier}})
        folder.write_json(f"subset/{tier}/meta_expressions.json", {"videos": {v: sentences[v] for v in of_tier}})
    subset = {video.video_id: {"subset": video.tier} for video in videos}
    folder.write_json("meta.json", {"videos": {v: meta[v] | subset[v] for v in meta}})
    folder.write_json("meta_expressions.json", {"videos": {v: sentences[v] | subset[v] for v in sentences}})


def _tables(videos: Sequence[BenchmarkVideo]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The entries of meta.json and of meta_expressions.json by video."""
    meta: dict[str, dict[str, Any]] = {}
    sentences: dict[str, dict[str, Any]] = {}
    for video in videos:
        if video.video_id in meta:
            raise ValueError(f"{video.video_id}: given twice")
        known = {item.object_id for item in video.objects}
        for e in video.expressions:
            if e.object_id not in known or e.video_id != video.video_id:
                raise ValueError(f"{video.video_id}: expression {e.expression_id} is about {e.video_id}/{e.object_id}, which is not there")
        objects = {}
        for item in video.objects:
            seen = visible(item.masks)
            status = {"status": item.status} if item.status else {}
            objects[item.object_id] = {"category": item.category, "frames": [name for name in video.frame_names if name in seen], **status}
        meta[video.video_id] = {"objects": objects}
        numbered = {str(n): expression_json(e) for n, e in enumerate(video.expressions)}
        sentences[video.video_id] = {"frames": list(video.frame_names), "expressions": numbered}
    return meta, sentences


def read_items(root: str | os.PathLike[str], split: str) -> list[GroundingItem]:
    """The questions of a split, in file order; ``expression_id`` is the exp_id. [] for a split without videos.

    Args:
        root: a benchmark folder, ours or the released one.
        split: short, medium (or mid), long or full; an item of full has its video's own tier.

    Raises:
        ValueError: for another split.
        FormatError: if the split's meta_expressions.json is missing or malformed; the message names the video.
    """
    split = _split(split)
    folder = Folder(root)
    name = "meta_expressions.json" if split == "full" else f"subset/{split}/meta_expressions.json"
    tiers: dict[str, str] = {}
    if split == "full" and folder.exists("meta.json"):  # the released loaders disagree on which of the two files says it
        tiers = {v: str(entry["subset"]) for v, entry, _ in read_videos(folder, "meta.json") if "subset" in entry}
    items = []
    for video_id, entry, where in read_videos(folder, name):
        tier = split
        if split == "full":  # where no file says it, the video is taken as it is: no slice of another
            tier = str(entry.get("subset", tiers.get(video_id, "long")))
            tier = "medium" if tier == "mid" else tier
            if tier not in TIERS:
                raise FormatError(f"{where}: is of an unknown subset {tier!r}; there are {', '.join(TIERS)}")
        names = read_frames(entry, where)
        for exp_id, e in read_expressions(video_id, entry, where):
            ids = {"video_id": video_id, "expression_id": exp_id, "object_id": e.object_id}
            items.append(GroundingItem(**ids, text=e.text, frame_names=names, tier=tier, kind=e.kind))
    return items


def read_gold(root: str | os.PathLike[str], item: GroundingItem) -> dict[str, MaskRLE]:
    """The gold masks of the item's frames, in their order; a frame in which the object is absent has no key.

    Raises:
        FormatError: if the object's file is missing, or a mask malformed; the message names file and frame.
    """
    masks = read_masks(Folder(root), _gold_name(root, item))
    return {frame: masks[frame] for frame in item.frame_names if frame in masks}


def gold_as_stored(root: str | os.PathLike[str], item: GroundingItem) -> dict[str, Any]:
    """The gold file as JSON holds it, keys without a mask included.

    Raises:
        FormatError: if the file is missing or holds no object.
    """
    folder, name = Folder(root), _gold_name(root, item)
    return json_object(folder.read_json(name), f"{folder.uri}/{name}")


def missing_prediction(root: str | os.PathLike[str], split: str, item: GroundingItem) -> str | None:
    """The path of the answer's file if it is not there, else None."""
    folder, name = Folder(root), f"{_prediction_name(split, item, str(root))}.json"
    return None if folder.exists(name) else f"{folder.uri}/{name}"


def prediction_as_stored(root: str | os.PathLike[str], split: str, item: GroundingItem) -> dict[str, Any] | None:
    """The prediction file as JSON holds it, keys without a mask included; None if there is no file.

    Raises:
        FormatError: if it holds no object.
    """
    folder, name = Folder(root), f"{_prediction_name(split, item, str(root))}.json"
    return json_object(folder.read_json(name), f"{folder.uri}/{name}") if folder.exists(name) else None


def write_prediction(
    root: str | os.PathLike[str],
    split: str,
    item: GroundingItem,
    masks: Mapping[str, MaskRLE],
    detection: Mapping[str, Any] | None = None,
) -> None:
    """Write the answer to a question: ``{}`` when nothing was found, for a missing file stops the official evaluator.

    Args:
        root: the folder that holds ``<split>/``.
        split: as in `read_items`.
        item: the question.
        masks: by frame name, of the size of the gold masks; empty ones are left out.
        detection: frame_idx, frame_name, labels and input_boxes (xyxy px) of the box that prompted the tracker; None
            removes what an earlier run wrote.
    """
    folder, name = Folder(root), _prediction_name(split, item, str(root))
    if detection is None:
        folder.delete(f"{name}_grounding_ret.json")
    else:
        folder.write_json(f"{name}_grounding_ret.json", dict(detection))
    folder.write_json(f"{name}.json", {frame: mask_json(rle) for frame, rle in visible(masks).items()})


def read_prediction(root: str | os.PathLike[str], split: str, item: GroundingItem) -> dict[str, MaskRLE] | None:
    """The non-empty masks of an answer by frame name, in file order; None if there is no file.

    Raises:
        FormatError: if a mask is malformed; the message names file and frame.
    """
    folder, name = Folder(root), f"{_prediction_name(split, item, str(root))}.json"
    return read_masks(folder, name) if folder.exists(name) else None


def read_detection(root: str | os.PathLike[str], split: str, item: GroundingItem) -> dict[str, Any] | None:
    """The answer's frame and box of detection as `write_prediction` takes it; None if nothing was detected.

    Raises:
        FormatError: if the file is not a JSON object.
    """
    folder, name = Folder(root), f"{_prediction_name(split, item, str(root))}_grounding_ret.json"
    return json_object(folder.read_json(name), f"{folder.uri}/{name}") if folder.exists(name) else None


def _split(name: str) -> str:
    split = "medium" if name == "mid" else name
    if split not in (*TIERS, "full"):
        raise ValueError(f"{name}: no such split; there are {', '.join(TIERS)} and full")
    return split


def _gold_name(root: str | os.PathLike[str], item: GroundingItem) -> str:
    """The gold masks' path below ``root``."""
    return f"annotations/{path_part(clip_of(item.video_id, item.tier), str(root))}/{path_part(item.object_id, str(root))}.json"


def _prediction_name(split: str, item: GroundingItem, root: str) -> str:
    """The answer's path below ``root``, without ".json"."""
    video_id, exp_id, object_id = (path_part(part, root) for part in (item.video_id, item.expression_id, item.object_id))
    return f"{_split(split)}/{video_id}/{exp_id}/{exp_id}-{object_id}"


def write_train(out: str | os.PathLike[str], videos: Sequence[BenchmarkVideo]) -> None:
    """Write an EgoMask-Train folder without its images; the same videos give the same bytes.

    ``mask_dict.json`` holds a list a ``str((video, object))``, aligned with the sorted frames, null where the object is
    absent; ``rle_save/``, which the released set lacks and one of its loaders wants, holds the same by frame name.

    Raises:
        ValueError: for a repeated video or an expression without its object.
        FormatError: for a name that would lead out of ``out``.
    """
    folder = Folder(out)
    meta, sentences = _tables(videos)
    lists: dict[str, list[Any]] = {}
    for video in videos:
        names = sorted(video.frame_names)
        for item in video.objects:
            seen = visible(item.masks)
            row = [mask_json(seen[name]) if name in seen else None for name in names]
            lists[str((video.video_id, item.object_id))] = row
            path = f"train/rle_save/{path_part(video.video_id, folder.uri)}/{int(item.object_id)}.json"
            folder.write_json(path, dict(zip(names, row, strict=True)))
    folder.write_json("train/mask_dict.json", lists)
    folder.write_json("train/meta.json", {"videos": meta})
    folder.write_json("meta_expressions/train/meta_expressions.json", {"videos": sentences})


def read_train(root: str | os.PathLike[str]) -> list[BenchmarkVideo]:
    """The videos of an EgoMask-Train folder, or of the ``egomask-train/`` inside ``root``; frames sorted, tier "train".

    An expression without an id of its own gets one derived from its video, exp_id and text.

    Raises:
        FormatError: if a file is missing or malformed, or an expression is about an object without masks; the message
            names file and object.
    """
    folder = Folder(root)
    if not folder.exists("train/mask_dict.json") and (folder / "egomask-train").exists("train/mask_dict.json"):
        folder = folder / "egomask-train"
    path = f"{folder.uri}/train/mask_dict.json"
    lists: dict[str, dict[str, Any]] = {}
    for key, row in json_object(folder.read_json("train/mask_dict.json"), path).items():
        video_id, object_id = read_pair(key, path)
        lists.setdefault(video_id, {})[object_id] = row
    meta = {v: json_object(entry.get("objects"), where) for v, entry, where in read_videos(folder, "train/meta.json")}
    videos = []
    for video_id, entry, where in read_videos(folder, "meta_expressions/train/meta_expressions.json"):
        names = tuple(sorted(read_frames(entry, where)))
        rows, known = lists.get(video_id, {}), meta.get(video_id, {})
        objects = tuple(
            BenchmarkObject(
                object_id=object_id,
                category=str(json_object(known.get(object_id, {}), where).get("category", "")),
                status=str(json_object(known.get(object_id, {}), where).get("status", "")),
                masks=aligned_masks(row, names, f"{path}: ({video_id}, {object_id})"),
            )
            for object_id, row in sorted(rows.items(), key=lambda pair: number_order(pair[0]))
        )
        expressions = tuple(e for _, e in read_expressions(video_id, entry, where))
        if missing := sorted({e.object_id for e in expressions} - rows.keys()):
            raise FormatError(f"{path}: has no masks of ({video_id}, {missing[0]}), which an expression is about")
        videos.append(BenchmarkVideo(video_id=video_id, tier="train", frame_names=names, objects=objects, expressions=expressions))
    return videos
