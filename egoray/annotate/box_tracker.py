"""One shard through a tracker: prompt at the boxes, follow, clip to the boxes, keep run lengths.

Source: the paper's annotation step (SAM 2 prompted by the box of a trajectory's first frame, masks cut to the given
boxes). We also clip the frame that the gap rule bridges, to the box interpolated between its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from egoray.core.boxes import clip_box
from egoray.core.workfolder import masklet_rows
from egoray.models.base import Frames, Prompt, TrackRequest, VideoTracker
from egoray.schema import Box, Masklet, MaskRLE, Shard, Trajectory

TrajectoryBoxes = Mapping[tuple[str, int], Mapping[int, Box]]
"""A box for every frame of each trajectory, by (object_id, start)."""


def requests_for(shard: Shard, boxes: TrajectoryBoxes, prompt_every: int) -> list[TrackRequest]:
    """What the tracker is asked for: one request a trajectory, prompted at its first box and, if > 0, every k-th after."""
    requests = []
    for t in shard.trajectories:
        guides = boxes[t.object_id, t.start]
        told = {t.prompt_frame: t.prompt_box}
        if prompt_every:
            told |= {f: guides[f] for f in range(t.start, t.stop, prompt_every)}
        prompts = {frame: Prompt(box=box) for frame, box in told.items()}
        requests.append(TrackRequest(key=_key(t), start=t.start, stop=t.stop, prompts=prompts, boxes=guides))
    return requests


def track_shard(tracker: VideoTracker, frames: Frames, shard: Shard, boxes: TrajectoryBoxes, prompt_every: int = 0) -> list[dict[str, Any]]:
    """Rows of the masklets table for the shard, by object and frame; a frame whose clipped mask is empty has no row.

    Args:
        tracker: follows the objects.
        frames: (annotation frame, ``(H, W, 3)`` uint8 RGB), ascending, every frame of the shard's trajectories.
        shard: what to track.
        boxes: see `TrajectoryBoxes`, in pixels of the frames.
        prompt_every: 0, or the stride in frames of further box prompts.
    """
    requests = requests_for(shard, boxes, prompt_every)
    owner = {r.key: t for r, t in zip(requests, shard.trajectories, strict=True)}
    found: dict[str, dict[int, MaskRLE]] = {t.object_id: {} for t in shard.trajectories}
    scores: dict[str, dict[int, float]] = {t.object_id: {} for t in shard.trajectories}
    clipped_to: dict[str, dict[int, Box]] = {t.object_id: {} for t in shard.trajectories}
    for frame, tracked in tracker.track(frames, requests):
        for key, result in tracked.items():
            trajectory = owner[key]
            box = clip_box(boxes[trajectory.object_id, trajectory.start][frame], result.patch.size_hw)
            if box is None:
                continue
            patch = result.patch.inside(box)
            if patch.any():
                found[trajectory.object_id][frame] = patch.encode()
                scores[trajectory.object_id][frame] = round(result.score, 4)
                clipped_to[trajectory.object_id][frame] = box
    rows = []
    for object_id in sorted(found, key=int):
        masklet = Masklet(video_id=shard.video_id, object_id=object_id, masks=found[object_id], scores=scores[object_id])
        rows += masklet_rows(masklet, clipped_to[object_id])
    return rows


def _key(trajectory: Trajectory) -> str:
    return f"{trajectory.object_id}@{trajectory.start}"
