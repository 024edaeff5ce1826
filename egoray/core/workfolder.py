"""A stage's output folder: its Parquet tables, its failures, its run record, and what a rerun may reuse.

Layout under OUT (a local path or s3://, gs://): ``run.json`` (config, versions, fingerprint), ``videos/``, ``objects/``,
``masklets/``, ``failures/`` (Parquet), ``summary.json``; ``expressions/`` is a work folder of its own inside.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import pyarrow as pa

from egoray.core.storage import Folder
from egoray.errors import ConfigError
from egoray.schema import Expression, FailureRow, Masklet, MaskRLE, ObjectTrack, Trajectory, VideoInfo, to_row

_BOX = pa.list_(pa.float32(), 4)
MASKLETS = pa.schema(
    [
        ("video_id", pa.string()),
        ("object_id", pa.string()),
        ("frame", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("counts", pa.string()),
        ("score", pa.float32()),
        ("box_xyxy", _BOX),
    ]
)
VIDEOS = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("num_frames", pa.int32()),
        ("fps", pa.float64()),
        ("height_px", pa.int32()),
        ("width_px", pa.int32()),
        ("source", pa.string()),
        ("stride", pa.int32()),
    ]
)
_FRAME_BOX = pa.struct([("frame", pa.int32()), ("box_xyxy", pa.list_(pa.float64(), 4))])
_TRAJECTORY = pa.struct(
    [("start", pa.int32()), ("stop", pa.int32()), ("prompt_frame", pa.int32()), ("prompt_box", pa.list_(pa.float64(), 4))]
)
OBJECTS = pa.schema(
    [
        ("video_id", pa.string()),
        ("object_id", pa.string()),
        ("title", pa.string()),
        ("height_px", pa.int32()),
        ("width_px", pa.int32()),
        ("boxes", pa.list_(_FRAME_BOX)),
        ("trajectories", pa.list_(_TRAJECTORY)),
    ]
)
EXPRESSIONS = pa.schema([(field.name, pa.string()) for field in fields(Expression)])
FAILURES = pa.schema(
    [
        ("stage", pa.string()),
        ("unit", pa.string()),
        ("error", pa.string()),
        ("message", pa.string()),
        ("attempt", pa.int32()),
        ("retryable", pa.bool_()),
    ]
)


def fingerprint(value: Any) -> str:
    """32 hex digits that change when the JSON-able ``value`` does."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def write_videos(out: Folder, videos: Sequence[VideoInfo]) -> None:
    """Replace ``videos/`` by one table of the given videos, ordered by id."""
    (out / "videos").write_rows("videos.parquet", [to_row(v) for v in sorted(videos, key=lambda v: v.video_id)], VIDEOS)


def read_videos(out: Folder) -> dict[str, VideoInfo]:
    """The videos of an annotation folder by id.

    Raises:
        ConfigError: if the folder holds none (not an annotation folder).
    """
    videos = {row["video_id"]: VideoInfo(**row) for row in (out / "videos").read_rows()}
    if not videos:
        raise ConfigError(f"{out.uri}: holds no videos/*.parquet; give the --out folder of `egoray annotate`")
    return videos


def write_objects(out: Folder, objects: Sequence[tuple[ObjectTrack, Sequence[Trajectory]]]) -> None:
    """Replace ``objects/`` by one table: each object with its boxes and its trajectories, ordered by id."""
    rows = [
        {
            "video_id": track.video_id,
            "object_id": track.object_id,
            "title": track.title,
            "height_px": track.size_hw[0],
            "width_px": track.size_hw[1],
            "boxes": [{"frame": frame, "box_xyxy": list(box)} for frame, box in sorted(track.boxes.items())],
            "trajectories": [
                {"start": t.start, "stop": t.stop, "prompt_frame": t.prompt_frame, "prompt_box": list(t.prompt_box)} for t in trajectories
            ],
        }
        for track, trajectories in sorted(objects, key=lambda o: (o[0].video_id, int(o[0].object_id)))
    ]
    (out / "objects").write_rows("objects.parquet", rows, OBJECTS)


def read_objects(out: Folder) -> list[tuple[ObjectTrack, list[Trajectory]]]:
    """Every valid object of an annotation folder, with or without masks, ordered by video and object id."""
    objects = []
    for row in (out / "objects").read_rows():
        ids = {"video_id": row["video_id"], "object_id": row["object_id"]}
        track = ObjectTrack(
            **ids,
            title=row["title"],
            boxes={b["frame"]: tuple(b["box_xyxy"]) for b in row["boxes"]},
            size_hw=(row["height_px"], row["width_px"]),
        )
        objects.append((track, [Trajectory(**ids, **{**t, "prompt_box": tuple(t["prompt_box"])}) for t in row["trajectories"]]))
    return objects


