"""A dataset to and from the formats of other tools: `egoray export` and `egoray import`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, cast

import cv2

from egoray.core.storage import Folder
from egoray.core.video import read_image
from egoray.dataset.checksums import write_checksums
from egoray.errors import ConfigError, FormatError
from egoray.formats import coco, cvat, davis, fiftyone, huggingface, label_studio, sav, ytvis
from egoray.formats.egomask import (
    TIERS,
    BenchmarkObject,
    BenchmarkVideo,
    images_dir,
    read_gold,
    read_items,
    read_train,
    write_benchmark,
    write_train,
)
from egoray.formats.egomask_json import bare, path_part, read_videos
from egoray.formats.exchange import MaskVideo
from egoray.schema import Expression, GroundingItem, Tier

FORMATS: Mapping[str, ModuleType] = {
    "coco": coco,
    "youtube-vis": ytvis,
    "davis": davis,
    "sa-v": sav,
    "huggingface": huggingface,
    "fiftyone": fiftyone,
    "cvat": cvat,
    "label-studio": label_studio,
}


def export(dataset: str, split: str, kind: str, out: str, *, pictures: bool = False) -> dict[str, Any]:
    """Write a split of a dataset (all splits there are for "all") in the format ``kind``; what was written, in numbers.

    Args:
        dataset: a folder in the EgoMask layout.
        split: short, medium, long, train or all.
        kind: a key of `FORMATS`.
        out: a new or empty folder.
        pictures: copy the pictures too, to where the format's own loaders look for them.

    Raises:
        ConfigError: for another format, or if ``out`` holds files already.
        FormatError: if the dataset is malformed, or has no such split.
    """
    if kind not in FORMATS:
        raise ConfigError(f"--format {kind}: unknown; known are {', '.join(FORMATS)}")
    target = Folder(out)
    if there := target.files():
        raise ConfigError(f"{out}: holds files already, such as {there[0]}; give a new or empty folder to --out")
    splits = {name: videos for name in (*TIERS, "train") if split in (name, "all") and (videos := read_split(dataset, name))}
    videos = [video for of in splits.values() for video in of]
    if not videos:
        raise FormatError(f"{dataset}: has no video in {split}")
    module = FORMATS[kind]
    counts = module.write(target, splits) if kind == "huggingface" else module.write(target, videos)
    copied = 0
    for video in videos if pictures else ():
        for n, path in enumerate(video.images):
            if Folder(dataset).exists(path):
                name = module.picture(video, n) if hasattr(module, "picture") else path
                target.write_bytes(name, Folder(dataset).read_bytes(path))
                copied += 1
    return {"stage": "export", "format": kind, "splits": list(splits), "videos": len(videos), **counts, "pictures": copied}


def read_split(dataset: str, split: str) -> list[MaskVideo]:
    """The videos of short, medium, long or train with all their masks; [] where there are none.

    Raises:
        FormatError: if a file is malformed, or a video has no mask at all.
    """
    folder = Folder(dataset)
    if split == "train":
        inner = "egomask-train/" if folder.exists("egomask-train/train/mask_dict.json") else ""
        if not inner and not folder.exists("train/mask_dict.json"):
            return []
        return [_mask_video(v, f"{inner}train/JPEGImages/{v.video_id}", _fps(v.frame_names)) for v in read_train(dataset)]
    if not folder.exists(f"subset/{split}/meta_expressions.json"):
        return []
    has_meta = folder.exists(f"subset/{split}/meta.json")
    meta = {v: entry for v, entry, _ in read_videos(folder, f"subset/{split}/meta.json" if has_meta else "meta.json")}
    by_video: dict[str, list[GroundingItem]] = {}
    for item in read_items(dataset, split):
        by_video.setdefault(item.video_id, []).append(item)
    videos = []
    for video_id, items in by_video.items():
        known = meta.get(video_id, {}).get("objects", {})
        ids = dict.fromkeys([*known, *(item.object_id for item in items)])
        objects = [
            BenchmarkObject(
                object_id=object_id,
                category=str(known.get(object_id, {}).get("category", "")),
                masks=read_gold(dataset, replace(items[0], object_id=object_id)),
            )
            for object_id in ids
        ]
        said = [
            Expression(
                expression_id=f"{video_id}/{i.expression_id}", video_id=video_id, object_id=i.object_id, text=i.text, kind=i.kind, source=""
            )
            for i in items
        ]
        video = BenchmarkVideo(
            video_id=video_id, tier=cast(Tier, split), frame_names=items[0].frame_names, objects=tuple(objects), expressions=tuple(said)
        )
        at = os.path.relpath(images_dir(dataset, items[0]), dataset)
        videos.append(_mask_video(video, at, _fps(video.frame_names)))
    return videos


def _fps(names: Sequence[str]) -> float:
    """RefEgo's 2, else 5 by the numbers' step."""
    if names[0].startswith("img"):
        return 2.0
    numbers = [int(name) for name in names[:2] if name.isdigit()]
    return 5 / (numbers[1] - numbers[0]) if len(numbers) == 2 and numbers[1] > numbers[0] else 1.0


def _mask_video(video: BenchmarkVideo, at: str, fps: float) -> MaskVideo:
    size_hw = next((rle.size for item in video.objects for rle in item.masks.values()), None)
    if size_hw is None:
        raise FormatError(f"{video.video_id}: has no mask, so its size is unknown; run `egoray validate`")
    return MaskVideo(
        video_id=video.video_id,
        size_hw=size_hw,
        fps=fps,
        frame_names=video.frame_names,
        images=tuple(f"{at}/{name}.jpg" for name in video.frame_names),
        objects=video.objects,
        expressions=video.expressions,
    )


def import_masks(kind: str, source: str, out: str, *, tier: str, images: str | None = None) -> dict[str, Any]:
    """Read masks of another format into a dataset in the EgoMask layout; what was read, in numbers.

    Objects are numbered anew from "1" where their ids are no digits, for a training set wants numbers. An object without
    a mask and a video without an object are left out.

    Args:
        kind: a key of `FORMATS`.
        source: the file or the folder.
        out: a new or empty folder.
        tier: short, medium, long or train.
        images: the folder from which the file names its pictures; copied, as JPEG; None for none.

    Raises:
        ConfigError: for another format or tier, or if ``out`` holds files already.
        FormatError: if the source is malformed, holds no mask, or a picture is missing.
    """
    if kind not in FORMATS:
        raise ConfigError(f"--format {kind}: unknown; known are {', '.join(FORMATS)}")
    target = Folder(out)
    if there := target.files():
        raise ConfigError(f"{out}: holds files already, such as {there[0]}; give a new or empty folder to --out")
    read: list[MaskVideo] = FORMATS[kind].read(source)
    kept = [(video, _benchmark_video(video, cast(Tier, tier))) for video in read]
    videos = [(video, made) for video, made in kept if made.objects]
    if not videos:
        raise FormatError(f"{source}: holds no mask")
    root = "egomask-train/train/JPEGImages" if tier == "train" else "JPEGImages/egotracks"
    for video, made in videos if images is not None else ():
        clip = made.video_id.split("--")[0] if tier == "medium" else made.video_id
        for path, name in zip(video.images, made.frame_names, strict=True):
            target.write_bytes(f"{root}/{clip}/{name}.jpg", _jpeg(_inside(images or "", path)))
    if tier == "train":
        write_train((target / "egomask-train").uri, [made for _, made in videos])
    else:
        write_benchmark(out, [made for _, made in videos])
    write_checksums(target)
    objects = [item for _, made in videos for item in made.objects]
    return {
        "stage": "import",
        "format": kind,
        "videos": len(videos),
        "objects": len(objects),
        "masks": sum(len(item.masks) for item in objects),
        "expressions": sum(len(made.expressions) for _, made in videos),
        "left_out": {"videos without a mask": len(read) - len(videos)},
    }


def _benchmark_video(video: MaskVideo, tier: Tier) -> BenchmarkVideo:
    seen = [item for item in video.objects if item.masks]
    plain = all(item.object_id.isdigit() for item in seen)
    ids = {item.object_id: item.object_id if plain else str(n) for n, item in enumerate(seen, start=1)}
    video_id = path_part(video.video_id.replace("/", "-"), video.video_id)
    return BenchmarkVideo(
        video_id=video_id,
        tier=tier,
        frame_names=tuple(path_part(bare(name), video_id) for name in video.frame_names),
        objects=tuple(replace(item, object_id=ids[item.object_id]) for item in seen),
        expressions=tuple(replace(e, video_id=video_id, object_id=ids[e.object_id]) for e in video.expressions if e.object_id in ids),
    )


def _inside(root: str, path: str) -> str:
    """The picture's path below ``root``.

    Raises:
        FormatError: if it leads out of it.
    """
    full = os.path.realpath(os.path.join(root, path))
    if os.path.commonpath([full, os.path.realpath(root)]) != os.path.realpath(root):
        raise FormatError(f"{path}: leads out of {root}; refused")
    return full


def _jpeg(path: str) -> bytes:
    if path.lower().endswith((".jpg", ".jpeg")) and os.path.isfile(path):
        with open(path, "rb") as stream:
            return stream.read()
    return cv2.imencode(".jpg", read_image(path)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
