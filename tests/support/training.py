"""A network of a few numbers to train, and runs of it in several processes; what the loop promises is tried on it."""

import os
import signal

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.train.checkpoints import Checkpoints
from egoray.train.loop import Loop, Pace
from egoray.train.order import Order
from egoray.train.samples import Sentence, TrainingClip
from egoray.train.world import World


def make_clips(number):
    return [
        TrainingClip(
            root="",
            source="egomask-train",
            video_id=f"v{k}",
            frame_names=("00000",),
            images=("",),
            sentences=(Sentence(text="a mug", object_id="1", targets=()),),
        )
        for k in range(number)
    ]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.drop = nn.Linear(8, 16), nn.Linear(16, 1), nn.Dropout(0.3)
        self.rare = nn.Parameter(torch.zeros(4))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, x, weight):
        return self.second(self.drop(torch.tanh(self.first(x)))), weight * ((self.rare - 1) ** 2).sum()


class Toy:
    """Pulls outputs to a target; every draw is the loop's; ``rare`` counts for one sample in four, the others only use it if ``always``."""

    def __init__(self, bad=(), nan_at=None, frozen=False, always=False):
        torch.manual_seed(7)
        self.always = always
        self.module, self.bad, self.nan_at = Net(), set(bad), nan_at
        if frozen:
            self.module.requires_grad_(False)

    def prepare(self, clip, rng):
        if clip.video_id in self.bad:
            raise FormatError(f"{clip.video_id}.jpg: not a readable image")
        number = int(clip.video_id[1:])
        return number, torch.from_numpy(rng.normal(size=(2, 8)).astype(np.float32))

    def loss(self, sample):
        number, x = sample
        rare = number % 4 == 0
        if rare or self.always:
            out, more = self.module(x, float(rare))
        else:
            out, more = self.module.second(self.module.drop(torch.tanh(self.module.first(x)))), 0
        loss = ((out - 0.5 * torch.randn(2, 1)) ** 2).mean() + more
        if self.nan_at is not None and number == self.nan_at:
            loss = loss * float("nan")
        return loss, {"rare": float(number % 4 == 0)}

    def blocks(self):
        return [self.module.first, self.module.second]


class Recorder:
    """A watcher that remembers, and kills its process after a step if told to."""

    def __init__(self, kill_after=None):
        self.steps, self.skips, self.kill_after = [], [], kill_after

    def stepped(self, figures):
        self.steps.append(figures)
        if figures["step"] == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def skipped(self, position, clip, reason):
        self.skips.append((position, clip))

    def trial(self, step):
        return {"IoU_gold_pred": 0.5}

    def saving(self):
        pass

    def leaving(self):
        return False


def pace(**more):
    return Pace(**({"steps": 20, "batch": 16, "lr": 1e-2, "warmup_steps": 3, "loaders": 1} | more))


def run_toy(out, task=None, watcher=None, clips=12, recipe="r", keep=2, sharded=False, **more):
    task, watcher = task or Toy(), watcher or Recorder()
    world = World()
    if sharded:
        from torch.distributed.fsdp import fully_shard

        for block in (*task.blocks(), task.module):
            fully_shard(block)
    found = make_clips(clips)
    loop = Loop(
        task,
        pace(**more),
        found,
        Order([clips], [1], None, 3),
        world,
        Checkpoints(Folder(out), keep, "IoU_gold_pred"),
        recipe,
        watcher,
        sharded,
    )
    loop.run()
    return loop


def one_of(rank, size, store, out, kill_after, sharded, options, results):
    """A process of ``size``; its steps go into ``results``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    watcher = Recorder(kill_after)
    error = ""
    try:
        run_toy(out, Toy(always=sharded, **options.pop("toy", {})), watcher, sharded=sharded, **options)
    except Exception as caught:
        error = f"{type(caught).__name__}: {caught}"
    results.put((rank, watcher.steps, error))
    dist.destroy_process_group()
