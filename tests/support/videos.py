"""Test clips of many kinds, and the plainest decoder to compare with: decode all, in order, convert all."""

import hashlib
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

TIME_BASE = Fraction(1, 3000)


def picture(index: int, size_hw: tuple[int, int] = (96, 128)) -> np.ndarray:
    """Frame ``index`` of a camera that drifts over a blocky texture: (H, W, 3) uint8."""
    height, width = size_hw
    texture = np.random.default_rng(3).integers(0, 255, (height, width, 3), dtype=np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    y, x = index % (2 * height), 2 * index % (2 * width)
    return np.ascontiguousarray(texture[y : y + height, x : x + width])


def write_clip(
    path: Path, num_frames: int = 90, *, codec: str = "libx264", times: Sequence[int] | None = None, muxer: str = "", **options: object
) -> str:
    """A clip at 30 fps, or of frames at ``times`` (in 1/3000 s); ``options`` go to the encoder, ``muxer`` are its movflags."""
    with av.open(str(path), "w", options={"movflags": muxer} if muxer else {}) as container:
        stream = container.add_stream(codec, rate=30, options={k: str(v) for k, v in options.items()})
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        stream.codec_context.time_base = TIME_BASE
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(index))
            frame.pts, frame.time_base = times[index] if times else 100 * index, TIME_BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


def remux(source: str, path: Path, *, skip: int = 0, shift: int = 0) -> str:
    """The packets of ``source`` without the first ``skip``, ``shift`` ticks later, in another file."""
    with av.open(source) as read, av.open(str(path), "w") as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        for number, packet in enumerate(read.demux(video=0)):
            if packet.size and number >= skip:
                packet.stream, packet.pts, packet.dts = stream, packet.pts + shift, packet.dts + shift
                write.mux(packet)
    return str(path)


def cut(source: str, path: Path, part: float) -> str:
    """The first ``part`` of the file's bytes."""
    path.write_bytes(Path(source).read_bytes()[: int(part * os.path.getsize(source))])
    return str(path)


def mark_rotated(path: str, degrees: int) -> None:
    """Write into an mp4's track header that players shall turn the picture by 90 or 270 degrees clockwise."""
    data = bytearray(Path(path).read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version, flags, times, id, duration, reserved, layer, group, volume: 40 bytes
    one, minus = (0x10000).to_bytes(4, "big"), (-0x10000).to_bytes(4, "big", signed=True)
    zero = bytes(4)
    a, b, c, d = {90: (zero, one, minus, zero), 270: (zero, minus, one, zero)}[degrees]
    data[matrix : matrix + 20] = a + b + zero + c + d
    Path(path).write_bytes(data)


def digest(image: np.ndarray) -> str:
    """What tells two images apart."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def decode_all(path: str) -> list[str]:
    """The digest of every frame that decoding from the start to the end (or to the damage) gives."""
    digests = []
    try:
        with av.open(path) as container:
            for packet in container.demux(video=0):
                for frame in [] if packet.is_corrupt else packet.decode():
                    digests.append(digest(frame.to_ndarray(format="rgb24")))
    except av.FFmpegError:
        pass
    return digests
