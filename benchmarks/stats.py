"""Statistics of a training set of EgoMask-Train's kind: seconds and memory to read it and to count, here and on Ray.

Its make-up is the paper's: 370 frames a video, 3.7 objects, each in 22 % of the frames and 17 times gone and back, 1.2 % of a
frame in size. Prints one JSON line; ``read`` is compared with parsing the same file by the json module alone.
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from egoray.core.masks import encode
from egoray.dataset.ray_stats import stats
from egoray.dataset.stats import read_subjects
from egoray.formats.egomask import BenchmarkObject, BenchmarkVideo, write_train
from egoray.schema import Expression, MaskRLE

FRAMES, OBJECTS_A_VIDEO, SIZE = 370, 4, (810, 1080)


def write_set(root: str, num_objects: int, seed: int = 0) -> int:
    """Write the set; the number of its masks."""
    rng = np.random.default_rng(seed)
    pool = [_mask(rng) for _ in range(400)]
    names = tuple(f"{5 * i:05d}" for i in range(FRAMES))
    videos, num_masks = [], 0
    for v in range(-(-num_objects // OBJECTS_A_VIDEO)):
        objects = []
        for obj in range(1, min(OBJECTS_A_VIDEO, num_objects - v * OBJECTS_A_VIDEO) + 1):
            present = np.zeros(FRAMES, bool)
            for start in rng.integers(0, FRAMES, 17):
                present[start : start + rng.integers(1, 10)] = True
            masks = {name: pool[rng.integers(len(pool))] for name, there in zip(names, present, strict=True) if there}
            num_masks += len(masks)
            objects.append(BenchmarkObject(object_id=str(obj), category="thing", masks=masks))
        expressions = tuple(
            Expression(
                expression_id=f"{v}/{o.object_id}/{n}", video_id=f"clip{v}", object_id=o.object_id, text="the thing", kind="", source="x"
            )
            for o in objects
            for n in range(5)
        )
        videos.append(BenchmarkVideo(video_id=f"clip{v}", tier="train", frame_names=names, objects=tuple(objects), expressions=expressions))
    write_train(root, videos)
    return num_masks


def _mask(rng: np.random.Generator) -> MaskRLE:
    """A ragged blob of about 1.2 % of the frame."""
    y, x = np.ogrid[: SIZE[0], : SIZE[1]]
    angle = np.arctan2(y - (cy := rng.uniform(0, SIZE[0])), x - (cx := rng.uniform(0, SIZE[1])))
    radius = 58 * (1 + 0.2 * np.sin(5 * angle + rng.uniform(0, 6)) + 0.05 * np.sin(23 * angle))
    return encode((y - cy) ** 2 + (x - cx) ** 2 <= radius**2)


def _timed(action) -> tuple[float, object]:
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


@click.command()
@click.option("--objects", default=2000, show_default=True)
@click.option("--cluster", is_flag=True, help="Count on Ray too.")
def main(objects: int, cluster: bool) -> None:
    """Measure, print, leave nothing behind."""
    with tempfile.TemporaryDirectory() as root:
        num_masks = write_set(root, objects)
        path = Path(root) / "train/mask_dict.json"
        parse_s, _ = _timed(lambda: json.loads(path.read_bytes()))
        read_s, _ = _timed(lambda: read_subjects(root))
        all_s, here = _timed(lambda: stats(root, local_objects=10**9))
        found = {
            "objects": objects,
            "masks": num_masks,
            "file_mb": round(path.stat().st_size / 1e6, 1),
            "parse_s": round(parse_s, 2),
            "read_s": round(read_s, 2),
            "read_over_parse": round(read_s / parse_s, 2),
            "stats_s": round(all_s, 2),
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
        if cluster:
            ray_s, there = _timed(lambda: stats(root, local_objects=0))
            found |= {"stats_on_ray_s": round(ray_s, 2), "the_same": here == there}
        print(json.dumps(found))


if __name__ == "__main__":
    main()
