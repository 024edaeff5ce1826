"""What the nano-detector is measured by: precision where the thing asked for is visible, false alarms where it is not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from egoray.models.base import Detection, Image, TextDetector
from egoray.schema import Box
from egoray.synthetic.expressions import describe
from egoray.synthetic.objects import COLOURS, MATERIALS, WORDS, Attributes
from egoray.synthetic.shapes import SHAPES
from egoray.train.pictures import CLIP_FRAMES, Shards

NEVER_PRESENT = (
    "banana",
    "laptop",
    "shoe",
    "camera",
    "hat",
    "flower pot",
    "toothbrush",
    "guitar",
    "toaster",
    "watch",
    "ball",
    "teddy bear",
)
"""Nouns of nothing in any world, and none that training asks for."""

KINDS = ("visible", "elsewhere", "look-alike", "never")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A sentence about a frame: ``box`` is the answer, None where nothing in the frame is meant; ``kind`` is one of `KINDS`.

    "elsewhere": the thing is in the room, but not in view. "look-alike": a thing in view but for one attribute. "never": no world has it.
    """

    text: str
    kind: str
    box: Box | None


def questions(
    things: Sequence[Attributes], boxes: NDArray, rng: np.random.Generator, most: int = 3, visible: NDArray[np.bool_] | None = None
) -> list[Question]:
    """At most ``most`` of each kind about a frame of a world of T ``things``.

    Args:
        things: all of the world.
        boxes: (T, 4) of the things that may be asked for where they show; zeros for the others.
        rng: what to ask.
        most: of each kind.
        visible: (T,) what shows, where that is more than what has a box.
    """
    seen = [k for k in range(len(things)) if boxes[k, 2] > boxes[k, 0]]
    shown = seen if visible is None else np.flatnonzero(visible).tolist()
    hidden = [k for k in range(len(things)) if k not in shown]
    asked = []

    def sentence(k: int) -> str:
        others = [other for j, other in enumerate(things) if j != k]
        return describe(things[k], others, rng)[int(rng.integers(2))]

    for k in rng.permutation(seen)[:most]:
        asked.append(Question(text=sentence(int(k)), kind="visible", box=tuple(map(float, boxes[k]))))
    in_view = [things[k] for k in shown]
    for k in rng.permutation(hidden)[:most]:
        if not any(other.looks() == things[k].looks() for other in in_view):
            asked.append(Question(text=sentence(int(k)), kind="elsewhere", box=None))
    for k in rng.permutation(seen)[:most]:
        near = _changed(things[k], rng)
        if not any(_alike(other, near) for other in in_view):
            asked.append(Question(text=describe(near, (), rng)[1], kind="look-alike", box=None))
    for noun in rng.choice(NEVER_PRESENT, most, replace=False):
        asked.append(Question(text=f"the {rng.choice(list(COLOURS))} {noun}", kind="never", box=None))
    return asked


def _changed(thing: Attributes, rng: np.random.Generator) -> Attributes:
    """The thing with another noun, colour, material or print."""
    fits = [n for n in SHAPES if bool(SHAPES[n].label) == bool(SHAPES[thing.noun].label)]
    options = {"noun": fits, "colour": list(COLOURS), "material": list(MATERIALS)}
    if SHAPES[thing.noun].label:
        options["text"] = ["", *WORDS]
    facet = str(rng.choice(list(options)))
    return replace(thing, **{facet: str(rng.choice([v for v in options[facet] if v != getattr(thing, facet)]))})


def _alike(thing: Attributes, asked: Attributes) -> bool:
    """Whether the full sentence about ``asked`` is true of the thing."""
    return thing.looks() == asked.looks()


@dataclass(frozen=True, slots=True)
class Answered:
    """A question, what was detected, and the size of the thing asked for (share of the frame's width times height; 0 for none)."""

    question: Question
    found: list[Detection]
    area: float


def ask(detector: TextDetector, frames: Iterable[tuple[Image, Sequence[Question]]]) -> Iterator[Answered]:
    """Put the questions to the detector, frame by frame."""
    for image, asked in frames:
        for question, found in zip(asked, detector.detect([image], [q.text for q in asked])[0], strict=True):
            box = question.box or (0.0, 0.0, 0.0, 0.0)
            yield Answered(question, found, (box[2] - box[0]) * (box[3] - box[1]) / (image.shape[0] * image.shape[1]))


def average_precision(answered: Sequence[Answered], iou: float = 0.5) -> float:
    """Area under the precision-recall curve (every point) of all detections of the visible questions; each has one true box.

    0.0 when nothing was asked.
    """
    asked = [a for a in answered if a.question.box is not None]
    rows = []
    for a in asked:
        hit = False
        for detection in a.found:
            right = not hit and _iou(detection.box, a.question.box) >= iou
            hit |= right
            rows.append((detection.score, right))
    if not rows:
        return 0.0
    rows.sort(key=lambda row: -row[0])
    right = np.array([row[1] for row in rows])
    recall, precision = right.cumsum() / len(asked), right.cumsum() / np.arange(1, len(right) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0) * highest).sum())


def false_alarms(answered: Sequence[Answered], threshold: float, kinds: Sequence[str] = KINDS[1:]) -> float:
    """Share of the questions of these kinds, to which nothing is the answer, that get one at the threshold."""
    tops = [_top(a) for a in answered if a.question.kind in kinds]
    return float(np.mean([top >= threshold for top in tops])) if tops else 0.0


def found_at(answered: Sequence[Answered], threshold: float, iou: float = 0.5) -> float:
    """Share of the visible questions whose best detection is at or above the threshold and lies on the thing."""
    hits = [bool(a.found) and _top(a) >= threshold and _iou(a.found[0].box, a.question.box) >= iou for a in answered if a.question.box]
    return float(np.mean(hits)) if hits else 0.0


def threshold_for(answered: Sequence[Answered], alarms: float, kinds: Sequence[str] = KINDS[1:]) -> float:
    """The lowest threshold at which at most this share of the questions without an answer raises a false alarm."""
    tops = np.sort([_top(a) for a in answered if a.question.kind in kinds])
    return float(np.nextafter(tops[len(tops) - 1 - int(alarms * len(tops))], 1.0)) if len(tops) else 0.0


def _top(answered: Answered) -> float:
    return answered.found[0].score if answered.found else 0.0


def _iou(a: Box, b: Box | None) -> float:
    if b is None:
        return 0.0
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(0.0, width) * max(0.0, height)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return inter / (areas - inter) if areas > inter else 0.0


def shard_frames(shards: Shards, num: int, seed: int) -> Iterator[tuple[Image, list[Question]]]:
    """Frames of the shards with their questions, one frame a clip."""
    rng = np.random.default_rng(seed)
    for _ in range(num):
        shard = shards.draw(rng)
        frame = CLIP_FRAMES * int(rng.integers(shard.num_frames // CLIP_FRAMES)) + int(rng.integers(CLIP_FRAMES))
        truth = shard.truth(frame)
        yield shard.picture(frame), questions(shard.things[truth.world], truth.boxes, rng)
