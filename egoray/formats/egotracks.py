"""EgoTracks annotation files ↔ `ObjectTrack`: where the boxes come into the pipeline.

Source: the released ``egotracks_{train,val}.json`` (Ego4D v2), and the ``egotracks_clip_object_bbox.json`` that EgoMask's
preparation derives from them. Unlike EgoMask, an object is its query set and not its title, so two objects of one title
stay two; everything that is mended or left out is counted by name.
"""

from __future__ import annotations

import json
import os
import random
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from egoray.core import paths
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.formats.tracks_file import Findings, TracksFile, box_fault, finite, load_json, whole
from egoray.schema import Box, ObjectTrack, VideoInfo

EXPORTED_PER_FRAME = 6
"""Frames of the exported 30 fps clip to one frame of the 5 fps annotation grid."""

_EXPECTED = "expected egotracks_train.json or egotracks_val.json with videos[].clips[].annotations[].query_sets"
_OBJECT_ID = re.compile("0|[1-9][0-9]{0,8}")


def read_tracks(path: str | os.PathLike[str]) -> TracksFile:
    """The tracks of an EgoTracks file, in file order; boxes are xyxy float pixels, frames ascend on the 5 fps grid.

    - ``video_id`` is ``clip_uid``, or ``exported_clip_uid`` where that is missing.
    - ``object_id`` is the query set's key. Where a clip has several annotations, or a key that is not a plain decimal
      number, the query sets of that clip are numbered 1, 2, ... in file order instead (so are derived files' objects).
    - ``size_hw`` is the first box's ``original_height`` and ``original_width``; (0, 0) means unknown: take the video's.
    - ``exported_clip_frame_number``, where present and not a multiple of 6, decides the frame: a sixth of it, rounded half
      to even. Otherwise ``frame_number`` stands, even where the two disagree.
    - Query sets with ``is_valid`` false, and those without any box (as in the test file), are counted and left out. One
      whose boxes are all unusable is a failure ("EmptyTrack"), so is one that is not of the format ("FormatError").
    - Titles and clip ids that are no legal Unicode are kept with escapes in its place.
    - ``visual_clip``, ``visual_crop`` and ``rotation`` are not read.

    A file without clips gives empty fields.

    Raises:
        FormatError: if the file is missing, not JSON, or of another schema.

    Source: ``egotracks_train.json`` and ``egotracks_clip_object_bbox.json``; the frame rule is that of EgoMask's
    preparation, which in contrast reads one annotation a clip and lets the last of equal titles win.
    """
    document = load_json(path, _EXPECTED)
    found = Findings()
    if isinstance(document.get("videos"), list):
        query_sets = _released(document["videos"], os.fspath(path), found)
    else:
        query_sets = _derived(document, os.fspath(path), found)
    for video_id, object_id, query_set in query_sets:
        _read_query_set(video_id, object_id, query_set, found)
    return found.finish()


def _released(videos: list[Any], name: str, found: Findings) -> Iterator[tuple[str, str, Any]]:
    """(video_id, object_id, query set) of every object; fills the clips into ``found``."""
    annotations: dict[str, list[dict[str, Any]]] = {}
    num_annotations = num_known = 0
    for v, video in enumerate(videos):
        for c, clip in enumerate(_child(video, "clips", list, f"{name}: videos[{v}]")):
            where = f"{name}: videos[{v}].clips[{c}]"
            if not isinstance(clip, dict):
                raise FormatError(f"{where} is not an object; {_EXPECTED}")
            clip_id = clip.get("clip_uid") or clip.get("exported_clip_uid")
            if not isinstance(clip_id, str):
                raise FormatError(f"{where} has neither clip_uid nor exported_clip_uid; {_EXPECTED}")
            found.repairs["clip listed twice"] += clip_id in annotations
            found.clip_fps[clip_id] = finite(clip.get("clip_fps"))
            of_clip = annotations.setdefault(clip_id, [])
            for a, annotation in enumerate(_child(clip, "annotations", list, where, missing=[])):
                of_clip.append(_child(annotation, "query_sets", dict, f"{where}.annotations[{a}]", missing={}))
                num_annotations += 1
                num_known += "query_sets" in annotation
    if num_annotations and not num_known:
        raise FormatError(f"{name}: no annotation has query_sets; {_EXPECTED}")
    for clip_id, of_clip in annotations.items():
        pairs = [pair for query_sets in of_clip for pair in query_sets.items()]
        if len(of_clip) > 1 or not all(_OBJECT_ID.fullmatch(key) for key, _ in pairs):
            found.repairs["object numbered in file order"] += len(pairs)
            pairs = [(str(n), query_set) for n, (_, query_set) in enumerate(pairs, start=1)]
        for key, query_set in pairs:
            yield clip_id, key, query_set


