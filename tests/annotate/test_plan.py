"""What is lost before any work starts, and what is mended: clips and boxes that do not fit each other."""

import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from egoray.annotate.plan import forecast, pack, plan_from_files, shard_frames, unpack
from egoray.config import AnnotateConfig
from egoray.core.storage import Folder
from egoray.core.video import read_frames
from egoray.core.workfolder import read_failures, read_objects, write_failure, write_objects
from egoray.errors import ConfigError
from support import release

BOX = [10.0, 10.0, 20.0, 20.0]


def plan(folder: Path, sets: dict, config=None, make=None, name="clip-0.mp4"):
    """The plan of one clip of 10 annotation frames with these query sets; ``make(path)`` writes the clip instead."""
    (folder / "clips").mkdir(exist_ok=True)
    (make or (lambda path: release.write_clip(path, 10, 1)))(folder / "clips" / name)
    release.write_tracks(folder / "egotracks.json", [release.clip_entry("clip-0", sets)])
    return plan_from_files(str(folder / "egotracks.json"), str(folder / "clips"), config or AnnotateConfig())


def audio_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def headless(path: Path) -> None:
    """An mp4 cut before its index."""
    release.write_clip(path, 10, 1)
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "clip-0.mp4: no such clip; download it"),
        (lambda p: p.write_bytes(b""), "clip-0.mp4: "),
        (lambda p: p.write_text("hello, I am no video" * 100), "clip-0.mp4: "),
        (headless, "clip-0.mp4: "),
        (audio_only, "clip-0.mp4: "),
    ],
    ids=["missing", "0 bytes", "text", "truncated", "audio only"],
)
def test_a_clip_that_cannot_be_read_is_one_failure_row(tmp_path, make, message):
    result = plan(tmp_path, {"1": release.query_set("disc", {0: BOX}), "2": release.query_set("disc", {1: BOX})}, make=make)
    (failure,) = result.failures
    assert (failure.unit, failure.stage, result.shards) == ("clip-0", "annotate", ())
    assert message in failure.message
    assert "\n" not in failure.message


def test_boxes_of_another_resolution_are_scaled(tmp_path):
    result = plan(tmp_path, {"1": release.query_set("disc", {0: [20.0, 20.0, 40.0, 40.0]}, size_hw=(144, 192))})
    assert result.shards[0].trajectories[0].prompt_box == (10.0, 10.0, 30.0, 30.0)


def test_boxes_of_another_shape_are_a_failure_of_the_clip(tmp_path):
    result = plan(tmp_path, {"1": release.query_set("disc", {0: BOX}, size_hw=(100, 96))})
    (failure,) = result.failures
    assert "is 96 x 72, its boxes were drawn on 96 x 100" in failure.message
    assert result.shards == ()


def test_boxes_past_the_end_are_dropped_and_counted(tmp_path):
    result = plan(tmp_path, {"1": release.query_set("disc", {8: BOX, 9: BOX, 10: BOX, 400: BOX})})
    assert (result.shards[0].start, result.shards[0].stop) == (8, 10)
    assert result.repairs == {"box past the clip's end": 2}


@pytest.mark.parametrize(
    "boxes", [{50: BOX}, {0: [200.0, 10.0, 5.0, 5.0]}, {0: [10.0, 10.0, 0.0, 5.0]}], ids=["past", "outside", "no area"]
)
def test_an_object_without_a_usable_box_is_one_failure_and_the_rest_goes_on(tmp_path, boxes):
    result = plan(tmp_path, {"1": release.query_set("lost", boxes), "2": release.query_set("disc", {0: BOX})})
    (failure,) = result.failures
    assert failure.unit == "clip-0/1"
    assert [t.object_id for s in result.shards for t in s.trajectories] == ["2"]
    assert [track.object_id for track, _ in result.objects] == ["2"]


def test_names_that_are_no_legal_unicode_reach_the_tables_as_escapes(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "x\udcff.mp4").write_bytes(b"")
    release.write_clip(tmp_path / "clips" / "clip-0.mp4", 10, 1)
    good = release.clip_entry("clip-0", {"1": release.query_set("mug \ud83d", {0: BOX})})
    foreign = release.clip_entry("caf\udce9", {"1": release.query_set("disc", {0: BOX})})
    release.write_tracks(tmp_path / "egotracks.json", [good, foreign])
    result = plan_from_files(str(tmp_path / "egotracks.json"), str(tmp_path / "clips"), AnnotateConfig())
    write_objects(Folder(str(tmp_path)), result.objects)
    write_failure(Folder(str(tmp_path)), "lost", result.failures[0])
    assert [track.title for track, _ in read_objects(Folder(str(tmp_path)))] == ["mug \\ud83d"]
    assert [failure.unit for failure in read_failures(Folder(str(tmp_path)))] == ["caf\\udce9"]
    with pytest.raises(ConfigError, match="rename the folder"):
        plan_from_files(str(tmp_path / "egotracks.json"), str(tmp_path / "x\udcff"), AnnotateConfig())


