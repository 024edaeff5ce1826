"""Name → builder. Adding a model is one file under models/ and one line here."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from egoray.errors import ModelError
from egoray.models.base import Grounder, VideoTracker


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


@dataclass(frozen=True, slots=True, kw_only=True)
class GrounderEntry:
    """How a grounding model is built and what it asks of a machine."""

    build: Callable[..., Grounder]
    """Takes the checkpoint, a torch device, and those of ``options`` that are given."""
    summary: str
    default_checkpoint: str
    """What NAME without a checkpoint means; empty where the package holds all that it needs."""
    needs_gpu: bool
    """Whether a CPU is too slow for more than a try."""
    memory_gb: float
    """Rough peak on its device, weights included; for people's plans, not a promise."""
    options: frozenset[str] = frozenset()


def _grounded_sam2(
    checkpoint: str,
    device: str,
    *,
    detector: str = "IDEA-Research/grounding-dino-tiny",
    threshold: float = 0.35,
    initialisation: str = "highest",
    detector_batch: int = 8,
    every: int = 1,
    gate: float = 0.0,
) -> Grounder:
    from egoray.grounding import gate as gates
    from egoray.grounding.proposer import DetectorProposer
    from egoray.grounding.sampler import every as every_step
    from egoray.grounding.strategy import Strategy
    from egoray.models.grounding_dino import GroundingDino
    from egoray.models.sam2_engine import Sam2Engine
    from egoray.models.sam2_session import Settings

    return Strategy(
        name="grounded-sam2",
        proposer=DetectorProposer(GroundingDino(detector, device, threshold), detector_batch),
        tracker=Sam2Engine(checkpoint, device, Settings(fresh_return=True)),
        sampler=every_step(every),
        verifier=_initialisation(initialisation),
        gate=gates.confident(gate) if gate else gates.every_mask,
    )


def _nano(
    checkpoint: str,
    device: str,
    *,
    threshold: float | None = None,
    initialisation: str = "highest",
    every: int = 1,
    gate: float = 0.0,
) -> Grounder:
    from egoray.grounding import gate as gates
    from egoray.grounding.memory import alike
    from egoray.grounding.proposer import DetectorProposer
    from egoray.grounding.sampler import every as every_step
    from egoray.grounding.strategy import Strategy
    from egoray.models.detector import THRESHOLD, NanoDetector

    return Strategy(
        name="nano",
        proposer=DetectorProposer(NanoDetector(checkpoint, device, THRESHOLD if threshold is None else threshold), looks=True),
        tracker=build_tracker("grabcut"),
        sampler=every_step(every),
        verifier=_initialisation(initialisation),
        linker=alike(),
        gate=gates.confident(gate) if gate else gates.every_mask,
    )


def _videolisa(checkpoint: str, device: str, *, clip: str = "", batch: int = 0) -> Grounder:
    from egoray.models.videolisa.grounder import VideoLisa

    return VideoLisa(checkpoint, device, clip=clip, batch=batch)


def _sa2va(
    checkpoint: str,
    device: str,
    *,
    key_frames: str = "first",
    num_key_frames: int = 5,
    detector: str | None = None,
    propagate: str | None = None,
) -> Grounder:
    from egoray.models.grounding_dino import GroundingDino
    from egoray.models.sa2va.grounder import Sa2va

    return Sa2va(
        checkpoint,
        device,
        key_frames=key_frames,
        num_key_frames=num_key_frames,
        detector=GroundingDino(detector, device) if detector else None,
        tracker=build_tracker(propagate, device) if propagate else None,
    )


def _initialisation(name: str) -> Any:
    from egoray.grounding.verifier import first_found, most_confident

    return {"highest": most_confident, "naive": first_found}[name]


_DETECTS = frozenset({"threshold", "initialisation", "every", "gate"})
_KEY_FRAMES = frozenset({"key_frames", "num_key_frames", "detector", "propagate"})

