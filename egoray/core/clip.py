"""A clip that grounding models read as often as they need: a video file, a folder of images, or some named images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from egoray.core.video import Image, probe, read_frames, read_frames_backward, read_image
from egoray.errors import FormatError


class VideoClip:
    """Every ``stride``-th frame of a video file or of a folder of images; frame f of the clip is native frame ``f * stride``.

    Raises:
        FormatError: if the file is no video.
    """

    def __init__(self, path: str, stride: int = 1) -> None:
        info = probe(path, path)
        self.path, self.stride, self.fps = path, stride, info.fps
        self.num_frames = -(-info.num_frames // stride)
        self.size_hw = (info.height_px, info.width_px)

    def frames(self, wanted: Sequence[int] | None = None) -> Iterator[tuple[int, Image]]:
        """See `Clip.frames`."""
        frames = range(self.num_frames) if wanted is None else wanted
        for native, image in read_frames(self.path, [f * self.stride for f in frames]):
            yield native // self.stride, image

    def backward(self, start: int, stop: int) -> Iterator[tuple[int, Image]]:
        """See `Clip.backward`."""
        for native, image in read_frames_backward(self.path, [f * self.stride for f in range(start, stop)]):
            yield native // self.stride, image


class ImageClip:
    """Images of one size in the order given; frame f is ``paths[f]``.

    Raises:
        FormatError: if there is none, or the first cannot be read.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        if not paths:
            raise FormatError("a clip without frames; name at least one image")
        self.paths = list(paths)
        self.num_frames = len(paths)
        height, width, _ = read_image(paths[0]).shape
        self.size_hw = (height, width)

    def frames(self, wanted: Sequence[int] | None = None) -> Iterator[tuple[int, Image]]:
        """See `Clip.frames`.

        Raises:
            FormatError: if an image is missing, damaged, or of another size.
        """
        yield from map(self._read, range(self.num_frames) if wanted is None else wanted)

    def backward(self, start: int, stop: int) -> Iterator[tuple[int, Image]]:
        """See `Clip.backward`; raises as `frames` does."""
        yield from map(self._read, reversed(range(start, stop)))

    def _read(self, frame: int) -> tuple[int, Image]:
        path = self.paths[frame]
        image = read_image(path)
        if image.shape[:2] != self.size_hw:
            raise FormatError(f"{path}: is {image.shape[0]}x{image.shape[1]}, the clip's first image {self.size_hw[0]}x{self.size_hw[1]}")
        return frame, image
