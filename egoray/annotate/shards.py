"""Trajectories into shards: the units of scheduling and of retry, each a stretch of one video to decode once."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence

from egoray.schema import Shard, Trajectory, VideoInfo

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "egoray shard")


def plan_shards(video: VideoInfo, trajectories: Sequence[Trajectory], *, max_frames: int, salt: str) -> list[Shard]:
    """Every trajectory in exactly one shard, in the order of (start, object_id); [] without trajectories.

    A trajectory joins the current shard while the frames from the shard's first to its last stay within ``max_frames``, or
    within what the shard spans anyway; otherwise it begins the next. Trajectories are never cut, so a shard is longer than
    ``max_frames`` only where its first trajectory is.

    Args:
        video: the video of all trajectories.
        trajectories: in any order.
        max_frames: annotation frames that a shard may span.
        salt: whatever else decides the result (settings, the file's digest). It enters ``shard_id``, which is the same for
            the same work and differs for any other.

    Raises:
        ValueError: if ``max_frames`` is below 1, or a trajectory is of another video or starts past its end.
    """
    if max_frames < 1:
        raise ValueError(f"max_frames is {max_frames}; a shard spans at least one frame")
    for t in trajectories:
        if t.video_id != video.video_id or t.start >= video.num_annotation_frames:
            raise ValueError(
                f"{t.video_id}/{t.object_id}: starts at frame {t.start}, not in {video.video_id} of {video.num_annotation_frames} frames"
            )
    groups: list[list[Trajectory]] = []
    start = stop = 0
    for t in sorted(trajectories, key=lambda t: (t.start, int(t.object_id))):
        if groups and max(stop, t.stop) - start <= max(max_frames, stop - start):
            groups[-1].append(t)
            stop = max(stop, t.stop)
        else:
            groups.append([t])
            start, stop = t.start, t.stop
    return [_shard(video, tuple(group), salt) for group in groups]


def _shard(video: VideoInfo, trajectories: tuple[Trajectory, ...], salt: str) -> Shard:
    start, stop = trajectories[0].start, max(t.stop for t in trajectories)
    work = [[t.object_id, t.start, t.stop, t.prompt_frame, t.prompt_box] for t in trajectories]
    shard_id = str(uuid.uuid5(_NAMESPACE, json.dumps([salt, video.video_id, start, stop, work])))
    return Shard(shard_id=shard_id, video_id=video.video_id, uri=video.uri, start=start, stop=stop, trajectories=trajectories)
