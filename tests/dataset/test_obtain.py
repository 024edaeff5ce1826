"""The real data's commands, against a hub and a store on loopback and videos made here."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import av
import boto3
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from egoray.cli import main
from egoray.config import BuildConfig
from egoray.dataset import obtain_ego4d, obtain_frames, obtain_hub
from egoray.dataset.build import build
from egoray.dataset.obtain_frames import refego_frames
from egoray.dataset.validate import validate
from egoray.errors import ConfigError, FormatError
from support import hub
from support.annotated import write_annotated
from support.release import STRIDE, write_clip

FILES = {"egomask/meta.json": b"{}", "egomask/annotations/a/1.json": b'{"00000": null}', "weights.bin": bytes(range(256)) * 40}


def fetch(address: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.setenv("HF_ENDPOINT", address)
    return obtain_hub.obtain(obtain_hub.EGOMASK, str(out))


def test_annotations_come_whole_and_only_what_is_missing_or_spoilt_comes_again(tmp_path, monkeypatch):
    with hub.serving("XuuuXYZ/EgoMask", FILES, kind="datasets") as (address, fetched):
        first = fetch(address, tmp_path / "d", monkeypatch)
        assert (first["files"], first["already_there"], first["commit"]) == (3, 0, hub.COMMIT)
        assert {name: (tmp_path / "d" / name).read_bytes() for name in FILES} == FILES
        assert "Ego4D" in first["licence"]
        assert (fetch(address, tmp_path / "d", monkeypatch)["already_there"], len(fetched)) == (3, 3)
        (tmp_path / "d/egomask/meta.json").write_bytes(b"[]")  # the same size
        (tmp_path / "d/weights.bin").unlink()
        assert fetch(address, tmp_path / "d", monkeypatch)["already_there"] == 1
        assert {name: (tmp_path / "d" / name).read_bytes() for name in FILES} == FILES


@pytest.mark.parametrize("name", ["weights.bin", "egomask/meta.json"])
def test_a_file_that_arrives_damaged_comes_once_more_and_is_then_refused(tmp_path, monkeypatch, name):
    with hub.serving("XuuuXYZ/EgoMask", FILES, kind="datasets", damaged={name: 1}) as (address, _):
        fetch(address, tmp_path / "d", monkeypatch)
        assert (tmp_path / "d" / name).read_bytes() == FILES[name]
    with hub.serving("XuuuXYZ/EgoMask", FILES, kind="datasets", damaged={name: 2}) as (address, _):
        with pytest.raises(FormatError, match="arrived damaged twice"):
            fetch(address, tmp_path / "e", monkeypatch)
        assert not (tmp_path / "e" / name).exists()


def test_an_unknown_repository_and_a_hub_that_is_down_say_what_to_do(tmp_path, monkeypatch):
    with hub.serving("other/set", FILES, kind="datasets") as (address, _), pytest.raises(ConfigError, match="HF_TOKEN, and check the name"):
        fetch(address, tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match="HF_ENDPOINT names another hub"):
        fetch("http://127.0.0.1:9", tmp_path, monkeypatch)


def test_weights_come_by_name_without_what_is_not_needed(tmp_path, monkeypatch):
    files = {"sam2.1_hiera_tiny.pt": b"weights", "sam2.1_hiera_t.yaml": b"a: 1", "README.md": b"#", "model.safetensors": b"0"}
    with hub.serving("facebook/sam2.1-hiera-tiny", files) as (address, fetched):
        monkeypatch.setenv("HF_ENDPOINT", address)
        done = CliRunner().invoke(main, ["obtain", "models", "sam2.1-tiny", "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.stderr
    assert "Apache-2.0" in done.stderr
    assert sorted(fetched) == ["sam2.1_hiera_t.yaml", "sam2.1_hiera_tiny.pt"]
    assert (tmp_path / "sam2.1-tiny/sam2.1_hiera_tiny.pt").read_bytes() == b"weights"
    assert CliRunner().invoke(main, ["obtain", "models", "magic"]).exit_code == 2


CLIPS = {"clip-a": b"a" * 3000, "clip-b": b"b" * 5000, "clip-c": b"c" * 10}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a store on loopback, empty."""
    code = "from moto.server import ThreadedMotoServer as S; import time\ns = S('127.0.0.1', 0, verbose=False); s.start()\n"
    code += "print(s._server.server_port, flush=True)\ntime.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.kill()


