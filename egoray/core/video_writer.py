"""Video files out: H.264 that browsers play, whole or not at all, the same bytes for the same frames."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Self

import av
import numpy as np
from av.video.frame import VideoFrame

from egoray.core.video import Image, shown_path
from egoray.errors import ConfigError


class VideoWriter:
    """Writes RGB frames to an H.264 mp4 (yuv420p, index in front) that browsers play; use as a context manager.

    The file appears under ``path`` when the block ends, and not at all when it raises. The same frames give the same
    decoded video, and with one thread the same bytes. An odd height or width is padded to even by repeating the last row
    or column, so pixel coordinates stay.

    Args:
        path: the file to write; folders above it are made.
        fps: frames a second.
        size_hw: (height, width) of every frame.
        gop: a key frame at least every ``gop`` frames.
        crf: x264's quality, 0 (lossless) to 51 (worst).
        preset: x264's speed.
        threads: encoder threads; 0 lets the library choose.

    Raises:
        ConfigError: if the file cannot be written.
        ValueError: if a frame has another shape or dtype, or the block ends without a frame.
    """

    def __init__(
        self, path: str, fps: float, size_hw: tuple[int, int], *, gop: int = 30, crf: int = 23, preset: str = "veryfast", threads: int = 1
    ) -> None:
        self._path, self._beside = path, f"{path}.{uuid.uuid4().hex[:8]}.tmp"
        self._shape, self._num_frames = (*size_hw, 3), 0
        self._pad = ((0, size_hw[0] % 2), (0, size_hw[1] % 2), (0, 0))
        with self._writing():
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            self._container = av.open(self._beside, "w", format="mp4", options={"movflags": "faststart"})
        # x264's macroblock tree gives now these bytes, now those for the same frames; the lookahead of a short clip gains little.
        options = {"crf": str(crf), "preset": preset, "g": str(gop), "x264-params": "mbtree=0"}
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
        self._stream.height, self._stream.width = size_hw[0] + size_hw[0] % 2, size_hw[1] + size_hw[1] % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = threads

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = error.strerror
            raise ConfigError(f"{shown_path(self._path)}: cannot be written ({why}); free some space or choose another folder") from error

    def write(self, frame: Image) -> None:
        """Append one ``(H, W, 3)`` uint8 RGB frame."""
        if frame.shape != self._shape or frame.dtype != np.uint8:
            raise ValueError(f"{shown_path(self._path)}: a frame is {frame.shape} {frame.dtype}, expected {self._shape} uint8")
        picture = VideoFrame.from_ndarray(np.pad(frame, self._pad, mode="edge"))
        with self._writing():
            self._container.mux(self._stream.encode(picture))
        self._num_frames += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and not self._num_frames:
                raise ValueError(f"{shown_path(self._path)}: no frame was written")
            if kind is None:
                with self._writing():
                    self._container.mux(self._stream.encode(None))
                    self._container.close()
                    os.replace(self._beside, self._path)
        finally:
            self._container.close()
            if os.path.exists(self._beside):
                os.unlink(self._beside)
