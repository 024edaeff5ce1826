"""One process's whole part in a training run: data and model from the recipe, the loop, what people see, and the model at the end.

Runs alone, under ``torchrun``, or in a worker of Ray Train: whoever starts it has set up the process group.

``OUT/``: ``run.json`` (recipe, versions), ``checkpoints/``, ``curve.csv``, ``progress.json``, ``tensorboard/``, ``trials.csv``,
``pictures/``, ``failures/`` (samples that could not be read), ``model/`` (the result, as its own loader reads it, and
``model.json``), ``summary.json``.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from egoray.core.storage import Folder
from egoray.core.workfolder import fingerprint, read_failures, write_failure
from egoray.errors import ConfigError, EgorayError, ModelError
from egoray.schema import FailureRow
from egoray.train.checkpoints import Checkpoints, Mark
from egoray.train.journal import Journal
from egoray.train.loop import Loop
from egoray.train.order import Order
from egoray.train.recipes import Recipe
from egoray.train.samples import TrainingClip, read_clips
from egoray.train.task import Task
from egoray.train.trial import Answer, trial_items, try_on
from egoray.train.world import World

SCORE = "IoU_gold_pred"
Options = TypeVar("Options", bound=BaseModel)
BuildAnswer = Callable[[str, str], Answer]
"""(what --model takes, torch device) → the model as trials ask it; from the registry."""


def read_mix(recipe: Recipe) -> tuple[list[TrainingClip], Order, dict[str, int]]:
    """The recipe's clips, the order they are drawn in, and how many each part has.

    Raises:
        ConfigError: if there is nothing to train on, or some parts have a rate and others none.
        FormatError: if a folder cannot be read.
    """
    clips: list[TrainingClip] = []
    counts: dict[str, int] = {}
    for name, part in recipe.data.items():
        assert part.path is not None
        found = read_clips(part.path)
        if strange := [clip for clip in found if clip.source != name]:
            raise ConfigError(f"data.{name}.path: {part.path} is {strange[0].source}")
        clips += found
        counts[name] = len(found)
    rates = [part.rate for part in recipe.data.values() if part.rate is not None]
    if rates and len(rates) < len(recipe.data):
        raise ConfigError(f"{recipe.name}: give every part a rate, or none")
    try:
        order = Order(list(counts.values()), [part.repeats for part in recipe.data.values()], rates or None, recipe.seed)
    except ValueError as error:
        empty = ", ".join(str(part.path) for part in recipe.data.values())
        raise ConfigError(f"{error}: {empty} has no object with both a mask and a sentence") from error
    return clips, order, counts


def build_task(recipe: Recipe, device: str | torch.device, folder: Path) -> Task:
    """The recipe's model on the device, ready to train; ``folder`` holds what is made on the way.

    Raises:
        ConfigError: if an option is unknown.
        ModelError: if the checkpoint is not of this recipe's model.
    """
    torch.manual_seed(recipe.seed)
    device = torch.device(device)
    dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    if recipe.task == "sam2":
        from egoray.train.sam2_task import Sam2Task, Sam2Training

        return Sam2Task.load(recipe.model, device, _options(Sam2Training, recipe), folder)
    if recipe.task == "nano-detector":
        from egoray.train.detector_task import DetectorTuning, DetectorTuningTask

        return DetectorTuningTask.load(recipe.model, device, _options(DetectorTuning, recipe))
    if recipe.task == "sa2va":
        from egoray.train.sa2va import Sa2vaTask, Sa2vaTraining

        return Sa2vaTask.load(recipe.model, device=device, dtype=dtype, options=_options(Sa2vaTraining, recipe))
    from egoray.train.videolisa import VideolisaTask, VideolisaTraining

    options = dict(recipe.options)
    clip = options.pop("clip", None)
    return VideolisaTask.load(
        recipe.model,
        clip=clip,
        device=device,
        dtype=dtype,
        options=_options(VideolisaTraining, recipe.model_copy(update={"options": options})),
    )


def _options(kind: type[Options], recipe: Recipe) -> Options:
    try:
        return kind.model_validate(recipe.options)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(("options", *map(str, first["loc"])))
        unknown = f"unknown; known are {', '.join(kind.model_fields)}"
        raise ConfigError(f"{key}: {unknown if first['type'] == 'extra_forbidden' else first['msg'].lower()}") from error


def place(task: Task, recipe: Recipe, world: World) -> bool:
    """Recompute, compile and shard as the recipe says; whether the parameters are shards now."""
    if recipe.recompute:
        from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

        blocks = set(task.blocks())
        apply_activation_checkpointing(task.module, check_fn=lambda module: module in blocks)
    if recipe.compile:
        for block in task.blocks():
            block.compile()
    if recipe.parallel == "fsdp2" and recipe.task not in ("sa2va", "videolisa"):
        raise ConfigError(f"parallel=fsdp2: {recipe.name} is small, and not every sample uses all of it; leave parallel=ddp")
    if recipe.parallel == "ddp" or world.size == 1:
        return False
    from torch.distributed.fsdp import fully_shard

    for block in task.blocks():
        fully_shard(block)
    fully_shard(task.module)
    return True


class Overseer:
    """Satisfies `Watcher`: journal, failures and trials, by the first process; the way out as told from outside.

    Args:
        leaving: see `Watcher.leaving`; None where nothing is ever announced.
        report: called at the same steps by every process with the last figures.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Folder,
        task: Task,
        world: World,
        answer: BuildAnswer,
        leaving: Callable[[], bool] | None,
        report: Callable[[dict[str, float]], None] | None,
    ) -> None:
        self._recipe, self._out, self._task, self._world, self._answer = recipe, out, task, world, answer
        self._leaving, self._report = leaving, report
        self._last: dict[str, float] = {}
        self.journal: Journal | None = None

    def stepped(self, figures: dict[str, float]) -> None:
        """See `Watcher.stepped`."""
        if self._world.device.type == "cuda":
            figures["memory_gb"] = torch.cuda.max_memory_allocated(self._world.device) / 1e9
        self._last = figures
        if self.journal:
            self.journal.stepped(figures)

    def skipped(self, position: int, clip: str, reason: str) -> None:
        """See `Watcher.skipped`."""
        failure = FailureRow(stage="train", unit=clip, error="FormatError", message=reason, attempt=1, retryable=False)
        write_failure(self._out, "sample-" + fingerprint([clip, reason])[:16], failure)

    def trial(self, step: int) -> dict[str, float]:
        """See `Watcher.trial`; the others wait for the first process."""
        figures: dict[str, float] = {}
        fault = ""
        if self._world.rank == 0:
            assert self._recipe.trial is not None
            try:
                with tempfile.TemporaryDirectory() as folder:
                    self._task.export(Path(folder))
                    answer = self._answer(serving_name(self._recipe, folder), str(self._world.device))
                    items = trial_items(self._recipe.trial, self._recipe.trial_split, self._recipe.trial_clips)
                    figures, picture = try_on(answer, self._recipe.trial, items)
                if self.journal:
                    self.journal.tried(step, figures, picture)
            except EgorayError as error:
                fault = f"trial: {error}"
        fault, figures = self._world.gather((fault, figures))[0]
        if fault:
            raise ModelError(fault)
        return figures

    def saving(self) -> None:
        """See `Watcher.saving`."""
        if self.journal:
            self.journal.flush()

    def leaving(self) -> bool:
        """See `Watcher.leaving`."""
        if self._report and self._last:
            self._report(self._last)
        return self._leaving() if self._leaving else False


