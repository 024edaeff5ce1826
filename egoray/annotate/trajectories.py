"""Tracks into trajectories: the unbroken appearances of an object, each of which is tracked from its own first box."""

from __future__ import annotations

from egoray.core.boxes import interpolate_boxes
from egoray.schema import Box, ObjectTrack, Trajectory


def split_trajectories(track: ObjectTrack, relax: int = 2) -> list[Trajectory]:
    """The maximal runs of the track's boxes, ascending; [] for a track without boxes.

    Args:
        track: an object; its boxes may stand in any order.
        relax: a step of at most so many annotation frames from one box to the next continues a run. The released value,
            2, bridges one missing box (0.4 s at 5 fps).

    Returns:
        Trajectories that hold every box exactly once, each prompted by its first; a lone box is a trajectory of one frame.

    Raises:
        ValueError: if ``relax`` is below 1.

    Source: the rule by which EgoMask's preparation rebuilds ``attributes_occurrence``, with its last run mended: there a
    lone last box is lost and the run before it stands twice, and a track of one box stops the program.
    """
    if relax < 1:
        raise ValueError(f"relax is {relax}; boxes of neighbouring frames are 1 apart")
    runs: list[list[int]] = []
    for frame in sorted(track.boxes):
        if runs and frame - runs[-1][-1] <= relax:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    ids = {"video_id": track.video_id, "object_id": track.object_id}
    return [Trajectory(**ids, start=run[0], stop=run[-1] + 1, prompt_frame=run[0], prompt_box=track.boxes[run[0]]) for run in runs]


def trajectory_boxes(track: ObjectTrack, trajectory: Trajectory) -> dict[int, Box]:
    """A box for every frame of the trajectory, ascending: the given ones, and linear mixtures in the bridged gaps.

    Raises:
        ValueError: if the track has no box at the trajectory's first or last frame (it is another object's).
    """
    span = range(trajectory.start, trajectory.stop)
    return interpolate_boxes({frame: track.boxes[frame] for frame in span if frame in track.boxes}, trajectory.start, trajectory.stop)
