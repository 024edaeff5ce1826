"""CPU seconds to score predictions with every metric: a dense evaluator over ours, same masks, one process. One JSON line a case.

    python benchmarks/evaluate.py                                 # sparse, crowded, jagged and large masks
    python benchmarks/evaluate.py --released DIR                  # against EgoMask's own evaluator, DIR holds evaluation/metrics.py
    python benchmarks/evaluate.py --long                          # the Long split's size on Ray: wall seconds with 1 and 2 workers
    python benchmarks/evaluate.py --overhead                      # 1,000 short expressions: what Ray adds, its start included

The dense evaluator decodes both masks of every frame, and takes overlap, presence and the boundary measure from the full
frames, as the released one does. 8 expressions of 350 frames of 1920 x 1080 unless said otherwise; the dense one is run on
part of the frames (--dense-frames) and its time taken in proportion.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import sys
import tempfile
import time
import types

import cv2
import numpy as np
import ray
from pycocotools import mask as coco

from egoray.config import EvaluateConfig
from egoray.core import masks
from egoray.evaluate.expression import score_expression
from egoray.evaluate.ray_evaluate import evaluate_on_ray
from egoray.evaluate.run import evaluate
from egoray.formats.egomask import BenchmarkObject, BenchmarkVideo, read_gold, read_items, write_benchmark, write_prediction
from egoray.schema import Expression, MaskRLE

SIZE = (1080, 1920)
CASES = {"sparse": (0.18, 0.01, 0.02), "crowded": (0.80, 0.01, 0.02), "jagged": (0.18, 0.01, 0.5), "large": (0.18, 0.25, 0.02)}
"""Share of frames with the object, its share of the frame, roughness of its outline."""


def blob(rng: np.random.Generator, share: float, roughness: float) -> np.ndarray:
    """One object: a lumpy disk whose outline is torn by noise."""
    radius = np.sqrt(share * SIZE[0] * SIZE[1] / np.pi)
    cy, cx = rng.uniform(radius, SIZE[0] - radius), rng.uniform(radius, SIZE[1] - radius)
    angles = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    radii = radius * (1 + 0.15 * np.sin(3 * angles + rng.uniform(0, 6)) + roughness * rng.normal(0, 0.3, angles.size))
    mask = np.zeros(SIZE, np.uint8)
    points = np.stack([cx + radii * np.cos(angles), cy + radii * np.sin(angles)], 1)
    cv2.fillPoly(mask, [points.astype(np.int32)], 1)
    return mask.astype(bool)


def expression(rng: np.random.Generator, num_frames: int, presence: float, share: float, roughness: float) -> tuple[dict, dict]:
    """(gold, predicted) by frame name: gold in runs, predictions shifted, a tenth missed, a few made up."""
    gold: dict[str, MaskRLE] = {}
    predicted: dict[str, MaskRLE] = {}
    there = np.repeat(rng.random(-(-num_frames // 10)) < presence, 10)[:num_frames]
    for i in range(num_frames):
        if there[i] or rng.random() < 0.03:
            mask = blob(rng, share, roughness)
            if there[i]:
                gold[f"{5 * i:05d}"] = masks.encode(mask)
            if rng.random() < 0.9:
                predicted[f"{5 * i:05d}"] = masks.encode(np.roll(mask, rng.integers(-12, 13, 2), (0, 1)))
    return gold, predicted


def outline(mask: np.ndarray) -> np.ndarray:
    right, below, corner = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    right[:, :-1], below[:-1], corner[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    out = mask ^ right | mask ^ below | mask ^ corner
    out[-1], out[:, -1] = mask[-1] ^ right[-1], mask[:, -1] ^ below[:, -1]
    out[-1, -1] = False
    return out


def dense(gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """The released evaluator's way: full frames, dilation by a disk."""
    reach = int(np.ceil(0.008 * np.hypot(*SIZE)))
    disk = (np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) <= reach).astype(np.uint8)
    f = []
    for g, p in zip(gold, predicted, strict=True):
        a, b = outline(g), outline(p)
        near_a, near_b = (cv2.dilate(o.astype(np.uint8), disk) for o in (a, b))
        if not a.sum() or not b.sum():
            f.append(float(a.sum() == b.sum()))
        else:
            precision, recall = (b * near_a).sum() / b.sum(), (a * near_b).sum() / a.sum()
            f.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    both, either = (gold & predicted).sum((1, 2)), (gold | predicted).sum((1, 2))
    there, found = gold.any((1, 2)), predicted.any((1, 2))
    iou = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    figures = {"J": iou.mean(), "F": float(np.mean(f)), "T_accuracy": (there == found).mean()}
    return figures | ({"IoU_gold": iou[there].mean()} if there.any() else {})


