"""The recipes: complete named configurations of a training run, each figure with its source; ``--set`` changes any of them.

Sources: the EgoMask paper (section 5 and appendix), its released training configurations, and those of Sa2VA, VideoLISA and SAM 2
that these start from; ``sources`` of each recipe says which figure is from where.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from egoray.config import StageConfig
from egoray.core.workfolder import fingerprint
from egoray.errors import ConfigError
from egoray.formats import rvos
from egoray.train.loop import Pace
from egoray.train.samples import EGOMASK, SOURCES

TaskName = Literal["sa2va", "videolisa", "sam2", "nano-detector"]


class Part(BaseModel):
    """A source of clips in the mix."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[str | None, Field(description="its folder; `--data` fills this in")] = None
    repeats: Annotated[int, Field(ge=0, description="how often each clip comes in an epoch")] = 1
    rate: Annotated[float | None, Field(ge=0, description="share of the samples, where the recipe counts steps")] = None


class Recipe(StageConfig):
    """A training run. ``epochs`` or ``steps`` is given, not both."""

    name: Annotated[str, Field(description="of the recipe")]
    task: Annotated[TaskName, Field(description="what is trained, and how its samples and losses are made")]
    model: Annotated[str, Field(description="the checkpoint to begin with: a folder, a file or a published id")]
    serves_as: Annotated[str, Field(description="the model that `predict` and `ground` load the result as")]
    data: Annotated[dict[str, Part], Field(description="the mix")]
    missing: Annotated[
        Literal["error", "drop"],
        Field(description="a part of the mix without a path: an error, or left out, the others keeping their ratios"),
    ] = "error"
    options: Annotated[dict[str, Any], Field(description="the task's own: what is trained, how samples are drawn")] = Field(
        default_factory=dict
    )
    batch: Annotated[int, Field(ge=1, description="samples of a step over all workers, however many there are")] = 16
    epochs: Annotated[float | None, Field(gt=0)] = None
    steps: Annotated[int | None, Field(ge=1, description="optimizer steps")] = None
    lr: Annotated[float, Field(gt=0)] = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup: Annotated[float, Field(ge=0, lt=1, description="share of the steps")] = 0.05
    warmup_steps: Annotated[int | None, Field(ge=0, description="instead of the share")] = None
    warmup_from: Annotated[float, Field(ge=0, le=1, description="share of the learning rate that the rise begins at")] = 0.0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    clip_norm: Annotated[float, Field(gt=0, description="longest gradient")] = 1.0
    precision: Annotated[Literal["bf16", "fp32"], Field(description="of the computation; trained weights are float32")] = "bf16"
    parallel: Annotated[
        Literal["ddp", "fsdp2"], Field(description="a whole copy on each worker and summed gradients, or shards of every layer")
    ] = "ddp"
    recompute: Annotated[bool, Field(description="activation checkpointing: less memory, a third more time")] = False
    compile: Annotated[bool, Field(description="torch.compile of each block")] = False
    seed: int = 0
    loaders: Annotated[int, Field(ge=1, description="threads of each worker that decode ahead of the step")] = 2
    ahead: Annotated[int, Field(ge=1, description="samples each worker has ready at most")] = 8
    save_s: Annotated[float, Field(gt=0, description="seconds between checkpoints")] = 300.0
    save_steps: Annotated[int | None, Field(ge=1, description="steps between checkpoints, if that is sooner")] = None
    keep: Annotated[int, Field(ge=1, description="latest checkpoints kept; the best stays too")] = 2
    trial: Annotated[str | None, Field(description="a benchmark folder to try the weights on; best by IoU_gold_pred")] = None
    trial_split: Literal["short", "medium", "long", "full"] = "short"
    trial_clips: Annotated[int, Field(ge=1, description="clips of it")] = 8
    trial_steps: Annotated[int | None, Field(ge=1, description="steps between trials; default: ten in a run")] = None
    workers: Annotated[tuple[int, int], Field(description="fewest and most; between them the run shrinks and grows with the cluster")] = (
        1,
        1,
    )
    cpus_per_worker: Annotated[int, Field(ge=1, description="whole CPUs; fractions do not work with elastic runs")] = 4
    gpus_per_worker: Annotated[int, Field(ge=0, description="whole GPUs where the cluster has any")] = 1
    max_deaths: Annotated[int, Field(ge=0, description="workers or nodes lost before the run gives up; announced losses do not count")] = 20
    resize_s: Annotated[float, Field(gt=0, description="seconds between looks for room to grow")] = 60.0
    tensorboard: bool = True
    mlflow: Annotated[str | None, Field(description="tracking address; needs the mlflow package")] = None
    sources: Annotated[dict[str, str], Field(description="where the figures come from")] = Field(default_factory=dict)

    def with_data(self, found: dict[str, str]) -> Recipe:
        """The recipe with the folders of its parts, those without one dropped where that was asked for.

        Args:
            found: source → folder, as recognised from the files there.

        Raises:
            ConfigError: if a folder is of no part, or a part has no folder.
        """
        if strange := found.keys() - self.data.keys():
            raise ConfigError(
                f"--data {found[min(strange)]}: is {min(strange)}, which {self.name} does not mix; it mixes {', '.join(self.data)}; "
                f"--set data.{min(strange)}.repeats=1 adds it"
            )
        parts = {name: part.model_copy(update={"path": found.get(name, part.path)}) for name, part in self.data.items()}
        wanted = {name: part for name, part in parts.items() if part.rate or (part.rate is None and part.repeats)}
        lacking = [name for name, part in wanted.items() if part.path is None]
        if lacking and self.missing == "error":
            unread = [name for name in lacking if name not in SOURCES]
            raise ConfigError(
                f"{self.name} also trains on {', '.join(lacking)}: give each folder with another --data"
                + (f" (egoray cannot read {', '.join(unread)})" if unread else "")
                + ", or --set missing=drop to train on the rest"
            )
        kept = {name: part for name, part in wanted.items() if part.path is not None}
        if not kept:
            raise ConfigError(f"{self.name}: no data; give --data")
        return self.model_copy(update={"data": kept})

    def pace(self, epoch: int) -> Pace:
        """The loop's figures, ``epoch`` being the positions of one.

        Raises:
            ConfigError: if neither or both of epochs and steps are set.
        """
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError(f"{self.name}: set epochs or steps, and the other to null")
        steps = self.steps or max(1, math.ceil((self.epochs or 0) * epoch / self.batch))
        warmup = self.warmup_steps if self.warmup_steps is not None else math.ceil(self.warmup * steps)
        return Pace(
            steps=steps,
            batch=self.batch,
            lr=self.lr,
            betas=self.betas,
            weight_decay=self.weight_decay,
            warmup_steps=min(warmup, steps),
            warmup_from=self.warmup_from,
            schedule=self.schedule,
            clip_norm=self.clip_norm,
            bf16=self.precision == "bf16",
            seed=self.seed,
            loaders=self.loaders,
            ahead=self.ahead,
            save_s=self.save_s,
            save_steps=self.save_steps or steps,
            trial_steps=(self.trial_steps or max(1, steps // 10)) if self.trial else 0,
        )

    def identity(self) -> str:
        """Fingerprint of what must stay for a run to go on: all that the weights depend on, nothing that only places the work."""
        kept = {"task", "model", "data", "options", "batch", "epochs", "steps", "lr", "betas", "weight_decay", "warmup", "warmup_steps"}
        kept |= {"warmup_from", "schedule", "clip_norm", "precision", "seed"}
        return fingerprint(self.model_dump(mode="json", include=kept))


_NANO = {"precision": "fp32", "cpus_per_worker": 1, "gpus_per_worker": 0, "save_s": 30.0, "batch": 8}

RECIPES: dict[str, dict[str, Any]] = {
    "sa2va-4b-egomask": {
        "task": "sa2va",
        "model": "ByteDance/Sa2VA-4B",
        "serves_as": "sa2va-4b",
        "data": {
            EGOMASK: {"repeats": 50},
            rvos.MEVIS: {"repeats": 4},
            rvos.REVOS: {"repeats": 10},
            rvos.REF_YOUTUBE: {"repeats": 4},
        },
        "epochs": 1,
        "lr": 4e-6,
        "weight_decay": 0.05,
        "warmup": 0.05,
        "warmup_from": 1e-5,
        "recompute": True,
        "workers": (1, 8),
        "sources": {
            "lr, batch 16, 1 epoch": "EgoMask paper",
            "batch 64": "the released configuration (2 a GPU x 4 accumulated x 8 GPUs); --set batch=64",
            "repeats, warm-up, AdamW, losses, LoRA 128": "released Sa2VA configuration as EgoMask runs it",
        },
    },
    "videolisa-3.8b-egomask": {
        "task": "videolisa",
        "model": "ZechenBai/VideoLISA-3.8B",
        "serves_as": "videolisa",
        "data": {
            EGOMASK: {"rate": 36},
            rvos.REF_YOUTUBE: {"rate": 1},
            rvos.MEVIS: {"rate": 1},
            rvos.REF_DAVIS: {"rate": 1},
            "vos": {"rate": 2},
            "sem_seg": {"rate": 2},
            "refer_seg": {"rate": 1},
            "reason_seg": {"rate": 1},
        },
        "steps": 20 * 500,
        "lr": 3e-5,
        "betas": (0.9, 0.95),
        "warmup_steps": 100,
        "schedule": "linear",
        "recompute": True,
        "workers": (1, 4),
        "sources": {
            "lr, 20 x 500 steps, batch 16, 80 % EgoMask-Train": "EgoMask paper and configuration",
            "rates": "released: 36 of 45, 2 vos, 2 referring videos (1 + 1 here), 1 DAVIS, 4 image sets; vos and images are not read",
            "LoRA 8, losses, schedule": "released VideoLISA configuration",
        },
    },
    "sam2-egocentric": {
        "task": "sam2",
        "model": "facebook/sam2.1-hiera-large",
        "serves_as": "sam2",
        "data": {EGOMASK: {"repeats": 1}},
        "epochs": 5,
        "lr": 5e-6,
        "weight_decay": 0.1,
        "warmup": 0.02,
        "workers": (1, 8),
        "sources": {"losses focal 20, dice 1, IoU 1, object score 1; clips of 8 frames; lr 5e-6": "SAM 2's training (Ravi et al. 2024)"},
    },
    "nano-tracker": {
        "task": "sam2",
        "model": "nano",
        "serves_as": "sam2",
        "data": {EGOMASK: {"repeats": 1}},
        "epochs": 20,
        "lr": 3e-4,
        "weight_decay": 0.02,
        "workers": (1, 2),
        "sources": {"lr": "docs/nano.md; model=nano begins with random weights, a file goes on from it"},
        **_NANO,
    },
    "nano-detector": {
        "task": "nano-detector",
        "model": "",
        "serves_as": "nano",
        "data": {EGOMASK: {"repeats": 1}},
        "epochs": 4,
        "lr": 1e-4,
        "weight_decay": 0.02,
        "workers": (1, 2),
        "sources": {
            "lr, epochs, absent": "the best IoU_gold_pred on rooms of their own; more training finds more, and more that is not there"
        },
        **_NANO,
    },
}
"""Name → what differs from `Recipe`'s defaults."""
