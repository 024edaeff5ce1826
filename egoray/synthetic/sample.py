"""Writes synthetic clips as a release: mp4 files, their boxes as EgoTracks has them, and their exact masks as EgoMask has them."""

from __future__ import annotations

import multiprocessing
import os
import uuid
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2

from egoray.core import masks
from egoray.core.storage import Folder
from egoray.core.video import VideoWriter
from egoray.formats.egomask import BenchmarkObject, BenchmarkVideo, frame_name, write_benchmark
from egoray.formats.egotracks import write_tracks
from egoray.schema import Box, Expression, MaskRLE, ObjectTrack, VideoInfo
from egoray.synthetic.expressions import two_expressions
from egoray.synthetic.knobs import WorldConfig
from egoray.synthetic.world import World

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "egoray sample")
TRUTH_EVERY = 5
"""Annotation frames to a frame of the truth: 5 fps boxes, 1 fps masks, as released."""
JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clip:
    info: VideoInfo
    tracks: tuple[ObjectTrack, ...]
    video: BenchmarkVideo


def write_sample(
    out: str,
    *,
    videos: int,
    seed: int,
    seconds: float = 60.0,
    size_hw: tuple[int, int] = (360, 640),
    tier: str = "medium",
    config: WorldConfig | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Render ``videos`` clips into ``out``: clips/<clip_uid>.mp4, egotracks.json, truth/ (a whole dataset in EgoMask's layout).

    The same arguments give the same annotations byte for byte and the same decoded frames. The truth's pictures are the frames
    as given to the encoder.

    Args:
        out: a local folder.
        videos: number of clips.
        seed: which clips.
        seconds: length of each.
        size_hw: (height, width) of a frame.
        tier: the split that the truth is filed under.
        config: other knobs; its seconds and size_hw are replaced by the two above.
        workers: processes; default: one a core.
        progress: called with the number of clips done.

    Returns:
        {"clips": clip uids in order, "objects": how many, "frames": native frames}.
    """
    knobs = {f: getattr(config, f) for f in WorldConfig.__dataclass_fields__} if config else {}
    config = WorldConfig(**(knobs | {"seconds": seconds, "size_hw": size_hw}))
    jobs = [(out, config, seed, number, tier) for number in range(videos)]
    clips = []
    with ProcessPoolExecutor(min(workers or os.cpu_count() or 1, videos), mp_context=multiprocessing.get_context("spawn")) as pool:
        for clip in pool.map(_render, jobs):
            clips.append(clip)
            progress(len(clips))
    write_tracks(os.path.join(out, "egotracks.json"), [c.info for c in clips], [t for c in clips for t in c.tracks], seed=seed)
    write_benchmark(os.path.join(out, "truth"), [c.video for c in clips])
    return {
        "clips": [c.info.video_id for c in clips],
        "objects": sum(len(c.tracks) for c in clips),
        "frames": sum(c.info.num_frames for c in clips),
    }


def _render(job: tuple[str, WorldConfig, int, int, str]) -> _Clip:
    """Render one clip: its video and pictures to disk, its boxes and masks as the result."""
    out, config, seed, number, tier = job
    cv2.setNumThreads(1)
    uid = str(uuid.uuid5(_NAMESPACE, f"{seed}/{number}"))
    world = World(config, seed * 1_000_003 + number)
    pictures = Folder(os.path.join(out, "truth", "JPEGImages", "egotracks", uid))
    path = os.path.join(out, "clips", f"{uid}.mp4")
    boxes: dict[str, dict[int, Box]] = {thing.object_id: {} for thing in world.objects}
    truth: dict[str, dict[str, MaskRLE]] = {thing.object_id: {} for thing in world.objects}
    names = []
    with VideoWriter(path, config.fps, config.size_hw) as writer:
        for index in range(config.num_frames):
            image = world.frame(index)
            writer.write(image)
            frame, between = divmod(index, config.stride)
            if between:
                continue
            kept = frame % TRUTH_EVERY == 0
            for object_id, mask in world.masks(index).items():
                rle = masks.encode(mask)
                boxes[object_id][frame] = masks.bounding_box(rle)
                if kept:
                    truth[object_id][frame_name(frame)] = rle
            if kept:
                names.append(frame_name(frame))
                jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
                pictures.write_bytes(f"{frame_name(frame)}.jpg", jpeg.tobytes())
    height, width = config.size_hw
    info = VideoInfo(
        video_id=uid,
        uri=path,
        num_frames=config.num_frames,
        fps=float(config.fps),
        height_px=height,
        width_px=width,
        source="synthetic",
        stride=config.stride,
    )
    seen = [thing for thing in world.objects if boxes[thing.object_id]]
    tracks = tuple(
        ObjectTrack(video_id=uid, object_id=t.object_id, title=t.attributes.title, boxes=boxes[t.object_id], size_hw=config.size_hw)
        for t in seen
    )
    objects = tuple(
        BenchmarkObject(object_id=t.object_id, category=t.attributes.title, masks=truth[t.object_id]) for t in seen if truth[t.object_id]
    )
    expressions = tuple(e for t in objects for e in _expressions(world, uid, t.object_id))
    video = BenchmarkVideo(video_id=uid, tier=tier, frame_names=tuple(names), objects=objects, expressions=expressions)
    return _Clip(info=info, tracks=tracks, video=video)


def _expressions(world: World, uid: str, object_id: str) -> list[Expression]:
    everything = [thing.attributes for thing in world.entities]
    number = next(k for k, thing in enumerate(world.entities) if thing.object_id == object_id)
    kinds = zip(("short", "long"), two_expressions(everything, number), strict=True)
    return [
        Expression(
            expression_id=str(uuid.uuid5(_NAMESPACE, f"{uid}/{object_id}/{kind}")),
            video_id=uid,
            object_id=object_id,
            text=text,
            kind=kind,
            source="synthetic",
        )
        for kind, text in kinds
    ]
