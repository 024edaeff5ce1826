"""Sampled decoding: frames/s of ours, of converting everything, and of the two fixed policies; prints one JSON line.

Each figure is native frames covered a second (300 frames of 720p H.264, B-frames as x264 has them), the median of
interleaved repetitions. All variants get the same number of threads; converting everything uses PyAV's defaults otherwise.

    python benchmarks/decode.py [--repeats 5] [--threads 0]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from egoray.core.video import Image, read_frames
from egoray.core.video_writer import VideoWriter

NUM_FRAMES, SIZE_HW = 300, (720, 1280)
Variant = Callable[[str, list[int], int], Iterator[Image]]


def write_clip(path: str, gop: int) -> None:
    """A camera that drifts over a blocky random texture."""
    height, width = SIZE_HW
    texture = np.random.default_rng(0).integers(0, 255, (height // 4 + 150, width // 4 + 225, 3), dtype=np.uint8)
    texture = texture.repeat(4, axis=0).repeat(4, axis=1)
    with VideoWriter(path, 30, SIZE_HW, gop=gop) as writer:
        for i in range(NUM_FRAMES):
            writer.write(texture[2 * i : 2 * i + height, 3 * i : 3 * i + width])


def ours(path: str, wanted: list[int], threads: int) -> Iterator[Image]:
    for _, image in read_frames(path, wanted, threads=threads):
        yield image


def convert_all(path: str, wanted: list[int], threads: int) -> Iterator[Image]:
    """The usual loop: every frame becomes an array, and the wanted ones are kept."""
    keep = set(wanted)
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = threads
        for i, frame in enumerate(container.decode(video=0)):
            image = frame.to_ndarray(format="rgb24")
            if i in keep:
                yield image


def scan(path: str, wanted: list[int], threads: int) -> Iterator[Image]:
    """Fixed policy: decode from the start, convert the wanted frames."""
    keep, converter = set(wanted), VideoReformatter()
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        for i, frame in enumerate(container.decode(stream)):
            if i in keep:
                yield converter.reformat(frame, format="rgb24").to_ndarray()


def seek_each(path: str, wanted: list[int], threads: int) -> Iterator[Image]:
    """Fixed policy: seek to the key frame before each wanted frame (at a constant frame rate)."""
    converter = VideoReformatter()
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = threads
        step = round(1 / (stream.average_rate * stream.time_base))
        for i in wanted:
            container.seek(i * step, stream=stream)
            frame = next(f for f in container.decode(stream) if f.pts == i * step)
            yield converter.reformat(frame, format="rgb24").to_ndarray()


VARIANTS: dict[str, Variant] = {"ours": ours, "convert_all": convert_all, "scan": scan, "seek_each": seek_each}


def measure(path: str, stride: int, repeats: int, threads: int) -> dict[str, object]:
    wanted = list(range(0, NUM_FRAMES, stride))
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(repeats):
        for name, variant in VARIANTS.items():
            start = time.perf_counter()
            count = sum(1 for _ in variant(path, wanted, threads))
            seconds[name].append(time.perf_counter() - start)
            assert count == len(wanted), name
    rate = {name: NUM_FRAMES / statistics.median(times) for name, times in seconds.items()}
    digests = {name: [hashlib.sha256(image.tobytes()).hexdigest() for image in VARIANTS[name](path, wanted, threads)] for name in VARIANTS}
    return {
        "frames_per_s": {name: round(value, 1) for name, value in rate.items()},
        "over_convert_all": round(rate["ours"] / rate["convert_all"], 2),
        "over_best_fixed": round(rate["ours"] / max(rate["scan"], rate["seek_each"]), 2),
        "exact": digests["ours"] == digests["convert_all"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    cases = {}
    with tempfile.TemporaryDirectory() as folder:
        for gop in (30, 250):
            path = str(Path(folder) / f"gop{gop}.mp4")
            write_clip(path, gop)
            for stride in (6, 30):
                cases[f"gop{gop}_stride{stride}"] = measure(path, stride, args.repeats, args.threads)
    print(json.dumps({"benchmark": "decode", "threads": args.threads, "repeats": args.repeats, "cases": cases}))


if __name__ == "__main__":
    main()
