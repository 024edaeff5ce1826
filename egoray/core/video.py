"""Video files in: what a file holds, exact frames by index, and frames read ahead on a thread.

A frame's index is its 0-based place in presentation order, as decoding the whole file would count it. A folder of jpg or
png images, ordered by name, passes for a video.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, takewhile
from typing import TypeVar

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from egoray.core import paths
from egoray.errors import FormatError
from egoray.schema import VideoInfo

T = TypeVar("T")
Image = NDArray[np.uint8]
"""``(H, W, 3)`` uint8 RGB, C-contiguous."""

_CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,h264,hevc,ivf,gif"
_OPEN = {"protocol_whitelist": "file,pipe", "format_whitelist": _CONTAINERS}
"""Files that hold pictures alone: a playlist, which names other files or hosts, is no video, whatever it is called."""
_LOST_SHARE = 0.01
"""Share of an mp4's announced frames that may be missing before the file counts as cut short."""
_SEEK_COST = 2
"""Packets that decode in the time of a seek, which empties the decoder and fills it again (see benchmarks/decode.py)."""


def probe(path: str, video_id: str, *, source: str = "", annotation_fps: float = 5.0, fps: float = 1.0) -> VideoInfo:
    """What the video holds, from its packets and its first frame; height and width are as displayed, rotated if so marked.

    Args:
        path: a video file, or a folder of images.
        video_id: the id to give it.
        source: where it comes from, for the record.
        annotation_fps: rate of the annotation grid; the stride is ``fps / annotation_fps`` rounded, at least 1.
        fps: rate of a folder of images (whose stride is 1) or of a file that does not tell its own.

    Raises:
        FormatError: if the file is missing, empty, not a video, cut short, without a video stream or without a frame.
    """
    return survey(path, video_id, source=source, annotation_fps=annotation_fps, fps=fps)[0]


def survey(
    path: str,
    video_id: str,
    claims: Callable[[InputContainer, VideoStream], None] = lambda container, stream: None,
    *,
    source: str = "",
    annotation_fps: float = 5.0,
    fps: float = 1.0,
) -> tuple[VideoInfo, list[float]]:
    """What `probe` and `frame_times` say, in one pass over a file.

    Args:
        path: as of `probe`.
        video_id: as of `probe`.
        claims: called with the open file before anything of it is read on; may raise.
        source: as of `probe`.
        annotation_fps: as of `probe`.
        fps: as of `probe`.

    Raises:
        FormatError: as `probe`.
    """
    if paths.is_folder(path):
        names = image_names(path)
        num_frames, stride, image = len(names), 1, read_image(paths.join(path, names[0]))
        times_s = [float(n) for n in range(num_frames)]
    else:
        with open_video(path, threads=1) as (container, stream):
            claims(container, stream)
            index = _Index(container, stream)
            num_frames, times_s = index.num_frames, index.times_s()
            if "mp4" in container.format.name and stream.frames * (1 - _LOST_SHARE) > index.num_packets:
                raise FormatError(
                    f"{shown_path(path)}: cut short: {stream.frames} frames are announced, {index.num_packets} are there; fetch it again"
                )
            fps = float(stream.average_rate or stream.guessed_rate or fps)
            first = next(index.frames([0]), None)
        stride = max(1, round(fps / annotation_fps))
        _, image = first or next(_count(path, [0], threads=1))
    height, width, _ = image.shape
    info = VideoInfo(
        video_id=video_id, uri=path, num_frames=num_frames, fps=fps, height_px=height, width_px=width, source=source, stride=stride
    )
    return info, times_s


def frame_times(path: str) -> list[float]:
    """Seconds at which each native frame is shown, from its own time stamp; by the frame rate where the stamps do not tell.

    Images in a folder are a second apart.

    Raises:
        FormatError: if the file is no video.
    """
    if paths.is_folder(path):
        return [float(n) for n in range(len(image_names(path)))]
    with open_video(path, threads=1) as (container, stream):
        return _Index(container, stream).times_s()


