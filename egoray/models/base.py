"""What a model must offer so that the stages can use it; models themselves know no stage and no file layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from egoray.core.masks import Mask
from egoray.schema import Box

Image = NDArray[np.uint8]
"""``(H, W, 3)`` uint8 RGB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackRequest:
    """One object to follow over the frames ``start <= f < stop``.

    ``prompts`` are the boxes that the model is told, the first of them at ``start``. ``boxes`` holds a box for every
    frame; a tracker that follows on its own (SAM 2) ignores it, one that cannot (GrabCut) is seeded by it.
    """

    key: str
    start: int
    stop: int
    prompts: Mapping[int, Box]
    boxes: Mapping[int, Box]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedMask:
    """One object in one frame: ``(H, W)`` bool mask (all False: not seen) and the model's confidence in [0, 1]."""

    mask: Mask
    score: float


class VideoTracker(Protocol):
    """Follows prompted objects through frames that it sees once, in order."""

    name: str

    def track(self, frames: Iterable[tuple[int, Image]], requests: Sequence[TrackRequest]) -> Iterator[tuple[int, dict[str, TrackedMask]]]:
        """Yield, for each frame of the ascending ``frames``, the masks of the requests that cover it, by key.

        Args:
            frames: (frame number, image) pairs, all of one size, covering every request's range.
            requests: objects to follow; none gives empty dicts.

        Raises:
            ModelError: if the model cannot run (out of memory, frames of two sizes).
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """A box (xyxy float pixels of the image) that may be what was asked for, and how likely it is, in [0, 1]."""

    box: Box
    score: float


class TextDetector(Protocol):
    """Finds what a sentence names in a single image."""

    name: str
    threshold: float
    """The score from which on a detection counts as found; below it the model says "nothing here"."""

    def detect(self, image: Image, texts: Sequence[str]) -> list[list[Detection]]:
        """For each sentence its candidates, best first; none where the image offers nothing at all.

        Raises:
            ModelError: if the model cannot run.
        """
        ...