def serving_name(recipe: Recipe, folder: str) -> str:
    """What --model takes for the recipe's result in ``folder``."""
    inside = {"sam2": "/model.pt", "nano-detector": "/model.safetensors"}.get(recipe.task, "")
    return f"{recipe.serves_as}:{folder}{inside}"


def train(
    recipe: Recipe,
    out_uri: str,
    device: str,
    answer: BuildAnswer,
    *,
    run_id: str = "",
    leaving: Callable[[], bool] | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
) -> dict[str, Any]:
    """This process's part; gives the summary, the same in each.

    Args:
        recipe: with its data.
        out_uri: the run's folder, the same for all processes.
        device: of this process.
        answer: how trials ask a model.
        run_id: what whoever started the run has noted in ``run.json``; "" where nobody has.
        leaving, report: see `Overseer`.

    Raises:
        EgorayError: if the run cannot go on; every process raises it.
    """
    world, out = World(device), Folder(out_uri)
    with tempfile.TemporaryDirectory() as folder:
        with _agreed(world) as said:
            if run_id and (not out.exists("run.json") or out.read_json("run.json").get("run_id") != run_id):
                raise ConfigError(f"--out {out_uri}: is another folder on this machine; give one that all machines share, or s3://")
            clips, order, _ = read_mix(recipe)
            task = build_task(recipe, device, Path(folder))
            pace = recipe.pace(order.epoch)
            sharded = place(task, recipe, world)
            if sharded and recipe.trial:
                raise ConfigError("trial: does not go with parallel=fsdp2 yet; try the checkpoints afterwards with `egoray predict`")
            overseer = Overseer(recipe, out, task, world, answer, leaving, report)
            checkpoints = Checkpoints(out, recipe.keep, SCORE)
            said.append(Loop(task, pace, clips, order, world, checkpoints, recipe.identity(), overseer, sharded))
        loop: Loop = said[0]
        if world.rank == 0:
            overseer.journal = Journal(
                out,
                loop.step,
                pace.steps,
                pace.batch,
                tensorboard=recipe.tensorboard,
                mlflow=recipe.mlflow,
                recipe=recipe.model_dump(mode="json"),
            )
        try:
            loop.run()
        finally:
            if overseer.journal:
                overseer.journal.close()
        with _agreed(world):
            if world.rank == 0:
                _leave_model(recipe, out, checkpoints)
    return summary(recipe, out, pace.steps)


