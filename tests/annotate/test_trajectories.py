import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egoray.annotate.trajectories import split_trajectories, trajectory_boxes
from egoray.formats.egotracks import read_tracks
from egoray.schema import ObjectTrack, Trajectory


def track(*frames, object_id="1", title="cup"):
    boxes = {frame: (float(frame), 0.0, frame + 10.0, 10.0) for frame in frames}
    return ObjectTrack(video_id="clip", object_id=object_id, title=title, boxes=boxes, size_hw=(100, 900))


def spans(trajectories):
    return [(t.start, t.stop) for t in trajectories]


def test_a_step_of_relax_continues_a_run_and_a_longer_one_ends_it():
    assert spans(split_trajectories(track(0, 1, 3, 6, 7))) == [(0, 4), (6, 8)]
    assert spans(split_trajectories(track(0, 1, 3, 6, 7), relax=1)) == [(0, 2), (3, 4), (6, 8)]
    assert spans(split_trajectories(track(0, 1, 3, 6, 7), relax=3)) == [(0, 8)]


def test_a_trajectory_is_prompted_by_its_first_box():
    [first, second] = split_trajectories(track(4, 5, 9))
    assert first == Trajectory(video_id="clip", object_id="1", start=4, stop=6, prompt_frame=4, prompt_box=(4.0, 0.0, 14.0, 10.0))
    assert (second.prompt_frame, second.prompt_box) == (9, (9.0, 0.0, 19.0, 10.0))


def test_a_last_trajectory_of_one_frame_is_kept_unlike_the_released_rule():
    assert spans(split_trajectories(track(0, 1, 9))) == [(0, 2), (9, 10)]


def test_the_neighbour_of_a_last_lone_box_stands_once_unlike_the_released_rule():
    assert spans(split_trajectories(track(0, 1, 2, 9))).count((0, 3)) == 1


def test_a_track_of_one_box_is_one_trajectory_of_one_frame_unlike_the_released_rule():
    [only] = split_trajectories(track(5))
    assert (only.start, only.stop, only.num_frames, only.prompt_frame) == (5, 6, 1, 5)


def test_objects_of_one_title_keep_their_own_trajectories_unlike_the_released_rule():
    both = [t for object_id, frames in (("1", (0, 1)), ("2", (5, 6))) for t in split_trajectories(track(*frames, object_id=object_id))]
    assert [(t.object_id, t.start, t.stop) for t in both] == [("1", 0, 2), ("2", 5, 7)]


def test_unsorted_and_repeated_boxes_give_the_trajectories_of_the_sorted_ones(tmp_path):
    boxes = ",".join(f'{{"frame_number": {f}, "x": {x}, "y": 0, "width": 10, "height": 10}}' for f, x in ((9, 9), (1, 7), (0, 0), (1, 1)))
    path = tmp_path / "tracks.json"
    path.write_text(f'{{"clip": {{"cup": [{boxes}]}}}}')
    [read] = read_tracks(path).tracks
    assert split_trajectories(read) == split_trajectories(track(0, 1, 9))
    assert split_trajectories(track(9, 1, 0)) == split_trajectories(track(0, 1, 9))
    assert read.boxes[1][0] == 1.0


def test_no_boxes_no_trajectories():
    assert split_trajectories(track()) == []


def test_a_relax_below_one_is_refused():
    with pytest.raises(ValueError, match="relax is 0"):
        split_trajectories(track(1), relax=0)


def slow_split(frames, relax):
    """Frames reach each other when a chain of steps of at most ``relax`` connects them; found by flooding, not by sorting."""
    left, spans = set(frames), []
    while left:
        chain, ring = set(), {left.pop()}
        while ring:
            chain |= ring
            ring = {f for f in left if any(abs(f - c) <= relax for c in ring)}
            left -= ring
        spans.append((min(chain), max(chain) + 1))
    return sorted(spans)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 40), unique=True, max_size=15), st.integers(1, 4))
def test_trajectories_are_those_of_the_slow_oracle(frames, relax):
    trajectories = split_trajectories(track(*frames), relax)
    assert spans(trajectories) == slow_split(frames, relax)
    assert [f for t in trajectories for f in range(t.start, t.stop) if f in frames] == sorted(frames)
    assert all(t.prompt_frame == t.start and t.prompt_box == track(*frames).boxes[t.start] for t in trajectories)


def test_bridged_gaps_get_boxes_between_their_neighbours():
    whole = ObjectTrack(
        video_id="clip",
        object_id="1",
        title="cup",
        boxes={2: (0.0, 0.0, 10.0, 10.0), 0: (4.0, 8.0, 10.0, 20.0), 7: (1.0, 1.0, 2.0, 2.0)},
        size_hw=(9, 9),
    )
    first, second = split_trajectories(whole)
    filled = trajectory_boxes(whole, first)
    assert list(filled.items()) == [(0, (4.0, 8.0, 10.0, 20.0)), (1, (2.0, 4.0, 10.0, 15.0)), (2, (0.0, 0.0, 10.0, 10.0))]
    assert trajectory_boxes(whole, second) == {7: (1.0, 1.0, 2.0, 2.0)}


def test_boxes_of_another_objects_trajectory_are_refused():
    with pytest.raises(ValueError, match="need a box"):
        trajectory_boxes(track(0, 1), split_trajectories(track(3, 4))[0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40), unique=True, min_size=1, max_size=15), st.integers(1, 4))
def test_every_frame_of_a_trajectory_has_a_box_and_given_ones_stay(frames, relax):
    whole = track(*frames)
    for t in split_trajectories(whole, relax):
        filled = trajectory_boxes(whole, t)
        assert list(filled) == list(range(t.start, t.stop))
        assert all(filled[f] == whole.boxes[f] for f in filled if f in whole.boxes)
        assert all(box[0] == pytest.approx(f) for f, box in filled.items())
