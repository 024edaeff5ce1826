"""The recipes of the nano networks: what is trained, on what, how fast; kept so that a run can be repeated and gone on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from egoray.models.detector import NanoDetector
from egoray.train import detector_trial, tracker
from egoray.train.clock import LoopConfig, Task
from egoray.train.detector import CropMaker, DetectorRecipe, DetectorTask, DetectorTraining
from egoray.train.pictures import Shards
from egoray.train.tracker import CURRICULUM, ClipMaker, TrackerNet, TrackerTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where and how long a recipe is run.

    Attributes:
        pictures: the folder of rendered shards, ``train/`` and ``test/``.
        device: a torch device.
        minutes: see `LoopConfig`.
        loaders: processes that make batches; 0 makes them in the training process.
        seed: of the first weights and, mixed with the step that a run goes on from, of the batches.
    """

    pictures: Path
    device: str
    minutes: float
    loaders: int = 0
    seed: int = 0

    @property
    def on_gpu(self) -> bool:
        """Whether batches should be large."""
        return torch.device(self.device).type == "cuda"


class _Made(IterableDataset):
    """Batches of a maker that each loader process builds for itself, from its own seed."""

    def __init__(self, make: Callable[[int], Any], seed: int) -> None:
        self._make, self._seed = make, seed

    def __iter__(self) -> Iterator[Any]:
        info = torch.utils.data.get_worker_info()
        return iter(self._make(self._seed + 1000 * (1 + info.id if info else 0)))


def _batches(make: Callable[[int], Any], setting: Setting) -> Iterator[Any]:
    fresh = int(torch.randint(2**31, ()))  # a run that goes on draws other batches than those it has seen
    more = {"num_workers": setting.loaders, "multiprocessing_context": "spawn", "prefetch_factor": 4} if setting.loaders else {}
    return iter(DataLoader(_Made(make, setting.seed + fresh), batch_size=None, **more))


class _Crops:
    def __init__(self, folder: Path, recipe: DetectorRecipe) -> None:
        self._folder, self._recipe = folder, recipe

    def __call__(self, seed: int) -> CropMaker:
        return CropMaker(self._folder, self._recipe, seed)


class _Clips:
    def __init__(self, folder: Path, stages: tuple[tracker.Stage, ...], shared: Any) -> None:
        self._folder, self._stages, self._shared = folder, stages, shared

    def __call__(self, seed: int) -> ClipMaker:
        return ClipMaker(self._folder, self._stages, lambda: self._shared.value, seed)


def nano_detector(setting: Setting) -> tuple[Task, LoopConfig]:
    """The detector: crops about objects, all sentences of a batch against all of its things."""
    recipe = DetectorRecipe(crops=96, sentences=256) if setting.on_gpu else DetectorRecipe()
    torch.manual_seed(setting.seed)
    net = DetectorTraining().to(memory_format=torch.channels_last)
    held_out = Shards(setting.pictures / "test")

    def measure(averaged: nn.Module) -> dict[str, float]:
        answered = list(
            detector_trial.ask(NanoDetector.of(averaged.detector, setting.device), detector_trial.shard_frames(held_out, 120, 5))
        )
        threshold = detector_trial.threshold_for(answered, 0.1)
        alarms = {f"alarm {kind}": detector_trial.false_alarms(answered, threshold, [kind]) for kind in detector_trial.KINDS[1:]}
        return {
            "ap50": detector_trial.average_precision(answered),
            "threshold": threshold,
            "found_at": detector_trial.found_at(answered, threshold),
            **alarms,
        }

    def batches() -> Iterator[Any]:
        return _batches(_Crops(setting.pictures / "train", recipe), setting)

    return DetectorTask(net, batches, measure, setting.device), LoopConfig(
        minutes=setting.minutes,
        peak_lr=3e-3 if setting.on_gpu else 2e-3,
        average=0.999 if setting.on_gpu else 0.997,
        device=setting.device,
        half=True,
    )


def nano_tracker(setting: Setting) -> tuple[Task, LoopConfig]:
    """The tracker: single frames until the prompts are understood, then short clips, then the full size."""
    scale = 4 if setting.on_gpu else 1
    stages = tuple(replace(stage, clips=scale * stage.clips) for stage in CURRICULUM)
    torch.manual_seed(setting.seed)
    net = TrackerNet()
    held_out = Shards(setting.pictures / "test")

    def measure(averaged: nn.Module) -> dict[str, float]:
        small = tracker.trial(averaged, held_out, setting.device, size=128)
        return small | tracker.trial(averaged, held_out, setting.device, size=256, num=12)

    def batches(progress: Callable[[], float]) -> Iterator[Any]:
        shared = torch.multiprocessing.get_context("spawn").Value("d", progress())
        for batch in _batches(_Clips(setting.pictures / "train", stages, shared), setting):
            shared.value = progress()
            yield batch

    return TrackerTask(net, batches, measure, setting.device), LoopConfig(
        minutes=setting.minutes,
        peak_lr=6e-4 if setting.on_gpu else 4e-4,
        average=0.999 if setting.on_gpu else 0.995,
        clip_norm=1.0,
        device=setting.device,
        half=True,
    )


RECIPES: dict[str, Callable[[Setting], tuple[Task, LoopConfig]]] = {"nano-detector": nano_detector, "nano-tracker": nano_tracker}
