"""Name → builder. Adding a model is one file under models/ and one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from egoray.errors import ModelError
from egoray.models.base import TextDetector, VideoTracker


def _grabcut(checkpoint: str, device: str) -> VideoTracker:
    from egoray.models.grabcut import GrabCut

    return GrabCut()


def _sam2(checkpoint: str, device: str, *, fill_holes: int = 0, non_overlapping: bool = False, compile: bool = False) -> VideoTracker:
    from egoray.models.sam2_engine import Sam2Engine
    from egoray.models.sam2_session import Settings

    return Sam2Engine(checkpoint, device, Settings(fill_holes=fill_holes, non_overlapping=non_overlapping), compile=compile)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerEntry:
    """How a tracker is built and what it asks of a machine."""

    build: Callable[..., VideoTracker]
    """Takes the checkpoint, a torch device, and those of ``options`` that are given."""
    summary: str
    default_checkpoint: str
    """What NAME without a checkpoint means; empty where none is needed."""
    uses_gpu: bool
    frames_per_s: float
    """Rough rate of one worker on one core (on a GPU where it uses one); for ``--dry-run``, not a promise."""
    gpu_memory_gb: float
    """Rough peak on a GPU at 1024 px and a handful of objects, weights included; for ``--dry-run``, not a promise."""
    options: frozenset[str] = frozenset()


TRACKERS = {
    "grabcut": TrackerEntry(
        build=_grabcut,
        summary="OpenCV GrabCut in the box of each frame; no weights",
        default_checkpoint="",
        uses_gpu=False,
        frames_per_s=40.0,
        gpu_memory_gb=0.0,
    ),
    "sam2": TrackerEntry(
        build=_sam2,
        summary="SAM 2 / 2.1: sam2:CHECKPOINT, or sam2 for the published 2.1 large; box on the first frame",
        default_checkpoint="facebook/sam2.1-hiera-large",
        uses_gpu=True,
        frames_per_s=10.0,
        gpu_memory_gb=4.0,
        options=frozenset({"fill_holes", "non_overlapping", "compile"}),
    ),
}


def tracker_entry(model: str) -> tuple[TrackerEntry, str]:
    """The entry that ``NAME`` or ``NAME:CHECKPOINT`` means, and its checkpoint ("" if none).

    Raises:
        ModelError: for an unknown name.
    """
    name, _, checkpoint = model.partition(":")
    entry = TRACKERS.get(name)
    if entry is None:
        raise ModelError(f"--model {model}: unknown; known are {', '.join(TRACKERS)}")
    return entry, checkpoint or entry.default_checkpoint


def build_tracker(model: str, device: str = "cpu", **options: Any) -> VideoTracker:
    """The tracker, loaded on ``device``, with options of its own.

    Raises:
        ModelError: if it is unknown, has no such option, or its checkpoint cannot be used.
    """
    entry, checkpoint = tracker_entry(model)
    if unknown := options.keys() - entry.options:
        raise ModelError(f"{min(unknown)}: not a setting of {model.partition(':')[0]}; leave it out")
    return entry.build(checkpoint, device, **options)


def build_detector(checkpoint: str = "", device: str = "cpu") -> TextDetector:
    """The nano-detector with its packaged weights, or with those of a file.

    Raises:
        ModelError: if the file cannot be used.
    """
    from egoray.models.detector import NanoDetector

    return NanoDetector(checkpoint, device)
