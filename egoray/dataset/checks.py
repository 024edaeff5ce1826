"""What `validate` finds, and the checks that the benchmark and the training set have in common."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from egoray.core.masks import area, from_json
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.formats.egomask_json import bare, read_expressions, read_frames, read_videos
from egoray.formats.png import png_size


@dataclass(slots=True)
class Findings:
    """What is wrong with a dataset: ``faults`` and ``warnings`` in the order found, ``counts`` of what was looked at."""

    dataset: str
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("videos", "objects", "expressions", "masks", "images"), 0))

    def summary(self) -> dict[str, Any]:
        """The findings as one JSON object; ``ok`` is true where there is no fault."""
        return {
            "stage": "validate",
            "dataset": self.dataset,
            "ok": not self.faults,
            "faults": self.faults,
            "warnings": self.warnings,
            "counts": self.counts,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """A video as its tables have it."""

    frames: tuple[str, ...]
    texts: Mapping[str, tuple[str, str]]
    where: str


def within(folder: Folder, error: FormatError) -> str:
    return str(error).replace(f"{folder.uri}/", "")


def read_tables(folder: Folder, names: set[str], meta: str, sentences: str, found: Findings) -> tuple[dict[str, Video], dict[str, Any]]:
    """The videos of two tables that belong together; what cannot be read is a fault, and is left out."""
    videos: dict[str, Video] = {}
    objects: dict[str, Any] = {}
    for name in (meta, sentences):
        if name not in names:
            if name == "subset/medium/meta.json":
                found.warnings.append(f"{name}: missing, as in the release")
            else:
                found.faults.append(f"{name}: missing")
    if sentences in names:
        for video_id, entry, where in _entries(folder, sentences, found):
            try:
                frames = read_frames(entry, where)
                texts = {exp_id: (e.object_id, e.text) for exp_id, e in read_expressions(video_id, entry, where)}
            except FormatError as error:
                found.faults.append(within(folder, error))
                continue
            videos[video_id] = Video(frames=frames, texts=texts, where=where.replace(f"{folder.uri}/", ""))
    if meta in names:
        for video_id, entry, where in _entries(folder, meta, found):
            of = entry.get("objects")
            if isinstance(of, dict):
                objects[video_id] = {str(key): value for key, value in of.items()}
            else:
                found.faults.append(f"{where.replace(f'{folder.uri}/', '')}: no objects")
        if sentences in names:
            for video_id in sorted(videos.keys() ^ objects.keys()):
                lacking = meta if video_id in videos else sentences
                found.faults.append(f"{lacking}: video {video_id} is not there, but in {sentences if lacking == meta else meta}")
    return videos, objects


def _entries(folder: Folder, name: str, found: Findings) -> list[tuple[str, dict[str, Any], str]]:
    try:
        return list(read_videos(folder, name))
    except FormatError as error:
        found.faults.append(within(folder, error))
        return []


def check_video(video_id: str, video: Video, objects: Mapping[str, Any] | None, found: Findings) -> None:
    """One video's tables against themselves."""
    faults = found.faults
    if not video.frames:
        faults.append(f"{video.where}: no frames")
    if len(set(video.frames)) < len(video.frames):
        faults.append(f"{video.where}: a frame is named twice")
    elif any(a >= b for a, b in itertools.pairwise(video.frames)):
        faults.append(f"{video.where}: frames are not in time order")
    if not video.texts:
        found.warnings.append(f"{video.where}: no expressions")
    said: dict[tuple[str, str], str] = {}
    for exp_id, (object_id, text) in video.texts.items():
        if not text.strip():
            faults.append(f"{video.where}, expression {exp_id}: no text")
        elif (object_id, text) in said:
            faults.append(f"{video.where}, expression {exp_id}: the same sentence as expression {said[object_id, text]}")
        said.setdefault((object_id, text), exp_id)
        if objects is not None and object_id not in objects:
            faults.append(f"{video.where}, expression {exp_id}: is about object {object_id}, which meta.json does not have")
    for object_id, value in (objects or {}).items():
        listed = value.get("frames") if isinstance(value, dict) else None
        if listed is not None and (not isinstance(listed, list) or not {bare(str(name)) for name in listed} <= set(video.frames)):
            faults.append(f"{video_id}, object {object_id}: meta.json has it on frames that the video does not have")


def check_mask(value: Any, where: str, found: Findings) -> tuple[int, int] | None:
    try:
        rle = from_json(value, where)
    except FormatError as error:
        found.faults.append(str(error))
        return None
    if rle is None or not area(rle):
        found.faults.append(
            f"{where}: {'null' if rle is None else 'an empty mask'}; leave the frame out, for it stops the official evaluator"
        )
        return None
    found.counts["masks"] += 1
    return rle.size


def check_pictures(
    folder: Folder, names: set[str], folders: list[str], video: Video, size_hw: tuple[int, int] | None, found: Findings
) -> None:
    """Whether each frame has its picture, and the first one the masks' size."""
    at = next((place for place in folders if any(f"{place}/{frame}.jpg" in names for frame in video.frames)), None)
    if at is None:
        found.warnings.append(f"{video.where}: no pictures in {' or '.join(folders)}, as in the release")
        return
    missing = [frame for frame in video.frames if f"{at}/{frame}.jpg" not in names]
    found.counts["images"] += len(video.frames) - len(missing)
    if missing:
        found.warnings.append(f"{at}: {len(missing)} of {len(video.frames)} pictures are missing, such as {missing[0]}.jpg")
    first = f"{at}/{next(frame for frame in video.frames if frame not in set(missing))}.jpg"
    try:
        picture_hw = png_size(folder, first)
    except FormatError as error:
        found.faults.append(within(folder, error))
        return
    if size_hw and picture_hw != size_hw:
        found.faults.append(f"{first}: is {picture_hw[0]} x {picture_hw[1]}, but its masks are {size_hw[0]} x {size_hw[1]}")