def _derived(document: dict[str, Any], name: str, found: Findings) -> Iterator[tuple[str, str, Any]]:
    """The same of ``{clip_uid: {title: {"bbox_anno": [box, ...]} or [box, ...]}}``, each object as a query set."""
    if not document:
        raise FormatError(f"{name}: is empty; {_EXPECTED}")
    for clip_id, objects in document.items():
        if not isinstance(objects, dict):
            raise FormatError(f"{name}: {clip_id} is not a clip's objects; {_EXPECTED}")
        found.clip_fps[clip_id] = None
        for n, (title, value) in enumerate(objects.items(), start=1):
            boxes = value.get("bbox_anno") if isinstance(value, dict) else value
            if not isinstance(boxes, list):
                raise FormatError(f"{name}: {clip_id}, {title}: has no list of boxes; {_EXPECTED}")
            yield clip_id, str(n), {"object_title": title, "is_valid": True, "lt_track": boxes}


def _read_query_set(video_id: str, object_id: str, query_set: Any, found: Findings) -> None:
    if isinstance(query_set, dict) and query_set.get("is_valid") is False:
        found.repairs["query set marked invalid"] += 1
        return
    entries = query_set.get("lt_track") if isinstance(query_set, dict) else query_set
    if not isinstance(query_set, dict) or not isinstance(entries, list | None):
        found.lose(video_id, object_id, "FormatError", "expected a query set whose lt_track is a list of boxes")
        return
    if not entries:
        found.repairs["query set without boxes" if "is_valid" in query_set else "query set without annotation"] += 1
        return
    title = query_set.get("object_title")
    entries = [entry if isinstance(entry, dict) else {} for entry in entries]
    sizes = ((whole(entry.get("original_height")), whole(entry.get("original_width"))) for entry in entries)
    size_hw = next(((h, w) for h, w in sizes if h and w and min(h, w) > 0), (0, 0))
    boxes: dict[int, Box] = {}
    for entry in entries:
        box = found.box([entry.get(key) for key in ("x", "y", "width", "height")], size_hw)
        if box and (frame := _frame(entry, found.repairs)) is not None:
            found.put(boxes, frame, box)
    found.add(video_id, object_id, title if isinstance(title, str) else "", boxes, size_hw)


def _frame(entry: dict[str, Any], repairs: Counter[str]) -> int | None:
    """The box's frame on the 5 fps grid, or None, counted, where it states none."""
    frame, exported = whole(entry.get("frame_number")), whole(entry.get("exported_clip_frame_number"))
    if exported is not None and exported % EXPORTED_PER_FRAME:
        repaired = round(exported / EXPORTED_PER_FRAME)
        repairs["frame number taken from exported_clip_frame_number"] += repaired != frame
        frame = repaired
    if frame is None or frame < 0:
        repairs["box without a frame number"] += 1
        return None
    return frame


def _child(parent: Any, key: str, kind: type, where: str, missing: Any = None) -> Any:
    """``parent[key]``, or ``missing`` where it is absent or null.

    Raises:
        FormatError: if it is not of ``kind``.
    """
    value = parent.get(key) if isinstance(parent, dict) else None
    value = missing if value is None else value
    if not isinstance(parent, dict) or not isinstance(value, kind):
        raise FormatError(f"{where} has no {'list' if kind is list else 'object'} of {key}; {_EXPECTED}")
    return value


