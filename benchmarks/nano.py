"""What the nano networks reach on sample worlds whose seeds and textures training never saw. Prints one JSON line.

    python benchmarks/nano.py [--detector FILE] [--tracker FILE] [--worlds 40] [--pictures DIR]

Detector: AP at IoU 0.5 over frames in which the object asked for shows; false alarms at the model's own threshold where it does
not, by kind; frames a second on one core, three sentences a frame.
Tracker: clips of 12 frames at 5 fps, the box on the first frame only; mean IoU over the frames in which the object shows,
beside GrabCut with the same single box and with the true box of every frame; frames a second on one core, one object.
--pictures writes the worst answers as images. --calibrate prints the threshold instead: the lowest with 5 % false alarms on worlds of
the training textures with new seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from egoray.models.base import Image, Prompt, TrackRequest, VideoTracker
from egoray.models.detector import NanoDetector
from egoray.models.grabcut import GrabCut
from egoray.models.sam2_engine import Sam2Engine
from egoray.schema import Box
from egoray.synthetic.world import World, WorldConfig, tight_box
from egoray.train import detector_trial as trial

SEED, CLIP, STRIDE = 31_007, 12, 6


def asked_frames(worlds: int, textures: str, seed: int) -> Iterator[tuple[Image, list[trial.Question]]]:
    """Twelve frames of each world with their questions about the annotated objects, the look-alikes and the absent."""
    for number in range(worlds):
        world = World(WorldConfig(textures=textures), [seed, number])
        rng = np.random.default_rng([seed, number])
        for frame in rng.choice(world.num_frames, 12, replace=False):
            masks = world.masks(int(frame))
            boxes = np.zeros((len(world.things), 4), np.float32)
            for object_id, mask in masks.items():
                boxes[int(object_id) - 1] = tight_box(mask)
            shown = np.bincount(world.owners(int(frame)).ravel(), minlength=len(world.things) + 1)[1:] >= 25
            asked = trial.questions(world.things, boxes, rng, visible=shown)
            if any(question.box for question in asked) or rng.random() < 0.3:
                yield world.frame(int(frame)), asked


def measure_detector(detector: NanoDetector, worlds: int, pictures: Path | None) -> dict[str, object]:
    frames = list(asked_frames(worlds, "test", SEED))
    answered = list(trial.ask(detector, frames))
    at = detector.threshold
    start = time.perf_counter()
    for image, _ in frames[:60]:
        detector.detect([image], ["the red mug", "the wooden spoon", "the blue book with nothing printed on it"])
    seconds = time.perf_counter() - start
    sizes = sorted(a.area for a in answered if a.question.box)
    middle = sizes[len(sizes) // 2]
    if pictures:
        draw_mistakes(detector, frames, pictures)
    return {
        "questions": {kind: sum(a.question.kind == kind for a in answered) for kind in trial.KINDS},
        "ap50": round(trial.average_precision(answered), 4),
        "ap50_larger_half": round(trial.average_precision([a for a in answered if a.area >= middle]), 4),
        "threshold": at,
        "found_at_threshold": round(trial.found_at(answered, at), 4),
        "false_alarms": round(trial.false_alarms(answered, at), 4),
        "false_alarms_by_kind": {kind: round(trial.false_alarms(answered, at, [kind]), 4) for kind in trial.KINDS[1:]},
        "frames_per_s": round(min(60, len(frames)) / seconds, 1),
    }


def draw_mistakes(detector: NanoDetector, frames: Sequence[tuple[Image, list[trial.Question]]], folder: Path) -> None:
    """The most confident false alarms and wrong boxes: truth in green, what was said in red."""
    wrong = []
    for image, asked in frames:
        for a in trial.ask(detector, [(image, asked)]):
            top = a.found[0] if a.found else None
            if top and top.score >= detector.threshold and (a.question.box is None or not trial.found_at([a], 0.0)):
                wrong.append((top.score, image, a))
    folder.mkdir(parents=True, exist_ok=True)
    for rank, (score, image, a) in enumerate(sorted(wrong, key=lambda row: -row[0])[:8]):
        canvas = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        for box, colour in ((a.found[0].box, (40, 40, 230)), (a.question.box, (60, 200, 60))):
            if box:
                cv2.rectangle(canvas, (int(box[0]), int(box[1])), (int(box[2]), int(box[3])), colour, 2)
        cv2.putText(
            canvas, f"{a.question.text} [{a.question.kind}] {score:.2f}", (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 3
        )
        canvas[:22] = 0
        said = f"{a.question.text} [{a.question.kind}] {score:.2f}"
        cv2.putText(canvas, said, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
        cv2.imwrite(str(folder / f"detector_{rank}.jpg"), canvas)


def clips(worlds: int) -> Iterator[tuple[list[Image], list[np.ndarray | None]]]:
    """Twelve frames at 5 fps and one object's masks, which shows in the first; two objects a world at most."""
    for number in range(worlds):
        world = World(WorldConfig(textures="test"), [SEED + 1, number])
        rng = np.random.default_rng([SEED + 1, number])
        for scene_object in rng.permutation(len(world.objects))[:2]:
            object_id = str(scene_object + 1)
            for start in rng.permutation(np.arange(0, world.num_frames - CLIP * STRIDE, 15)):
                if object_id in world.masks(int(start)):
                    numbers = range(int(start), int(start) + CLIP * STRIDE, STRIDE)
                    yield [world.frame(i) for i in numbers], [world.masks(i).get(object_id) for i in numbers]
                    break


