import json

import pytest

from egoray.errors import FormatError
from egoray.formats.refego import read_refego, read_refego_expressions

CLIP = "0b2b--1217-30"


def annotation(frame, bbox=(10, 20, 30, 40), clip=CLIP, label="cup", caption=("the blue cup", "the cup by the sink"), **more):
    return {
        "image_id": frame,
        "bbox": list(bbox),
        "clip_id": clip,
        "img_clip_id": frame,
        "label": label,
        "caption": caption,
        "is_obj_in": 1,
    } | more


@pytest.fixture
def written(tmp_path):
    def write(*annotations, key="annotations"):
        images = [{"id": n, "file_name": f"img{n:010d}.jpg", "width": 640, "height": 360} for n in range(9)]
        path = tmp_path / "refego_val_RefCOCOstyle_fps2.json"
        path.write_text(json.dumps({"images": images, key: list(annotations)}))
        return path

    return write


@pytest.mark.parametrize("key", ["annotations", "annotation"])
def test_boxes_become_corners_on_the_clips_own_frames(written, key):
    found = read_refego(written(annotation(2), annotation(0, (1.5, 2, 3, 4)), key=key))
    [track] = found.tracks
    assert (track.video_id, track.object_id, track.title, track.size_hw) == (CLIP, "1", "cup", (360, 640))
    assert list(track.boxes.items()) == [(0, (1.5, 2.0, 4.5, 6.0)), (2, (10.0, 20.0, 40.0, 60.0))]
    assert (found.clip_ids, found.clip_fps, found.repairs, found.failures) == ((CLIP,), {CLIP: 2.0}, {}, ())


@pytest.mark.parametrize("out", [False, 0])
def test_a_frame_without_the_object_has_no_box(written, out):
    found = read_refego(written(annotation(0), annotation(1, is_obj_in=out)))
    assert (list(found.tracks[0].boxes), found.repairs) == ([0], {})


def test_an_object_that_is_never_in_the_frame_is_a_failure(written):
    found = read_refego(written(annotation(0, is_obj_in=False)))
    assert [(failure.unit, failure.error) for failure in found.failures] == [(f"{CLIP}/1", "EmptyTrack")]
    assert (found.tracks, found.clip_ids) == ((), (CLIP,))


def test_boxes_that_cannot_be_used_are_dropped_and_counted(written):
    bad = [(1, (0, 0, 0, 4)), (2, (700, 0, 5, 5)), (3, (1, 2, 3)), (4, (1, 2, 3, "4"))]
    found = read_refego(written(annotation(0), *(annotation(frame, bbox) for frame, bbox in bad), annotation(5, bbox=()) | {"bbox": None}))
    assert list(found.tracks[0].boxes) == [0]
    assert found.repairs == {"box outside the image": 1, "box without area": 1, "box without four finite numbers": 3}


def test_the_title_is_the_first_sentence_where_there_is_no_label(written):
    assert read_refego(written(annotation(0, label=None))).tracks[0].title == "the blue cup"


def test_an_unknown_image_leaves_the_size_unknown(written):
    assert read_refego(written(annotation(0, image_id=99))).tracks[0].size_hw == (0, 0)


def test_objects_of_a_clip_are_numbered_in_file_order(written):
    path = written(
        annotation(0), annotation(0, clip="other"), annotation(0, label="jar"), annotation(1, caption="another cup"), annotation(1)
    )
    assert [(t.video_id, t.object_id, t.title, list(t.boxes)) for t in read_refego(path).tracks] == [
        (CLIP, "1", "cup", [0, 1]),
        ("other", "1", "cup", [0]),
        (CLIP, "2", "jar", [0]),
        (CLIP, "3", "cup", [1]),
    ]


def test_sentences_with_boxes_of_their_own_are_one_object_where_the_boxes_agree(written):
    path = written(
        *(annotation(frame, caption=text, ref=ref) for ref, text in enumerate(["blue cup", "cup by the sink"]) for frame in (0, 1))
    )
    assert [(t.object_id, list(t.boxes)) for t in read_refego(path).tracks] == [("1", [0, 1])]
    assert [e.text for e in read_refego_expressions(path)] == ["blue cup", "cup by the sink"]


def test_two_sentences_an_object_with_ids_that_stay(written):
    path = written(annotation(0), annotation(1), annotation(0, label="jar", caption="a jar "))
    sentences = read_refego_expressions(path)
    assert [(e.video_id, e.object_id, e.text, e.source) for e in sentences] == [
        (CLIP, "1", "the blue cup", "refego"),
        (CLIP, "1", "the cup by the sink", "refego"),
        (CLIP, "2", "a jar", "refego"),
    ]
    assert len({e.expression_id for e in sentences}) == 3
    assert read_refego_expressions(path) == sentences


def test_a_missing_caption_gives_no_expression(written):
    path = written(annotation(0, caption=None))
    assert read_refego_expressions(path) == []
    assert read_refego(path).tracks[0].title == "cup"


@pytest.mark.parametrize("change", [{"clip_id": None}, {"img_clip_id": None}, {"img_clip_id": -1}, {"img_clip_id": 0.5}])
def test_an_annotation_without_a_place_is_named(written, change):
    with pytest.raises(FormatError, match=r"annotations\[1\] needs a clip_id and an img_clip_id"):
        read_refego(written(annotation(0), annotation(1) | change))


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"annotations": {}}', '{"annotations": [3]}'])
def test_a_file_of_another_schema_is_named(tmp_path, text):
    path = tmp_path / "refego.json"
    path.write_text(text)
    for read in (read_refego, read_refego_expressions):
        with pytest.raises(FormatError, match=r"refego\.json.*expected refego_<split>_RefCOCOstyle_fps2\.json"):
            read(path)