def write_tracks(
    path: str | os.PathLike[str], videos: Sequence[VideoInfo], tracks: Sequence[ObjectTrack], *, split: str = "train", seed: int = 0
) -> None:
    """Write the tracks in the released schema, one video a clip; the same arguments give the same bytes.

    As in the release, boxes are not in order and some lack ``exported_clip_frame_number``; ``seed`` decides which.
    `read_tracks` gives the same tracks back, grouped in the order of ``videos``: to the bit, but for a box that x + width in
    floats cannot express, which comes back within a rounding error.

    Args:
        path: the file to write, replaced atomically.
        videos: the clips; one without tracks gets an empty annotation. A 30 fps clip is expected (stride 6).
        tracks: the objects; ids are plain decimal numbers, unique in their clip.
        split: "train", "val" or "test".
        seed: of the disorder.

    Raises:
        ValueError: for a track without a usable box or a clip, or with an id that is repeated or not a plain decimal number.

    Source: the schema of ``egotracks_train.json``; ``visual_clip`` and ``visual_crop`` are chosen from the track.
    """
    rng = random.Random(seed)
    by_video: dict[str, dict[str, ObjectTrack]] = {video.video_id: {} for video in videos}
    for track in tracks:
        unit = f"{track.video_id}/{track.object_id}"
        if track.object_id in by_video.get(track.video_id, {track.object_id}) or not _OBJECT_ID.fullmatch(track.object_id):
            raise ValueError(f"{unit}: needs a clip among the videos and a plain decimal id of its own")
        if not track.boxes or any(frame < 0 or box_fault(box, track.size_hw) for frame, box in track.boxes.items()):
            raise ValueError(f"{unit}: needs a box, and each box a frame from 0 on and an area inside the image")
        by_video[track.video_id][track.object_id] = track
    document = {
        "version": "v2",
        "date": "",
        "description": "Long-term tracks of objects in egocentric clips",
        "manifest": "",
        "videos": [_video(video, list(by_video[video.video_id].values()), split, rng) for video in videos],
    }
    folder, name = paths.parent(os.fspath(path)), paths.name(os.fspath(path))
    Folder(folder or ".").write_bytes(name, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())


def _video(video: VideoInfo, tracks: Sequence[ObjectTrack], split: str, rng: random.Random) -> dict[str, Any]:
    start, seconds = rng.randrange(0, 9000), video.num_frames / video.fps
    query_sets = {track.object_id: _query_set(track, start, rng) for track in tracks}
    clip = {
        "clip_uid": video.video_id,
        "source_clip_uid": video.video_id,
        "video_start_sec": start / video.fps,
        "video_end_sec": start / video.fps + seconds,
        "video_start_frame": start,
        "video_end_frame": start + video.num_frames,
        "clip_start_sec": 0.0,
        "clip_end_sec": seconds,
        "clip_start_frame": 0,
        "clip_end_frame": video.num_frames,
        "clip_fps": video.fps,
        "annotation_complete": True,
        "annotations": [{"query_sets": query_sets, "warnings": []}],
    }
    return {"video_uid": str(uuid.uuid5(uuid.NAMESPACE_OID, f"video of {video.video_id}")), "split": split, "clips": [clip]}


def _query_set(track: ObjectTrack, start: int, rng: random.Random) -> dict[str, Any]:
    entries = [_entry(frame, box, track.size_hw, start) for frame, box in sorted(track.boxes.items())]
    shown, largest = entries[:5], max(entries, key=lambda entry: entry["width"] * entry["height"])
    lt_track = [dict(entry) for entry in entries]
    rng.shuffle(lt_track)
    for entry in lt_track:
        if rng.random() < 0.1:
            del entry["exported_clip_frame_number"]
    return {
        "is_valid": True,
        "errors": [],
        "warnings": [],
        "object_title": track.title,
        "visual_crop": largest,
        "visual_clip": shown,
        "lt_track": lt_track,
    }


def _entry(frame: int, box: Box, size_hw: tuple[int, int], start: int) -> dict[str, Any]:
    entry = {
        "frame_number": frame,
        "x": box[0],
        "y": box[1],
        "width": box[2] - box[0],
        "height": box[3] - box[1],
        "rotation": 0,
        "video_frame_number": start + EXPORTED_PER_FRAME * frame,
        "exported_clip_frame_number": EXPORTED_PER_FRAME * frame,
    }
    return entry | ({"original_width": size_hw[1], "original_height": size_hw[0]} if all(size_hw) else {})