GROUNDERS = {
    "nano": GrounderEntry(
        build=_nano,
        summary="packaged nano-detector on each frame, linked by looks, GrabCut in each box; no download",
        default_checkpoint="",
        needs_gpu=False,
        memory_gb=0.5,
        options=_DETECTS,
    ),
    "grounded-sam2": GrounderEntry(
        build=_grounded_sam2,
        summary="the paper's: Grounding DINO on each frame, SAM 2 both ways from the most confident box; grounded-sam2:SAM2_CHECKPOINT",
        default_checkpoint="facebook/sam2.1-hiera-large",
        needs_gpu=True,
        memory_gb=8.0,
        options=_DETECTS | {"detector", "detector_batch"},
    ),
    "sa2va-4b": GrounderEntry(
        build=_sa2va,
        summary="Sa2VA-4B: five key frames into InternVL, its [SEG] prompts SAM 2.0, which propagates; sa2va-4b:CHECKPOINT",
        default_checkpoint="ByteDance/Sa2VA-4B",
        needs_gpu=True,
        memory_gb=12.0,
        options=_KEY_FRAMES,
    ),
    "sa2va-26b": GrounderEntry(
        build=_sa2va,
        summary="Sa2VA-26B: the same with InternLM2-20B and InternViT-6B; sa2va-26b:CHECKPOINT",
        default_checkpoint="ByteDance/Sa2VA-26B",
        needs_gpu=True,
        memory_gb=56.0,
        options=_KEY_FRAMES,
    ),
    "videolisa": GrounderEntry(
        build=_videolisa,
        summary="VideoLISA-3.8B: 32 frames into Phi-3, a mask in every frame by SAM; videolisa:CHECKPOINT",
        default_checkpoint="ZechenBai/VideoLISA-3.8B",
        needs_gpu=True,
        memory_gb=14.0,
        options=frozenset({"clip", "batch"}),
    ),
}


def grounder_entry(model: str) -> tuple[GrounderEntry, str]:
    """The entry that ``NAME`` or ``NAME:CHECKPOINT`` means, and its checkpoint ("" if none).

    Raises:
        ModelError: for an unknown name.
    """
    name, _, checkpoint = model.partition(":")
    entry = GROUNDERS.get(name)
    if entry is None:
        raise ModelError(f"--model {model}: unknown; known are {', '.join(GROUNDERS)}")
    return entry, checkpoint or entry.default_checkpoint


def default_device() -> str:
    """cuda where torch sees a GPU, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def build_grounder(model: str, device: str = "cpu", **options: Any) -> Grounder:
    """The grounding model, loaded on ``device``, with options of its own.

    Raises:
        ModelError: if it is unknown, has no such option, or its weights cannot be used.
    """
    entry, checkpoint = grounder_entry(model)
    if unknown := options.keys() - entry.options:
        raise ModelError(f"{min(unknown)}: not a setting of {model.partition(':')[0]}; leave it out")
    return entry.build(checkpoint, device, **options)


def models_here() -> list[dict[str, Any]]:
    """Every model: its name, the commands that take it, what it is, the memory it needs in GB, and what this machine lacks for it.

    ``missing`` is empty where it runs as it is; weights that are not here yet are fetched on first use.
    """
    on_gpu = default_device() == "cuda"
    have_gb = _memory_gb(on_gpu)
    rows = []
    listed = [(name, "annotate", e.summary, e.default_checkpoint, e.uses_gpu, e.gpu_memory_gb) for name, e in TRACKERS.items()]
    listed += [(name, "predict, ground", e.summary, e.default_checkpoint, e.needs_gpu, e.memory_gb) for name, e in GROUNDERS.items()]
    for name, commands, summary, checkpoint, wants_gpu, memory_gb in listed:
        missing = []
        if memory_gb > have_gb:
            missing.append(f"{memory_gb:g} GB of {'GPU ' if on_gpu else ''}memory (here {have_gb:.0f} GB)")
        if wants_gpu and not on_gpu:
            missing.append("a GPU (slow without)")
        if checkpoint and not _fetched(checkpoint):
            missing.append(f"weights (fetched on first use: {checkpoint})")
        about = {"name": name, "for": commands, "summary": summary, "checkpoint": checkpoint}
        rows.append(about | {"memory_gb": memory_gb, "missing": missing})
    return rows


def _memory_gb(on_gpu: bool) -> float:
    if on_gpu:
        import torch

        return torch.cuda.get_device_properties(0).total_memory / 1e9
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _fetched(checkpoint: str) -> bool:
    from huggingface_hub.constants import HF_HUB_CACHE

    name = checkpoint.partition("@")[0]
    return os.path.exists(name) or os.path.isdir(os.path.join(HF_HUB_CACHE, "models--" + name.replace("/", "--")))
