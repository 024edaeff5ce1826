import cv2
import numpy as np
import pytest

from egoray.core.clip import ImageClip, VideoClip
from egoray.core.video import frame_times
from egoray.core.video_writer import VideoWriter
from egoray.errors import FormatError


@pytest.fixture
def folder(tmp_path):
    for n in range(7):
        cv2.imwrite(str(tmp_path / f"{n:05d}.png"), np.full((12, 16, 3), 30 * n, np.uint8))
    return tmp_path


def levels(frames):
    return [(frame, int(image[0, 0, 0]) // 30) for frame, image in frames]


def test_a_stride_renumbers_the_frames(folder):
    clip = VideoClip(str(folder), stride=3)
    assert (clip.num_frames, clip.size_hw) == (3, (12, 16))
    assert levels(clip.frames()) == [(0, 0), (1, 3), (2, 6)]
    assert levels(clip.frames([2])) == [(2, 6)]
    assert levels(clip.backward(0, 2)) == [(1, 3), (0, 0)]


def test_named_images_are_numbered_in_the_order_given(folder):
    clip = ImageClip([str(folder / f"{n:05d}.png") for n in (1, 4, 5)])
    assert levels(clip.frames()) == [(0, 1), (1, 4), (2, 5)]
    assert levels(clip.frames([0, 2])) == [(0, 1), (2, 5)]
    assert levels(clip.backward(1, 3)) == [(2, 5), (1, 4)]


def test_a_missing_image_and_one_of_another_size_are_named(folder):
    clip = ImageClip([str(folder / "00000.png"), str(folder / "00009.png")])
    with pytest.raises(FormatError, match=r"00009.png: no such image"):
        list(clip.frames())
    cv2.imwrite(str(folder / "00009.png"), np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(FormatError, match=r"00009.png: is 5x5, the clip's first image 12x16"):
        list(clip.frames())
    with pytest.raises(FormatError, match="without frames"):
        ImageClip([])


def test_times_are_the_files_own(folder, tmp_path):
    path = str(tmp_path / "clip.mp4")
    with VideoWriter(path, 12.5, (32, 48)) as video:
        for n in range(9):
            video.write(np.full((32, 48, 3), 20 * n, np.uint8))
    assert frame_times(path) == pytest.approx([n / 12.5 for n in range(9)], abs=1e-3)
    assert frame_times(str(folder)) == [0, 1, 2, 3, 4, 5, 6]