def load_released(folder: str):
    """EgoMask's own `metrics` module from ``folder``; a disk stands in for the one library of it that is not installed here."""
    sys.path.insert(0, folder)
    morphology = types.ModuleType("skimage.morphology")
    morphology.disk = lambda r: (np.hypot(*np.mgrid[-int(r) : int(r) + 1, -int(r) : int(r) + 1]) <= r).astype(np.uint8)
    sys.modules.setdefault("skimage", types.ModuleType("skimage"))
    sys.modules.setdefault("skimage.morphology", morphology)
    return importlib.import_module("evaluation.metrics")


def run_released(metrics, gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    gold, predicted = gold.astype(np.uint8), predicted.astype(np.uint8)
    overlaps = []
    for g, p in zip(gold, predicted, strict=True):
        both, either = np.logical_and(g, p), np.logical_or(g, p)
        overlaps.append(both.sum() / either.sum() if either.sum() > 0 else 1.0)
    there = gold.any((1, 2))
    with np.errstate(invalid="ignore"):  # it divides by empty unions and mends that afterwards
        figures = {
            "J": metrics.db_eval_iou(gold, predicted).mean(),
            "F": metrics.db_eval_boundary(gold, predicted).mean(),
            "T_accuracy": metrics.db_eval_boundary_temporal(gold, predicted)["accuracy"],
        }
    return figures | ({"IoU_gold": np.array(overlaps)[there].mean()} if there.any() else {})


def decoded(by_frame: dict[str, MaskRLE], frames: list[str]) -> np.ndarray:
    stack = np.zeros((len(frames), *SIZE), bool)
    for i, frame in enumerate(frames):
        if frame in by_frame:
            stack[i] = coco.decode(masks.to_coco(by_frame[frame]))
    return stack


def compare_with_dense(case: str, args: argparse.Namespace) -> dict:
    rng = np.random.default_rng(0)
    frames = [f"{5 * i:05d}" for i in range(args.frames)]
    expressions = [expression(rng, args.frames, *CASES[case]) for _ in range(args.expressions)]
    score_expression(frames, *expressions[0])
    started = time.process_time()
    rows = [score_expression(frames, *pair) for pair in expressions]
    ours = time.process_time() - started
    metrics = load_released(args.released) if args.released else None
    part = frames[: args.dense_frames]
    spent, worst = 0.0, 0.0
    for gold, predicted in expressions:
        started = time.process_time()
        pair = decoded(gold, part), decoded(predicted, part)
        theirs = run_released(metrics, *pair) if metrics else dense(*pair)
        spent += time.process_time() - started
        mine = score_expression(part, gold, predicted)
        worst = max(worst, *(abs(mine[k] - v) for k, v in theirs.items()))
    theirs_s = spent * args.frames / len(part)
    return {
        "benchmark": "evaluate",
        "case": case,
        "against": "released" if args.released else "dense",
        "expressions": args.expressions,
        "frames": args.frames,
        "presence": round(float(np.mean([row["presence"] for row in rows])), 3),
        "ours_cpu_s": round(ours, 3),
        "theirs_cpu_s": round(theirs_s, 1),
        "ratio": round(theirs_s / ours, 1),
        "largest_difference": worst,
    }


def long_split(args: argparse.Namespace) -> dict:
    """15 videos, 100 expressions of 50 objects, 350 frames of 1080p, from files to figures on Ray."""
    rng = np.random.default_rng(1)
    names = tuple(f"{5 * i:05d}" for i in range(args.frames))
    with tempfile.TemporaryDirectory() as folder:
        videos = []
        for v in range(15):
            num = 4 if v < 5 else 3
            gold = [expression(rng, args.frames, *CASES["sparse"])[0] for _ in range(num)]
            objects = tuple(BenchmarkObject(object_id=str(o + 1), category="thing", masks=g) for o, g in enumerate(gold))
            ids = [(o.object_id, kind) for o in objects for kind in ("short", "long")]
            texts = [
                Expression(expression_id=f"{v}/{i}", video_id=f"clip{v}", object_id=o, text=k, kind=k, source="")
                for i, (o, k) in enumerate(ids)
            ]
            videos.append(BenchmarkVideo(video_id=f"clip{v}", tier="long", frame_names=names, objects=objects, expressions=tuple(texts)))
        write_benchmark(f"{folder}/d", videos)
        items = read_items(f"{folder}/d", "long")
        for item in items:
            gold = read_gold(f"{folder}/d", item)
            write_prediction(f"{folder}/p", "long", item, {f: gold[f] for f in gold if rng.random() < 0.9})
        wall = {}
        ray.init(address="local", include_dashboard=False, log_to_driver=False)  # a cluster that is up, as a job finds it
        for workers in (1, 2):
            config = EvaluateConfig(workers=workers)
            evaluate_on_ray(f"{folder}/d", "long", f"{folder}/p", f"{folder}/out", config, limit=16)  # workers load what they need
            summary = evaluate_on_ray(f"{folder}/d", "long", f"{folder}/p", f"{folder}/out", config)
            wall[workers] = summary["seconds"]
        ray.shutdown()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "benchmark": "evaluate_long",
        "expressions": len(items),
        "wall_s": wall,
        "scaling": round(wall[1] / wall[2], 2),
        "frames_per_s": summary["frames_per_s"],
        "driver_peak_rss_mb": round(peak),
    }


