import json
import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from egoray.errors import FormatError
from egoray.formats.egotracks import read_tracks, write_tracks
from egoray.schema import ObjectTrack, VideoInfo

HW = (1080, 1920)


def box(frame, x=10, y=20, w=30, h=40, **more):
    return {"frame_number": frame, "x": x, "y": y, "width": w, "height": h, "original_width": 1920, "original_height": 1080} | more


def query_set(*boxes, title="cup", **more):
    return {"is_valid": True, "object_title": title, "lt_track": list(boxes)} | more


def clip(*annotations, uid="clip", **more):
    return {"clip_uid": uid, "clip_fps": 30.0, "annotations": [{"query_sets": sets} for sets in annotations]} | more


def read(tmp_path, *clips):
    path = tmp_path / "egotracks.json"
    path.write_text(json.dumps({"videos": [{"video_uid": "v", "clips": list(clips)}]}))
    return read_tracks(path)


def read_boxes(tmp_path, *boxes):
    """The only track's boxes and the repairs, of a clip with one query set."""
    found = read(tmp_path, clip({"1": query_set(*boxes)}))
    return (found.tracks[0].boxes if found.tracks else {}), found.repairs


def test_a_track_has_the_query_sets_key_and_the_boxes_as_corners(tmp_path):
    found = read(tmp_path, clip({"3": query_set(box(91, 1.5, 2, 10.25, 4), title="blue cup")}))
    assert found.tracks == (ObjectTrack(video_id="clip", object_id="3", title="blue cup", boxes={91: (1.5, 2.0, 11.75, 6.0)}, size_hw=HW),)
    assert (found.clip_ids, found.clip_fps, found.repairs, found.failures) == (("clip",), {"clip": 30.0}, {}, ())


def test_unsorted_boxes_come_out_in_the_order_of_their_frames(tmp_path):
    boxes, repairs = read_boxes(tmp_path, box(7), box(2), box(5))
    assert (list(boxes), repairs) == ([2, 5, 7], {})


def test_the_last_box_of_a_repeated_frame_wins(tmp_path):
    boxes, repairs = read_boxes(tmp_path, box(2, x=1), box(3), box(2, x=5))
    assert (boxes[2], len(boxes), repairs) == ((5.0, 20.0, 35.0, 60.0), 2, {"box replaced by a later one of its frame": 1})


def test_a_repeated_frames_last_box_loses_where_it_cannot_be_used(tmp_path):
    assert read_boxes(tmp_path, box(2, x=1), box(2, w=0)) == ({2: (1.0, 20.0, 31.0, 60.0)}, {"box without area": 1})


@pytest.mark.parametrize(
    ("frame", "exported", "expected", "repaired"),
    [
        (91, 546, 91, 0),  # six times the frame
        (91, None, 91, 0),  # missing
        (91, 600, 91, 0),  # a multiple of 6 that disagrees: the frame stands
        (91, 547, 91, 0),  # no multiple, the same frame
        (91, 559, 93, 1),  # no multiple: 93.17
        (0, 3, 0, 0),  # 0.5 goes to the even 0
        (0, 9, 2, 1),  # 1.5 goes to the even 2
        (0, 15, 2, 1),  # 2.5 goes to the even 2
        (None, 13, 2, 1),
        (4, "29", 4, 0),  # not a number: as if missing
    ],
)
def test_the_exported_frame_number_decides_where_it_is_no_multiple_of_six(tmp_path, frame, exported, expected, repaired):
    boxes, repairs = read_boxes(tmp_path, box(frame, exported_clip_frame_number=exported))
    assert (list(boxes), sum(repairs.values())) == ([expected], repaired)
    assert set(repairs) <= {"frame number taken from exported_clip_frame_number"}


@pytest.mark.parametrize("frame", [-1, 2.5, "7", None, True, [3], math.nan, 1e300, 10**400])
def test_a_box_without_a_frame_number_is_dropped(tmp_path, frame):
    boxes, repairs = read_boxes(tmp_path, box(frame), box(4))
    assert (list(boxes), repairs) == ([4], {"box without a frame number": 1})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "12", None, True, [1], 10**400])
@pytest.mark.parametrize("key", ["x", "y", "width", "height"])
def test_a_box_without_finite_numbers_is_dropped(tmp_path, key, value):
    boxes, repairs = read_boxes(tmp_path, box(3) | {key: value}, box(4))
    assert (list(boxes), repairs) == ([4], {"box without four finite numbers": 1})


