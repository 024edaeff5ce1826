"""Overlay videos and contact sheets over clips whose objects are known by pixel."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from egoray.core.masks import encode
from egoray.core.storage import Folder
from egoray.core.workfolder import read_videos
from egoray.report import overlays
from egoray.report.overlays import PALETTE, contact_sheet, draw, key_frames, palette, tiles, write_overlay
from egoray.schema import Masklet, Trajectory, VideoInfo
from support.annotated import NUM_FRAMES, masklet, track, write_annotated
from support.release import SIZE_HW, STRIDE, disc


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> VideoInfo:
    return read_videos(Folder(write_annotated(tmp_path_factory.mktemp("clip"), clips=1)))["clip-0"]


def decoded(path: str) -> list[np.ndarray]:
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


def test_draw_touches_the_mask_alone() -> None:
    frame = np.full((*SIZE_HW, 3), 100, dtype=np.uint8)
    mask = disc(0, 0)[0]
    shown = draw(frame, {"1": mask}, {}, {"1": "#E69F00"})
    near = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)  # the smoothed outline reaches out
    inner = cv2.erode(mask.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)
    assert (shown[inner] == [0.6 * 100 + 0.4 * 0xE6 // 1, 60 + int(0.4 * 0x9F), 60]).all()
    assert (shown[~near] == 100).all()
    assert (frame == 100).all()


def test_an_empty_mask_draws_nothing_and_a_label_stays_inside() -> None:
    frame = np.full((*SIZE_HW, 3), 100, dtype=np.uint8)
    nothing = np.zeros(SIZE_HW, dtype=bool)
    assert (draw(frame, {"1": nothing}, {"1": "cup"}, {"1": "#E69F00"}) == frame).all()
    corner = nothing.copy()
    corner[0, -1] = True
    shown = draw(frame, {"1": corner}, {"1": "Tasse für Tee"}, {"1": "#E69F00"})
    assert (shown[:15, -60:] == 24).all(axis=2).any()


def test_colours_go_by_number_and_differ() -> None:
    assert palette(["10", "9", "1"]) == {"1": PALETTE[0], "9": PALETTE[1], "10": PALETTE[2]}
    assert len(set(palette([str(n) for n in range(7)]).values())) == 7


def test_overlay_plays_at_the_annotation_rate_with_the_masks_on_their_frames(video: VideoInfo, tmp_path: Path) -> None:
    path = str(tmp_path / "overlay.mp4")
    write_overlay(video, [masklet("clip-0", 0), masklet("clip-0", 1)], {"1": "", "2": ""}, path)
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, float(stream.average_rate)) == ("h264", "yuv420p", 5.0)
    shown, plain = decoded(path), decoded(video.uri)[::STRIDE]
    assert len(shown) == len(plain) == NUM_FRAMES
    for frame in range(NUM_FRAMES):
        for number in range(2):
            area = disc(frame, number)[0] & ~disc(frame, 1 - number)[0]
            if area.sum() < 60:
                continue
            change = abs(shown[frame][area] - plain[frame][area]).mean()
            assert (change > 20) == (frame in masklet("clip-0", number).masks), (frame, number, change)


def test_overlay_is_no_higher_than_asked(video: VideoInfo, tmp_path: Path) -> None:
    write_overlay(video, [masklet("clip-0", 0)], {"1": "cup"}, str(tmp_path / "small.mp4"), max_height=36)
    assert decoded(str(tmp_path / "small.mp4"))[0].shape == (36, 48, 3)


def test_overlay_never_holds_the_clip(video: VideoInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, written = 0, 0

    def frames(path: str, wanted: list[int]):
        nonlocal read
        for index in wanted:
            assert read - written <= 1
            read += 1
            yield index, np.zeros((*SIZE_HW, 3), dtype=np.uint8)

    class Writer(overlays.VideoWriter):
        def write(self, frame: np.ndarray) -> None:
            nonlocal written
            written += 1
            super().write(frame)

    monkeypatch.setattr(overlays, "read_frames", frames)
    monkeypatch.setattr(overlays, "VideoWriter", Writer)
    write_overlay(video, [], {}, str(tmp_path / "overlay.mp4"))
    assert read == written == NUM_FRAMES


def square(side: int):
    mask = np.zeros(SIZE_HW, dtype=bool)
    mask[:side, :side] = True
    return encode(mask)


def appearance(start: int, stop: int) -> Trajectory:
    return Trajectory(video_id="v", object_id="1", start=start, stop=stop, prompt_frame=start, prompt_box=(0, 0, 1, 1))


def test_key_frames_are_the_first_the_largest_the_last_and_each_appearances_largest() -> None:
    sides = {3: 0, 4: 5, 5: 9, 6: 6, 20: 7, 21: 12, 40: 8, 41: 3}
    found = key_frames(
        Masklet(video_id="v", object_id="1", masks={f: square(s) for f, s in sides.items()}),
        [appearance(3, 7), appearance(20, 22), appearance(30, 32), appearance(40, 42)],
    )
    assert found == {4: "first", 5: "appearance 1", 21: "largest", 40: "appearance 4", 41: "last"}


def test_key_frames_are_few_and_once_each() -> None:
    many = Masklet(video_id="v", object_id="1", masks={10 * i: square(i + 1) for i in range(20)})
    found = key_frames(many, [appearance(10 * i, 10 * i + 1) for i in range(20)])
    assert list(found) == [0, 150, 160, 170, 180, 190]
    assert key_frames(Masklet(video_id="v", object_id="1", masks={2: square(3)}), [appearance(2, 3)]) == {2: "last"}
    assert key_frames(Masklet(video_id="v", object_id="1", masks={2: square(0)}), []) == {}


def test_tiles_show_the_object_in_colour(video: VideoInfo) -> None:
    found = tiles(video, masklet("clip-0", 1), track("clip-0", 1, "lid")[1], "#D55E00")
    assert [tile.caption for tile in found] == ["0.0 s, first", "2.8 s, appearance 2", "4.4 s, last"]
    plain = tiles(video, masklet("clip-0", 1), track("clip-0", 1, "lid")[1], "#000000")
    for tile, dark in zip(found, plain, strict=True):
        assert tile.image.shape == (240, 320, 3)
        differs = (tile.image.astype(int) - dark.image)[:, :, 0] > 50
        assert 0.02 < differs.mean() < 0.5


def test_contact_sheet_holds_every_tile(video: VideoInfo) -> None:
    found = tiles(video, masklet("clip-0", 1), track("clip-0", 1, "lid")[1], "#D55E00")
    sheet = cv2.imdecode(np.frombuffer(contact_sheet(found + found[:1], "green lid"), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert sheet.shape == (26 + 2 * (240 + 26), 3 * 320, 3)
    assert (sheet[26:266, 320:640] == found[1].image).all()
    assert (sheet[292:532, :320] == found[0].image).all()
    with pytest.raises(ValueError, match="at least one tile"):
        contact_sheet([], "green lid")