def read_frames(path: str, wanted: Sequence[int], *, threads: int = 0) -> Iterator[tuple[int, Image]]:
    """The frames of the given indices in order, each (index, image) exactly as decoding the whole file gives it.

    Only what the wanted frames depend on is decoded, and only they are converted. Where the packets' times do not tell
    which frame is which, or a frame does not come out after a seek, the file is decoded from its start and counted.

    Args:
        path: a video file, or a folder of images.
        wanted: strictly ascending native frame indices; none give no frames.
        threads: decoder threads; 0 lets the library choose.

    Raises:
        FormatError: if the file is no video, or, after all good frames, if an index is beyond the frames that decode.
        ValueError: if ``wanted`` does not ascend from 0 or above.
    """
    if any(a >= b for a, b in zip((-1, *wanted), wanted, strict=False)):
        raise ValueError(f"{shown_path(path)}: frame indices must ascend strictly from 0 or above")
    return _read_folder(path, wanted) if paths.is_folder(path) else _read_file(path, wanted, threads)


def read_frames_backward(path: str, wanted: Sequence[int], *, threads: int = 0, hold: int = 32) -> Iterator[tuple[int, Image]]:
    """The same frames as `read_frames`, last one first.

    A file is decoded group of pictures by group of pictures, from the last one wanted, and each is handed out in reverse.

    Args:
        path: a video file, or a folder of images.
        wanted: strictly ascending native frame indices; none give no frames.
        threads: decoder threads; 0 lets the library choose.
        hold: images held at a time; a group with more wanted frames is decoded more than once.

    Raises:
        FormatError: if the file is no video, or an index is beyond the frames that decode.
    """
    if paths.is_folder(path):
        names = image_names(path)
        for frame in reversed(wanted):
            if frame >= len(names):
                raise _missing(path, frame, len(names))
            yield frame, read_image(paths.join(path, names[frame]))
        return
    with open_video(path, threads) as (container, stream):
        index = _Index(container, stream)
        for group in reversed(index.groups(wanted, hold)):
            found = list(index.frames(group))
            if len(found) < len(group):
                found += _count(path, group[len(found) :], threads)
            yield from reversed(found)


def decode_ahead(frames: Iterator[T], depth: int = 8) -> Iterator[T]:
    """The same items, made on a thread up to ``depth`` (at least 1) before they are asked for.

    An exception of ``frames`` is raised after the items before it. The thread is joined at the end, and at an early close.
    """
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(max(1, depth))
    closed = threading.Event()

    def work() -> None:
        end: BaseException | None = None
        try:
            for item in frames:
                if closed.is_set():
                    return
                ready.put((item,))
        except BaseException as error:
            end = error
        if not closed.is_set():
            ready.put(end)

    thread = threading.Thread(target=work, name="decode-ahead", daemon=True)
    thread.start()
    try:
        while isinstance(got := ready.get(), tuple):
            yield got[0]
        if got is not None:
            raise got
    finally:
        closed.set()
        while not ready.empty():  # room for the one item that the thread may be about to put
            ready.get_nowait()
        thread.join()
        if isinstance(frames, Generator):
            frames.close()


class Wait:
    """Hands items on and adds up the seconds spent waiting for them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, items: Iterator[T]) -> Iterator[T]:
        """The same items; ``items`` is closed with this generator."""
        try:
            while True:
                started = time.monotonic()
                try:
                    item = next(items)
                except StopIteration:
                    return
                finally:
                    self.seconds += time.monotonic() - started
                yield item
        finally:
            if isinstance(items, Generator):
                items.close()


def digest(path: str) -> str:
    """A digest of a video file's size and its two ends, or of the names and sizes in a folder of images; moving it changes nothing."""
    if paths.is_folder(path):
        return hashlib.sha256(json.dumps(paths.listing(path)).encode()).hexdigest()
    size = paths.size(path)
    with paths.open_file(path) as stream:
        head = stream.read(65536)
        stream.seek(max(0, size - 65536))
        return hashlib.sha256(head + stream.read() + str(size).encode()).hexdigest()


def shown_path(path: str) -> str:
    """The path as printable text, whatever bytes its name holds."""
    return os.fsencode(path).decode("utf-8", "replace")


