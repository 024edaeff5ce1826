"""What grounding costs: more sentences on one clip, more frames of one clip; and what nano reaches on fresh clips.

    python benchmarks/grounding.py cost [--sentences 7] [--frames 40] [--stub 0.8]
    python benchmarks/grounding.py memory [--models grounded-sam2 sa2va videolisa nano] [--frames 300 3000]
    python benchmarks/grounding.py tiers [--clips 20] [--out DIR]

``cost`` runs the tracking engine with a random network of 4 M parameters whose encoder is slowed down by sleeping until it takes 80 %
of a frame's time with one object, as that of SAM 2 large does; anchors lie at random frames. Baseline: one sentence, in the same run.
``memory`` takes tiny random checkpoints in the published layouts; each figure is a process of its own. ``tiers`` renders clips as
long as those of EgoMask's tiers and compares the two initialisations of the paper, pairwise. Each prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from egoray.models.base import Detection, Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
TIERS = {"short": 12.0, "medium": 116.0, "long": 361.0}
"""Seconds of a clip: the paper's means."""


class Fixed:
    """A detector that finds sentence n in the frame it is told, at no cost; it knows a frame by its top left pixels."""

    name, threshold = "fixed", 0.0

    def __init__(self, anchors: Sequence[int]) -> None:
        self.anchors = anchors

    def detect(self, images: Sequence[Image], texts: Sequence[str]) -> list[list[list[Detection]]]:
        numbers = [int(image[0, 0, 0]) * 256 + int(image[0, 0, 1]) for image in images]
        box = Detection(box=(8.0, 8.0, 40.0, 40.0), score=0.9)
        return [[[box] if self.anchors[n] == number else [] for n in range(len(texts))] for number in numbers]


