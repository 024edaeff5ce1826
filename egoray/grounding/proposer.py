"""Where a sentence's object may be: candidates from a text detector, frame by frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from egoray.core.boxes import clip_box, pixel_slices
from egoray.models.base import Clip, Detection, Image, TextDetector
from egoray.schema import Box

T = TypeVar("T")
Look = NDArray[np.float32]
"""(96,) the root of a colour histogram, of length 1; zeros where a box holds no pixel."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A box in a frame that may be what a sentence means, how likely it is, and what it looks like (None: was not asked for)."""

    frame: int
    detection: Detection
    look: Look | None = None


class Proposer(Protocol):
    """Looks at frames of a clip for what sentences mean."""

    def propose(self, clip: Clip, frames: Sequence[int], texts: Sequence[str]) -> list[list[Candidate]]:
        """The candidates of each sentence, by frame, best first within a frame; none where nothing is found."""
        ...


class DetectorProposer:
    """Everything that a detector finds above its threshold.

    Args:
        detector: see `TextDetector`.
        batch: frames that it takes at once.
        looks: also take the candidates' looks.
    """

    def __init__(self, detector: TextDetector, batch: int = 8, *, looks: bool = False) -> None:
        self._detector, self._batch, self._looks = detector, batch, looks

    def propose(self, clip: Clip, frames: Sequence[int], texts: Sequence[str]) -> list[list[Candidate]]:
        """See `Proposer.propose`."""
        found: list[list[Candidate]] = [[] for _ in texts]
        for chunk in _chunks(clip.frames(frames), self._batch):
            answers = self._detector.detect([image for _, image in chunk], texts)
            for (frame, image), by_text in zip(chunk, answers, strict=True):
                for mine, detections in zip(found, by_text, strict=True):
                    mine.extend(
                        Candidate(frame=frame, detection=d, look=look(image, d.box) if self._looks else None)
                        for d in detections
                        if d.score > self._detector.threshold
                    )
        return found


def look(image: Image, box: Box) -> Look:
    """What a box of an image looks like: hue and saturation of coloured pixels, lightness of grey ones, the middle weighing most."""
    inside = clip_box(box, image.shape[:2])
    if inside is None:
        return np.zeros(96, np.float32)
    rows, cols = pixel_slices(inside, image.shape[:2])
    small = cv2.resize(image[rows, cols], (24, 24), interpolation=cv2.INTER_AREA)
    hue, saturation, value = cv2.split(cv2.cvtColor(small, cv2.COLOR_RGB2HSV))
    grey = saturation < 48
    bins = np.where(grey, 72 + value // 11, (hue // 5).astype(np.int64) * 2 + (saturation > 128))
    ramp = 1 - np.abs(np.linspace(-1, 1, 24))
    counts = np.bincount(bins.ravel(), weights=np.outer(ramp, ramp).ravel(), minlength=96)[:96]
    return np.sqrt(counts / counts.sum()).astype(np.float32)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk
