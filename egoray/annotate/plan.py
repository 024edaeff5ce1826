"""From tracks and clips to units of work: which shards there are, and which clips or objects are lost before any starts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from egoray.annotate.shards import plan_shards
from egoray.annotate.trajectories import split_trajectories, trajectory_boxes
from egoray.config import AnnotateConfig
from egoray.core import paths, video
from egoray.core.boxes import clip_box, scale_box
from egoray.core.workfolder import fingerprint
from egoray.errors import ConfigError, EgorayError, FormatError
from egoray.formats.egotracks import TracksFile, read_tracks
from egoray.formats.refego import FPS as REFEGO_FPS
from egoray.formats.refego import read_refego
from egoray.formats.tracks_file import printable
from egoray.schema import Box, FailureRow, ObjectTrack, Shard, Trajectory, VideoInfo, to_row

SUFFIXES = (".mp4", ".MP4", ".mov", ".mkv", ".webm", ".avi", "")
ASPECT_TOLERANCE = 0.02
"""How far the two scale factors between box and clip pixels may differ; rounded short sides stay well below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All units of an annotate run: the shards to track, and what was lost while planning."""

    shards: tuple[Shard, ...]
    boxes: Mapping[str, Mapping[tuple[str, int], Mapping[int, Box]]]
    """For each shard id, a box for every frame of each of its trajectories, in pixels of the clip."""
    videos: tuple[VideoInfo, ...]
    objects: tuple[tuple[ObjectTrack, tuple[Trajectory, ...]], ...]
    failures: tuple[FailureRow, ...]
    repairs: Mapping[str, int]


READERS = {"egotracks": read_tracks, "refego": read_refego}
GRID_FPS = {"egotracks": 5.0, "refego": REFEGO_FPS}
"""Rate of each format's frame numbers, and of a clip that is a folder of images."""


def plan_from_files(tracks: str, videos_dir: str, config: AnnotateConfig) -> Plan:
    """`make_plan` for an annotation file of the format that ``config.tracks_format`` names.

    Raises:
        FormatError: if the file is not of that format.
        ConfigError: if ``videos_dir`` is not a folder.
    """
    return make_plan(READERS[config.tracks_format](tracks), videos_dir, config)


def make_plan(tracks: TracksFile, videos_dir: str, config: AnnotateConfig) -> Plan:
    """Find each track's clip, check the two against each other, split into trajectories and shards.

    A clip that is missing, unreadable or of another shape, and an object without a usable box, become failure rows; the
    rest goes on. Boxes past the clip's end are dropped and counted in ``repairs``.

    Raises:
        ConfigError: if ``videos_dir`` is not a folder.
    """
    if printable(videos_dir) != videos_dir:  # it becomes part of the tables, which hold text alone
        raise ConfigError(f"--videos {printable(videos_dir)}: not a name that can be written down; rename the folder")
    if not paths.is_folder(videos_dir):
        raise ConfigError(f"--videos {videos_dir}: no such folder; give the folder that holds <clip_uid>.mp4 files")
    by_video: dict[str, list[ObjectTrack]] = {}
    for track in tracks.tracks:
        by_video.setdefault(track.video_id, []).append(track)
    with ThreadPoolExecutor(16) as pool:
        opened = pool.map(lambda video_id: _open(videos_dir, video_id, config.tracks_format), sorted(by_video))
        results = dict(zip(sorted(by_video), opened, strict=True))
    shards: list[Shard] = []
    boxes: dict[str, Mapping[tuple[str, int], Mapping[int, Box]]] = {}
    objects: list[tuple[ObjectTrack, tuple[Trajectory, ...]]] = []
    failures = list(tracks.failures)
    repairs = dict(tracks.repairs)
    for video_id, result in results.items():
        if isinstance(result, FailureRow):
            failures.append(result)
            continue
        try:
            fitted = [_fit(track, result, repairs) for track in by_video[video_id]]
        except FormatError as error:
            failures.append(_failure(video_id, error))
            continue
        split: list[Trajectory] = []
        for track in fitted:
            if not track.boxes:
                failures.append(_failure(f"{video_id}/{track.object_id}", FormatError(f"{track.title}: no box lies inside the clip")))
                continue
            trajectories = tuple(split_trajectories(track, config.relax))
            objects.append((track, trajectories))
            split += trajectories
        by_object = {track.object_id: track for track in fitted}
        salt = fingerprint([config.fingerprint_fields(), video.digest(result.uri), [to_row(track) for track in fitted]])
        for shard in plan_shards(result, split, max_frames=config.max_shard_frames, salt=salt):
            shards.append(shard)
            boxes[shard.shard_id] = {(t.object_id, t.start): trajectory_boxes(by_object[t.object_id], t) for t in shard.trajectories}
    videos = tuple(result for result in results.values() if isinstance(result, VideoInfo))
    shards.sort(key=lambda shard: (-len(shard_frames(shard)) * len(shard.trajectories), shard.shard_id))
    return Plan(shards=tuple(shards), boxes=boxes, videos=videos, objects=tuple(objects), failures=tuple(failures), repairs=repairs)


