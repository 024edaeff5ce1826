"""Peak memory of the tracking engine over 3,000 frames against 300, and the `sam2` package's predictor beside it. One JSON line.

    python benchmarks/engine_memory.py [--frames 300 3000] [--objects 2]

Frames are made one by one. The predictor holds all frames and memories of a video, so its own curve stops at 1,000 frames.
Each run is a process of its own; 4 M network, 320 x 180.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

STOCK_LIMIT = 1000
BOXES = {"0": (20.0, 20.0, 60.0, 60.0), "1": (120.0, 60.0, 200.0, 120.0), "2": (220.0, 30.0, 260.0, 160.0), "3": (60.0, 90.0, 110.0, 150.0)}


def images(count: int) -> Iterator[np.ndarray]:
    ground = np.random.default_rng(0).integers(90, 150, (180, 320, 3), dtype=np.uint8)
    for i in range(count):
        yield np.roll(ground, i, 1)


def run_engine(checkpoint: str, count: int, boxes: dict) -> None:
    from egoray.models.base import Prompt, TrackRequest
    from egoray.models.sam2_engine import Sam2Engine

    requests = [TrackRequest(key=k, start=0, stop=count, prompts={0: Prompt(box=b)}, boxes={}) for k, b in boxes.items()]
    for _ in Sam2Engine(checkpoint).track(enumerate(images(count)), requests):
        pass


def run_predictor(checkpoint: str, count: int, boxes: dict) -> None:
    from support.stock_sam2 import load_stock

    predictor = load_stock(checkpoint)
    state = predictor.init_state(list(images(count)))
    for key, box in boxes.items():
        predictor.add_new_points_or_box(state, 0, key, box=np.array(box, np.float32))
    for _ in predictor.propagate_in_video(state):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[300, 1000, 3000])
    parser.add_argument("--objects", type=int, choices=range(1, 5), default=2)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        torch.set_num_threads(1)
        which, checkpoint, count = args.child
        run = {"engine": run_engine, "predictor": run_predictor}[which]
        run(checkpoint, int(count), dict(list(BOXES.items())[: args.objects]))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    from egoray.models.sam2_weights import write_random_checkpoint

    peaks: dict[str, dict[int, float]] = {"engine": {}, "predictor": {}}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_random_checkpoint(f"{folder}/narrow.pt")
        for which, curve in peaks.items():
            for count in args.frames:
                if which == "engine" or count <= STOCK_LIMIT:
                    command = [sys.executable, __file__, "--objects", str(args.objects), "--child", which, checkpoint, str(count)]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                    curve[count] = round(float(done.stdout.split()[-1]), 1)
    low, high = min(args.frames), max(args.frames)
    row = {"benchmark": "engine_memory", "objects": args.objects, "peak_rss_mb": peaks}
    print(json.dumps(row | {f"{high}_over_{low}": round(peaks["engine"][high] / peaks["engine"][low], 3)}))


if __name__ == "__main__":
    main()