def _missing(path: str, frame: int, num_frames: int) -> FormatError:
    known = f"frame {frame} was asked for, but only {num_frames} frames can be decoded"
    return FormatError(f"{shown_path(path)}: {known}; if it should hold more it is cut short or damaged: fetch it again")


def image_names(folder: str) -> list[str]:
    names = sorted(n for n, _ in paths.listing(folder) if n.lower().endswith((".jpg", ".jpeg", ".png")))
    if not names:
        raise FormatError(f"{shown_path(folder)}: a folder without jpg or png images; give a video file or a folder of frames")
    return names


def read_image(path: str) -> Image:
    """An image file.

    Raises:
        FormatError: if it is missing or damaged.
    """
    try:
        data = np.frombuffer(paths.read(path), dtype=np.uint8)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FormatError(f"{shown_path(path)}: no such image; the folder is incomplete") from error
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    if image is None:
        raise FormatError(f"{shown_path(path)}: not a readable image; replace or remove it")
    return np.asarray(image, dtype=np.uint8)


def _read_folder(folder: str, wanted: Sequence[int]) -> Iterator[tuple[int, Image]]:
    names = image_names(folder)
    for frame in wanted:
        if frame >= len(names):
            raise _missing(folder, frame, len(names))
        yield frame, read_image(paths.join(folder, names[frame]))


