"""What a model must offer so that the stages can use it; models themselves know no stage and no file layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from egoray.core.masks import Mask
from egoray.core.patch import Patch
from egoray.schema import Box, MaskRLE

Image = NDArray[np.uint8]
"""``(H, W, 3)`` uint8 RGB."""
Frames = Iterable[tuple[int, Image]]
"""(frame number, image) pairs, all of one size."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """Where an object is in one frame: a box, clicks, a box with clicks, or a mask; in pixels of the frame.

    Args:
        box: see `Box`.
        points: (x, y) float pixels of clicks.
        labels: one a point, 1 on the object, 0 beside it.
        mask: ``(H, W)`` bool of the frame's size; all False says that the object is not there.

    Raises:
        ValueError: if it says nothing, if a mask comes with a box or points, or if a label is missing or unknown.
    """

    box: Box | None = None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    mask: Mask | None = None

    def __post_init__(self) -> None:
        if len(self.points) != len(self.labels) or not {0, 1}.issuperset(self.labels):
            raise ValueError(f"a prompt of {len(self.points)} points needs as many labels of 0 or 1, not {self.labels}")
        if (self.mask is not None) == (self.box is not None or bool(self.points)):
            raise ValueError("a prompt is a mask, or a box, points or both")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackRequest:
    """One object to follow over the frames ``start <= f < stop``.

    ``prompts`` are what the model is told, by frame. From the first of them it follows the object forward to ``stop`` and,
    where ``start`` lies before it, backward to ``start``. ``boxes`` says where it is known to be; a tracker that follows
    on its own (SAM 2) ignores it, one that cannot (GrabCut) is seeded by it and sees nothing in a frame without a box.
    """

    key: str
    start: int
    stop: int
    prompts: Mapping[int, Prompt]
    boxes: Mapping[int, Box]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrackedMask:
    """One object in one frame: its mask (empty: not seen), the model's confidence in [0, 1] that it is there, and what else it tells.

    ``iou`` is the model's own estimate of the mask's quality in [0, 1], ``logits`` the ``(h, w)`` float32 map, positive on
    the object, at the model's resolution; None from a model that has none.
    """

    patch: Patch
    score: float
    iou: float | None = None
    logits: NDArray[np.float32] | None = None

    @property
    def mask(self) -> Mask:
        """``(H, W)`` bool."""
        return self.patch.dense()


class VideoTracker(Protocol):
    """Follows prompted objects through frames that it sees once, in order."""

    name: str

    def track(
        self, frames: Frames, requests: Sequence[TrackRequest], backward: Callable[[int, int], Frames] | None = None
    ) -> Iterator[tuple[int, dict[str, TrackedMask]]]:
        """Yield, for each frame of the ascending ``frames``, the masks of the requests that cover it, by key.

        Args:
            frames: ascending, covering every request's range.
            requests: objects to follow; none gives empty dicts.
            backward: ``backward(start, stop)`` gives the frames ``start <= f < stop`` again, descending; needed only if a
                request starts before its first prompt. Those frames are yielded after all the others, descending.

        Raises:
            ModelError: if the model cannot run (out of memory, frames of two sizes).
            ValueError: if a request is impossible: a key twice, no prompt where one is needed, a prompt outside the frame
                or the range, a way back without ``backward``.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """A box (xyxy float pixels of the image) that may be what was asked for, and how likely it is, in [0, 1]."""

    box: Box
    score: float


class TextDetector(Protocol):
    """Finds what a sentence names in single images."""

    name: str
    threshold: float
    """The score above which a detection counts as found; below it the model says "nothing here"."""

    def detect(self, images: Sequence[Image], texts: Sequence[str]) -> list[list[list[Detection]]]:
        """For each image and each sentence the candidates, best first; none where the image offers nothing at all.

        Images are of one size; what the sentences share of the work on an image is done once.

        Raises:
            ModelError: if the model cannot run.
            ValueError: if a sentence has no word.
        """
        ...


class Clip(Protocol):
    """A video that can be read more than once; frames are numbered 0 to ``num_frames - 1`` and are of one size."""

    num_frames: int
    size_hw: tuple[int, int]

    def frames(self, wanted: Sequence[int] | None = None) -> Frames:
        """The frames of the strictly ascending numbers, or all, read as they are asked for.

        Raises:
            FormatError: if one cannot be read.
        """
        ...

    def backward(self, start: int, stop: int) -> Frames:
        """The frames ``start <= f < stop``, last one first.

        Raises:
            FormatError: if one cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounded:
    """Where in a clip the thing is that a sentence means.

    ``masks`` has a key for each frame in which it was found, none for the others; masks have the clip's size. ``scores`` is the
    confidence in [0, 1] that it is there, for each frame that was judged. ``detection`` is the frame and the box that it was
    followed from, None from a model that needs none, or that found nothing.
    """

    masks: Mapping[int, MaskRLE]
    scores: Mapping[int, float]
    detection: tuple[int, Detection] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a model says of one frame for one sentence: its mask, None where the thing is not seen, and the confidence in [0, 1]."""

    text_index: int
    frame: int
    mask: MaskRLE | None
    score: float


Judging = Generator[Judged, None, list[Grounded]]
"""Judgements as they are made, in the model's own order; the return value is what `Grounder.ground` gives."""


class Grounder(Protocol):
    """Finds what a sentence names, in every frame of a clip."""

    name: str

    def ground(self, clip: Clip, texts: Sequence[str]) -> list[Grounded]:
        """One answer a sentence, in their order; what the sentences share of the work is done once.

        Memory does not grow with the number of frames, but for the masks handed back.

        Raises:
            ModelError: if the model cannot run.
            FormatError: if a frame cannot be read.
            ValueError: if a sentence has no word.
        """
        ...


class StreamingGrounder(Grounder, Protocol):
    """A grounder that can tell of a frame as soon as it is judged."""

    def stream(self, clip: Clip, texts: Sequence[str]) -> Judging:
        """`ground`, told while it goes on; closing the generator ends the work."""
        ...


def gathered(judging: Judging) -> list[Grounded]:
    """What a stream ends with."""
    while True:
        try:
            next(judging)
        except StopIteration as end:
            answers: list[Grounded] = end.value
            return answers


def streamed(grounder: Grounder, clip: Clip, texts: Sequence[str]) -> Judging:
    """The grounder's own stream, or, of one that has none, all of it at the end; raises as `Grounder.ground` does."""
    if hasattr(grounder, "stream"):
        return (yield from grounder.stream(clip, texts))
    answers = grounder.ground(clip, texts)
    for n, found in enumerate(answers):
        for frame in sorted(found.scores.keys() | found.masks.keys()):
            yield Judged(text_index=n, frame=frame, mask=found.masks.get(frame), score=found.scores.get(frame, 1.0))
    return answers


def check_texts(texts: Sequence[str]) -> None:
    """Refuse a sentence that names nothing.

    Raises:
        ValueError: if one has no word.
    """
    if wordless := [text for text in texts if not re.search(r"[^\W_]", text)]:
        raise ValueError(f"nothing to look for in {wordless[0]!r}: a sentence needs a word")