class Rendered:
    """A clip without end or file: frame f is noise drawn from f, its number in the top left pixel."""

    def __init__(self, num_frames: int, size_hw: tuple[int, int] = (64, 96)) -> None:
        self.num_frames, self.size_hw = num_frames, size_hw

    def frames(self, wanted: Sequence[int] | None = None):
        for f in range(self.num_frames) if wanted is None else wanted:
            yield f, self._draw(f)

    def backward(self, start: int, stop: int):
        for f in reversed(range(start, stop)):
            yield f, self._draw(f)

    def _draw(self, frame: int) -> Image:
        image = np.random.default_rng(frame).integers(0, 255, (*self.size_hw, 3), dtype=np.uint8)
        image[0, 0] = (frame // 256, frame % 256, 0)
        return image


def cost(sentences: int, frames: int) -> dict[str, object]:
    import torch

    from egoray.grounding.proposer import DetectorProposer
    from egoray.grounding.strategy import Strategy
    from egoray.models.sam2_engine import Sam2Engine
    from egoray.models.sam2_session import Settings
    from egoray.models.sam2_weights import write_random_checkpoint

    torch.set_num_threads(1)
    clip, rng = Rendered(frames, (256, 256)), np.random.default_rng(0)
    anchors = [int(f) for f in rng.choice(frames, sentences, replace=False)]
    checkpoint = write_random_checkpoint(os.path.join(tempfile.mkdtemp(), "narrow.pt"))

    def seconds(engine: Sam2Engine, num: int) -> float:
        strategy = Strategy(name="cost", proposer=DetectorProposer(Fixed(anchors)), tracker=engine)
        started = time.perf_counter()
        answers = strategy.ground(clip, [f"thing {n}" for n in range(num)])
        assert all(len(a.scores) == frames for a in answers)
        return time.perf_counter() - started

    def built(at_once: int | None, sleep_s: float = 0.0) -> Sam2Engine:
        engine = Sam2Engine(checkpoint, settings=Settings(fresh_return=True, objects_at_once=at_once))
        encode = engine.network.encode

        def slow(images: Sequence[Image]):
            time.sleep(sleep_s * len(images))
            return encode(images)

        engine.network.encode = slow
        return engine

    plain = built(None)
    seconds(plain, 1)
    started = time.perf_counter()
    for _, image in clip.frames():
        plain.network.encode([image])
    encoder_s = (time.perf_counter() - started) / frames
    rest_s = seconds(plain, 1) / frames - encoder_s
    sleep_s = max(0.0, 4 * rest_s - encoder_s)
    result: dict[str, object] = {"benchmark": "cost", "sentences": sentences, "frames": frames, "anchors": anchors, "threads": 1}
    for name, at_once in (("one object at a time", 1), ("objects together", None)):
        one = min(seconds(built(at_once, sleep_s), 1) for _ in range(2))
        engine = built(at_once, sleep_s)
        many = seconds(engine, sentences)
        again = Sam2Engine(checkpoint, settings=Settings(fresh_return=True, objects_at_once=at_once), reuse_frames=0)
        seconds(again, sentences)
        result[name] = {
            "one_s": round(one, 3),
            "many_s": round(many, 3),
            "ratio": round(many / one, 3),
            "encoder_share_of_one": round((sleep_s + encoder_s) * frames / one, 3),
            "frames_encoded": engine.encoded_frames,
            "without_reuse": again.encoded_frames,
        }
    return result


def stub(sentences: int, frames: int, encoder_s: float) -> dict[str, object]:
    """The engine with steps that sleep: the encoder for ``encoder_s`` a frame, the decoder a quarter of it an object, one after another."""
    import torch

    from egoray.grounding.proposer import DetectorProposer
    from egoray.grounding.strategy import Strategy
    from egoray.models.sam2_engine import Sam2Engine
    from egoray.models.sam2_session import Settings
    from egoray.models.sam2_weights import write_random_checkpoint

    torch.set_num_threads(1)
    clip = Rendered(frames)
    anchors = [int(f) for f in np.random.default_rng(0).choice(frames, sentences, replace=False)]
    engine = Sam2Engine(write_random_checkpoint(os.path.join(tempfile.mkdtemp(), "narrow.pt")), settings=Settings(fresh_return=True))
    encode, decode = engine.network.encode, engine.network.decode

    def slow_encode(images: Sequence[Image]):
        time.sleep(encoder_s * len(images))
        return encode(images)

    def slow_decode(features, fused, *rest, **more):
        time.sleep(encoder_s / 4 * len(fused))
        return decode(features, fused, *rest, **more)

    engine.network.encode, engine.network.decode = slow_encode, slow_decode
    seconds = {}
    for num in (1, sentences):
        strategy = Strategy(name="stub", proposer=DetectorProposer(Fixed(anchors)), tracker=engine)
        started = time.perf_counter()
        strategy.ground(clip, [f"thing {n}" for n in range(num)])
        seconds[num] = round(time.perf_counter() - started, 3)
    ratio = round(seconds[sentences] / seconds[1], 3)
    return {"benchmark": "stub", "frames": frames, "encoder_s": encoder_s, "seconds": seconds, "ratio": ratio}


def memory(models: Sequence[str], frames: Sequence[int]) -> dict[str, object]:
    result: dict[str, object] = {"benchmark": "memory", "frames": list(frames)}
    for model in models:
        peaks = []
        for num in frames:
            command = [sys.executable, __file__, "one", model, str(num)]
            peaks.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]))
        result[model] = {"peak_rss_mb": peaks, "ratio": round(peaks[-1] / peaks[0], 4)}
    return result