@contextmanager
def open_video(path: str, threads: int) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its first video stream (a cover picture is not one), ready to decode."""
    try:
        source = paths.open_file(path) if paths.is_remote(path) else path
        container: InputContainer = av.open(source, mode="r", metadata_errors="ignore", options=_OPEN)
    except (FileNotFoundError, UnicodeError) as error:
        raise FormatError(f"{shown_path(path)}: not found, or not a legal name; check the path") from error
    except (OSError, av.FFmpegError) as error:
        reason = "the file is empty" if paths.is_file(path) and not paths.size(path) else "not a video, or cut short"
        raise FormatError(f"{shown_path(path)}: cannot be opened ({reason}); check it with a player or fetch it again") from error
    with container:
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise FormatError(f"{shown_path(path)}: holds no video stream; give a file with pictures in it")
        streams[0].thread_type = "AUTO"
        streams[0].codec_context.thread_count = threads
        yield container, streams[0]


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """The whole packets of the stream from here on, up to where the file ends or is damaged."""
    try:
        yield from (packet for packet in container.demux(stream) if packet.size and not packet.is_corrupt)
    except av.FFmpegError:
        return


def _rgb(frame: VideoFrame, converter: VideoReformatter) -> Image:
    image = converter.reformat(frame, format="rgb24").to_ndarray()
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))


def _read_file(path: str, wanted: Sequence[int], threads: int) -> Iterator[tuple[int, Image]]:
    delivered = 0
    with open_video(path, threads) as (container, stream):
        for found in _Index(container, stream).frames(wanted):
            yield found
            delivered += 1
    if delivered < len(wanted):
        yield from _count(path, wanted[delivered:], threads)


def _count(path: str, wanted: Sequence[int], threads: int) -> Iterator[tuple[int, Image]]:
    """Decode all from the start and count: slow, and right by definition."""
    todo, num_frames, converter = deque(wanted), 0, VideoReformatter()
    with open_video(path, threads) as (container, stream):
        try:
            for packet in chain(_packets(container, stream), [None]):
                for frame in stream.codec_context.decode(packet):
                    if num_frames == todo[0]:
                        yield todo.popleft(), _rgb(frame, converter)
                        if not todo:
                            return
                    num_frames += 1
        except av.FFmpegError:
            pass  # damage: what comes after cannot be numbered
    raise _missing(path, todo[0], num_frames)


class _Index:
    """The packets of an open video in decode order, and from them the frames that are asked for."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        packets = [(p.pts, p.is_keyframe, p.is_discard) for p in _packets(container, stream)]
        self.num_packets = len(packets)
        self._pts = [pts for pts, _, _ in packets if pts is not None]
        self._position: dict[int | None, int] = {pts: n for n, pts in enumerate(self._pts)}
        self._keys = [n for n, (_, key, _) in enumerate(packets) if key]
        shown = [n for n, (_, _, discarded) in enumerate(packets) if not discarded]
        # Times tell the frames when each packet has its own, and when they are out of order where pictures are reordered.
        self.times: list[int] = []
        in_doubt = stream.codec_context.has_b_frames and self._pts == sorted(self._pts)
        if self._keys and not in_doubt and len(self._position) == len(packets):
            first = self._keys[0]  # what comes before it, in the file or on the screen, does not decode
            self.times = sorted(self._pts[n] for n in shown if n >= first and self._pts[n] >= self._pts[first])
        self.num_frames = len(self.times) or len(shown)

    def times_s(self) -> list[float]:
        """Seconds at which each frame is shown; by the frame rate where the packets do not tell."""
        if self.times and self._stream.time_base:
            return [float(time * self._stream.time_base) for time in self.times]
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 1)
        return [n / rate for n in range(self.num_frames)]

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, Image]]:
        """The wanted frames in order, up to the first that the packets' times do not lead to."""
        converter = VideoReformatter()
        for n, group in self._plan([frame for frame in wanted if frame < len(self.times)]):
            # A seek may land late, or a key frame need time to recover: then the key frame before it serves.
            for key in self._keys[max(0, n - 1) : n + 1][::-1]:
                for image in self._decode(key, [self.times[frame] for frame in group]):
                    yield group.popleft(), _rgb(image, converter)
                if not group:
                    break
            if group:
                return

    def groups(self, wanted: Sequence[int], hold: int) -> list[list[int]]:
        """The wanted frames, cut where another key frame leads to them, and after ``hold`` of them."""
        groups: list[list[int]] = []
        last = -1
        for frame in wanted:
            key = self._key_before(frame) if frame < len(self.times) else -1
            if not groups or key != last or len(groups[-1]) == hold:
                groups.append([])
            groups[-1].append(frame)
            last = key
        return groups

    def _key_before(self, frame: int) -> int:
        """Ordinal of the key frame that decoding the frame starts from."""
        time = self.times[frame]
        n = bisect_right(self._keys, self._position[time]) - 1
        while n and self._pts[self._keys[n]] > time:  # shown before the key frame that it follows in the file
            n -= 1
        return n

    def _plan(self, wanted: Sequence[int]) -> list[tuple[int, deque[int]]]:
        """Groups of frames to decode in one go, each with the ordinal of the key frame to start from.

        Either way the packets from a frame's key frame to the frame are decoded. Going on decodes those before that key
        frame too, a seek costs ``_SEEK_COST``: the cheaper one is taken.
        """
        groups: list[tuple[int, deque[int]]] = []
        reached = 0
        for frame in wanted:
            position, n = self._position[self.times[frame]], self._key_before(frame)
            if not groups or self._keys[n] - reached > _SEEK_COST:
                groups.append((n, deque()))
                reached = 0
            groups[-1][1].append(frame)
            reached = max(reached, position + 1)
        return groups

    def _decode(self, key: int, times: Sequence[int]) -> Iterator[VideoFrame]:
        """Decode from the key packet on and give the frames of these times, up to the first that does not come out."""
        codec, todo, wanted = self._stream.codec_context, deque(times), set(times)
        stop = 1 + max(self._position[time] for time in times)
        try:
            self._container.seek(self._pts[key], stream=self._stream)
            packets = _packets(self._container, self._stream)
            first = next((p for p in packets if self._position.get(p.pts, -1) >= key), None)
            if first is None or self._position[first.pts] != key:
                return
            run = takewhile(lambda p: self._position.get(p.pts, stop) < stop, chain([first], packets))
            for packet in chain(run, [None]):
                if packet and codec.name == "h264":  # a picture that no other refers to is decoded only if it is wanted
                    codec.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
                for frame in codec.decode(packet):
                    if frame.pts == todo[0]:
                        todo.popleft()
                        yield frame
                        if not todo:
                            return
        except av.FFmpegError:
            return