def follow(tracker: VideoTracker, frames: list[Image], boxes: dict[int, Box], first: Box) -> list[np.ndarray]:
    request = TrackRequest(key="a", start=0, stop=len(frames), prompts={0: Prompt(box=first)}, boxes=boxes)
    return [found["a"].mask for _, found in tracker.track(enumerate(frames), [request])]


def measure_tracker(tracker: VideoTracker, worlds: int) -> dict[str, object]:
    rows: dict[str, list[float]] = {"tracker": [], "grabcut_one_box": [], "grabcut_box_a_frame": []}
    absent, seconds, count = [], 0.0, 0
    for frames, truth in clips(worlds):
        tight = {t: tight_box(mask) for t, mask in enumerate(truth) if mask is not None}
        same = dict.fromkeys(range(CLIP), tight[0])
        every = {t: tight.get(t, (0.0, 0.0, 0.0, 0.0)) for t in range(CLIP)}
        start = time.perf_counter()
        found = follow(tracker, frames, {}, tight[0])
        seconds += time.perf_counter() - start
        count += CLIP
        answers = {"tracker": found, "grabcut_one_box": follow(GrabCut(), frames, same, tight[0])}
        answers["grabcut_box_a_frame"] = follow(GrabCut(), frames, every, tight[0])
        for name, masks in answers.items():
            overlaps = [(m & t).sum() / max(1, (m | t).sum()) for m, t in zip(masks, truth, strict=True) if t is not None]
            rows[name].append(float(np.mean(overlaps)))
        absent += [not m.any() for m, t in zip(found, truth, strict=True) if t is None]
    return {
        "clips": len(rows["tracker"]),
        "mean_iou": {name: round(float(np.mean(values)), 4) for name, values in rows.items()},
        "absent_frames_left_empty": round(float(np.mean(absent)), 4) if absent else None,
        "frames_per_s": round(count / seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--detector", help="weights of a nano-detector, .safetensors or a run's weights.pt; '' for the packaged ones")
    parser.add_argument("--tracker", help="checkpoint of a nano-tracker, its .yaml beside it")
    parser.add_argument("--side", type=int, default=384, help="pixels of the square that the tracker is fed")
    parser.add_argument("--worlds", type=int, default=40)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--threshold", type=float, help="in place of the detector's own")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if args.calibrate:
        answered = list(trial.ask(NanoDetector(args.detector or ""), asked_frames(args.worlds, "train", SEED + 2)))
        print(json.dumps({"threshold": round(trial.threshold_for(answered, 0.05), 3), "questions": len(answered)}))
        return
    result: dict[str, object] = {"worlds": args.worlds, "threads": 1}
    if args.detector is not None:
        more = {} if args.threshold is None else {"threshold": args.threshold}
        result["detector"] = measure_detector(NanoDetector(args.detector, **more), args.worlds, args.pictures)
    if args.tracker:
        result["tracker"] = measure_tracker(Sam2Engine(args.tracker, side=args.side), args.worlds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
