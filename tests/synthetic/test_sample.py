"""A sample on disk: the two files of annotations say the same, they are what the scene says, and a rerun repeats them."""

import json
import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from egoray.core import masks
from egoray.core.boxes import pixel_slices
from egoray.core.video import probe
from egoray.errors import ConfigError
from egoray.formats.egomask import images_dir, read_gold, read_items
from egoray.formats.egotracks import read_tracks
from egoray.synthetic.sample import write_sample
from egoray.synthetic.world import World, WorldConfig, tight_box

ASKED = {"videos": 2, "seed": 7, "seconds": 12.0, "size_hw": (180, 320)}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    out = tmp_path_factory.mktemp("sample")
    steps = []
    summary = write_sample(out, **ASKED, workers=2, progress=steps.append)
    assert steps == [1, 2]
    return out, summary


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(Path(root).rglob("*")) if path.is_file()}


def test_the_summary_counts_what_is_there(sample):
    out, summary = sample
    tracks = read_tracks(out / "egotracks.json").tracks
    assert summary["videos"] == len(list((out / "clips").glob("*.mp4"))) == 2
    assert summary["objects"] == len(tracks) >= 2
    assert summary["boxes"] == sum(len(track.boxes) for track in tracks)
    assert summary["expressions"] == 2 * len(tracks) == len(read_items(out / "truth", "medium"))


def test_an_object_is_in_the_truth_exactly_where_it_has_a_box(sample):
    out, _ = sample
    tracks = {(track.video_id, track.object_id): track for track in read_tracks(out / "egotracks.json").tracks}
    items = read_items(out / "truth", "medium")
    assert {(item.video_id, item.object_id) for item in items} == set(tracks)
    for item in items:
        track, gold = tracks[item.video_id, item.object_id], read_gold(out / "truth", item)
        assert item.frame_names == tuple(f"{frame:05d}" for frame in range(0, 60, 5))
        assert gold
        assert {int(name) for name in gold} == {frame for frame in track.boxes if frame % 5 == 0}
        for name, rle in gold.items():
            assert masks.bounding_box(rle) == track.boxes[int(name)]
            mask = masks.decode(rle)
            assert mask[pixel_slices(track.boxes[int(name)], mask.shape)].sum() == mask.sum() >= 25


def test_every_box_is_the_scene_s(sample):
    out, _ = sample
    by_clip = {}
    for track in read_tracks(out / "egotracks.json").tracks:
        by_clip.setdefault(track.video_id, []).append(track)
    config = WorldConfig(seconds=12.0, size_hw=(180, 320))
    for index, video in enumerate(json.loads((out / "egotracks.json").read_text())["videos"]):
        world, tracks = World(config, (7, index)), by_clip[video["clips"][0]["clip_uid"]]
        assert [track.object_id for track in tracks] == [str(k + 1) for k in range(len(tracks))]
        drawn = {item.object_id: {} for item in world.objects}
        for frame in range(60):
            for object_id, mask in world.masks(6 * frame).items():
                drawn[object_id][frame] = tight_box(mask)
        boxes = [dict(track.boxes) for track in tracks]
        assert all(box in list(drawn.values()) for box in boxes)


def test_clips_decode_to_the_frames_of_the_truth(sample):
    out, _ = sample
    item = read_items(out / "truth", "medium")[0]
    with av.open(str(out / "clips" / f"{item.video_id}.mp4")) as container:
        assert container.streams.video[0].average_rate == 30
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == 360
    folder = Path(images_dir(str(out / "truth"), item))
    assert sorted(path.stem for path in folder.iterdir()) == list(item.frame_names)
    for name in item.frame_names:
        image = cv2.imread(str(folder / f"{name}.jpg"))[..., ::-1].astype(int)
        assert np.abs(image - decoded[6 * int(name)]).mean() < 6


def test_a_rerun_gives_the_same_bytes_and_clears_what_is_stale(sample, tmp_path):
    out, _ = sample
    again = tmp_path / "again"
    shutil.copytree(out, again)
    clip = next((again / "truth" / "annotations").iterdir())
    (clip / "99.json").write_text("{}")
    write_sample(again, **ASKED, workers=1)
    assert files(again) == files(out)


def test_another_seed_gives_other_clips(sample, tmp_path):
    out, _ = sample
    write_sample(tmp_path, **(ASKED | {"videos": 1, "seed": 8, "seconds": 2.0}), tier="long", workers=1)
    assert not {p.name for p in (tmp_path / "clips").iterdir()} & {p.name for p in (out / "clips").iterdir()}
    assert read_items(tmp_path / "truth", "medium") == []


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="even"):
        write_sample(tmp_path, videos=1, seed=0, size_hw=(181, 320))
    with pytest.raises(ValueError, match="videos"):
        write_sample(tmp_path, videos=0, seed=0)


def test_fewer_native_frames_keep_the_annotations_rate(tmp_path):
    counts = write_sample(tmp_path, videos=1, seed=2, seconds=6, size_hw=(72, 128), fps=5, workers=1)
    assert counts["frames"] == 30
    (video,) = (tmp_path / "clips").glob("*.mp4")
    assert probe(str(video), "v").num_frames == 30
    (images,) = (tmp_path / "truth" / "JPEGImages" / "egotracks").iterdir()
    assert len(list(images.iterdir())) == 6
    with pytest.raises(ConfigError, match="multiple of 5"):
        write_sample(tmp_path, videos=1, seed=2, fps=24)


def test_clips_of_another_length_and_size_stand_in_their_own_split(tmp_path):
    small = WorldConfig(seconds=6, size_hw=(96, 128), fps=10, stride=2)
    summary = write_sample(tmp_path, **ASKED | {"videos": 1, "seconds": 4.0}, others=[(small, "short")], workers=1)
    assert (summary["videos"], summary["frames"]) == (2, 4 * 30 + 6 * 10)
    [long, short] = ({item.video_id for item in read_items(tmp_path / "truth", split)} for split in ("medium", "short"))
    [uid] = short
    assert uid not in long
    info = probe(str(tmp_path / "clips" / f"{uid}.mp4"), uid)
    assert (info.num_frames, info.fps, info.stride, info.height_px, info.width_px) == (60, 10.0, 2, 96, 128)
    for item in read_items(tmp_path / "truth", "short"):
        gold = read_gold(tmp_path / "truth", item)
        assert all(rle.size == (96, 128) for rle in gold.values())
