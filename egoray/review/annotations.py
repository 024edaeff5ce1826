"""An annotation folder as things to review: one item an object of a clip, some of them asked twice, some planted with a fault."""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from egoray.core.boxes import interpolate_boxes
from egoray.core.masks import bounding_box, from_json
from egoray.core.runs import edges, read_runs
from egoray.core.storage import Folder
from egoray.core.workfolder import fingerprint, read_expressions, read_objects, read_videos
from egoray.errors import FormatError
from egoray.express.checks import words
from egoray.review.doubts import Doubts, doubts
from egoray.review.store import Item
from egoray.schema import Expression, MaskRLE, ObjectTrack, Trajectory, VideoInfo

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "egoray review item")
_SHIFT = 0.6
"""By how much of its width a planted mask lies beside the object."""
_UNCLEAR = 0.15
"""What a sentence in doubt adds to an object's hardness."""
_CACHED_OBJECTS = 64

Key = tuple[str, str]
Masks = tuple[dict[int, MaskRLE], dict[int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """All that is known of the object of an item; masks and scores by frame, those of a planted item with their fault."""

    video: VideoInfo
    track: ObjectTrack
    trajectories: Sequence[Trajectory]
    expressions: Sequence[Expression]
    masks: Mapping[int, MaskRLE]
    scores: Mapping[int, float]
    doubts: Doubts
    others: Sequence[ObjectTrack]
    """The clip's other objects, those whose names share the most words first."""


class Annotations:
    """What `egoray annotate` and `egoray express` left in a folder.

    Args:
        uri: the folder.
        videos: where the clips are now, ``<video_id>.mp4``; None: where they were annotated.

    Raises:
        ConfigError: if the folder holds no videos.
        FormatError: if a table cannot be read.
    """

    def __init__(self, uri: str, videos: str | None = None) -> None:
        self.folder = Folder(uri)
        found = read_videos(self.folder)
        self.videos = {v: _at(info, videos) for v, info in found.items()} if videos else found
        self.objects = {
            (t.video_id, t.object_id): (_bridged(t, trajectories), trajectories) for t, trajectories in read_objects(self.folder)
        }
        self.expressions = read_expressions(self.folder) or {}
        self._files: dict[Key, list[str]] = {}
        self._keys: dict[str, tuple[Key, bool]] = {}
        self._lock = threading.Lock()
        self._subject = lru_cache(_CACHED_OBJECTS)(self._load)

    def queue(self, *, double: float = 0.1, plant: float = 0.05) -> list[Item]:
        """The items, hardest first by ``place``; reads every mask once.

        Args:
            double: share of the objects that two people are to decide.
            plant: share of the objects that come a second time with masks beside the object, which nobody should accept.
        """
        known: dict[Key, list[tuple[float, tuple[str, ...], list[bytes]]]] = {}
        for name in (self.folder / "masklets").names(".parquet"):
            for key, (masks, scores) in self._read(name).items():
                if key not in self.objects:
                    continue
                self._files.setdefault(key, []).append(name)
                boxes = self.objects[key][0].boxes
                here = doubts({f: boxes[f] for f in masks if f in boxes}, masks, scores)
                marks = [hashlib.blake2b(f"{f} {rle.size} {rle.counts}".encode(), digest_size=8).digest() for f, rle in masks.items()]
                known.setdefault(key, []).append((here.hardness, here.reasons, marks))
        items = [self._item(key, known.get(key, []), double) for key in self.objects]
        items.sort(key=lambda item: (-item.place, item.id))
        twins = [
            self._twin(item, items) for item in items if known.get((item.video_id, item.object_id)) and _chance(item.id, "plant") < plant
        ]
        return items + twins

    def subject(self, item_id: str) -> Subject:
        """What the item is about; the latest are kept in memory.

        Raises:
            KeyError: for an id that `queue` has not given.
        """
        with self._lock:
            return self._subject(*self._keys[item_id])

    def _item(self, key: Key, known: Sequence[tuple[float, tuple[str, ...], list[bytes]]], double: float) -> Item:
        track, _ = self.objects[key]
        sentences = self.expressions.get(key, [])
        unclear = any(e.review for e in sentences)
        marks = sorted(mark.hex() for _, _, found in known for mark in found)
        missing = min(1.0, 10 * max(0.0, 1 - len(marks) / max(1, len(track.boxes))))  # as where a tenth of the frames lacks its mask
        hardness = max((hardness for hardness, _, _ in known), default=1.0)
        hardness += (1 - hardness) * missing + _UNCLEAR * unclear
        reasons = dict.fromkeys(reason for _, found, _ in known for reason in found)
        if missing:
            reasons["no mask"] = None
        return Item(
            id=self._name(key, planted=False),
            video_id=key[0],
            object_id=key[1],
            title=_title(track),
            planted=False,
            required=2 if _chance("/".join(key), "double") < double else 1,
            hardness=min(1.0, hardness),
            place=hardness,
            reasons=(*reasons, *(("sentence in doubt",) if unclear else ())),
            data_version=fingerprint([marks, [[e.expression_id, e.text] for e in sentences]]),
        )

    def _twin(self, item: Item, items: Sequence[Item]) -> Item:
        place = items[int(_chance(item.id, "place") * len(items))].place
        return replace(item, id=self._name((item.video_id, item.object_id), planted=True), planted=True, required=1, place=place)

    def _name(self, key: Key, planted: bool) -> str:
        item_id = uuid.uuid5(_NAMESPACE, "/".join((*key, "planted" if planted else ""))).hex[:16]
        self._keys[item_id] = (key, planted)
        return item_id

    def _read(self, name: str) -> dict[Key, Masks]:
        found: dict[Key, Masks] = {}
        columns = ["video_id", "object_id", "frame", "height", "width", "counts", "score"]
        for row in (self.folder / "masklets").read_rows(columns, [name]):
            masks, scores = found.setdefault((row["video_id"], row["object_id"]), ({}, {}))
            masks[row["frame"]] = MaskRLE(size=(row["height"], row["width"]), counts=row["counts"])
            scores[row["frame"]] = round(row["score"], 4)
        return found

    def _load(self, key: Key, planted: bool) -> Subject:
        track, trajectories = self.objects[key]
        masks: dict[int, MaskRLE] = {}
        scores: dict[int, float] = {}
        for name in self._files.get(key, []):
            more = self._read(name).get(key, ({}, {}))
            masks |= more[0]
            scores |= more[1]
        masks = dict(sorted(masks.items()))
        if planted:
            masks = dict(_beside(masks))
        mine = set(words(track.title))
        others = [t for (v, o), (t, _) in self.objects.items() if v == key[0] and o != key[1]]
        return Subject(
            video=self.videos[key[0]],
            track=track,
            trajectories=trajectories,
            expressions=self.expressions.get(key, []),
            masks=masks,
            scores=scores,
            doubts=doubts(track.boxes, masks, scores),
            others=sorted(others, key=lambda t: (-len(mine & set(words(t.title))), int(t.object_id))),
        )


def _bridged(track: ObjectTrack, trajectories: Sequence[Trajectory]) -> ObjectTrack:
    """The track with a box on every frame of its appearances, also where the gap rule bridges one."""
    boxes = dict(track.boxes)
    for t in trajectories:
        boxes |= interpolate_boxes(dict(track.boxes), t.start, t.stop)
    return replace(track, boxes=boxes)


def _title(track: ObjectTrack) -> str:
    return track.title.strip() or f"object {track.object_id}"


def _chance(name: str, what: str) -> float:
    """A number in [0, 1) that is always the same for the name."""
    return int.from_bytes(hashlib.blake2b(f"{what} {name}".encode(), digest_size=6).digest()) / 2**48


def _beside(masks: Mapping[int, MaskRLE]) -> Iterator[tuple[int, MaskRLE]]:
    """The masks moved sideways, towards the side of the image that has more room; one that leaves it stays out."""
    for frame, rle in masks.items():
        height, width = rle.size
        x1, _, x2, _ = bounding_box(rle)
        by = height * max(4, round(_SHIFT * (x2 - x1))) * (1 if x1 + x2 < width else -1)
        starts, stops = (np.clip(edge + by, 0, height * width) for edge in edges(read_runs(rle.counts)))  # columns follow each other
        seen = stops > starts
        if seen.any():
            turns = np.stack([starts[seen], stops[seen]], axis=1).ravel()
            runs = np.diff(turns, prepend=0, append=height * width).tolist()
            if moved := from_json({"size": rle.size, "counts": runs}, "planted mask"):
                yield frame, moved


def _at(video: VideoInfo, videos: str) -> VideoInfo:
    """The video in the folder given.

    Raises:
        FormatError: if its id is no plain file name.
    """
    if os.path.basename(video.video_id) != video.video_id or video.video_id in ("", ".", ".."):
        raise FormatError(f"{video.video_id!r}: a video id that is no file name; correct videos/*.parquet")
    return replace(video, uri=os.path.join(videos, f"{video.video_id}.mp4"))
