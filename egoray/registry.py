"""Name → builder. Adding a model is one file under models/ and one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from egoray.errors import ModelError
from egoray.models.base import TextDetector, VideoTracker


def _grabcut(checkpoint: str, device: str) -> VideoTracker:
    from egoray.models.grabcut import GrabCut

    return GrabCut()


def _sam2(checkpoint: str, device: str) -> VideoTracker:
    from egoray.models.sam2_engine import Sam2Engine

    return Sam2Engine(checkpoint, device)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerEntry:
    """How a tracker is built and what it asks of a machine."""

    build: Callable[[str, str], VideoTracker]
    summary: str
    needs_checkpoint: bool
    uses_gpu: bool
    frames_per_s: float
    """Rough rate of one worker on one core (on a GPU where it uses one); for ``--dry-run``, not a promise."""
    gpu_memory_gb: float
    """Rough peak on a GPU at 1024 px and a handful of objects, weights included; for ``--dry-run``, not a promise."""


TRACKERS = {
    "grabcut": TrackerEntry(
        build=_grabcut,
        summary="OpenCV GrabCut in the box of each frame; no weights",
        needs_checkpoint=False,
        uses_gpu=False,
        frames_per_s=40.0,
        gpu_memory_gb=0.0,
    ),
    "sam2": TrackerEntry(
        build=_sam2,
        summary="SAM 2 / 2.1, sam2:CHECKPOINT; box on the first frame",
        needs_checkpoint=True,
        uses_gpu=True,
        frames_per_s=10.0,
        gpu_memory_gb=4.0,
    ),
}


def tracker_entry(model: str) -> tuple[TrackerEntry, str]:
    """The entry that ``NAME`` or ``NAME:CHECKPOINT`` means, and its checkpoint ("" if none).

    Raises:
        ModelError: for an unknown name or a missing checkpoint.
    """
    name, _, checkpoint = model.partition(":")
    entry = TRACKERS.get(name)
    if entry is None:
        raise ModelError(f"--model {model}: unknown; known are {', '.join(TRACKERS)}")
    if entry.needs_checkpoint and not checkpoint:
        raise ModelError(f"--model {model}: needs a checkpoint, as in {name}:/path/to/file.pt or {name}:facebook/sam2.1-hiera-tiny")
    return entry, checkpoint


def build_tracker(model: str, device: str = "cpu") -> VideoTracker:
    """The tracker, loaded on ``device``.

    Raises:
        ModelError: if it is unknown or its checkpoint cannot be used.
    """
    entry, checkpoint = tracker_entry(model)
    return entry.build(checkpoint, device)


def build_detector(checkpoint: str = "", device: str = "cpu") -> TextDetector:
    """The nano-detector with its packaged weights, or with those of a file.

    Raises:
        ModelError: if the file cannot be used.
    """
    from egoray.models.detector import NanoDetector

    return NanoDetector(checkpoint, device)
