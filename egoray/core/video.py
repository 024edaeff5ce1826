"""Video files in and out: what a file holds, exact frames by index, frames read ahead on a thread, and H.264 writing."""

from __future__ import annotations

import os
import uuid
from fractions import Fraction
from types import TracebackType
from typing import Self

import av
import numpy as np
from numpy.typing import NDArray

from egoray.errors import ConfigError

Image = NDArray[np.uint8]
"""``(H, W, 3)`` uint8 RGB, C-contiguous."""


class VideoWriter:
    """Writes RGB frames to an H.264 mp4 (yuv420p, index in front) that browsers play; use as a context manager.

    The file appears under ``path`` when the block ends, and not at all when it raises. The same frames give the same
    decoded video, and with ``threads=1`` the same bytes. An odd height or width is padded to even by repeating the last
    row or column, so pixel coordinates stay as they were.

    Args:
        path: the file to write; folders above it are made.
        fps: frames a second.
        size_hw: (height, width) of every frame.
        gop: a key frame at least every ``gop`` frames.
        crf: x264's quality, 0 (lossless) to 51.
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
        self._shape = (*size_hw, 3)
        self._pad = ((0, size_hw[0] % 2), (0, size_hw[1] % 2), (0, 0))
        self._num_frames = 0
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            self._container = av.open(self._beside, "w", format="mp4", options={"movflags": "faststart"})
        except OSError as error:
            raise self._unwritable(error) from error
        self._stream = self._container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": str(crf), "preset": preset, "g": str(gop)}
        )
        self._stream.height, self._stream.width = size_hw[0] + size_hw[0] % 2, size_hw[1] + size_hw[1] % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = threads

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError(f"{self._path}: cannot be written ({error.strerror}); free some space or choose another folder")

    def write(self, frame: Image) -> None:
        """Append one ``(H, W, 3)`` uint8 RGB frame."""
        if frame.shape != self._shape or frame.dtype != np.uint8:
            raise ValueError(f"{self._path}: a frame is {frame.shape} {frame.dtype}, expected {self._shape} uint8")
        self._encode(av.VideoFrame.from_ndarray(np.pad(frame, self._pad, mode="edge") if any(map(any, self._pad)) else frame))
        self._num_frames += 1

    def _encode(self, frame: av.VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except OSError as error:
            raise self._unwritable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None and not self._num_frames:
                raise ValueError(f"{self._path}: no frame was written")
            if kind is None:
                self._encode(None)
                self._container.close()
                os.replace(self._beside, self._path)
        except OSError as problem:
            raise self._unwritable(problem) from problem
        finally:
            self._container.close()
            if os.path.exists(self._beside):
                os.unlink(self._beside)
