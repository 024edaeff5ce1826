"""The annotate stage on a real Ray cluster, with real processes that are killed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from egoray.annotate.plan import plan_from_files
from egoray.annotate.ray_annotate import annotate
from egoray.config import AnnotateConfig
from egoray.core import masks
from egoray.core.storage import Folder
from egoray.core.workfolder import read_failures, read_masklets, read_objects, read_videos
from egoray.errors import ModelError, StageError
from egoray.report.status import status
from support import release, trackers

pytestmark = pytest.mark.ray
CONFIG = AnnotateConfig(max_shard_frames=8, cpus_per_worker=0.5, workers=2)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    release.write_release(folder)
    return folder


def run(clips, out, config=CONFIG, **kwargs):
    plan = plan_from_files(str(clips / "egotracks.json"), str(clips / "clips"), config)
    return annotate(plan, str(out), config, **kwargs)


def digests(out: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((out / "masklets").glob("*.parquet"))}


def test_masks_follow_the_objects_and_stay_inside_their_boxes(cluster, clips, tmp_path):
    summary = run(clips, tmp_path)
    assert (summary["expected"], summary["done"], summary["failed"]) == (6, 6, 0)
    folder = Folder(str(tmp_path))
    assert sorted(read_videos(folder)) == ["clip-0", "clip-1", "clip-2"]
    objects = {(t.video_id, t.object_id): t for t, _ in read_objects(folder)}
    found = read_masklets(folder)
    assert set(found) == set(objects)
    scores = []
    for key, masklet in found.items():
        assert set(masklet.masks) == set(objects[key].boxes)
        for frame, rle in masklet.masks.items():
            dense = masks.decode(rle)
            truth, (x, y, w, h) = release.disc(frame, int(key[1]) - 1)
            outside = dense.copy()
            outside[int(y) : int(y + h), int(x) : int(x + w)] = False
            assert not outside.any()
            scores.append((dense & truth).sum() / (dense | truth).sum())
    assert np.mean(scores) > 0.85


def test_a_rerun_tracks_nothing_and_another_folder_gets_the_same_bytes(cluster, clips, tmp_path):
    run(clips, tmp_path / "a")
    before = digests(tmp_path / "a")
    (told,) = status(str(tmp_path / "a"))["stages"]
    assert (told["state"], told["done"], len(told["slowest"]), told["at_work"]) == ("finished", 6, 5, [])
    assert told["rate"] > 0
    again = run(clips, tmp_path / "a")
    assert (again["skipped"], again["frames"]) == (6, 0)
    run(clips, tmp_path / "b", AnnotateConfig(**(CONFIG.model_dump() | {"workers": 1})))
    assert digests(tmp_path / "a") == before == digests(tmp_path / "b")


def test_a_changed_setting_redoes_the_work_and_leaves_nothing_old(cluster, clips, tmp_path):
    run(clips, tmp_path)
    before = set(digests(tmp_path))
    summary = run(clips, tmp_path, AnnotateConfig(**(CONFIG.model_dump() | {"prompt_every": 2})))
    assert summary["skipped"] == 0
    assert before.isdisjoint(digests(tmp_path))
    assert len(digests(tmp_path)) == 6


def test_a_changed_clip_redoes_that_clip_alone(cluster, tmp_path):
    release.write_release(tmp_path, clips=3, num_frames=8, gap=2)
    run(tmp_path, tmp_path / "out")
    release.write_clip(tmp_path / "clips" / "clip-1.mp4", 8, 3)
    summary = run(tmp_path, tmp_path / "out")
    assert (summary["expected"], summary["skipped"]) == (3, 2)


def test_limit_takes_the_first_units_and_the_rest_follows(cluster, clips, tmp_path):
    first = run(clips, tmp_path, limit=2)
    assert (first["expected"], first["done"]) == (2, 2)
    rest = run(clips, tmp_path)
    assert (rest["expected"], rest["skipped"], rest["done"]) == (6, 2, 6)


def test_a_unit_that_raises_is_one_failure_row_and_waits_for_retry_failed(cluster, clips, tmp_path):
    summary = run(clips, tmp_path, build=trackers.raising("a bad day"))
    assert (summary["done"], summary["failed"]) == (3, 3)
    assert {(f.error, f.message) for f in read_failures(Folder(str(tmp_path)))} == {("ValueError", "a bad day")}
    kept = run(clips, tmp_path)
    assert (kept["done"], kept["failed"], kept["frames"]) == (3, 3, 0)
    retried = run(clips, tmp_path, retry_failed=True)
    assert (retried["done"], retried["failed"]) == (6, 0)
    assert not list(read_failures(Folder(str(tmp_path))))


def test_a_clip_cut_short_is_lost_alone_and_back_when_it_is_whole(cluster, tmp_path):
    """The index is at the front, so the clip opens; its last pictures are missing."""
    release.write_release(tmp_path, clips=2, num_frames=60, gap=4)
    clip = tmp_path / "clips" / "clip-0.mp4"
    index_to_front(clip)
    whole = clip.read_bytes()
    clip.write_bytes(whole[: int(0.7 * len(whole))])
    config = AnnotateConfig(workers=2, cpus_per_worker=0.5, max_shard_frames=30)
    summary = run(tmp_path, tmp_path / "out", config)
    assert (summary["expected"], summary["done"], summary["failed"]) == (3, 2, 1)
    (failure,) = read_failures(Folder(str(tmp_path / "out")))
    assert "clip-0.mp4: cut short: 360 frames are announced" in failure.message
    clip.write_bytes(whole)
    summary = run(tmp_path, tmp_path / "out", config)
    assert (summary["expected"], summary["done"], summary["failed"], summary["skipped"]) == (4, 4, 0, 2)
    assert not list(read_failures(Folder(str(tmp_path / "out"))))


def index_to_front(path: Path) -> None:
    """Copy the clip with its index moved to the front, packets untouched."""
    import av

    moved = path.with_suffix(".moved.mp4")
    with av.open(str(path)) as source, av.open(str(moved), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    moved.replace(path)


def test_a_broken_checkpoint_stops_the_run_with_one_line(cluster, clips, tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"weights\.pt: .*not a"):
        run(clips, tmp_path / "out", AnnotateConfig(**(CONFIG.model_dump() | {"model": f"sam2:{tmp_path}/weights.pt"})))


def test_sam2_goes_the_same_way(cluster, tmp_path):
    from egoray.models.sam2_weights import write_random_checkpoint

    release.write_release(tmp_path, clips=1, num_frames=10, gap=2)
    config = AnnotateConfig(model="sam2:" + write_random_checkpoint(str(tmp_path / "narrow.pt")), workers=1)
    summary = run(tmp_path, tmp_path / "out", config)
    assert (summary["done"], summary["failed"], summary["frames"]) == (1, 0, 8)
    assert read_masklets(Folder(str(tmp_path / "out")))


def test_out_of_memory_stops_the_run_and_blames_no_unit(cluster, clips, tmp_path):
    with pytest.raises(StageError, match="no memory left for this frame") as caught:
        run(clips, tmp_path, build=trackers.hungry())
    assert "\n" not in str(caught.value)
    assert not list(read_failures(Folder(str(tmp_path))))


def test_a_killed_actor_loses_nothing(cluster, clips, tmp_path):
    summary = run(clips, tmp_path / "out", build=trackers.die_once(str(tmp_path / "died")))
    assert (tmp_path / "died").exists()
    assert (summary["done"], summary["failed"]) == (6, 0)


def test_a_unit_that_crashes_its_actor_is_given_up_after_three_attempts(cluster, tmp_path):
    release.write_release(tmp_path, clips=3, num_frames=8, gap=2)
    poison_clip(tmp_path / "clips" / "clip-1.mp4")
    summary = run(tmp_path, tmp_path / "out", build=trackers.die_on_marked())
    assert (summary["done"], summary["failed"]) == (2, 1)
    (failure,) = read_failures(Folder(str(tmp_path / "out")))
    assert failure.unit.startswith("clip-1:")
    assert "died in each of 3 attempts" in failure.message


def poison_clip(path: Path) -> None:
    """The clip again, its top left corner white."""
    import av

    with av.open(str(path)) as container:
        images = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = *release.SIZE_HW, "yuv420p"
        for image in images:
            image[:16, :16] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode(None))


def command(clips: Path, out: Path, *more: str) -> list[str]:
    settings = ["--set", "max_shard_frames=8", "--set", "workers=2", "--set", "cpus_per_worker=0.5"]
    inputs = ["--tracks", str(clips / "egotracks.json"), "--videos", str(clips / "clips"), "--out", str(out)]
    return [sys.executable, "-m", "egoray.cli", "annotate", *inputs, *settings, *more]


def kill_and_rerun(clips: Path, out: Path, kills: int, seed: int) -> list[int]:
    """SIGKILL the driver after random numbers of finished units, ``kills`` times; how many were finished at each."""
    rng = np.random.default_rng(seed)
    finished = []
    for _ in range(kills):
        before = len(list((out / "masklets").glob("*.parquet")))
        wait_for = before + int(rng.integers(0, 3))
        process = subprocess.Popen(command(clips, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if (out / "attempts").exists() and len(list((out / "masklets").glob("*.parquet"))) >= max(1, wait_for):
                break
            time.sleep(0.02)
        time.sleep(float(rng.uniform(0, 0.2)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        finished.append(len(list((out / "masklets").glob("*.parquet"))))
    return finished


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_killed_driver_resumes_to_the_same_bytes(cluster, tmp_path, kills):
    release.write_release(tmp_path, clips=10, num_frames=30, gap=4)
    calm = run(tmp_path, tmp_path / "calm")
    kill_and_rerun(tmp_path, tmp_path / "killed", kills, seed=kills)
    done = subprocess.run(command(tmp_path, tmp_path / "killed", "--json"), capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    assert summary["done"] == summary["expected"] == calm["expected"]
    assert digests(tmp_path / "killed") == digests(tmp_path / "calm")


def test_a_full_disk_stops_with_one_line_and_the_rest_resumes(clips, tmp_path):
    """A file-size limit makes every write of a result fail as a full disk does."""
    limited = ["bash", "-c", 'ulimit -f 0; exec "$@"', "limited", *command(clips, tmp_path / "out")]
    done = subprocess.run(limited, capture_output=True, text=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