@pytest.mark.parametrize("uid", ["../secret", "/etc/passwd", "..", "a/b", "nul\0"])
def test_a_clip_uid_never_leads_out_of_the_folder(tmp_path, uid):
    (tmp_path / "clips").mkdir()
    release.write_clip(tmp_path / "secret.mp4", 2, 1)
    release.write_tracks(tmp_path / "egotracks.json", [release.clip_entry(uid, {"1": release.query_set("disc", {0: BOX})})])
    result = plan_from_files(str(tmp_path / "egotracks.json"), str(tmp_path / "clips"), AnnotateConfig())
    assert result.shards == ()
    assert all("not a plain file name" in failure.message for failure in result.failures)


def test_a_videos_folder_that_is_not_there_is_said_before_anything(tmp_path):
    release.write_tracks(tmp_path / "egotracks.json", [])
    with pytest.raises(ConfigError, match="no such folder"):
        plan_from_files(str(tmp_path / "egotracks.json"), str(tmp_path / "nowhere"), AnnotateConfig())


def test_refego_boxes_meet_a_folder_of_images(tmp_path):
    clip = tmp_path / "clips" / "uid--1217-4"
    clip.mkdir(parents=True)
    for n in range(4):
        cv2.imwrite(str(clip / f"img{1217 + n:010d}.jpg"), np.full((36, 64, 3), 60 * n, np.uint8))
    annotation = {"clip_id": clip.name, "label": "cup", "caption": ["the cup", "a cup"], "is_obj_in": 1}
    boxes = [annotation | {"id": n, "image_id": n, "img_clip_id": n, "bbox": [4, 4, 20, 20]} for n in (1, 2)]
    images = [{"id": n, "file_name": f"img{1217 + n:010d}.jpg", "width": 64, "height": 36} for n in range(4)]
    (tmp_path / "refego.json").write_text(json.dumps({"images": images, "annotations": boxes}))
    result = plan_from_files(str(tmp_path / "refego.json"), str(tmp_path / "clips"), AnnotateConfig(tracks_format="refego"))
    (info,) = result.videos
    assert (info.num_frames, info.stride, info.fps, info.source) == (4, 1, 2.0, "refego")
    assert shard_frames(result.shards[0]) == [1, 2]
    images_seen = [image.mean() for _, image in read_frames(info.uri, [1, 2])]
    assert images_seen == pytest.approx([60, 120], abs=2)


def test_a_bridged_frame_gets_the_box_between(tmp_path):
    result = plan(tmp_path, {"1": release.query_set("disc", {2: [10.0, 10.0, 20.0, 20.0], 4: [14.0, 20.0, 24.0, 20.0]})})
    boxes = result.boxes[result.shards[0].shard_id]["1", 2]
    assert boxes[3] == (12.0, 15.0, 34.0, 35.0)
    assert shard_frames(result.shards[0]) == [2, 3, 4]


def test_ids_depend_on_settings_boxes_and_the_clips_content_but_not_on_where_it_lies(tmp_path):
    sets = {"1": release.query_set("disc", {0: BOX, 1: BOX})}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = plan(tmp_path / "a", sets).shards[0].shard_id
    assert plan(tmp_path / "b", sets).shards[0].shard_id == first
    assert plan(tmp_path / "a", sets, AnnotateConfig(workers=3)).shards[0].shard_id == first
    moved = {"1": release.query_set("disc", {0: BOX, 1: [11.0, 10.0, 20.0, 20.0]})}
    others = [
        plan(tmp_path / "a", sets, AnnotateConfig(prompt_every=2)),
        plan(tmp_path / "a", moved),
        plan(tmp_path / "a", sets, make=lambda path: release.write_clip(path, 10, 2)),
    ]
    assert len({p.shards[0].shard_id for p in others} | {first}) == 4


def test_a_packed_shard_is_small_and_comes_out_as_it_went_in(tmp_path):
    result = plan(tmp_path, {"1": release.query_set("disc", {f: [10.5, 10.25, 20.0, 20.0] for f in range(10)})})
    shard = result.shards[0]
    packed = pack(shard, result.boxes[shard.shard_id], 6)
    assert unpack(packed) == (shard, result.boxes[shard.shard_id], 6)
    assert len(packed) < 3000
    json.loads(packed)


def test_the_forecast_counts_what_the_plan_holds(tmp_path):
    result = plan(tmp_path, {"1": release.query_set("disc", {0: BOX, 1: BOX, 8: BOX})}, AnnotateConfig(max_shard_frames=3))
    whole, first = forecast(result, None, 10.0, 4.0), forecast(result, 1, 10.0, 4.0)
    assert (whole["units"], whole["frames"], first["units"], first["frames"]) == (2, 3, 1, 2)
    assert whole["hours_on_one_worker"] == round(3 / 36000, 4)
