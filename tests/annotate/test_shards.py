import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egoray.annotate.shards import plan_shards
from egoray.schema import Trajectory, VideoInfo

VIDEO = VideoInfo(video_id="clip", uri="clip.mp4", num_frames=1800, fps=30.0, height_px=90, width_px=160, source="egotracks", stride=6)


def trajectory(start, stop, object_id="1", x=0.0):
    box = (x, 0.0, x + 9.0, 9.0)
    return Trajectory(video_id="clip", object_id=object_id, start=start, stop=stop, prompt_frame=start, prompt_box=box)


def plan(*trajectories, max_frames=10, salt="salt"):
    return plan_shards(VIDEO, trajectories, max_frames=max_frames, salt=salt)


def spans(shards):
    return [(shard.start, shard.stop, len(shard.trajectories)) for shard in shards]


def test_trajectories_share_a_shard_while_its_span_allows():
    assert spans(plan(trajectory(0, 4), trajectory(6, 10), trajectory(7, 11))) == [(0, 10, 2), (7, 11, 1)]


def test_a_long_trajectory_is_not_cut_and_takes_what_lies_within_it():
    assert spans(plan(trajectory(0, 50), trajectory(20, 30, "2"), trajectory(45, 51, "3"))) == [(0, 50, 2), (45, 51, 1)]


def test_a_shard_names_its_video_and_orders_by_start_and_object():
    [shard] = plan(trajectory(2, 4, "10"), trajectory(2, 9, "9"), trajectory(0, 3, "11"))
    assert (shard.video_id, shard.uri, [t.object_id for t in shard.trajectories]) == ("clip", "clip.mp4", ["11", "9", "10"])


def test_no_trajectories_no_shards():
    assert plan() == []


@pytest.mark.parametrize(
    "bad",
    [trajectory(300, 301), trajectory(400, 500), dataclasses.replace(trajectory(0, 3), video_id="other")],
    ids=["end", "past", "other"],
)
def test_a_trajectory_that_is_not_in_the_video_is_refused(bad):
    assert len(plan(trajectory(299, 300))) == 1
    with pytest.raises(ValueError, match="starts at frame"):
        plan(trajectory(0, 3), bad)


def test_a_shard_of_no_frames_is_refused():
    with pytest.raises(ValueError, match="max_frames is 0"):
        plan(trajectory(0, 3), max_frames=0)


def test_the_same_work_has_the_same_id_wherever_the_file_lies():
    [first], [again] = plan(trajectory(0, 4), trajectory(1, 3, "2")), plan(trajectory(1, 3, "2"), trajectory(0, 4))
    [moved] = plan_shards(dataclasses.replace(VIDEO, uri="elsewhere.mp4"), first.trajectories, max_frames=99, salt="salt")
    assert first == again
    assert moved.shard_id == first.shard_id == "ba457a91-5c1b-545a-9036-13c383d04c64"


@pytest.mark.parametrize("other", [trajectory(0, 5), trajectory(1, 4), trajectory(0, 4, "2"), trajectory(0, 4, x=0.5)])
def test_other_work_has_another_id(other):
    assert plan(other)[0].shard_id != plan(trajectory(0, 4))[0].shard_id


def test_another_salt_or_video_gives_another_id():
    [first], [salted] = plan(trajectory(0, 4)), plan(trajectory(0, 4), salt="other")
    theirs = dataclasses.replace(VIDEO, video_id="b")
    [other] = plan_shards(theirs, [dataclasses.replace(trajectory(0, 4), video_id="b")], max_frames=10, salt="salt")
    assert len({first.shard_id, salted.shard_id, other.shard_id}) == 3


pieces = st.lists(
    st.tuples(st.integers(0, 90), st.integers(1, 40), st.sampled_from("123")).map(lambda p: trajectory(p[0], p[0] + p[1], p[2])),
    unique_by=lambda t: (t.start, t.object_id),
    max_size=12,
)


@settings(max_examples=100, deadline=None)
@given(pieces, st.integers(1, 60), st.randoms(use_true_random=False))
def test_every_trajectory_is_in_one_shard_and_no_shard_is_longer_than_it_must_be(trajectories, max_frames, rng):
    shards = plan(*trajectories, max_frames=max_frames)
    placed = [t for shard in shards for t in shard.trajectories]
    assert placed == sorted(trajectories, key=lambda t: (t.start, int(t.object_id)))
    for shard in shards:
        assert (shard.start, shard.stop) == (min(t.start for t in shard.trajectories), max(t.stop for t in shard.trajectories))
        assert shard.stop - shard.start <= max(max_frames, *(t.num_frames for t in shard.trajectories))
    for shard, following in itertools.pairwise(shards):  # the next one's first would not have fitted
        assert following.trajectories[0].stop - shard.start > max(max_frames, shard.stop - shard.start)
    assert len({shard.shard_id for shard in shards}) == len(shards)
    rng.shuffle(trajectories)
    assert plan(*trajectories, max_frames=max_frames) == shards