def one(model: str, num: int) -> float:
    """Peak resident memory in MB of grounding one sentence in ``num`` frames."""
    import torch

    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    if model == "nano":
        from egoray.registry import build_grounder

        grounder = build_grounder("nano")
    elif model == "grounded-sam2":
        from egoray.models.sam2_weights import write_random_checkpoint
        from egoray.registry import build_grounder
        from support.tiny_dino import write_tiny_dino

        (folder / "dino").mkdir()
        dino = str(write_tiny_dino(folder / "dino", seed=3))
        grounder = build_grounder(f"grounded-sam2:{write_random_checkpoint(str(folder / 'narrow.pt'))}", detector=dino, threshold=0.5)
    elif model == "sa2va":
        from egoray.models.sa2va.grounder import Sa2va
        from support.sa2va_golden import write_golden

        grounder = Sa2va(str(write_golden(folder / "sa2va")), max_new_tokens=8)
    else:
        from egoray.models.videolisa.grounder import VideoLisa
        from support.sa2va_golden import GOLDEN

        grounder = VideoLisa(str(GOLDEN.parent / "videolisa"))
    (answer,) = grounder.ground(Rendered(num), ["the red mug"])
    assert model == "nano" or len(answer.scores) == num
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def tiers(clips: int, out: str, model: str) -> dict[str, object]:
    from egoray.config import EvaluateConfig, PredictConfig
    from egoray.core.storage import Folder
    from egoray.evaluate.compare import compare
    from egoray.evaluate.predict import plan_from_files, work_folder
    from egoray.evaluate.ray_predict import predict
    from egoray.evaluate.run import evaluate
    from egoray.synthetic.sample import write_sample

    result: dict[str, object] = {"benchmark": "tiers", "clips": clips, "model": model}
    for number, (tier, seconds) in enumerate(TIERS.items()):
        root = os.path.join(out, tier)
        if not os.path.exists(os.path.join(root, "truth", "meta.json")):
            write_sample(root, videos=clips, seed=50_021 + number, seconds=seconds, fps=5, tier=tier)
        found: dict[str, object] = {}
        for initialisation in ("highest", "naive"):
            config = PredictConfig(model=model, initialisation=initialisation)
            answers, scores = (os.path.join(root, f"{name}-{initialisation}") for name in ("answers", "scores"))
            predict(plan_from_files(os.path.join(root, "truth"), tier, config), answers, config)
            summary = evaluate(os.path.join(root, "truth"), tier, answers, scores, EvaluateConfig())
            metrics = {m: round(100 * summary["metrics"][m], 1) for m in ("IoU_gold_pred", "IoU_gold", "T_recall", "detection_flag")}
            rate = Folder(work_folder(answers, tier).uri).read_json("summary.json")["frames_per_s"]
            found[initialisation] = metrics | {"expressions": summary["num_expressions"], "frames_per_s": rate}
        ahead = compare(os.path.join(root, "scores-naive"), os.path.join(root, "scores-highest"))["splits"]
        row = next(iter(ahead.values()))["metrics"]["IoU_gold_pred"]
        found["highest_minus_naive"] = {k: None if row[k] is None else round(100 * row[k], 1) for k in ("difference", "low", "high")}
        result[tier] = found
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_cost = commands.add_parser("cost")
    of_cost.add_argument("--sentences", type=int, default=7)
    of_cost.add_argument("--frames", type=int, default=40)
    of_cost.add_argument("--stub", type=float, help="seconds a frame that a sleeping encoder takes, in place of a real one")
    of_memory = commands.add_parser("memory")
    of_memory.add_argument("--models", nargs="+", default=["grounded-sam2", "sa2va", "videolisa", "nano"])
    of_memory.add_argument("--frames", nargs="+", type=int, default=[300, 3000])
    of_tiers = commands.add_parser("tiers")
    of_tiers.add_argument("--clips", type=int, default=20)
    of_tiers.add_argument("--out", default=None)
    of_tiers.add_argument("--model", default="nano")
    of_one = commands.add_parser("one")
    of_one.add_argument("model")
    of_one.add_argument("num", type=int)
    args = parser.parse_args()
    if args.command == "one":
        print(one(args.model, args.num))
    elif args.command == "cost":
        made = stub(args.sentences, args.frames, args.stub) if args.stub else cost(args.sentences, args.frames)
        print(json.dumps(made))
    elif args.command == "memory":
        print(json.dumps(memory(args.models, args.frames)))
    else:
        print(json.dumps(tiers(args.clips, args.out or tempfile.mkdtemp(), args.model)))


if __name__ == "__main__":
    main()
