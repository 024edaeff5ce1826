"""The frames of the clips as JPEG: decoded a few at a time, kept while there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict

import cv2

from egoray.core.boxes import clip_box
from egoray.core.video import Image, read_frames
from egoray.errors import FormatError
from egoray.schema import Box, VideoInfo

_BLOCK = 8
"""Annotation frames that are decoded in one go: who looks at one will look at the next."""
_QUALITY = 85
_MAX_WIDTH_PX = 1280
_MARGIN = 0.4
"""What a portrait shows around the object, as a share of its box."""
_PORTRAIT_PX = 160


class Frames:
    """JPEG by clip and annotation frame, for many threads.

    Args:
        max_bytes: what is kept in memory at most; the longest unused go first.
    """

    def __init__(self, max_bytes: int = 256_000_000) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        self._decoding: dict[str, threading.Lock] = {}

    def jpeg(self, video: VideoInfo, frame: int) -> bytes:
        """The frame, at most 1280 px wide.

        Raises:
            FormatError: if the clip cannot be read, or has no such frame.
        """
        if not 0 <= frame < video.num_annotation_frames:
            raise FormatError(f"{video.video_id}: has no frame {frame}")
        if found := self._get(video.video_id, frame):
            return found
        with self._lock:
            decoding = self._decoding.setdefault(video.video_id, threading.Lock())
        with decoding:
            if found := self._get(video.video_id, frame):
                return found
            start = frame - frame % _BLOCK
            wanted = range(start, min(start + _BLOCK, video.num_annotation_frames))
            for number, image in self.images(video, wanted):
                self._put(video.video_id, number, _jpeg(image, _MAX_WIDTH_PX))
        if found := self._get(video.video_id, frame):
            return found
        raise FormatError(f"{video.video_id}: frame {frame} cannot be decoded")

    def images(self, video: VideoInfo, frames: range) -> list[tuple[int, Image]]:
        """The frames of the ascending range as ``(H, W, 3)`` uint8 RGB.

        Raises:
            FormatError: if the clip cannot be read, or is of another size than it was when annotated.
        """
        found = [(native // video.stride, image) for native, image in read_frames(video.uri, [f * video.stride for f in frames], threads=1)]
        for _, image in found[:1]:
            if image.shape[:2] != (video.height_px, video.width_px):
                raise FormatError(f"{video.uri}: is not the clip that was annotated, its frames have another size; check --videos")
        return found

    def portrait(self, video: VideoInfo, boxes: dict[int, Box]) -> bytes:
        """The object where its box is largest, cut out with some room around it; it has at least one box."""
        frame = max(boxes, key=lambda f: (boxes[f][2] - boxes[f][0]) * (boxes[f][3] - boxes[f][1]))
        x1, y1, x2, y2 = boxes[frame]
        room = _MARGIN * max(x2 - x1, y2 - y1)
        image = self.images(video, range(frame, frame + 1))[0][1].copy()
        cv2.rectangle(image, (int(x1), int(y1)), (int(x2), int(y2)), (230, 159, 0), 2)
        cut = clip_box((x1 - room, y1 - room, x2 + room, y2 + room), (video.height_px, video.width_px)) or (0, 0, 1, 1)
        left, top, right, bottom = (round(v) for v in cut)
        return _jpeg(image[top : max(bottom, top + 1), left : max(right, left + 1)], _PORTRAIT_PX)

    def _get(self, video_id: str, frame: int) -> bytes | None:
        with self._lock:
            if data := self._kept.get((video_id, frame)):
                self._kept.move_to_end((video_id, frame))
            return data

    def _put(self, video_id: str, frame: int, data: bytes) -> None:
        with self._lock:
            self._size += len(data) - len(self._kept.get((video_id, frame), b""))
            self._kept[video_id, frame] = data
            while self._size > self.max_bytes and len(self._kept) > _BLOCK:
                self._size -= len(self._kept.popitem(last=False)[1])


def _jpeg(image: Image, max_width: int) -> bytes:
    height, width = image.shape[:2]
    if width > max_width:
        image = cv2.resize(image, (max_width, max(1, round(height * max_width / width))), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
