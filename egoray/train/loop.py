"""The training loop: a step is the same samples and the same sum of gradients, however many processes share it.

Position p of a run is one sample: a clip, drawn by `Order`, and random numbers seeded by p. Step s takes the positions from s * batch on;
process r of n takes every n-th of them, so that 16 samples go to 3 processes as 6, 5 and 5. Gradients are sums over samples, reduced
once a step and divided by their number. Nothing else is drawn at random, hence a run that is killed and goes on, with the same
number of processes, ends with the same weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from egoray.errors import EgorayError, FormatError, ModelError, StageError
from egoray.train.checkpoints import Checkpoints, Mark
from egoray.train.order import Order
from egoray.train.samples import TrainingClip
from egoray.train.task import Task
from egoray.train.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast and how long.

    Attributes:
        steps: optimizer steps of the run.
        batch: samples of a step, over all processes.
        lr: highest learning rate of AdamW, with ``betas`` and ``weight_decay``.
        warmup_steps: over which it rises in a line from ``warmup_from`` times ``lr``.
        schedule: how it falls to 0 afterwards, "cosine" or "linear"; or "constant".
        clip_norm: longest gradient.
        bf16: compute under bfloat16.
        seed: of the order and of every draw.
        loaders: threads of each process that prepare samples ahead.
        ahead: samples that a process prepares ahead, at most.
        save_s, save_steps: a checkpoint after so many seconds or steps, whichever comes first.
        trial_steps: a trial after so many steps, and at the end; 0 for none.
    """

    steps: int
    batch: int
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    warmup_from: float = 0.0
    schedule: str = "cosine"
    clip_norm: float = 1.0
    bf16: bool = False
    seed: int = 0
    loaders: int = 2
    ahead: int = 8
    save_s: float = 300.0
    save_steps: int = 1_000_000
    trial_steps: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (self.warmup_from + (1 - self.warmup_from) * (step + 1) / self.warmup_steps)
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.lr * {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[self.schedule]


class Watcher(Protocol):
    """Who looks on, in each process; every process's is called at the same steps."""

    def stepped(self, figures: dict[str, float]) -> None:
        """After a step, with its figures."""
        ...

    def skipped(self, position: int, clip: str, reason: str) -> None:
        """A sample of this process could not be read."""
        ...

    def trial(self, step: int) -> dict[str, float]:
        """Figures of the weights as they are now."""
        ...

    def saving(self) -> None:
        """Before a checkpoint: what was said of the steps must be as lasting as they are."""
        ...

    def leaving(self) -> bool:
        """Whether a machine of ours will be taken away soon; a barrier."""
        ...


@dataclass(slots=True)
class _Said:
    """What a process tells the others of its part of a step."""

    count: int = 0
    loss: float = 0.0
    waited_s: float = 0.0
    figures: dict[str, list[float]] = field(default_factory=dict)
    skipped: int = 0
    fault: str = ""
    save: bool = False
    ask: bool = False

    def add(self, loss: float, figures: dict[str, float]) -> None:
        self.count += 1
        self.loss += loss
        for name, value in figures.items():
            self.figures.setdefault(name, []).append(value)


class Loop:
    """One run in one process of several, or in the only one.

    Args:
        task: what is trained.
        pace: how.
        clips: what it is trained on.
        order: which of them when.
        world: the processes that share the work.
        checkpoints: where the run is kept, the same for all processes.
        recipe: fingerprint of what must not change when the run goes on.
        watcher: who looks on.
        sharded: the module's parameters are FSDP's shards, so every process must make as many passes as any other.
    """

    def __init__(
        self,
        task: Task,
        pace: Pace,
        clips: Sequence[TrainingClip],
        order: Order,
        world: World,
        checkpoints: Checkpoints,
        recipe: str,
        watcher: Watcher,
        sharded: bool = False,
    ) -> None:
        self.task, self.pace, self.world, self.watcher = task, pace, world, watcher
        self._clips, self._order, self._checkpoints, self._recipe, self._sharded = clips, order, checkpoints, recipe, sharded
        self._trained = [p for p in task.module.parameters() if p.requires_grad]
        if not self._trained:
            raise ModelError("nothing to train: every parameter is frozen")
        self.optimizer = torch.optim.AdamW(self._trained, lr=pace.lr, betas=pace.betas, weight_decay=pace.weight_decay)
        self.step, self.skipped, self._figures = 0, 0, {}
        self._last: Any = None
        if marks := checkpoints.marks():
            self._load(marks[-1])

    def run(self) -> None:
        """Train to the end, with checkpoints on the way and one at the end; a run that was over does nothing.

        Raises:
            StageError: if a loss is not finite or memory runs out; the sample is named. All processes raise it at the same step.
        """
        pace = self.pace
        saved_s, saved_step, asked_s = time.monotonic(), self.step, time.monotonic()
        with _Ahead(self._prepare, self._mine(self.step), pace.loaders, pace.ahead) as samples:
            while self.step < pace.steps:
                began = time.monotonic()
                said = self._accumulate(samples)
                said.save = began - saved_s > pace.save_s  # the first process's clock decides for all
                said.ask = began - asked_s > _ASK_S
                heard = self.world.gather(said)
                if faults := [one.fault for one in heard if one.fault]:
                    raise StageError(f"step {self.step}: {faults[0]}; checkpoints up to step {saved_step} are kept")
                figures = self._apply(heard)
                self.step += 1
                self.skipped += sum(one.skipped for one in heard)
                seconds = time.monotonic() - began
                figures |= {"seconds": seconds, "waiting": sum(one.waited_s for one in heard) / len(heard) / seconds}
                self.watcher.stepped(figures | {"step": self.step, "workers": self.world.size, "skipped": self.skipped})
                over = self.step == pace.steps
                leaving = False
                if heard[0].ask:
                    leaving, asked_s = self.watcher.leaving(), time.monotonic()
                if pace.trial_steps and (over or self.step % pace.trial_steps == 0):
                    self._figures = self.watcher.trial(self.step)
                if over or leaving or heard[0].save or self.step - saved_step >= pace.save_steps:
                    self._save()
                    saved_s, saved_step = time.monotonic(), self.step
                    asked_s = saved_s + (_LEFT_S if leaving else 0)

    def _mine(self, step: int) -> Callable[[int], int]:
        """The position of this process's k-th sample from ``step`` on; -1 for one that only fills its share up."""
        batch, size, rank = self.pace.batch, self.world.size, self.world.rank
        share = -(-batch // size) if self._sharded else (batch - rank + size - 1) // size
        self._share = share

        def position(k: int) -> int:
            if not share:
                return -1
            ahead, place = divmod(k, share)
            inside = place * size + rank
            return (step + ahead) * batch + inside if inside < batch and step + ahead < self.pace.steps else -1

        return position

    def _prepare(self, position: int) -> Any:
        return self.task.prepare(self._clips[self._order[position]], np.random.default_rng([self.pace.seed, 3, position]))

    def _accumulate(self, samples: _Ahead) -> _Said:
        """Gradients summed over this process's samples of the step."""
        said = _Said()
        self.task.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        for _ in range(self._share):
            began = time.monotonic()
            position, sample, error = samples.next()
            said.waited_s += time.monotonic() - began
            if error is not None:
                said.skipped += 1
                self.watcher.skipped(position, self._clips[self._order[position]].name, str(error))
            if sample is not None and not said.fault:
                said.fault = self._pass(position, sample, said)
                self._last = sample
            elif self._sharded and self._last is not None:
                self._pass(-1, self._last, None)  # the others wait for our part of each layer
        return said

    def _pass(self, position: int, sample: Any, said: _Said | None) -> str:
        """One sample there and back; what is wrong with it, or "". Without ``said`` it weighs nothing."""
        torch.manual_seed(hash((self.pace.seed, position)) & 0x7FFFFFFF)
        name = self._clips[self._order[position]].name if position >= 0 else ""
        kind = self.world.device.type
        try:
            with torch.autocast(kind, torch.bfloat16, enabled=self.pace.bf16):
                loss, figures = self.task.loss(sample)
            if not torch.isfinite(loss):
                return f"the loss of sample {position} ({name}) is {float(loss.detach())}; lower the learning rate, or look at this clip"
            (loss if said else 0 * loss).backward()
        except torch.OutOfMemoryError:
            return f"out of memory on sample {position} ({name}); set recompute=true or parallel=fsdp2, or lower options.num_frames"
        if said:
            said.add(float(loss.detach()), figures)
        return ""

    def _apply(self, heard: Sequence[_Said]) -> dict[str, float]:
        """The optimizer's step from all processes' sums."""
        count = sum(one.count for one in heard)
        rate = self.pace.rate(self.step)
        merged = {name for one in heard for name in one.figures}
        values = {name: [v for one in heard for v in one.figures.get(name, ())] for name in sorted(merged)}
        figures = {name: sum(each) / len(each) for name, each in values.items()}
        if not count:
            return figures | {"loss": math.nan, "lr": rate, "grad_norm": 0.0}
        loss = sum(one.loss for one in heard) / count
        if self._sharded:
            count /= self.world.size  # FSDP has taken the mean over processes
        else:
            self.world.sum_gradients(self._trained)
        for parameter in self._trained:
            if parameter.grad is not None:
                parameter.grad /= count
        norm = nn.utils.clip_grad_norm_(self._trained, self.pace.clip_norm)
        norm = float(norm.full_tensor() if self._sharded else norm)  # type: ignore[operator]
        if not math.isfinite(norm):
            first = self.step * self.pace.batch
            names = sorted({self._clips[self._order[p]].name for p in range(first, first + self.pace.batch)})
            raise StageError(f"step {self.step}: the gradient is {norm}, in the batch of {', '.join(names)}; lower the learning rate")
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return figures | {"loss": loss, "lr": rate, "grad_norm": norm}

    def _save(self) -> None:
        self.watcher.saving()
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        model = get_model_state_dict(self.task.module, options=options)
        optimizer = get_optimizer_state_dict(self.task.module, self.optimizer, options=options)
        fault = ""
        if self.world.rank == 0:
            mark = Mark(step=self.step, recipe=self._recipe, figures=self._figures, skipped=self.skipped)
            try:
                self._checkpoints.save(mark, {"model": model, "optimizer": optimizer})
            except EgorayError as error:
                fault = f"no checkpoint: {error}"
        if fault := self.world.gather(fault)[0]:
            raise StageError(f"step {self.step}: {fault}; earlier checkpoints are whole, the same command goes on from the last")

    def _load(self, mark: Mark) -> None:
        state = self._checkpoints.load(mark, self._recipe)
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False)
        if lacking := get_model_state_dict(self.task.module, options=options).keys() - state["model"].keys():
            raise ModelError(f"{mark.name}: has no {min(lacking)}; it is of another model, give a new --out")
        set_model_state_dict(self.task.module, state["model"], options=options)
        set_optimizer_state_dict(self.task.module, self.optimizer, state["optimizer"], options=options)
        self.step, self.skipped, self._figures = mark.step, mark.skipped, mark.figures


class _Ahead:
    """Samples prepared by threads ahead of their use, in order.

    Args:
        prepare: makes the sample of a position.
        position: of the k-th sample; negative for none.
        threads: that prepare.
        ahead: samples that are prepared ahead.
    """

    def __init__(self, prepare: Callable[[int], Any], position: Callable[[int], int], threads: int, ahead: int) -> None:
        self._prepare, self._position, self._depth = prepare, position, ahead
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="loader")
        self._waiting: list[tuple[int, Future | None]] = []
        self._next = 0

    def __enter__(self) -> _Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def next(self) -> tuple[int, Any, FormatError | None]:
        """The next position, its sample, and the error instead of one that cannot be read."""
        while len(self._waiting) <= self._depth:
            position = self._position(self._next)
            self._waiting.append((position, self._pool.submit(self._prepare, position) if position >= 0 else None))
            self._next += 1
        position, future = self._waiting.pop(0)
        if future is None:
            return position, None, None
        try:
            return position, future.result(), None
        except FormatError as error:
            return position, None, error


_ASK_S = 5.0  # between two questions whether a machine will be taken away
_LEFT_S = 60.0  # after such a warning was answered by a checkpoint, do not ask again for so long