def test_a_box_whose_far_corner_overflows_is_dropped(tmp_path):
    boxes, repairs = read_boxes(tmp_path, box(3, x=1.7e308, w=1.7e308), box(4))
    assert (list(boxes), repairs) == ([4], {"box without four finite numbers": 1})


def test_a_box_that_is_no_object_or_lacks_a_number_is_dropped(tmp_path):
    incomplete = {key: value for key, value in box(3).items() if key != "height"}
    assert read_boxes(tmp_path, incomplete, 17, None, box(4))[1] == {"box without four finite numbers": 3}


@pytest.mark.parametrize(("w", "h"), [(0, 5), (5, 0), (-4, 5), (5, -4), (1e-20, 5)])
def test_a_box_without_area_is_dropped(tmp_path, w, h):
    boxes, repairs = read_boxes(tmp_path, box(3, w=w, h=h), box(4))
    assert (list(boxes), repairs) == ([4], {"box without area": 1})


@pytest.mark.parametrize("place", [{"x": 1920}, {"y": 1080}, {"x": -30}, {"y": -40}])
def test_a_box_wholly_outside_the_image_is_dropped(tmp_path, place):
    boxes, repairs = read_boxes(tmp_path, box(3) | place, box(4))
    assert (list(boxes), repairs) == ([4], {"box outside the image": 1})


def test_a_box_partly_outside_the_image_stays_as_it_is(tmp_path):
    assert read_boxes(tmp_path, box(3, x=-5.5, y=1079.25)) == ({3: (-5.5, 1079.25, 24.5, 1119.25)}, {})


@pytest.mark.parametrize("size", [None, 0, -1920, "1920"])
def test_a_missing_image_size_is_unknown_and_has_no_outside(tmp_path, size):
    found = read(tmp_path, clip({"1": query_set(box(3, x=5000, original_width=size))}))
    assert (found.tracks[0].size_hw, list(found.tracks[0].boxes), found.repairs) == ((0, 0), [3], {})


def test_the_image_size_is_taken_from_the_first_box_that_states_it(tmp_path):
    assert read(tmp_path, clip({"1": query_set(box(3, original_width=None), box(4))})).tracks[0].size_hw == HW


def test_an_object_without_a_usable_box_is_a_failure(tmp_path):
    found = read(tmp_path, clip({"1": query_set(box(3, w=0), box(4, x=-99)), "2": query_set(box(5))}))
    assert [track.object_id for track in found.tracks] == ["2"]
    [failure] = found.failures
    assert (failure.stage, failure.unit, failure.error, failure.retryable) == ("annotate", "clip/1", "EmptyTrack", False)
    assert "cup" in failure.message


@pytest.mark.parametrize("lt_track", [[], None])
def test_a_valid_query_set_without_boxes_is_counted_and_no_failure(tmp_path, lt_track):
    found = read(tmp_path, clip({"1": query_set(lt_track=lt_track)}))
    assert (found.tracks, found.failures, found.repairs) == ((), (), {"query set without boxes": 1})


def test_a_query_set_marked_invalid_is_counted_and_no_failure(tmp_path):
    found = read(tmp_path, clip({"1": query_set(box(3), is_valid=False), "2": query_set(is_valid=False, lt_track="?")}))
    assert (found.tracks, found.failures, found.repairs) == ((), (), {"query set marked invalid": 2})


def test_an_unannotated_test_file_gives_clips_and_counts(tmp_path):
    found = read(tmp_path, clip({"1": {"object_title": "cup", "visual_crop": box(3)}}))
    assert (found.tracks, found.failures, found.clip_ids) == ((), (), ("clip",))
    assert found.repairs == {"query set without annotation": 1}


@pytest.mark.parametrize("broken", [17, None, {"is_valid": True, "lt_track": "boxes"}])
def test_a_broken_query_set_is_a_failure_and_the_rest_stays(tmp_path, broken):
    found = read(tmp_path, clip({"1": broken, "2": query_set(box(3))}))
    assert [(failure.unit, failure.error) for failure in found.failures] == [("clip/1", "FormatError")]
    assert [track.object_id for track in found.tracks] == ["2"]


@pytest.mark.parametrize("change", [{"annotations": []}, {"annotations": None}, {"annotations": [{"query_sets": {}}]}])
def test_a_clip_without_annotations_is_still_a_clip(tmp_path, change):
    found = read(tmp_path, clip() | change, clip({"1": query_set(box(3))}, uid="other"))
    assert (found.clip_ids, [track.video_id for track in found.tracks]) == (("clip", "other"), ["other"])


def test_a_missing_annotations_key_is_no_annotation(tmp_path):
    assert read(tmp_path, {"clip_uid": "clip"}).clip_ids == ("clip",)