def masklet_rows(masklet: Masklet, boxes: Mapping[int, Sequence[float]]) -> list[dict[str, Any]]:
    """One row a frame of the masklet, ascending; ``boxes[frame]`` is the box that the mask was clipped to."""
    return [
        {
            "video_id": masklet.video_id,
            "object_id": masklet.object_id,
            "frame": frame,
            "height": rle.size[0],
            "width": rle.size[1],
            "counts": rle.counts,
            "score": masklet.scores[frame],
            "box_xyxy": list(boxes[frame]),
        }
        for frame, rle in sorted(masklet.masks.items())
    ]


def read_masklets(out: Folder) -> dict[tuple[str, str], Masklet]:
    """All masklets of an annotation folder by (video_id, object_id); an object without any mask has no entry."""
    masks: dict[tuple[str, str], dict[int, MaskRLE]] = {}
    scores: dict[tuple[str, str], dict[int, float]] = {}
    for row in (out / "masklets").read_rows():
        key = (row["video_id"], row["object_id"])
        masks.setdefault(key, {})[row["frame"]] = MaskRLE(size=(row["height"], row["width"]), counts=row["counts"])
        scores.setdefault(key, {})[row["frame"]] = row["score"]
    return {key: Masklet(video_id=key[0], object_id=key[1], masks=masks[key], scores=scores[key]) for key in sorted(masks)}


def write_failure(out: Folder, name: str, failure: FailureRow) -> None:
    """Record one lost unit as ``failures/<name>.parquet``."""
    (out / "failures").write_rows(f"{name}.parquet", [to_row(failure)], FAILURES)


def read_failures(out: Folder) -> Iterator[FailureRow]:
    """The units lost so far, in the order of their file names."""
    for row in (out / "failures").read_rows():
        yield FailureRow(**row)


def write_expressions(out: Folder, name: str, expressions: Sequence[Expression]) -> None:
    """The sentences of one object as ``<name>.parquet``."""
    out.write_rows(f"{name}.parquet", [to_row(e) for e in expressions], EXPRESSIONS)


def read_expressions(out: Folder) -> dict[tuple[str, str], list[Expression]] | None:
    """The sentences in ``out/expressions`` by (video_id, object_id), in the order of their ids; None where none were made."""
    folder = out / "expressions"
    if not folder.names(".parquet"):
        return None
    found: dict[tuple[str, str], list[Expression]] = {}
    for row in folder.read_rows():
        found.setdefault((row["video_id"], row["object_id"]), []).append(Expression(**row))
    return {key: sorted(found[key], key=lambda e: e.expression_id) for key in sorted(found)}


def finished(folder: Folder) -> set[str]:
    """The ids of the units that have a Parquet file in the folder."""
    return {name.removesuffix(".parquet") for name in folder.names(".parquet")}


def start_attempt(out: Folder, unit: str, run_id: str) -> int:
    """Note on disk that the unit is being started, before it can do harm; which start of this run it is, from 1."""
    starts, name = out / "attempts", f"{unit}.{run_id}"
    attempt = int(starts.read_bytes(name)) + 1 if starts.exists(name) else 1
    starts.write_bytes(name, str(attempt).encode())
    return attempt


def finish_attempt(out: Folder, unit: str, run_id: str) -> None:
    """The unit has left as a result or a failure: forget its starts."""
    (out / "attempts").delete(f"{unit}.{run_id}")


def drop_stale(out: Folder, results: Folder, current: set[str], planned: Sequence[FailureRow], retry_failed: bool) -> None:
    """Before a run: remove results of units that a changed config or input has replaced, torn writes, and failures to be tried again.

    Args:
        out: the work folder.
        results: where each finished unit has its file.
        current: ids of the units there are now.
        planned: units lost before any started; their rows are written anew.
        retry_failed: forget the units that earlier runs gave up.
    """
    for folder in (results, *(out / part for part in ("failures", "attempts", "videos", "objects"))):
        folder.sweep()
    for stale in finished(results) - current:
        results.delete(f"{stale}.parquet")
    done = finished(results)
    for unit in finished(out / "failures"):
        if unit not in current or unit in done or retry_failed:
            (out / "failures").delete(f"{unit}.parquet")
    for start in (out / "attempts").names():
        (out / "attempts").delete(start)
    for failure in planned:
        write_failure(out, "plan-" + fingerprint([failure.unit, failure.error])[:16], failure)
