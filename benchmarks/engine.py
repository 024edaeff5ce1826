"""Frames/s of the tracking engine against the `sam2` package's own video predictor, same weights, frames and threads.

    python benchmarks/engine.py                                        # the 4 M network, 1 4 8 16 objects
    python benchmarks/engine.py --network tiny --objects 1 8 --frames 10
    python benchmarks/engine.py --network large --side 512 --objects 1 7 --frames 8 --against
    python benchmarks/engine.py --network tiny --device cuda --compile

Prints one JSON line for each number of objects: frames/s of ours, of the predictor (frames in memory, nothing offloaded),
and of one run of it for each object, as the released EgoMask code works; the ratios; and where our time goes. All begin
with the same uint8 frames. Weights are random: time does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from egoray.models.base import Prompt, TrackRequest
from egoray.models.sam2_engine import Sam2Engine
from egoray.models.sam2_session import Step
from egoray.models.sam2_weights import write_random_checkpoint
from support.stock_sam2 import load_stock

SIZES = {"tiny": "t", "small": "s", "base": "b+", "large": "l"}
BASELINES = ("predictor", "run_an_object")
STEPS = ("encode", "fuse", "decode", "remember")


def write_network(path: str, name: str, side: int | None) -> str:
    """A random checkpoint of a published shape, or the narrow one."""
    if name == "narrow":
        return write_random_checkpoint(path)
    config = OmegaConf.load(str(resources.files("sam2") / "configs" / "sam2.1" / f"sam2.1_hiera_{SIZES[name]}.yaml"))
    config.model.image_size = side or config.model.image_size
    torch.manual_seed(0)
    model = instantiate(config.model, _recursive_=True)
    torch.nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 2.0)
    torch.save({"model": model.state_dict()}, path)
    OmegaConf.save(config, path.replace(".pt", ".yaml"))
    return path


def moving_squares(num_frames: int, count: int) -> tuple[list[np.ndarray], dict[str, tuple[float, float, float, float]]]:
    """640 x 360 frames with ``count`` squares that drift, and their boxes in the first one."""
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 190, (45, 80, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    corners, colours = rng.integers((10, 10), (250, 520), (count, 2)), rng.integers(0, 255, (count, 3))
    frames = []
    for i in range(num_frames):
        frame = np.roll(ground, i, 1).copy()
        for (y, x), colour in zip(corners, colours, strict=True):
            frame[y + i : y + i + 60, x + i : x + i + 70] = colour
        frames.append(frame)
    return frames, {str(k): (float(x), float(y), x + 70.0, y + 60.0) for k, (y, x) in enumerate(corners)}


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


class Clock:
    """Adds up the time of the engine's steps."""

    def __init__(self, engine: Sam2Engine, device: str) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        for name in STEPS:
            setattr(engine.network, name, self._timed(name, getattr(engine.network, name), device))
        self._masks, Step.masks = Step.masks, self._timed("output", Step.masks, device)

    def close(self) -> None:
        Step.masks = self._masks

    def _timed(self, name, function, device):
        def timed(*args, **kwargs):
            synchronize(device)
            started = time.perf_counter()
            result = function(*args, **kwargs)
            synchronize(device)
            self.seconds[name] += time.perf_counter() - started
            return result

        return timed


def run_engine(engine: Sam2Engine, frames: list[np.ndarray], boxes: dict, device: str) -> float:
    requests = [TrackRequest(key=k, start=0, stop=len(frames), prompts={0: Prompt(box=b)}, boxes={}) for k, b in boxes.items()]
    started = time.perf_counter()
    for _ in engine.track(enumerate(frames), requests):
        pass
    synchronize(device)
    return len(frames) / (time.perf_counter() - started)


def run_stock(predictor, frames: list[np.ndarray], groups: list[dict], device: str) -> float:
    """One run for each group of boxes; every run encodes the frames anew."""
    seconds = 0.0
    for boxes in groups:
        with torch.autocast("cuda", torch.bfloat16, enabled=device != "cpu"):
            started = time.perf_counter()
            state = predictor.init_state(frames)
            for key, box in boxes.items():
                predictor.add_new_points_or_box(state, 0, key, box=np.array(box, np.float32))
            predictor.propagate(state)
            synchronize(device)
        seconds += time.perf_counter() - started
    return len(frames) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["narrow", *SIZES], default="narrow")
    parser.add_argument("--side", type=int, help="side of the network's image, for a published shape (default 1024)")
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=2, help="runs of each; the fastest counts")
    parser.add_argument("--against", choices=BASELINES, nargs="*", default=list(BASELINES), help="baselines to run; none: the engine alone")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_network(f"{folder}/network.pt", args.network, args.side)
        engine = Sam2Engine(checkpoint, args.device, compile=args.compile)
        predictor = load_stock(checkpoint).to(args.device) if args.against else None
    first = None
    for count in args.objects:
        frames, boxes = moving_squares(args.frames, count)
        alone = [{k: b} for k, b in boxes.items()]
        run_engine(engine, frames[:3], boxes, args.device)
        rates = defaultdict(float)
        groups = {"predictor": [boxes], "run_an_object": alone}
        for _ in range(args.repeat):
            rates["engine"] = max(rates["engine"], run_engine(engine, frames, boxes, args.device))
            for name in args.against:
                rates[name] = max(rates[name], run_stock(predictor, frames, groups[name], args.device))
        clock = Clock(engine, args.device)
        run_engine(engine, frames, boxes, args.device)
        clock.close()
        for name in STEPS:
            delattr(engine.network, name)
        first = first or rates["engine"]
        total = sum(clock.seconds.values())
        row = {
            "benchmark": "engine",
            "network": args.network + (f"@{args.side}" if args.side else ""),
            "device": args.device,
            "compile": args.compile,
            "threads": args.threads,
            "objects": count,
            "frames": args.frames,
            "frames_per_s": {name: round(rate, 3) for name, rate in rates.items()},
            **{f"over_{name}": round(rates["engine"] / rates[name], 2) for name in args.against},
            f"time_over_{args.objects[0]}_objects": round(first / rates["engine"], 2),
            "share_of_time": {name: round(seconds / total, 3) for name, seconds in clock.seconds.items()},
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