def overhead(args: argparse.Namespace) -> dict:
    """1,000 expressions of 10 small frames: wall seconds in this process, and on Ray from nothing running to figures."""
    rng = np.random.default_rng(2)
    names = tuple(f"{5 * i:05d}" for i in range(10))
    with tempfile.TemporaryDirectory() as folder:
        mask = np.zeros((120, 160), bool)
        mask[30:60, 40:90] = True
        gold = {name: masks.encode(np.roll(mask, int(rng.integers(40)), axis=1)) for name in names}
        videos = [
            BenchmarkVideo(
                video_id=f"clip{v}",
                tier="long",
                frame_names=names,
                objects=(BenchmarkObject(object_id="1", category="thing", masks=gold),),
                expressions=tuple(
                    Expression(expression_id=f"{v}/{i}", video_id=f"clip{v}", object_id="1", text="a", kind="b", source="")
                    for i in range(10)
                ),
            )
            for v in range(100)
        ]
        write_benchmark(f"{folder}/d", videos)
        for item in read_items(f"{folder}/d", "long"):
            write_prediction(f"{folder}/p", "long", item, gold)
        local = evaluate(f"{folder}/d", "long", f"{folder}/p", f"{folder}/a", EvaluateConfig())["seconds"]
        shared = evaluate_on_ray(f"{folder}/d", "long", f"{folder}/p", f"{folder}/b", EvaluateConfig())["seconds"]
    return {"benchmark": "evaluate_overhead", "expressions": 1000, "local_s": local, "ray_s": shared, "added_s": round(shared - local, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--released", metavar="DIR", help="folder of the released code")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--expressions", type=int, default=8)
    parser.add_argument("--frames", type=int, default=350)
    parser.add_argument("--dense-frames", type=int, default=40)
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES))
    args = parser.parse_args()
    cv2.setNumThreads(1)
    if args.overhead:
        print(json.dumps(overhead(args)))
        return
    if args.long:
        print(json.dumps(long_split(args)))
        return
    for case in args.case:
        print(json.dumps(compare_with_dense(case, args)), flush=True)


if __name__ == "__main__":
    main()
