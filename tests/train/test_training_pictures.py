"""Training shards: what is read back is what the world shows, and a half-written shard is none."""

import numpy as np
import pytest

from egoray.synthetic.world import MIN_VISIBLE_PX
from egoray.train import pictures
from egoray.train.pictures import CLIP_FRAMES, Shard, Shards, write_shard


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(pictures, "_WORLDS", 2)
    patch.setattr(pictures, "_CLIPS", 2)
    folder = tmp_path_factory.mktemp("pictures")
    write_shard(folder, "train", 3)
    yield folder
    patch.undo()


def test_truth_agrees_with_the_owner_maps(folder):
    shard = Shard(folder / "00003.npz")
    assert shard.num_frames == 2 * 2 * CLIP_FRAMES
    some = 0
    for frame in range(0, shard.num_frames, 5):
        truth, owners = shard.truth(frame), shard.owners(frame)
        assert shard.picture(frame).shape == (*owners.shape, 3)
        for k in range(len(shard.things[truth.world])):
            rows, cols = np.nonzero(owners == k + 1)
            if len(rows) < MIN_VISIBLE_PX:
                assert truth.pixels[k] == 0
                assert not truth.boxes[k].any()
            else:
                some += 1
                assert truth.pixels[k] == len(rows)
                assert truth.boxes[k].tolist() == [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
    assert some > 10


def test_a_shard_is_a_function_of_its_number(folder, tmp_path, monkeypatch):
    write_shard(tmp_path, "train", 3)
    assert (tmp_path / "00003.blob").read_bytes() == (folder / "00003.blob").read_bytes()
    monkeypatch.setattr(pictures, "_WORLDS", 1)
    write_shard(tmp_path, "train", 4)
    assert (tmp_path / "00004.blob").read_bytes()[:5000] != (folder / "00003.blob").read_bytes()[:5000]


def test_a_shard_that_is_there_is_not_rendered_again(folder, monkeypatch):
    monkeypatch.setattr(pictures, "World", None)
    assert write_shard(folder, "train", 3).exists()


def test_only_whole_shards_are_read_and_new_ones_are_found(folder, tmp_path):
    (tmp_path / "00001.blob.77.part").write_bytes(b"half")
    (tmp_path / "00002.blob").write_bytes(b"a blob without its index")
    shards = Shards(tmp_path)
    assert len(shards) == 0
    for suffix in (".blob", ".npz"):
        (tmp_path / f"00003{suffix}").write_bytes((folder / f"00003{suffix}").read_bytes())
    shards.refresh()
    assert len(shards) == 1


def test_no_shards_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no shards"):
        Shards(tmp_path).draw(np.random.default_rng(0))