def summary(recipe: Recipe, out: Folder, steps: int) -> dict[str, Any]:
    """What the run came to, from what it left; also written as ``summary.json``."""
    progress = out.read_json("progress.json") if out.exists("progress.json") else {}
    checkpoints = Checkpoints(out, recipe.keep, SCORE)
    done = checkpoints.marks()[-1].step if checkpoints.marks() else 0
    best = checkpoints.best()
    found = {
        "stage": "train",
        "recipe": recipe.name,
        "expected": steps,
        "done": done,
        "failed": len(list(read_failures(out))),
        "loss": progress.get("loss"),
        "samples_per_s": progress.get("samples_per_s"),
        "best": {"step": best.step, **best.figures} if best else None,
        "model": serving_name(recipe, f"{out.uri.rstrip('/')}/model"),
    }
    out.write_json("summary.json", found)
    return found


def note_run(recipe: Recipe, out: Folder, run_id: str) -> None:
    """Write ``run.json``."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "ray", "transformers", "sam2")}
    out.write_json("run.json", {"stage": "train", "run_id": run_id, "config": recipe.model_dump(mode="json"), "versions": versions})


@contextmanager
def _agreed(world: World) -> Iterator[list[Any]]:
    """All processes leave the body well, or all raise what the first unlucky one raised; none is left waiting."""
    caught: EgorayError | None = None
    said: list[Any] = []
    try:
        yield said
    except EgorayError as error:
        caught = error
    faults = [fault for fault in world.gather((type(caught), str(caught)) if caught else None) if fault]
    if faults:
        kind, message = faults[0]
        raise kind(message) from caught


def _leave_model(recipe: Recipe, out: Folder, checkpoints: Checkpoints) -> None:
    """Write ``model/`` from the best checkpoint, or the last where none was tried."""
    mark: Mark = checkpoints.best() or checkpoints.marks()[-1]
    target = out / "model"
    if target.exists("model.json") and target.read_json("model.json").get("step") == mark.step:
        return
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as made:
        task = build_task(recipe, "cpu", Path(folder))
        state = checkpoints.load(mark, recipe.identity())
        set_model_state_dict(task.module, state["model"], options=StateDictOptions(strict=False, ignore_frozen_params=True))
        task.export(Path(made))
        sums = {}
        for path in sorted(p for p in Path(made).rglob("*") if p.is_file()):
            name = str(path.relative_to(made))
            digest = hashlib.sha256()
            with path.open("rb") as source, target.writing(name) as stream:
                while piece := source.read(2**22):
                    digest.update(piece)
                    stream.write(piece)
            sums[name] = digest.hexdigest()
    target.write_json(
        "model.json",
        {
            "recipe": recipe.name,
            "from": recipe.model,
            "serves_as": recipe.serves_as,
            "step": mark.step,
            "figures": mark.figures,
            "sha256": sums,
            "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    )