def test_objects_of_several_annotations_are_numbered_in_file_order(tmp_path):
    found = read(tmp_path, clip({"1": query_set(box(1)), "2": query_set(box(2))}, {"1": query_set(box(3))}))
    assert [(track.object_id, list(track.boxes)) for track in found.tracks] == [("1", [1]), ("2", [2]), ("3", [3])]
    assert found.repairs == {"object numbered in file order": 3}


@pytest.mark.parametrize("key", ["cup", "01", "1.0", "-1", "", "²", "../1"])
def test_a_key_that_is_no_plain_number_numbers_its_clip_in_file_order(tmp_path, key):
    found = read(tmp_path, clip({key: query_set(box(1)), "7": query_set(box(2))}), clip({"7": query_set(box(3))}, uid="other"))
    assert [(track.video_id, track.object_id) for track in found.tracks] == [("clip", "1"), ("clip", "2"), ("other", "7")]
    assert found.repairs == {"object numbered in file order": 2}


def test_invalid_query_sets_keep_their_number(tmp_path):
    found = read(tmp_path, clip({"1": query_set(is_valid=False)}, {"1": query_set(box(3))}))
    assert [track.object_id for track in found.tracks] == ["2"]


def test_two_objects_of_one_title_stay_two(tmp_path):
    found = read(tmp_path, clip({"1": query_set(box(1), title="cup"), "2": query_set(box(2), title="cup")}))
    assert [(track.object_id, track.title, list(track.boxes)) for track in found.tracks] == [("1", "cup", [1]), ("2", "cup", [2])]


def test_exported_clip_uid_names_a_clip_without_clip_uid(tmp_path):
    first = {"exported_clip_uid": "a", "annotations": [{"query_sets": {"1": query_set(box(1))}}]}
    assert read(tmp_path, first, clip(uid="b", exported_clip_uid="c")).clip_ids == ("a", "b")


def test_a_clip_listed_twice_is_one_clip(tmp_path):
    found = read(tmp_path, clip({"1": query_set(box(1))}), clip({"1": query_set(box(2))}))
    assert (found.clip_ids, [track.object_id for track in found.tracks]) == (("clip",), ["1", "2"])
    assert found.repairs == {"clip listed twice": 1, "object numbered in file order": 2}


def test_a_clip_that_states_no_rate_has_none(tmp_path):
    assert read(tmp_path, clip(clip_fps=None)).clip_fps == {}


def test_a_missing_title_is_empty(tmp_path):
    assert read(tmp_path, clip({"1": query_set(box(1), title=None)})).tracks[0].title == ""


def test_a_derived_file_numbers_objects_in_file_order(tmp_path):
    path = tmp_path / "egotracks_clip_object_bbox.json"
    path.write_text(
        json.dumps({"clip": {"cup": {"bbox_anno": [box(4), box(3)], "attributes_occurrence": []}, "a/b": [box(5)]}, "empty": {}})
    )
    found = read_tracks(path)
    assert [(t.video_id, t.object_id, t.title, list(t.boxes)) for t in found.tracks] == [
        ("clip", "1", "cup", [3, 4]),
        ("clip", "2", "a/b", [5]),
    ]
    assert (found.clip_ids, found.clip_fps, found.repairs) == (("clip", "empty"), {}, {})


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "",
        "[]",
        "{}",
        "\xff",
        '{"videos": null}',
        '{"videos": [3]}',
        '{"videos": [{"video_uid": "ego4d.json has clips elsewhere"}]}',
        '{"videos": [{"clips": [3]}]}',
        '{"videos": [{"clips": [{}]}]}',
        '{"videos": [{"clips": [{"clip_uid": 3}]}]}',
        '{"videos": [{"clips": [{"clip_uid": "c", "annotations": {}}]}]}',
        '{"videos": [{"clips": [{"clip_uid": "c", "annotations": [3]}]}]}',
        '{"videos": [{"clips": [{"clip_uid": "c", "annotations": [{"query_sets": []}]}]}]}',
        '{"videos": [{"clips": [{"clip_uid": "c", "annotations": [{"language_queries": []}]}]}]}',
        '{"images": [], "annotations": []}',
        '{"videos": {"v": {"frames": [], "expressions": {}}}}',
    ],
)
def test_a_file_of_another_schema_is_one_plain_line(tmp_path, text):
    path = tmp_path / "egotracks.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(FormatError) as caught:
        read_tracks(path)
    message = str(caught.value)
    assert str(path) in message
    assert "videos[].clips[].annotations[].query_sets" in message
    assert "\n" not in message


