"""What the pipeline costs on top of its tracker, and what a second actor gains. Prints one JSON line.

    python benchmarks/pipeline.py [--seconds 60] [--only efficiency|scaling|skew|bytes]

- efficiency: frames/s of `annotate` with one actor over frames/s of a bare loop (same tracker, same frames, decode inline,
  as many threads), both warm: the first unit of either is not counted.
- scaling: two actors against one with a tracker that sleeps 20 ms a frame, so that the number of cores is no limit.
- skew: one clip 20 times longer than the rest: makespan over the ideal, all work halved between two actors.
- bytes: what crosses between Ray tasks a masklet, over the masklet's size as dense masks.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from dataclasses import replace

import cv2
import numpy as np
import torch

from egoray.annotate.box_tracker import track_shard
from egoray.annotate.plan import Plan, make_plan, pack, plan_from_files, shard_frames, unpack
from egoray.annotate.ray_annotate import annotate
from egoray.config import AnnotateConfig
from egoray.core import video
from egoray.core.patch import Patch
from egoray.core.storage import Folder
from egoray.core.video_writer import VideoWriter
from egoray.core.workfolder import read_masklets
from egoray.formats.egotracks import TracksFile
from egoray.models.base import TrackedMask
from egoray.models.sam2_weights import write_random_checkpoint
from egoray.registry import build_tracker
from egoray.schema import ObjectTrack
from egoray.synthetic.sample import write_sample

CORES = os.cpu_count() or 1


class Sleeper:
    """A tracker that costs time and no processor: 20 ms a frame, each box its own mask."""

    name = "sleeper"

    def track(self, frames, requests, backward=None):
        for frame, image in frames:
            time.sleep(0.02)
            active = [r for r in requests if r.start <= frame < r.stop]
            yield frame, {r.key: TrackedMask(patch=Patch.of(np.ones(image.shape[:2], bool)), score=1.0) for r in active}


def build_sleeper(model: str, device: str) -> Sleeper:
    return Sleeper()


def bare_loop(plan: Plan, model: str, seconds: float, queue: multiprocessing.Queue) -> None:
    """Frames/s of decode and track in one process, shard after shard, the first one not counted."""
    cv2.setNumThreads(CORES)
    torch.set_num_threads(CORES)
    tracker = build_tracker(model)
    stride = {v.video_id: v.stride for v in plan.videos}
    counted, started = 0, 0.0
    for number, shard in enumerate(plan.shards):
        if number == 1:
            started = time.monotonic()
        wanted = shard_frames(shard)
        frames = video.read_frames(shard.uri, [f * stride[shard.video_id] for f in wanted], threads=CORES)
        track_shard(tracker, ((i // stride[shard.video_id], image) for i, image in frames), shard, plan.boxes[shard.shard_id])
        counted += len(wanted) if number else 0
        if number and time.monotonic() - started > seconds:
            break
    queue.put((counted, time.monotonic() - started))


def bare_rate(plan: Plan, model: str, seconds: float) -> tuple[float, int]:
    queue = multiprocessing.get_context("spawn").Queue()
    process = multiprocessing.get_context("spawn").Process(target=bare_loop, args=(plan, model, seconds, queue))
    process.start()
    counted, elapsed = queue.get()
    process.join()
    return counted / elapsed, counted


def annotate_times(plan: Plan, config: AnnotateConfig, build=build_tracker) -> tuple[list[float], list[dict]]:
    """Times at which the driver heard of each finished unit, and the units' status rows."""
    times, units = [], []

    def note(state: dict) -> None:
        if state["unit"]:
            times.append(time.monotonic())
            units.append(state["unit"])

    with tempfile.TemporaryDirectory() as out:
        annotate(plan, out, config, build=build, progress=note)
    return times, units


def warm_rate(plan: Plan, config: AnnotateConfig, build=build_tracker) -> tuple[float, float]:
    """Frames/s and seconds from the end of the first unit of each actor to the end of the last unit."""
    times, units = annotate_times(plan, config, build)
    skip = config.workers or 1
    seconds = times[-1] - times[skip - 1]
    return sum(u["frames"] for u in units[skip:]) / seconds, seconds


def efficiency(folder: str, clips: str, seconds: float) -> dict:
    result = {}
    for name, model in (("grabcut", "grabcut"), ("sam2_narrow", "sam2:" + write_random_checkpoint(f"{folder}/narrow.pt"))):
        config = AnnotateConfig(model=model, workers=1, cpus_per_worker=CORES, max_shard_frames=150)
        plan = plan_from_files(f"{clips}/egotracks.json", f"{clips}/clips", config)
        bare, counted = bare_rate(plan, model, seconds)
        shards, frames = [], 0
        for shard in plan.shards:  # the same shards in the same order as the bare loop managed
            shards.append(shard)
            frames += len(shard_frames(shard))
            if len(shards) > 1 and frames - len(shard_frames(shards[0])) >= counted:
                break
        ours, elapsed = warm_rate(replace(plan, shards=tuple(shards)), config)
        result[name] = {
            "annotate_frames_per_s": round(ours, 2),
            "bare_loop_frames_per_s": round(bare, 2),
            "ratio": round(ours / bare, 3),
            "frames": counted,
            "annotate_seconds": round(elapsed, 1),
        }
    return result


