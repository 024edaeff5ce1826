"""The sample as a release: what the pipeline's own readers find in it is what the worlds hold."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from egoray.core import masks, video
from egoray.formats.egomask import images_dir, read_gold, read_items
from egoray.formats.egotracks import read_tracks
from egoray.synthetic.sample import write_sample

SIZE = {"seconds": 12.0, "size_hw": (90, 160)}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    done = []
    summary = write_sample(str(folder), videos=2, seed=4, progress=done.append, **SIZE)
    assert done == [1, 2]
    return folder, summary


def digests(folder: Path) -> dict[str, str]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != ".mp4"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def frames(folder: Path, uid: str) -> list[str]:
    decoded = video.read_frames(str(folder / "clips" / f"{uid}.mp4"), range(0, 360, 20))
    return [hashlib.sha256(image.tobytes()).hexdigest() for _, image in decoded]


def test_the_same_seed_gives_the_same_bytes_and_the_same_decoded_frames(sample, tmp_path):
    folder, summary = sample
    write_sample(str(tmp_path), videos=2, seed=4, workers=1, **SIZE)
    assert digests(tmp_path) == digests(folder)
    for uid in summary["clips"]:
        assert frames(tmp_path, uid) == frames(folder, uid)


def test_clips_are_30_fps_h264_of_the_asked_length(sample):
    folder, summary = sample
    for uid in summary["clips"]:
        info = video.probe(str(folder / "clips" / f"{uid}.mp4"), uid)
        assert (info.num_frames, info.fps, info.height_px, info.width_px, info.stride) == (360, 30.0, 90, 160, 6)


def test_an_object_is_in_the_truth_exactly_where_it_has_a_box(sample):
    folder, summary = sample
    found = read_tracks(folder / "egotracks.json")
    assert not found.failures
    assert {track.video_id for track in found.tracks} == set(summary["clips"])
    items = {(item.video_id, item.object_id): item for item in read_items(folder / "truth", "medium")}
    for track in found.tracks:
        item = items.get((track.video_id, track.object_id))
        kept = {f"{frame:05d}" for frame in track.boxes if frame % 5 == 0}
        gold = read_gold(folder / "truth", item) if item else {}
        assert set(gold) == kept
        for name, rle in gold.items():
            assert masks.bounding_box(rle) == track.boxes[int(name)]
            dense = masks.decode(rle)
            np.testing.assert_array_equal(masks.keep_inside(dense, track.boxes[int(name)]), dense)


def test_two_expressions_an_object_and_a_picture_a_frame(sample):
    folder, _ = sample
    items = read_items(folder / "truth", "medium")
    by_object: dict[tuple[str, str], list[str]] = {}
    for item in items:
        by_object.setdefault((item.video_id, item.object_id), []).append(item.text)
        pictures = sorted(p.stem for p in Path(images_dir(folder / "truth", item)).glob("*.jpg"))
        assert pictures == list(item.frame_names) == [f"{n:05d}" for n in range(0, 60, 5)]
    assert by_object
    assert all(len(set(texts)) == 2 for texts in by_object.values())


def test_the_boxes_file_is_a_release(sample):
    folder, _ = sample
    document = json.loads((folder / "egotracks.json").read_text())
    clip = document["videos"][0]["clips"][0]
    query_set = next(iter(clip["annotations"][0]["query_sets"].values()))
    assert {"clip_uid", "clip_fps", "annotations"} <= set(clip)
    assert {"is_valid", "object_title", "lt_track"} <= set(query_set)
    assert {"frame_number", "x", "y", "width", "height", "original_width", "original_height"} <= set(query_set["lt_track"][0])
