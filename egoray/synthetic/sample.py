"""Synthetic clips as an EgoTracks release, with their exact truth as an EgoMask data set beside it: where a pipeline can begin.

Layout: ``clips/<clip_uid>.mp4``, ``egotracks.json``, and ``truth/`` with masks and images on every fifth annotation frame (the
release is at 1 fps). Images hold the frames given to the encoder, so a decoded clip differs from them by its coding loss.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import cv2
import numpy as np

from egoray.core import masks
from egoray.core.storage import Folder
from egoray.core.video_writer import VideoWriter
from egoray.errors import ConfigError
from egoray.formats.egomask import BenchmarkObject, BenchmarkVideo, frame_name, write_benchmark, write_train
from egoray.formats.egotracks import write_tracks
from egoray.schema import Box, Expression, MaskRLE, ObjectTrack, Tier, VideoInfo
from egoray.synthetic.expressions import describe
from egoray.synthetic.world import World, WorldConfig, tight_box

TRUTH_EVERY = 5
"""Annotation frames (5 fps) to one frame of the truth (1 fps)."""

_JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clip:
    """One clip to render: the ``index``-th of ``seed``, into the folder ``out``."""

    out: str
    seed: int
    index: int
    config: WorldConfig
    tier: Tier

    @property
    def uid(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"egoray synthetic clip {self.seed} {self.index}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rendered:
    """What is known of a rendered clip."""

    video: VideoInfo
    tracks: tuple[ObjectTrack, ...]
    truth: BenchmarkVideo


def write_sample(
    out: str | os.PathLike[str],
    *,
    videos: int,
    seed: int,
    seconds: float = 60.0,
    size_hw: tuple[int, int] = (360, 640),
    fps: int = 30,
    tier: Tier = "medium",
    others: Sequence[tuple[WorldConfig, Tier]] = (),
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Render clips into ``out``; the same arguments give the same annotations and the same decoded frames.

    An object is in the truth exactly where it has a box, and every pixel of its mask is inside the box. An object that no
    frame of the truth shows is left out of both files. ``egotracks.json`` is written last.

    Args:
        out: a local folder; files of the same names are replaced.
        videos: number of clips, at least 1.
        seed: chooses the worlds.
        seconds: length of each clip.
        size_hw: (height, width) of a frame, even numbers.
        fps: native frames a second, a multiple of the annotations' 5; fewer are rendered faster.
        tier: split of the benchmark to file the clips under: short, medium or long; or train, and ``truth/`` is a training set.
        others: further clips of another length, size or rate, each with its split, after the first ``videos``.
        workers: processes that render, a clip each at a time; one for every core by default.
        progress: called with the number of clips done, after each.

    Returns:
        Counts (videos, frames, objects, boxes, expressions), the wall time ``seconds`` and ``frames_per_s``.

    Raises:
        ConfigError: if the folder cannot be written, a size is odd, or ``fps`` is no multiple of 5.
        ValueError: if ``videos`` is below 1.
    """
    if videos < 1:
        raise ValueError(f"videos is {videos}, must be at least 1")
    if size_hw[0] % 2 or size_hw[1] % 2:
        raise ConfigError(f"a frame of {size_hw[1]}x{size_hw[0]} cannot be coded; give an even width and height")
    if fps <= 0 or fps % 5:
        raise ConfigError(f"{fps} frames a second cannot be annotated at 5; give a multiple of 5")
    start = time.perf_counter()
    out = os.fspath(out)
    config = WorldConfig(seconds=seconds, size_hw=size_hw, fps=fps, stride=fps // 5)
    asked = [*((config, tier) for _ in range(videos)), *others]
    clips = [_Clip(out=out, seed=seed, index=index, config=of, tier=filed) for index, (of, filed) in enumerate(asked)]
    rendered: dict[int, _Rendered] = {}
    for index, clip in _render_all(clips, min(workers or os.cpu_count() or 1, len(clips))):
        rendered[index] = clip
        if progress:
            progress(len(rendered))
    ordered = [rendered[clip.index] for clip in clips]
    tracks = [track for clip in ordered for track in clip.tracks]
    (write_train if tier == "train" else write_benchmark)(os.path.join(out, "truth"), [clip.truth for clip in ordered])
    write_tracks(os.path.join(out, "egotracks.json"), [clip.video for clip in ordered], tracks, seed=seed)
    wall_s = time.perf_counter() - start
    frames = sum(clip.config.num_frames for clip in clips)
    return {
        "videos": len(clips),
        "frames": frames,
        "objects": len(tracks),
        "boxes": sum(len(track.boxes) for track in tracks),
        "expressions": sum(len(clip.truth.expressions) for clip in ordered),
        "seconds": round(wall_s, 3),
        "frames_per_s": round(frames / wall_s, 1),
    }


def _render_all(clips: list[_Clip], workers: int) -> Iterator[tuple[int, _Rendered]]:
    """Each clip's index and record, as they are done."""
    if workers == 1:
        yield from ((clip.index, _render(clip)) for clip in clips)
        return
    # Spawned, not forked: the caller may hold threads (Ray, a progress bar), and a fork would copy their locks.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        futures = {pool.submit(_render, clip): clip.index for clip in clips}
        yield from ((futures[done], done.result()) for done in as_completed(futures))


def _render(clip: _Clip) -> _Rendered:
    """Write the clip's video and images, and return its annotations."""
    config, world = clip.config, World(clip.config, (clip.seed % 2**64, clip.index))
    path = os.path.join(clip.out, "clips", f"{clip.uid}.mp4")
    images_dir = ("train", "JPEGImages") if clip.tier == "train" else ("JPEGImages", "egotracks")
    images = Folder(os.path.join(clip.out, "truth", *images_dir, clip.uid))
    for stale in (images.uri, os.path.join(clip.out, "truth", "annotations", clip.uid)):
        shutil.rmtree(stale, ignore_errors=True)
    boxes: dict[str, dict[int, Box]] = {o.object_id: {} for o in world.objects}
    truth: dict[str, dict[str, MaskRLE]] = {o.object_id: {} for o in world.objects}
    names = []
    with VideoWriter(path, config.fps, config.size_hw) as writer:
        for index in range(world.num_frames):
            rgb = world.frame(index)
            writer.write(rgb)
            frame, between = divmod(index, config.stride)
            if between:
                continue
            visible = world.masks(index)
            for object_id, mask in visible.items():
                boxes[object_id][frame] = tight_box(mask)
            if frame % TRUTH_EVERY == 0:
                names.append(frame_name(frame))
                images.write_bytes(f"{names[-1]}.jpg", _jpeg(rgb))
                for object_id, mask in visible.items():
                    truth[object_id][names[-1]] = masks.encode(mask)
    return _annotations(clip, world, boxes, truth, tuple(names), path)


def _annotations(
    clip: _Clip,
    world: World,
    boxes: dict[str, dict[int, Box]],
    truth: dict[str, dict[str, MaskRLE]],
    names: tuple[str, ...],
    path: str,
) -> _Rendered:
    """The records of the objects that the truth shows, numbered anew from "1"."""
    config = clip.config
    rng = np.random.Generator(np.random.PCG64([clip.seed % 2**64, clip.index, 1]))
    tracks: list[ObjectTrack] = []
    objects: list[BenchmarkObject] = []
    expressions: list[Expression] = []
    for shown in (o for o in world.objects if truth[o.object_id]):
        object_id, thing = str(len(objects) + 1), shown.attributes
        tracks.append(
            ObjectTrack(video_id=clip.uid, object_id=object_id, title=thing.title, boxes=boxes[shown.object_id], size_hw=config.size_hw)
        )
        objects.append(BenchmarkObject(object_id=object_id, category=thing.title, masks=truth[shown.object_id]))
        others = [*(o.attributes for o in world.objects if o is not shown), *world.others]
        for kind, text in zip(("attributes", "function"), describe(thing, others, rng), strict=True):
            name = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{clip.uid} {object_id} {kind}"))
            expressions.append(
                Expression(expression_id=name, video_id=clip.uid, object_id=object_id, text=text, kind=kind, source="synthetic")
            )
    video = VideoInfo(
        video_id=clip.uid,
        uri=path,
        num_frames=config.num_frames,
        fps=float(config.fps),
        height_px=config.size_hw[0],
        width_px=config.size_hw[1],
        source="synthetic",
        stride=config.stride,
    )
    truth_video = BenchmarkVideo(
        video_id=clip.uid, tier=clip.tier, frame_names=names, objects=tuple(objects), expressions=tuple(expressions)
    )
    return _Rendered(video=video, tracks=tuple(tracks), truth=truth_video)


def _jpeg(rgb: np.ndarray) -> bytes:
    _, coded = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return coded.tobytes()