def shard_frames(shard: Shard) -> list[int]:
    """The annotation frames that some trajectory of the shard covers, ascending."""
    return sorted({frame for t in shard.trajectories for frame in range(t.start, t.stop)})


def pack(shard: Shard, boxes: Mapping[tuple[str, int], Mapping[int, Box]], stride: int) -> str:
    """The shard, its boxes and the stride to native frames as one JSON string, to travel to an actor."""
    flat = [[object_id, start, sorted(of.items())] for (object_id, start), of in boxes.items()]
    return json.dumps({"shard": to_row(shard), "boxes": flat, "stride": stride})


def unpack(text: str) -> tuple[Shard, dict[tuple[str, int], dict[int, Box]], int]:
    """What `pack` packed."""
    value = json.loads(text)
    row: dict[str, Any] = value["shard"]
    trajectories = tuple(Trajectory(**{**t, "prompt_box": tuple(t["prompt_box"])}) for t in row["trajectories"])
    boxes = {(object_id, start): {frame: tuple(box) for frame, box in of} for object_id, start, of in value["boxes"]}
    return Shard(**{**row, "trajectories": trajectories}), boxes, value["stride"]


def _open(videos_dir: str, video_id: str, source: str) -> VideoInfo | FailureRow:
    try:
        if not video_id.strip(".") or video_id != os.path.basename(video_id) or "\0" in video_id:
            raise FormatError(f"clip uid {video_id!r}: not a plain file name, so no clip is looked for")
        path = next((p for s in SUFFIXES if paths.exists(p := paths.join(videos_dir, video_id + s))), None)
        if path is None:
            raise FormatError(f"{videos_dir}/{video_id}.mp4: no such clip; download it and run the same command again")
        return video.probe(path, video_id, source=source, annotation_fps=GRID_FPS[source], fps=GRID_FPS[source])
    except EgorayError as error:
        return _failure(video_id, error)


def _fit(track: ObjectTrack, info: VideoInfo, repairs: dict[str, int]) -> ObjectTrack:
    """The track in the clip's own pixels and frames.

    Raises:
        FormatError: if the clip's aspect ratio is not that of the annotation.
    """
    height, width = track.size_hw if all(track.size_hw) else (info.height_px, info.width_px)
    scale_x, scale_y = info.width_px / width, info.height_px / height
    if abs(scale_x / scale_y - 1) > ASPECT_TOLERANCE:
        raise FormatError(
            f"{info.uri}: is {info.width_px} x {info.height_px}, its boxes were drawn on {width} x {height}; "
            "this is another clip, or a cropped one"
        )
    size_hw = (info.height_px, info.width_px)
    kept = {f: scale_box(b, scale_x, scale_y) for f, b in track.boxes.items() if f < info.num_annotation_frames}
    inside = {f: b for f, b in kept.items() if clip_box(b, size_hw)}
    if lost := len(track.boxes) - len(kept):
        repairs["box past the clip's end"] = repairs.get("box past the clip's end", 0) + lost
    return ObjectTrack(video_id=track.video_id, object_id=track.object_id, title=track.title, boxes=inside, size_hw=size_hw)


def _failure(unit: str, error: Exception) -> FailureRow:
    return FailureRow(stage="annotate", unit=unit, error=type(error).__name__, message=str(error), attempt=1, retryable=True)


def limited(plan: Plan, limit: int | None) -> Sequence[Shard]:
    """The first ``limit`` shards of the plan; all of them for None."""
    return plan.shards if limit is None else plan.shards[:limit]


def forecast(plan: Plan, limit: int | None, frames_per_s: float, gpu_memory_gb: float) -> dict[str, Any]:
    """What a run would take, for ``--dry-run``: units, frames, hours on one worker at ``frames_per_s``, GPU memory a worker."""
    shards = limited(plan, limit)
    frames = sum(len(shard_frames(shard)) for shard in shards)
    return {
        "units": len(shards) + len(plan.failures),
        "lost_in_planning": len(plan.failures),
        "clips": len({shard.video_id for shard in shards}),
        "trajectories": sum(len(shard.trajectories) for shard in shards),
        "frames": frames,
        "hours_on_one_worker": round(frames / frames_per_s / 3600, 4),
        "gpu_memory_gb_a_worker": gpu_memory_gb,
        "repairs": dict(plan.repairs),
    }