@pytest.fixture
def store(s3, monkeypatch) -> Iterator[object]:
    """Two buckets as Ego4D has them: the manifest in one, the clips in another; the user's keys are in the environment."""
    for key, value in {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(key, value)
    client = boto3.client("s3", endpoint_url=s3, region_name="us-east-1")
    for bucket in ("ego4d-consortium-sharing", "ego4d-lab"):
        client.create_bucket(Bucket=bucket)
    rows = ["exported_clip_uid,video_uid,s3_path", *(f"{uid},film,s3://ego4d-lab/v/{uid}.mp4" for uid in [*CLIPS, "clip-gone"])]
    client.put_object(Bucket="ego4d-consortium-sharing", Key="public/v2/clips/manifest.csv", Body="\n".join(rows).encode())
    for uid, data in CLIPS.items():
        client.put_object(Bucket="ego4d-lab", Key=f"v/{uid}.mp4", Body=data)
    yield client
    urllib.request.urlopen(urllib.request.Request(f"{s3}/moto-api/reset", method="POST")).close()


def test_clips_come_by_their_ids_and_each_lost_one_has_its_reason(store, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("clip-a clip-b\nclip-gone film")  # no newline at the end, as released
    done = CliRunner().invoke(main, ["obtain", "ego4d", str(ids), "clip-a", "--out", str(tmp_path / "ego4d"), "--json"])
    summary = json.loads(done.stdout)
    assert (done.exit_code, summary["expected"], summary["done"], summary["bytes"]) == (1, 4, 2, 8000)
    assert summary["lost"].keys() == {"clip-gone", "film"}
    assert "not in the store" in summary["lost"]["clip-gone"]
    assert "not in the manifest of clips v2" in summary["lost"]["film"]
    assert "sign its licence" in done.stderr
    folder = tmp_path / "ego4d/v2/clips"
    assert sorted(path.name for path in folder.iterdir()) == ["clip-a.mp4", "clip-b.mp4", "manifest.csv", "obtained.json"]
    assert (folder / "clip-b.mp4").read_bytes() == CLIPS["clip-b"]
    record = json.loads((folder / "obtained.json").read_text())
    assert record["clip-a"]["sha256"] == hashlib.sha256(CLIPS["clip-a"]).hexdigest()


def test_a_cut_download_goes_on_and_a_changed_or_spoilt_clip_comes_anew(store, tmp_path):
    def run() -> dict:
        return obtain_ego4d.obtain(["clip-a", "clip-b"], str(tmp_path))

    folder = tmp_path / "v2/clips"
    run()
    [info] = [obtain_ego4d._info("s3://ego4d-lab/v/clip-a.mp4")]
    (folder / "clip-a.mp4").unlink()
    part = folder / f"clip-a.mp4.{info.size}-{info.mtime_ns}.part"
    part.write_bytes(b"A" * 1000)  # marked, so that what is kept shows
    (folder / "clip-b.mp4.7-7.part").write_bytes(b"of another version")
    spoilt = folder / "clip-b.mp4"
    spoilt.write_bytes(b"x" * 5000)
    summary = run()
    assert (summary["already_there"], summary["failed"]) == (0, 0)
    assert (folder / "clip-a.mp4").read_bytes() == b"A" * 1000 + b"a" * 2000
    assert spoilt.read_bytes() == CLIPS["clip-b"]
    assert not list(folder.glob("*.part"))
    store.put_object(Bucket="ego4d-lab", Key="v/clip-b.mp4", Body=b"new" * 100)
    run()
    assert spoilt.read_bytes() == b"new" * 100


def test_a_killed_download_is_finished_by_the_same_command(store, s3, tmp_path):
    data = os.urandom(60 << 20)
    store.put_object(Bucket="ego4d-lab", Key="v/clip-c.mp4", Body=data)
    command = [sys.executable, "-m", "egoray.cli", "obtain", "ego4d", "clip-c", "--out", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as killed:
        while not (parts := [p for p in (tmp_path / "v2/clips").glob("*.part") if p.stat().st_size]) and killed.poll() is None:
            time.sleep(0.002)
        killed.kill()
        assert killed.wait() == -9
    assert parts
    assert not (tmp_path / "v2/clips/clip-c.mp4").exists()
    summary = obtain_ego4d.obtain(["clip-c"], str(tmp_path))
    assert summary["failed"] == 0
    assert (tmp_path / "v2/clips/clip-c.mp4").read_bytes() == data


def test_no_credentials_and_a_wrong_manifest_are_one_line_with_the_remedy(store, tmp_path):
    done = CliRunner().invoke(main, ["obtain", "ego4d", "clip-a", "--out", str(tmp_path), "--release", "v9"])
    assert done.exit_code == 2
    assert "aws configure" in done.stderr
    store.put_object(Bucket="ego4d-consortium-sharing", Key="public/v2/clips/manifest.csv", Body=b"a,b\n1,2")
    with pytest.raises(FormatError, match="not a manifest; expected a column of file_uid"):
        obtain_ego4d.obtain(["clip-a"], str(tmp_path))


def test_a_dataset_is_built_and_checked_in_a_store(store, tmp_path):
    work = write_annotated(tmp_path)
    built = build(work, str(tmp_path / "clips"), "s3://ego4d-lab/dataset", BuildConfig(fps=5))
    assert built["tiers"]["short"]["videos"] == 2
    found = validate("s3://ego4d-lab/dataset")
    assert (found.faults, found.warnings, found.counts["images"]) == ([], [], 46)
    store.put_object(Bucket="ego4d-lab", Key="dataset/README.md", Body=b"mine")
    assert validate("s3://ego4d-lab/dataset").faults == ["README.md: changed since the dataset was built (its SHA-256 is another)"]


def test_ids_are_read_from_lists_and_from_the_releases_own_files(tmp_path):
    meta, tracks = tmp_path / "meta_expressions.json", tmp_path / "egotracks.json"
    meta.write_text(json.dumps({"videos": {"film--41-20": {}, "clip--00000-00300": {}, "clip": {}}}))
    tracks.write_text(
        json.dumps({"videos": [{"video_uid": "v", "clips": [{"clip_uid": "x"}, {"clip_uid": "y", "exported_clip_uid": "z"}]}]})
    )
    assert obtain_ego4d.read_ids([str(meta), str(tracks), "own"]) == ["film", "clip", "x", "z", "own"]
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(FormatError, match="holds no ids"):
        obtain_ego4d.read_ids([str(tmp_path / "empty")])


def released(root: Path, tier: str, video_id: str, names: list[str]) -> None:
    path = root / f"subset/{tier}/meta_expressions.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"videos": {video_id: {"frames": names, "expressions": {}}}}))


def counting(path: Path, fps: int, num_frames: int, size_hw: tuple[int, int]) -> None:
    """A video whose n-th frame is n written as 12 black and white columns."""
    height, width = size_hw
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "1", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for n in range(num_frames):
            image = np.zeros((height, width, 3), np.uint8)
            for bit in range(12):
                image[:, bit * width // 12 : (bit + 1) * width // 12] = 255 * (n >> bit & 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode(None))


def number(image: np.ndarray) -> int:
    width = image.shape[1]
    return sum(1 << bit for bit in range(12) if image[:, (2 * bit + 1) * width // 24].mean() > 127)


def by_ffmpeg(path: Path) -> list[int]:
    """The number of each frame that ffmpeg's own ``fps=2`` filter gives."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        source = graph.add_buffer(template=stream, time_base=stream.time_base)
        rate, sink = graph.add("fps", "2"), graph.add("buffersink")
        source.link_to(rate)
        rate.link_to(sink)
        graph.configure()
        found = []

        def drain() -> None:
            while True:
                try:
                    found.append(number(graph.pull().to_ndarray(format="rgb24")))
                except (av.error.BlockingIOError, av.error.EOFError):
                    return

        for frame in container.decode(stream):
            graph.push(frame)
            drain()
        graph.push(None)
        drain()
        return found


@pytest.mark.parametrize("fps", [30, 24, 25, 10])
def test_refegos_images_are_those_that_ffmpeg_cuts(tmp_path, fps):
    counting(tmp_path / "film.mp4", fps, 7 * fps + 3, (48, 96))
    wanted = by_ffmpeg(tmp_path / "film.mp4")
    assert refego_frames([n / fps for n in range(7 * fps + 3)], range(len(wanted))) == wanted
    names = [f"img{n:010d}" for n in (3, 4, 5)]
    released(tmp_path / "d", "short", "film--3-3", names)
    obtain_frames.obtain(str(tmp_path / "d"), [str(tmp_path)])
    folder = tmp_path / "d/JPEGImages/refego/film--3-3"
    pictures = [cv2.imread(str(folder / f"{name}.jpg")) for name in names]
    assert [number(p) for p in pictures] == wanted[2:5]
    assert {p.shape for p in pictures} == {(320, 640, 3)}
    with pytest.raises(FormatError, match="but image 99 is at 49"):
        refego_frames([n / fps for n in range(7 * fps)], [98])


def test_the_pictures_of_clips_have_the_releases_frames_and_names(tmp_path):
    (tmp_path / "ego4d/v2/clips").mkdir(parents=True)
    write_clip(tmp_path / "ego4d/v2/clips/clip.mp4", 23, 2)
    released(tmp_path / "d", "long", "clip", ["00000", "00005", "00010.jpg"])
    released(tmp_path / "d", "medium", "clip--1", ["00010", "00015"])
    train = tmp_path / "d/egomask-train/meta_expressions/train/meta_expressions.json"
    train.parent.mkdir(parents=True)
    train.write_text(
        json.dumps({"videos": {"clip": {"frames": ["00020"], "expressions": {}}, "gone": {"frames": ["00000"], "expressions": {}}}})
    )
    args = ["obtain", "frames", "--dataset", str(tmp_path / "d"), "--videos", str(tmp_path / "ego4d"), "--json"]
    done = CliRunner().invoke(main, args)
    summary = json.loads(done.stdout)
    assert (done.exit_code, summary["pictures"], summary["done"]) == (1, 5, 2)
    assert summary["lost"] == {
        "egomask-train/train/JPEGImages/gone": "gone.mp4: in none of the folders; fetch it with `egoray obtain ego4d`"
    }
    with av.open(str(tmp_path / "ego4d/v2/clips/clip.mp4")) as clip:
        decoded = [frame.to_ndarray(format="bgr24").astype(int) for frame in clip.decode(video=0)]
    folder = tmp_path / "d/JPEGImages/egotracks/clip"
    assert sorted(path.name for path in folder.iterdir()) == [f"{n:05d}.jpg" for n in (0, 5, 10, 15)]
    for path in folder.iterdir():
        distance = [abs(cv2.imread(str(path)) - frame).mean() for frame in decoded]
        assert np.argmin(distance) // STRIDE == int(path.stem)
    (folder / "00005.jpg").unlink()
    again = json.loads(CliRunner().invoke(main, args).stdout)
    assert (again["pictures"], again["already_there"]) == (1, 4)
