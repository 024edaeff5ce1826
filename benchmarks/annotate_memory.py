"""Peak memory of an annotate actor on a clip of 3,000 annotation frames over that on one of 300. Prints one JSON line.

    python benchmarks/annotate_memory.py [--model grabcut|sam2:CHECKPOINT|sam2_narrow]

One object is there all the time, so each clip is one trajectory, one shard and one pass; 320 x 180.
"""

from __future__ import annotations

import argparse
import json
import tempfile

import numpy as np

from egoray.annotate.plan import make_plan
from egoray.annotate.ray_annotate import annotate
from egoray.config import AnnotateConfig
from egoray.core.video_writer import VideoWriter
from egoray.formats.egotracks import TracksFile
from egoray.schema import ObjectTrack

SIZE_HW = (180, 320)


def moving_square(folder: str, num_frames: int) -> TracksFile:
    """A clip of ``num_frames`` annotation frames (30 fps, stride 6) with a red square that circles, and its track."""
    ground = np.random.default_rng(0).integers(90, 150, (*SIZE_HW, 3), dtype=np.uint8)
    boxes = {}
    with VideoWriter(f"{folder}/clip.mp4", 30, SIZE_HW, preset="ultrafast") as writer:
        for frame in range(num_frames):
            x, y = int(160 + 90 * np.cos(frame / 9)), int(90 + 40 * np.sin(frame / 9))
            image = ground.copy()
            image[y - 14 : y + 14, x - 18 : x + 18] = (210, 50, 40)
            boxes[frame] = (x - 18.0, y - 14.0, x + 18.0, y + 14.0)
            for _ in range(6):
                writer.write(image)
    track = ObjectTrack(video_id="clip", object_id="1", title="square", boxes=boxes, size_hw=SIZE_HW)
    return TracksFile(tracks=(track,), clip_ids=("clip",), clip_fps={"clip": 30.0}, repairs={}, failures=())


def peak_mb(num_frames: int, model: str) -> float:
    config = AnnotateConfig(model=model, workers=1)
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(moving_square(folder, num_frames), folder, config)
        summary = annotate(plan, f"{folder}/out", config)
    assert (summary["done"], summary["frames"]) == (1, num_frames)
    return summary["peak_rss_mb"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="grabcut")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model
        if model == "sam2_narrow":
            from egoray.models.sam2_weights import write_random_checkpoint

            model = "sam2:" + write_random_checkpoint(f"{folder}/narrow.pt")
        short, long = peak_mb(300, model), peak_mb(3000, model)
    print(json.dumps({"model": args.model, "peak_mb_300": short, "peak_mb_3000": long, "ratio": round(long / short, 3)}))


if __name__ == "__main__":
    main()
