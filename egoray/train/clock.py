"""The training loop: cosine by the clock, averaged weights, checkpoints that survive a kill, a curve that grows as it goes.

The schedule follows training time, not steps, since a run is given minutes on a machine of unknown speed. Time during which the
process was stopped does not count.
"""

from __future__ import annotations

import csv
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from egoray.errors import ModelError

_PAUSE_S = 20.0  # a step that took longer was stopped, not slow


class Task(Protocol):
    """What the loop needs to know of a network's training."""

    net: nn.Module

    def batches(self, progress: Callable[[], float]) -> Iterator[Any]:
        """Batches on the CPU without end; ``progress`` tells how much of the run is done, 0 to 1."""
        ...

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch, and figures for the curve."""
        ...

    def weights(self, net: nn.Module) -> dict[str, Tensor]:
        """The part of the averaged weights that is the model."""
        ...

    def trial(self, net: nn.Module) -> dict[str, float]:
        """Figures of the averaged weights on worlds that were not trained on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """How long and how fast.

    Attributes:
        minutes: training time from the first step to the last, over all resumed parts.
        peak_lr: highest learning rate (AdamW); it warms up over 3 % of the time and falls as a cosine to 2 %.
        weight_decay: of AdamW.
        clip_norm: longest gradient.
        average: how much of the averaged weights stays in each step, at most.
        save_s, trial_s: seconds between checkpoints and between trials.
        device: a torch device; CUDA runs under bfloat16.
        half: bfloat16 on the CPU too.
    """

    minutes: float
    peak_lr: float = 2e-3
    weight_decay: float = 0.02
    clip_norm: float = 5.0
    average: float = 0.999
    save_s: float = 120.0
    trial_s: float = 420.0
    device: str = "cpu"
    half: bool = False


class Loop:
    """One run in ``folder``: ``state.pt`` (everything, for going on), ``weights.pt`` (the averaged weights), ``curve.csv``.

    A folder that holds a state goes on from it.

    Raises:
        ModelError: if the state in the folder is of another network.
    """

    def __init__(self, task: Task, config: LoopConfig, folder: Path) -> None:
        self.task, self.config, self.folder = task, config, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.net = task.net.to(config.device)
        self.averaged = deepcopy(self.net).eval().requires_grad_(False)
        self.step, self.elapsed_s = 0, 0.0
        decayed = [p for p in self.net.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in self.net.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=config.peak_lr, betas=(0.9, 0.99))
        self._stopping = False
        if (folder / "state.pt").exists():
            self._load()

    @property
    def progress(self) -> float:
        """Share of the time that is over, 0 to 1."""
        return min(1.0, self.elapsed_s / (60 * self.config.minutes))

    def run(self) -> None:
        """Train until the time is over or the process is told to end (SIGTERM, SIGINT): it saves first, either way."""
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        self._save()

    def _run(self) -> None:
        saved_s = tried_s = logged_s = self.elapsed_s
        sums: dict[str, float] = {}
        count, last = 0, time.monotonic()
        for batch in self.task.batches(lambda: self.progress):
            figures = self._train(batch)
            now = time.monotonic()
            self.elapsed_s += min(now - last, _PAUSE_S)
            last = now
            count += 1
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value
            over = self._stopping or self.progress >= 1
            if self.elapsed_s - logged_s > 30 or over:
                self._log({name: value / count for name, value in sums.items()})
                sums, count, logged_s = {}, 0, self.elapsed_s
            if self.elapsed_s - saved_s > self.config.save_s:
                self._save()
                saved_s = self.elapsed_s
            if (self.elapsed_s - tried_s > self.config.trial_s or over) and not self._stopping:
                self._log(self.task.trial(self.averaged))
                tried_s = self.elapsed_s
            if over:
                return

    def _train(self, batch: Any) -> dict[str, float]:
        config = self.config
        warm = min(1.0, self.progress / 0.03 + 1e-3)
        rate = config.peak_lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.net.train()
        kind = torch.device(config.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=config.half or kind == "cuda"):
            loss, figures = self.task.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), config.clip_norm)
        if torch.isfinite(norm):
            self.optimizer.step()
            self._average()
        self.step += 1
        return figures | {"loss": float(loss.detach()), "grad_norm": float(norm)}

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(self.config.average, (1 + self.step) / (10 + self.step))
        mine, theirs = self.averaged.state_dict(), self.net.state_dict()
        for name, value in theirs.items():
            if value.is_floating_point():
                mine[name].lerp_(value, 1 - keep)
            else:
                mine[name].copy_(value)

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _log(self, figures: dict[str, float]) -> None:
        path = self.folder / "curve.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(("elapsed_s", "step", "figure", "value"))
            writer.writerows((round(self.elapsed_s, 1), self.step, name, round(value, 5)) for name, value in figures.items())
        print(f"{self.elapsed_s / 60:6.1f} min  step {self.step}  " + "  ".join(f"{k} {v:.4g}" for k, v in figures.items()), flush=True)

    def _save(self) -> None:
        state = {
            "net": self.net.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
        }
        _write({"model": self.task.weights(self.averaged)}, self.folder / "weights.pt")
        _write(state, self.folder / "state.pt")

    def _load(self) -> None:
        state = torch.load(self.folder / "state.pt", map_location=self.config.device, weights_only=True)
        try:
            self.net.load_state_dict(state["net"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ModelError(f"{self.folder}/state.pt: of another network; train in a new folder or delete it") from error
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]


def _write(content: dict[str, Any], path: Path) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    torch.save(content, part)
    os.replace(part, path)
