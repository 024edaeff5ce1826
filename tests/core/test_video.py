import itertools
import os
import random
import re
import threading
import time

import av
import cv2
import numpy as np
import pytest

from egoray.core import video
from egoray.core.video import decode_ahead, probe, read_frames, read_frames_backward
from egoray.core.video_writer import VideoWriter
from egoray.errors import ConfigError, FormatError
from egoray.synthetic.world import World, WorldConfig
from support import videos

JITTER = list(itertools.accumulate([0, *([50, 100, 101, 400, 100] * 18)]))


def _take(items, got):
    """Append one by one, so that what came before an exception is there."""
    for item in items:
        got.append(item)


def _after_a_cut(folder):
    return videos.remux(videos.write_clip(folder / "whole.mp4", **{"x264-params": "keyint=12:bframes=4"}), folder / "cut.mkv", skip=5)


def _with_an_edit_list(folder):
    whole = videos.write_clip(folder / "whole.mp4", **{"x264-params": "keyint=12:bframes=4"})
    return videos.remux(whole, folder / "edited.mp4", shift=-2500)


KINDS = {
    "gop1": lambda d: videos.write_clip(d / "a.mp4", g=1),
    "gop30": lambda d: videos.write_clip(d / "a.mp4", 100, g=30),
    "gop250": lambda d: videos.write_clip(d / "a.mp4", 280, g=250),
    "tiny gop, b-frames": lambda d: videos.write_clip(d / "a.mp4", g=3),
    "open gop": lambda d: videos.write_clip(d / "a.mp4", **{"x264-params": "open-gop=1:keyint=12:bframes=5:b-pyramid=normal"}),
    "intra refresh": lambda d: videos.write_clip(d / "a.mkv", **{"x264-params": "intra-refresh=1:keyint=15"}),
    "no b-frames": lambda d: videos.write_clip(d / "a.mp4", g=20, bf=0),
    "variable rate": lambda d: videos.write_clip(d / "a.mp4", times=JITTER, g=15),
    "negative times": lambda d: videos.write_clip(d / "a.mp4", times=range(-1000, 8000, 100), g=15),
    "late start": lambda d: videos.write_clip(d / "a.mkv", times=range(7000, 16000, 100), g=15),
    "edit list": _with_an_edit_list,
    "starts inside a gop": _after_a_cut,
    "fragmented": lambda d: videos.write_clip(d / "a.mp4", muxer="frag_keyframe+empty_moov", g=15),
    "no presentation times": lambda d: videos.write_clip(d / "a.avi", g=15),
    "transport stream": lambda d: videos.write_clip(d / "a.ts", g=15),
    "vp9 mp4": lambda d: videos.write_clip(d / "a.mp4", codec="libvpx-vp9", g=20, deadline="realtime", **{"cpu-used": 8}),
    "vp9 webm": lambda d: videos.write_clip(d / "a.webm", codec="libvpx-vp9", g=20, deadline="realtime", **{"cpu-used": 8}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_of_a_full_decode(kind, tmp_path):
    codec = "libvpx-vp9" if kind.startswith("vp9") else "libx264"
    if codec not in av.codecs_available:
        pytest.skip(f"no {codec} encoder here")
    path = KINDS[kind](tmp_path)
    truth = videos.decode_all(path)
    assert len(set(truth)) > 60  # a frame taken for its neighbour is noticed
    rng = random.Random(0)
    subsets = [range(0, len(truth), stride) for stride in (1, 6, 30)]
    subsets += [sorted(rng.sample(range(len(truth)), count)) for count in (1, 1, 2, 5, 20)]
    for wanted, threads in zip(subsets, itertools.cycle((0, 1, 2)), strict=False):
        got = list(read_frames(path, wanted, threads=threads))
        assert [index for index, _ in got] == list(wanted)
        assert [videos.digest(image) for _, image in got] == [truth[index] for index in wanted]
        back = [(index, videos.digest(image)) for index, image in read_frames_backward(path, wanted, threads=threads, hold=7)]
        assert back == [(index, truth[index]) for index in reversed(wanted)]
    assert all(image.flags.c_contiguous and image.dtype == np.uint8 and image.shape == (96, 128, 3) for _, image in got)
    assert probe(path, "v").num_frames == len(truth)


def test_counting_serves_where_no_seek_can_be_trusted(tmp_path, monkeypatch):
    """A seek that always lands at the end: nothing comes out of the plan, and every frame still is the right one."""
    path = videos.write_clip(tmp_path / "a.mp4", g=15)
    truth = videos.decode_all(path)
    monkeypatch.setattr(video._Index, "_decode", lambda self, key, times: iter(()))
    assert [videos.digest(image) for _, image in read_frames(path, [3, 50])] == [truth[3], truth[50]]


def test_a_late_seek_falls_back_to_the_key_frame_before(tmp_path, monkeypatch):
    path = videos.write_clip(tmp_path / "a.mp4", g=15)
    truth, starts, decode = videos.decode_all(path), [], video._Index._decode

    def late_at_60(self, key, times):
        starts.append(key)
        return decode(self, 75 if key == 60 else key, times)

    monkeypatch.setattr(video._Index, "_decode", late_at_60)
    monkeypatch.setattr(video, "_count", lambda *_: pytest.fail("the key frame before would have served"))
    assert [videos.digest(image) for _, image in read_frames(path, [62])] == [truth[62]]
    assert starts == [60, 45]


class _LandsInsideAGop:
    """A file whose every seek, but for those to the start, arrives just past the key frame."""

    def __init__(self, container):
        self._container, self._skip = container, 0

    def seek(self, offset, **options):
        self._skip = int(offset > 0)
        self._container.seek(offset, **options)

    def demux(self, stream):
        return itertools.islice(self._container.demux(stream), self._skip, None)


def test_a_seek_that_lands_inside_a_gop_gives_no_picture(tmp_path):
    """MPEG-4's decoder would show pictures whose references it never saw."""
    path = videos.write_clip(tmp_path / "a.mp4", codec="mpeg4", g=15, sc_threshold=10**9)
    truth = videos.decode_all(path)
    for wanted, found in (([17], [17]), ([62], [])):  # from the key frame before, which is the start; and from none
        with av.open(path) as container:
            index = video._Index(container, container.streams.video[0])
            index._container = _LandsInsideAGop(container)
            got = list(index.frames(wanted))
        assert [frame for frame, _ in got] == found
        assert [videos.digest(image) for _, image in got] == [truth[frame] for frame in found]
    assert [videos.digest(image) for _, image in read_frames(path, [17, 62])] == [truth[17], truth[62]]


def test_frames_shown_before_a_key_frame_that_they_follow_start_from_the_one_before(tmp_path, monkeypatch):
    path = KINDS["open gop"](tmp_path)
    starts, decode = [], video._Index._decode
    monkeypatch.setattr(video._Index, "_decode", lambda self, key, times: starts.append(key) or decode(self, key, times))
    for wanted in range(90):
        list(read_frames(path, [wanted]))
    assert len(starts) == 90  # the first try of each is right


@pytest.mark.parametrize(("gop", "groups"), [(1, 10), (30, 10), (250, 2)])
def test_seeks_where_that_is_cheaper_and_converts_only_the_wanted(gop, groups, tmp_path, monkeypatch):
    path = videos.write_clip(tmp_path / "a.mp4", 300, **{"x264-params": f"keyint={gop}:scenecut=0"})
    decoded, converted, decode, rgb = [], [], video._Index._decode, video._rgb
    monkeypatch.setattr(video._Index, "_decode", lambda self, key, times: decoded.append(key) or decode(self, key, times))
    monkeypatch.setattr(video, "_rgb", lambda *args: converted.append(1) or rgb(*args))
    list(read_frames(path, range(0, 300, 30)))
    assert (len(decoded), len(converted)) == (groups, 10)


def test_backward_decodes_each_group_of_pictures_once(tmp_path, monkeypatch):
    path = videos.write_clip(tmp_path / "a.mp4", 100, **{"x264-params": "keyint=10:scenecut=0"})
    decoded = []
    decode = video._Index._decode

    def counted(self, key, times):
        decoded.append(key)
        return decode(self, key, times)

    monkeypatch.setattr(video._Index, "_decode", counted)
    assert [index for index, _ in read_frames_backward(path, range(100))] == list(range(99, -1, -1))
    assert len(decoded) == len(set(decoded)) == 10
    assert list(read_frames_backward(path, [])) == []


def test_backward_through_a_folder_and_beyond_the_end(tmp_path):
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((8, 8, 3), i * 40, np.uint8))
    assert [(f, int(image[0, 0, 0])) for f, image in read_frames_backward(str(tmp_path), [0, 2, 3])] == [(3, 120), (2, 80), (0, 0)]
    with pytest.raises(FormatError, match="frame 4 was asked for"):
        list(read_frames_backward(str(tmp_path), [1, 4]))


def test_frames_stay_as_they_were_when_more_are_read(tmp_path):
    path = videos.write_clip(tmp_path / "a.mp4", 30)
    truth = videos.decode_all(path)
    assert [videos.digest(image) for _, image in list(read_frames(path, range(30)))] == truth


def test_probe_tells_rate_stride_and_size(tmp_path):
    info = probe(videos.write_clip(tmp_path / "a.mp4", 45), "clip", source="test")
    assert (info.video_id, info.source, info.num_frames, info.fps) == ("clip", "test", 45, 30.0)
    assert (info.height_px, info.width_px, info.stride) == (96, 128, 6)
    assert info.num_annotation_frames == 8
    assert probe(info.uri, "clip", annotation_fps=60).stride == 1


@pytest.mark.parametrize("degrees", [90, 270])
def test_a_rotation_mark_is_applied(degrees, tmp_path):
    path = videos.write_clip(tmp_path / "a.mp4", 3)
    (_, upright), *_ = read_frames(path, [0])
    videos.mark_rotated(path, degrees)
    (_, turned), *_ = read_frames(path, [0])
    _, by_opencv = cv2.VideoCapture(path).read()
    assert turned.shape == by_opencv.shape == (128, 96, 3)
    assert np.abs(turned[..., ::-1].astype(int) - by_opencv).mean() < 5  # OpenCV has its own colour conversion, not its own up
    assert np.array_equal(turned, np.rot90(upright, -degrees // 90))
    assert (probe(path, "v").height_px, probe(path, "v").width_px) == (128, 96)


def _audio(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _without_frames(path):
    with av.open(str(path), "w", options={"movflags": "empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        container.start_encoding()


BAD = {
    "missing": (lambda p: None, "not found"),
    "empty": (lambda p: p.write_bytes(b""), "the file is empty"),
    "garbage": (lambda p: p.write_bytes(bytes(range(256)) * 40), "not a video"),
    "no moov": (lambda p: videos.cut(videos.write_clip(p.with_name("whole.mp4"), 30), p, 0.6), "cut short"),
    "audio only": (_audio, "no video stream"),
    "no frames": (_without_frames, "only 0 frames"),
    "empty folder": (lambda p: p.mkdir(), "without jpg or png"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_plain_line(kind, tmp_path):
    path = tmp_path / "bad.mp4"
    make, reason = BAD[kind]
    make(path)
    for use in (lambda: probe(str(path), "v"), lambda: list(read_frames(str(path), [0]))):
        with pytest.raises(FormatError, match=reason) as caught:
            use()
        assert "bad.mp4: " in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_name_that_is_not_unicode_is_read_or_refused(tmp_path):
    whole = videos.write_clip(tmp_path / "a.mp4", 5)
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    os.rename(whole, path)
    try:
        assert probe(path, "v").num_frames == 5
    except FormatError as error:
        str(error).encode()  # printable at least
    with pytest.raises(FormatError):
        probe(path + "x", "v")


def test_a_cut_file_gives_its_good_frames_then_says_how_many(tmp_path):
    whole = videos.write_clip(tmp_path / "whole.mp4", muxer="faststart", g=15, bf=0)
    path = videos.cut(whole, tmp_path / "cut.mp4", 0.6)
    truth = videos.decode_all(whole)
    with pytest.raises(FormatError, match=r"cut\.mp4: cut short: 90 frames are announced, (\d+) are there") as caught:
        probe(path, "v")
    good = int(re.search(r"(\d+) are there", str(caught.value))[1])
    assert 20 < good < 80
    for wanted in (range(90), range(good - 3, 90), [0, good - 1, 89]):
        got = []
        with pytest.raises(FormatError, match=rf"cut\.mp4: frame {max(good, wanted[2])} .* only {good} frames"):
            _take(read_frames(path, wanted), got)
        assert [videos.digest(image) for _, image in got] == [truth[i] for i in wanted if i < good]


def test_damage_inside_a_file_never_shifts_the_frames_after_it(tmp_path):
    whole = videos.write_clip(tmp_path / "whole.mp4", g=15, bf=0)
    truth = videos.decode_all(whole)
    with av.open(whole) as container:
        packet = next(p for n, p in enumerate(container.demux(video=0)) if n == 37)
        start, size = packet.pos, packet.size
    data = bytearray((tmp_path / "whole.mp4").read_bytes())
    data[start : start + size] = bytes(size)
    (tmp_path / "damaged.mp4").write_bytes(data)
    path = str(tmp_path / "damaged.mp4")
    assert [videos.digest(image) for _, image in read_frames(path, [30, 36, 45, 60, 89])] == [truth[i] for i in (30, 36, 45, 60, 89)]
    with pytest.raises(FormatError, match="frame 37 was asked for, but only 37 frames"):
        list(read_frames(path, [37]))


@pytest.mark.parametrize("wanted", [[3, 3], [5, 2], [-1, 4]])
def test_indices_must_ascend(wanted, tmp_path):
    with pytest.raises(ValueError, match="ascend"):
        read_frames(str(tmp_path), wanted)


def test_no_wanted_frames_give_none(tmp_path):
    assert list(read_frames(videos.write_clip(tmp_path / "a.mp4", 5), [])) == []


def test_a_folder_of_images_is_a_video(tmp_path):
    images = {f"{n:03}{end}": videos.picture(n) for n, end in enumerate((".png", ".PNG", ".png"))}
    for name, image in reversed(images.items()):
        cv2.imwrite(str(tmp_path / name), image[..., ::-1])
    (tmp_path / "notes.txt").write_text("not a frame")
    info = probe(str(tmp_path), "v", fps=2.0)
    assert (info.num_frames, info.fps, info.height_px, info.width_px, info.stride) == (3, 2.0, 96, 128, 1)
    assert probe(str(tmp_path), "v").fps == 1.0
    (first, a), (third, c) = read_frames(str(tmp_path), [0, 2])
    assert (first, third) == (0, 2)
    assert np.array_equal(a, videos.picture(0))
    assert np.array_equal(c, videos.picture(2))
    with pytest.raises(FormatError, match="frame 3 was asked for, but only 3"):
        list(read_frames(str(tmp_path), [3]))
    (tmp_path / "000.png").write_bytes(b"not an image")
    with pytest.raises(FormatError, match=r"000\.png: not a readable image"):
        probe(str(tmp_path), "v")


def _ahead_threads():
    return [thread for thread in threading.enumerate() if thread.name == "decode-ahead"]


def test_ahead_gives_the_same_items_and_stays_bounded():
    made = []

    def source():
        for n in range(50):
            made.append(n)
            yield n

    ahead = decode_ahead(source(), depth=4)
    assert next(ahead) == 0
    time.sleep(0.1)
    assert 3 < len(made) <= 6  # the one taken, four in the queue, one in hand
    assert list(ahead) == list(range(1, 50))
    assert not _ahead_threads()


def test_ahead_works_while_the_consumer_does():
    def source():
        for n in range(10):
            time.sleep(0.02)
            yield n

    start = time.perf_counter()
    for _ in decode_ahead(source()):
        time.sleep(0.02)
    assert time.perf_counter() - start < 0.36  # 0.4 s one after the other


def test_ahead_raises_after_the_good_items():
    def source():
        yield 1
        yield 2
        raise FormatError("broken")

    got = []
    with pytest.raises(FormatError, match="broken"):
        _take(decode_ahead(source()), got)
    assert got == [1, 2]
    assert not _ahead_threads()


@pytest.mark.parametrize("depth", [1, 8])
def test_ahead_closed_early_leaves_no_thread(depth):
    closed = threading.Event()

    def source():
        try:
            yield from itertools.count()
        finally:
            closed.set()

    for _ in range(20):
        closed.clear()
        frames = source()
        ahead = decode_ahead(frames, depth)
        assert next(ahead) == 0
        time.sleep(0.01)  # the queue fills and the thread waits
        start = time.perf_counter()
        ahead.close()
        assert time.perf_counter() - start < 1
        assert closed.is_set()
        assert not _ahead_threads()


def test_writer_round_trip(tmp_path):
    path = str(tmp_path / "new" / "a.mp4")
    with VideoWriter(path, 30, (96, 128), gop=10, crf=12) as writer:
        for n in range(25):
            writer.write(videos.picture(n))
    for index, image in read_frames(path, range(25)):
        here, next_one = (np.abs(image.astype(int) - videos.picture(n)).mean() for n in (index, index + 1))
        assert here < 25 < 50 < next_one  # 25: colour is stored at half the resolution
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 30)
        keys = [n for n, packet in enumerate(container.demux(stream)) if packet.is_keyframe]
    assert max(b - a for a, b in itertools.pairwise([*keys, 25])) <= 10
    data = (tmp_path / "new" / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert os.listdir(tmp_path / "new") == ["a.mp4"]


def test_writer_repeats_byte_for_byte(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        with VideoWriter(str(tmp_path / name), 29.97, (96, 128)) as writer:
            for n in range(20):
                writer.write(videos.picture(n))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_writer_pads_odd_sizes_with_their_last_row_and_column(tmp_path):
    path = str(tmp_path / "odd.mp4")
    image = np.zeros((31, 45, 3), np.uint8)
    image[:, -1] = 255
    with VideoWriter(path, 5, (31, 45), crf=1) as writer:
        writer.write(image)
    ((_, got),) = read_frames(path, [0])
    assert got.shape == (32, 46, 3)
    assert got[:, 45].min() > 200
    assert got[:, :42].max() < 60


def test_writer_leaves_nothing_or_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def stopped(frames, after):
        with VideoWriter(str(path), 30, (96, 128)) as writer:
            for frame in frames:
                writer.write(frame)
            after()

    for frames, after, error in [
        ([videos.picture(0)] * 90, lambda: 1 / 0, ZeroDivisionError),
        ([videos.picture(0), np.zeros((4, 4, 3), np.uint8)], lambda: None, ValueError),
        ([videos.picture(0).astype(np.float32)], lambda: None, ValueError),
        ([], lambda: None, ValueError),
    ]:
        with pytest.raises(error):
            stopped(frames, after)
        assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
        assert path.read_bytes() == b"old"


def test_writer_says_where_it_cannot_write(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be written"):
        VideoWriter(str(tmp_path / "file" / "a.mp4"), 30, (96, 128))


def test_the_same_frames_give_the_same_bytes_every_time(tmp_path):
    """x264's macroblock tree is not repeatable; drawn scenes show it within a few runs."""
    world = World(WorldConfig(seconds=2, size_hw=(90, 160)), 4_000_012)
    frames, written = [world.frame(n) for n in range(60)], set()
    for _ in range(12):
        with VideoWriter(str(tmp_path / "a.mp4"), 30, (90, 160)) as writer:
            for frame in frames:
                writer.write(frame.copy())
        written.add((tmp_path / "a.mp4").read_bytes())
    assert len(written) == 1
