"""From an annotation folder to a benchmark in the released EgoMask layout: masks at 1 fps, their frames, and expressions."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any, cast

import cv2

from egoray.core.masks import area
from egoray.core.storage import Folder
from egoray.core.video import read_frames
from egoray.core.workfolder import read_expressions, read_masklets, read_objects, read_videos
from egoray.errors import FormatError
from egoray.formats.egomask import BenchmarkObject, BenchmarkVideo, clip_of, frame_name, write_benchmark
from egoray.schema import Expression, MaskRLE, ObjectTrack, Tier, VideoInfo

_KEEP_EVERY = 5  # annotation frames (5 fps) to one frame of the benchmark (1 fps)
_JPEG_QUALITY = 95
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "egoray title")


def build(annotations: str, videos: str, out: str, *, tier: str = "medium") -> dict[str, Any]:
    """Write the benchmark of an annotation folder; its summary, in which every object is ``done`` or listed as left out.

    Frame numbers stay those of the 5 fps grid and every fifth is kept: 00000, 00005, ... An object without a mask on any
    kept frame is left out, and so is a clip without any object. The expressions are those of ``annotations/expressions/``;
    without that folder each object has one, its title. All frames are written before the tables that name them, and the
    same inputs give the same bytes.

    Args:
        annotations: the work folder of `egoray annotate`.
        videos: the folder of ``<video_id>.mp4`` clips.
        out: the dataset's folder.
        tier: short, medium or long: the split under which every clip is filed.

    Raises:
        ConfigError: if ``annotations`` holds no videos, or ``out`` cannot be written.
        FormatError: before anything is written, if clips are missing: a benchmark without some of its frames is none.
        ValueError: for another tier.

    Source: EgoMask section on its construction; the released layout (`formats.egomask`).
    """
    source, target = Folder(annotations), Folder(out)
    infos, masklets = read_videos(source), read_masklets(source)
    expressions = read_expressions(source)
    left_out: list[str] = []
    objects: dict[str, list[tuple[ObjectTrack, dict[str, MaskRLE]]]] = {}
    for track, _ in read_objects(source):
        masklet = masklets.get((track.video_id, track.object_id))
        masks = _kept_masks(masklet.masks, infos[track.video_id]) if masklet else {}
        if masks:
            objects.setdefault(track.video_id, []).append((track, masks))
        else:
            left_out.append(f"{track.video_id}/{track.object_id}")
    clips = {video_id: os.path.join(videos, f"{video_id}.mp4") for video_id in sorted(objects)}
    if missing := [path for path in clips.values() if not os.path.isfile(path)]:
        raise FormatError(f"{missing[0]}: clip not found ({len(missing)} of {len(clips)} are missing); check --videos")
    benchmark = []
    for video_id, found in sorted(objects.items()):
        names = tuple(frame_name(frame) for frame in _kept_frames(infos[video_id]))
        benchmark.append(
            BenchmarkVideo(
                video_id=video_id,
                tier=cast(Tier, tier),
                frame_names=names,
                objects=tuple(BenchmarkObject(object_id=track.object_id, category=track.title, masks=masks) for track, masks in found),
                expressions=tuple(
                    e
                    for track, _ in found
                    for e in (expressions.get((video_id, track.object_id), []) if expressions is not None else [_title(track)])
                ),
            )
        )
        _write_frames(target / "JPEGImages" / "egotracks" / clip_of(video_id, tier), infos[video_id], clips[video_id])
    write_benchmark(out, benchmark)
    num_objects = sum(map(len, objects.values()))
    return {
        "stage": "build",
        "tier": tier,
        "videos": len(benchmark),
        "frames": sum(len(video.frame_names) for video in benchmark),
        "expressions": sum(len(video.expressions) for video in benchmark),
        "expected": num_objects + len(left_out),
        "done": num_objects,
        "left_out": left_out,
    }


def _kept_frames(video: VideoInfo) -> range:
    return range(0, video.num_annotation_frames, _KEEP_EVERY)


def _kept_masks(masks: Mapping[int, MaskRLE], video: VideoInfo) -> dict[str, MaskRLE]:
    return {frame_name(frame): masks[frame] for frame in _kept_frames(video) if frame in masks and area(masks[frame])}


def _write_frames(folder: Folder, video: VideoInfo, path: str) -> None:
    """The kept frames of the clip as JPEG, named by their annotation frame."""
    for native, rgb in read_frames(path, [frame * video.stride for frame in _kept_frames(video)]):
        encoded = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
        folder.write_bytes(f"{frame_name(native // video.stride)}.jpg", encoded.tobytes())


def _title(track: ObjectTrack) -> Expression:
    """The object's title as its only expression."""
    text = track.title or f"object {track.object_id}"
    return Expression(
        expression_id=str(uuid.uuid5(_NAMESPACE, f"{track.video_id}/{track.object_id}/{text}")),
        video_id=track.video_id,
        object_id=track.object_id,
        text=text,
        kind="title",
        source="annotation",
    )