def still_clip(folder: str, name: str, num_frames: int) -> ObjectTrack:
    """A small clip of ``num_frames`` annotation frames at one native frame each, and a track over all of it."""
    with VideoWriter(f"{folder}/{name}.mp4", 5, (72, 128)) as writer:
        for i in range(num_frames):
            writer.write(np.full((72, 128, 3), i % 250, np.uint8))
    boxes = dict.fromkeys(range(num_frames), (20.0, 20.0, 60.0, 60.0))
    return ObjectTrack(video_id=name, object_id="1", title="square", boxes=boxes, size_hw=(72, 128))


def pieces(track: ObjectTrack, frames: int) -> ObjectTrack:
    """The track with a gap after each ``frames`` boxes, so that it falls into trajectories of that length."""
    return replace(track, boxes={f: b for f, b in track.boxes.items() if f % (frames + 5) < frames})


def sleep_plan(folder: str, lengths: list[int], config: AnnotateConfig) -> Plan:
    tracks = [pieces(still_clip(folder, f"clip{i:02d}", n), 50) for i, n in enumerate(lengths)]
    ids = tuple(t.video_id for t in tracks)
    fps = dict.fromkeys(ids, 5.0)
    return make_plan(TracksFile(tracks=tuple(tracks), clip_ids=ids, clip_fps=fps, repairs={}, failures=()), folder, config)


def scaling(folder: str) -> dict:
    one, two = (AnnotateConfig(workers=n, cpus_per_worker=0.5, max_shard_frames=50) for n in (1, 2))
    plan = sleep_plan(folder, [550] * 4, one)
    single, _ = warm_rate(plan, one, build_sleeper)
    double, _ = warm_rate(plan, two, build_sleeper)
    return {"one_actor_frames_per_s": round(single, 2), "two_actors_frames_per_s": round(double, 2), "ratio": round(double / single, 3)}


def skew(folder: str) -> dict:
    config = AnnotateConfig(workers=2, cpus_per_worker=0.5, max_shard_frames=50)
    plan = sleep_plan(folder, [2200] + [110] * 6, config)
    times, units = annotate_times(plan, config, build_sleeper)
    makespan = times[-1] - (times[0] - units[0]["seconds"])
    ideal = sum(u["seconds"] for u in units) / 2
    return {"makespan_s": round(makespan, 2), "ideal_s": round(ideal, 2), "ratio": round(makespan / ideal, 3), "units": len(units)}


def crossing_bytes(clips: str) -> dict:
    config = AnnotateConfig(max_shard_frames=150)
    plan = plan_from_files(f"{clips}/egotracks.json", f"{clips}/clips", config)
    stride = {v.video_id: v.stride for v in plan.videos}
    packed = [pack(s, plan.boxes[s.shard_id], stride[s.video_id]) for s in plan.shards]
    assert unpack(packed[0])[0] == plan.shards[0]
    with tempfile.TemporaryDirectory() as out:
        statuses: list[dict] = []
        annotate(plan, out, config, progress=lambda state: statuses.append(state["unit"]) if state["unit"] else None)
        masklets = read_masklets(Folder(out))
    crossed = sum(map(len, packed)) + sum(len(json.dumps(s)) for s in statuses)
    dense = sum(h * w for m in masklets.values() for h, w in (rle.size for rle in m.masks.values()))
    return {
        "bytes_a_masklet": crossed // len(masklets),
        "dense_bytes_a_masklet": dense // len(masklets),
        "ratio": round(crossed / dense, 6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each timed stretch of the bare loop")
    parser.add_argument("--only", choices=("efficiency", "scaling", "skew", "bytes"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = f"{folder}/sample"
        if args.only in (None, "efficiency", "bytes"):
            write_sample(clips, videos=4 if args.only == "bytes" else 20, seed=77)
        runs = {
            "efficiency": lambda: efficiency(folder, clips, args.seconds),
            "scaling": lambda: scaling(folder),
            "skew": lambda: skew(folder),
            "bytes": lambda: crossing_bytes(clips),
        }
        print(json.dumps({"cores": CORES} | {name: run() for name, run in runs.items() if args.only in (None, name)}))


if __name__ == "__main__":
    main()
