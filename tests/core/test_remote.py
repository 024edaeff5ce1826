"""Folders and videos in an object store: a real S3 server on loopback, asked again when it is busy."""

from pathlib import Path

import numpy as np
import pytest

from egoray.core import paths
from egoray.core.storage import Folder
from egoray.core.video import digest, probe, read_frames, read_image
from egoray.errors import ConfigError, FormatError
from support.store import s3
from support.videos import write_clip


@pytest.fixture(scope="module")
def store():
    with s3() as (environment, door):
        yield environment, door


@pytest.fixture
def bucket(store, monkeypatch):
    environment, door = store
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    paths._s3.cache_clear()
    yield "s3://clips/work", door
    paths._s3.cache_clear()


def test_files_appear_are_listed_read_and_removed(bucket):
    folder = Folder(bucket[0])
    folder.write_json("a/run.json", {"k": 1})
    folder.write_bytes("b.bin", b"x" * 10)
    assert (folder / "a").read_json("run.json") == {"k": 1}
    assert folder.names() == ["b.bin"]
    assert folder.folders() == ["a"]
    with folder.reading("b.bin") as stream:
        stream.seek(8)
        assert stream.read() == b"xx"
    folder.delete("b.bin")
    folder.delete_folder("a")
    assert not folder.exists("b.bin")
    with pytest.raises(FormatError, match=r"b.bin: not found"):
        folder.read_bytes("b.bin")


def test_a_body_that_fails_leaves_nothing(bucket):
    folder = Folder(bucket[0])

    def fails():
        with folder.writing("half.bin") as stream:
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert not folder.exists("half.bin")


def test_a_busy_store_is_asked_again(bucket):
    folder = Folder(bucket[0])
    folder.write_bytes("busy.bin", b"1")
    bucket[1].refusals, before = 3, bucket[1].refused
    assert folder.read_bytes("busy.bin") == b"1"
    assert bucket[1].refused == before + 3


def test_a_video_is_read_by_range_and_is_the_local_one(bucket, tmp_path):
    local = Path(write_clip(tmp_path / "v.mp4"))
    Folder("s3://clips/videos").write_bytes("v.mp4", local.read_bytes())
    remote = paths.join("s3://clips/videos", "v.mp4")
    before = bucket[1].ranges
    assert digest(remote) == digest(str(local))
    here, there = (probe(str(path), "v") for path in (local, remote))
    assert (here.num_frames, here.fps, here.height_px) == (there.num_frames, there.fps, there.height_px)
    wanted = [0, here.num_frames - 1]
    for (_, a), (_, b) in zip(read_frames(str(local), wanted), read_frames(remote, wanted), strict=True):
        assert np.array_equal(a, b)
    assert bucket[1].ranges > before


def test_a_missing_image_a_missing_bucket_and_missing_keys_are_one_line_each(bucket, monkeypatch):
    with pytest.raises(FormatError, match=r"nothing.jpg: no such image"):
        read_image("s3://clips/nothing.jpg")
    with pytest.raises(ConfigError, match=r"s3://nowhere.*the store refused"):
        Folder("s3://nowhere/x").write_bytes("a", b"1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    paths._s3.cache_clear()
    with pytest.raises(ConfigError, match=r"s3://clips/work: the store refused .* set AWS_ACCESS_KEY_ID"):
        Folder("s3://clips/work").write_bytes("a", b"1")


def test_options_stand_in_the_address(store):
    _, door = store
    uri = f"s3://clips/x?endpoint_override=127.0.0.1:{door.server_address[1]}&scheme=http"
    assert paths.join(uri, "a", "b.json") == uri.replace("x?", "x/a/b.json?")
    assert paths.name(uri) == "x"
    assert paths.parent(paths.join(uri, "a")) == uri
    with pytest.raises(ConfigError, match="unknown option endpoint; known are"):
        Folder("s3://clips/x?endpoint=y")