def test_a_missing_file_and_a_folder_are_format_errors(tmp_path):
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(FormatError, match=r"egotracks_train\.json"):
            read_tracks(path)


def info(video_id, num_frames=600):
    return VideoInfo(
        video_id=video_id, uri="", num_frames=num_frames, fps=30.0, height_px=1080, width_px=1920, source="egotracks", stride=6
    )


sides = st.tuples(st.floats(-50, 1900), st.floats(1e-3, 500)).map(lambda s: (s[0], s[0] + s[1]))
heights = st.tuples(st.floats(-50, 1060), st.floats(60, 500)).map(lambda s: (s[0], s[0] + s[1]))
boxes = st.builds(lambda xs, ys: (xs[0], ys[0], xs[1], ys[1]), sides.filter(lambda s: s[1] > s[0] and s[1] > 0), heights)


@st.composite
def annotated_clips(draw):
    ids = draw(st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=3))
    tracks = [
        ObjectTrack(
            video_id=video_id,
            object_id=str(n),
            title=draw(st.sampled_from(["cup", "jar/lid", "naïve 碗"])),
            boxes=draw(st.dictionaries(st.integers(0, 99), boxes, min_size=1, max_size=6).map(lambda of: dict(sorted(of.items())))),
            size_hw=draw(st.sampled_from([HW, (0, 0)])),
        )
        for video_id in ids
        for n in draw(st.lists(st.integers(0, 12), unique=True, max_size=3))
    ]
    return [info(video_id) for video_id in ids], tracks


@settings(max_examples=60, deadline=None)
@given(annotated_clips(), st.integers(0, 3))
@example(([info("empty")], []), 0)
def test_what_is_written_reads_back(tmp_path_factory, clips, seed):
    videos, tracks = clips
    path = tmp_path_factory.mktemp("tracks") / "egotracks.json"
    write_tracks(path, videos, tracks, seed=seed)
    found = read_tracks(path)
    assert found.tracks == tuple(tracks)
    assert all(list(track.boxes) == sorted(track.boxes) for track in found.tracks)
    assert (found.clip_ids, found.repairs, found.failures) == (tuple(video.video_id for video in videos), {}, ())
    assert found.clip_fps == dict.fromkeys(found.clip_ids, 30.0)


def test_the_same_seed_gives_the_same_bytes_in_a_disorder_like_the_releases(tmp_path):
    rng = random.Random(0)
    track = ObjectTrack(
        video_id="clip",
        object_id="1",
        title="cup",
        boxes={f: (x := rng.uniform(0, 900), 1.0, x + rng.uniform(5, 90), 9.0) for f in range(80)},
        size_hw=HW,
    )
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_tracks(tmp_path / name, [info("clip")], [track], seed=seed)
    first, again, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == again != other
    [video] = json.loads(first)["videos"]
    [query] = video["clips"][0]["annotations"][0]["query_sets"].values()
    frames = [entry["frame_number"] for entry in query["lt_track"]]
    exported = [entry.get("exported_clip_frame_number") for entry in query["lt_track"]]
    assert frames != sorted(frames)
    assert 0 < exported.count(None) < 40
    assert all(number in (None, 6 * frame) for frame, number in zip(frames, exported, strict=True))
    assert {"video_uid", "split", "clips"} <= video.keys()
    assert {"is_valid", "object_title", "visual_crop", "visual_clip", "lt_track"} <= query.keys()
    assert {"clip_uid", "video_start_frame", "video_end_frame", "clip_fps", "annotation_complete"} <= video["clips"][0].keys()


def test_tracks_that_would_not_read_back_are_refused(tmp_path):
    good = {"video_id": "clip", "object_id": "1", "title": "cup", "boxes": {0: (1.0, 1.0, 5.0, 5.0)}, "size_hw": HW}
    for change in (
        {"video_id": "other"},
        {"object_id": "cup"},
        {"object_id": "01"},
        {"boxes": {}},
        {"boxes": {-1: (1.0, 1.0, 5.0, 5.0)}},
        {"boxes": {0: (5.0, 1.0, 5.0, 5.0)}},
        {"boxes": {0: (math.nan, 1.0, 5.0, 5.0)}},
        {"boxes": {0: (2000.0, 1.0, 2005.0, 5.0)}},
    ):
        with pytest.raises(ValueError, match="needs"):
            write_tracks(tmp_path / "t.json", [info("clip")], [ObjectTrack(**(good | change))])
    with pytest.raises(ValueError, match="of its own"):
        write_tracks(tmp_path / "t.json", [info("clip")], [ObjectTrack(**good)] * 2)
    assert not list(tmp_path.iterdir())
