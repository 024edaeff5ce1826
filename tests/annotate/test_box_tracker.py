"""Clipping, prompting and the rows of a shard, with a tracker that paints everything."""

import numpy as np

from egoray.annotate.box_tracker import requests_for, track_shard
from egoray.core import masks
from egoray.core.patch import Patch
from egoray.models.base import TrackedMask
from egoray.schema import MaskRLE, Shard, Trajectory


def trajectory(object_id, start, stop):
    return Trajectory(video_id="v", object_id=object_id, start=start, stop=stop, prompt_frame=start, prompt_box=(1.0, 1.0, 4.0, 4.0))


def shard(*trajectories):
    return Shard(shard_id="s", video_id="v", uri="v.mp4", start=0, stop=9, trajectories=trajectories)


class PaintAll:
    name = "paint"

    def track(self, frames, requests, backward=None):
        for frame, image in frames:
            active = [r for r in requests if r.start <= frame < r.stop]
            yield frame, {r.key: TrackedMask(patch=Patch.of(np.full(image.shape[:2], frame != 2)), score=0.25) for r in active}


def test_rows_are_clipped_to_the_boxes_and_empty_masks_have_none():
    boxes = {("1", 0): {f: (1.2, 0.5, 3.5 + f, 4.0) for f in range(4)}, ("2", 1): {1: (-5.0, -5.0, 2.0, 2.0), 2: (0.0, 0.0, 9.0, 9.0)}}
    frames = [(f, np.zeros((6, 8, 3), np.uint8)) for f in range(4)]
    rows = track_shard(PaintAll(), frames, shard(trajectory("2", 1, 3), trajectory("1", 0, 4)), boxes)
    assert [(r["object_id"], r["frame"]) for r in rows] == [("1", 0), ("1", 1), ("1", 3), ("2", 1)]
    first, clipped = rows[0], rows[3]
    dense = masks.decode(MaskRLE(size=(first["height"], first["width"]), counts=first["counts"]))
    expected = np.zeros((6, 8), bool)
    expected[0:4, 1:4] = True
    np.testing.assert_array_equal(dense, expected)
    assert clipped["box_xyxy"] == [0.0, 0.0, 2.0, 2.0]
    assert {r["score"] for r in rows} == {0.25}


def test_two_appearances_of_an_object_become_one_masklet():
    boxes = {("1", 0): {0: (0.0, 0.0, 2.0, 2.0)}, ("1", 5): {5: (3.0, 3.0, 5.0, 5.0)}}
    frames = [(f, np.zeros((6, 8, 3), np.uint8)) for f in (0, 5)]
    rows = track_shard(PaintAll(), frames, shard(trajectory("1", 0, 1), trajectory("1", 5, 6)), boxes)
    assert [(r["object_id"], r["frame"]) for r in rows] == [("1", 0), ("1", 5)]


def test_prompts_at_the_first_box_or_at_every_kth():
    boxes = {("1", 2): {f: (0.0, 0.0, 1.0 + f, 2.0) for f in range(2, 9)}}
    (first,) = requests_for(shard(trajectory("1", 2, 9)), boxes, 0)
    assert {f: p.box for f, p in first.prompts.items()} == {2: (1.0, 1.0, 4.0, 4.0)}
    (every,) = requests_for(shard(trajectory("1", 2, 9)), boxes, 3)
    assert sorted(every.prompts) == [2, 5, 8]
    assert every.prompts[5].box == (0.0, 0.0, 6.0, 2.0)
