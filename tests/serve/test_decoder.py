"""Decoding in another process: the same frames as here, caps, limits, and a process that is killed."""

import os
import signal
import time

import numpy as np
import psutil
import pytest

from egoray.config import ServeConfig
from egoray.core.clip import VideoClip
from egoray.serve.decoder import DecodedClip, Decoder
from egoray.serve.refusals import Refused
from support.served import write_clip


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return str(write_clip(tmp_path_factory.mktemp("clip") / "v.mp4"))


@pytest.fixture
def decoder(request):
    decoder = Decoder(ServeConfig(**getattr(request, "param", {})))
    yield decoder
    decoder.close()


def same(a, b):
    return all(m == n and np.array_equal(x, y) for (m, x), (n, y) in zip(a, b, strict=True))


def test_frames_are_those_that_are_decoded_here(decoder, video):
    looked = decoder.look(video)
    assert (looked.fps, looked.size_hw, len(looked.times_s)) == (30.0, (64, 96), 30)
    clip, here = DecodedClip(decoder, video, range(0, 30, 3), looked.size_hw, lambda: None), VideoClip(video, 3)
    assert clip.num_frames == here.num_frames
    assert same(list(clip.frames()), list(here.frames()))
    assert same(list(clip.frames([2, 5])), list(here.frames([2, 5])))
    assert same(list(clip.backward(3, 8)), list(here.backward(3, 8)))
    assert list(clip.frames([])) == []


def alive(process):
    return [child for child in process.children() if child.status() != psutil.STATUS_ZOMBIE]


def until(reached, seconds=20):
    deadline = time.monotonic() + seconds
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.02)
    return reached()


def test_closing_early_ends_the_process_of_the_pass(decoder, video):
    frames = decoder.frames(video, range(30))
    next(frames)
    warm = next(p for p in psutil.Process().children() if "decode_child" in " ".join(p.cmdline()))
    assert until(lambda: len(alive(warm)) == 5)  # one works, four wait
    frames.close()
    assert until(lambda: len(alive(warm)) == 4)
    decoder.close()
    assert not warm.is_running()


@pytest.mark.parametrize(
    ("decoder", "message"),
    [({"max_pixels": 5000}, "96x64"), ({"max_native_frames": 29}, "30 frames"), ({"max_duration_s": 0.5}, "1 s")],
    indirect=["decoder"],
)
def test_caps_are_read_before_anything_is_decoded(decoder, video, message):
    with pytest.raises(Refused, match=message) as refused:
        decoder.look(video)
    assert (refused.value.status, video in str(refused.value)) == (413, False)


@pytest.mark.parametrize("decoder", [{"decode_memory_mb": 64, "look_cpu_s": 1}], indirect=True)
def test_a_job_that_wants_too_much_dies_alone(decoder, video, tmp_path):
    import cv2

    big = tmp_path / "frames"
    big.mkdir()
    cv2.imwrite(str(big / "0.png"), np.zeros((3000, 3000, 3), np.uint8))
    cv2.imwrite(str(big / "1.png"), np.zeros((3000, 3000, 3), np.uint8))
    with pytest.raises(Refused) as refused:
        list(decoder.frames(str(big), [0, 1]) if decoder.look(str(big)) else ())
    assert refused.value.status in (413, 422)
    assert str(tmp_path) not in str(refused.value)
    assert len(decoder.look(video).times_s) == 30


def test_a_killed_decoder_is_started_again(decoder, video):
    decoder.look(video)
    warm = next(p for p in psutil.Process().children() if "decode_child" in " ".join(p.cmdline()))
    os.kill(warm.pid, signal.SIGKILL)
    warm.wait()
    assert len(decoder.look(video).times_s) == 30


def test_the_process_that_decodes_knows_no_secret(decoder, video, monkeypatch):
    monkeypatch.setenv("EGORAY_SERVE_TOKEN", "secret")
    decoder.look(video)
    warm = next(p for p in psutil.Process().children() if "decode_child" in " ".join(p.cmdline()))
    assert "EGORAY_SERVE_TOKEN" not in warm.environ()


def test_a_fork_looks_at_many_sound_files_and_at_nothing_after_a_damaged_one(decoder, video, tmp_path):
    decoder.warm()
    warm = next(p for p in psutil.Process().children() if "decode_child" in " ".join(p.cmdline()))
    assert until(lambda: len(alive(warm)) == 4)
    first = {child.pid for child in alive(warm)}
    for _ in range(8):
        decoder.look(video)
    assert {child.pid for child in alive(warm)} == first
    (tmp_path / "noise.mp4").write_bytes(bytes(1000))
    with pytest.raises(Refused):
        decoder.look(str(tmp_path / "noise.mp4"))
    assert until(lambda: len(alive(warm)) == 4 and len(first & {child.pid for child in alive(warm)}) == 3)
    for _ in range(210):
        decoder.look(video)
    assert until(lambda: len(alive(warm)) == 4 and not first <= {child.pid for child in alive(warm)})
