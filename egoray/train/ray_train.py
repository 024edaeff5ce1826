"""Training on Ray Train: workers that come and go, each doing `egoray.train.run.train`.

The group is started anew from the last checkpoint whenever a machine dies, leaves or joins; the loop makes the same steps with any
number of workers. An error that would happen again is noted in ``OUT/stopped.json`` and ends the run; only deaths are retried.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from egoray.core import paths
from egoray.core.log import UnitLog
from egoray.core.storage import Folder
from egoray.errors import ConfigError, EgorayError, StageError
from egoray.ray_cluster import Machines, connected, has_gpus, room
from egoray.ray_metrics import Metrics, trained
from egoray.registry import TRACKERS, build_grounder, build_tracker, default_device
from egoray.train.recipes import Recipe
from egoray.train.run import note_run, read_mix, summary, train
from egoray.train.trial import Answer, by_box, by_sentence

Progress = Callable[[dict[str, Any]], None]
"""Called about each second with what ``progress.json`` says."""

_GROUP_START_S = "20"  # to wait for a whole group; Ray's 60 s would be lost whenever a node has died but is still counted


def train_on_ray(recipe: Recipe, out: str, progress: Progress | None = None) -> dict[str, Any]:
    """Run the recipe with as many workers as there is room for, within its bounds; gives the summary.

    The same command goes on from the last checkpoint; a run that is over returns at once.

    Raises:
        StageError: if the cluster cannot hold the fewest workers, too many died, or a step cannot be made.
        EgorayError: if data, model or settings cannot be used.
    """
    folder, run_id = Folder(paths.absolute(out)), uuid.uuid4().hex
    _, order, _ = read_mix(recipe)
    steps = recipe.pace(order.epoch).steps
    folder.delete("stopped.json")
    note_run(recipe, folder, run_id)
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _GROUP_START_S)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    over = threading.Event()
    with connected(dashboard=True) as cluster:  # without one Ray Train complains every two seconds
        gpus = recipe.gpus_per_worker if has_gpus(cluster) else 0
        fewest, most = _bounds(recipe, cluster, gpus)
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"recipe": recipe.model_dump(mode="json"), "out": folder.uri, "run_id": run_id},
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=most if fewest == most else (fewest, most),
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": recipe.cpus_per_worker} | ({"GPU": gpus} if gpus else {}),
                elastic_resize_monitor_interval_s=recipe.resize_s,
            ),
            run_config=RunConfig(
                name=run_id,
                storage_path=paths.join(folder.uri.rstrip("/"), "ray"),
                failure_config=FailureConfig(max_failures=recipe.max_deaths, max_preemption_failures=-1),
            ),
        )
        metrics = Metrics(recipe=recipe.name)

        def told(state: dict[str, Any]) -> None:
            trained(metrics, state)
            if progress:
                progress(state)

        watcher = threading.Thread(target=_watch, args=(folder, told, over), daemon=True)
        watcher.start()
        try:
            trainer.fit()
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()[-1:]), type(error).__name__)
            raise StageError(f"training ended early ({reason[:300]}); the same command goes on from the last checkpoint") from error
        finally:
            over.set()
            watcher.join()
            folder.delete_folder("ray")
    if folder.exists("stopped.json"):
        raise StageError(folder.read_json("stopped.json")["message"])
    found = summary(recipe, folder, steps)
    if found["done"] < steps:
        raise StageError(f"{folder.uri}: {found['done']} of {steps} steps are there; is it a folder that all machines share?")
    return found


def train_here(recipe: Recipe, out: str, progress: Progress | None = None) -> dict[str, Any]:
    """Run the recipe in this process, without Ray; see `train_on_ray`."""
    folder, over = Folder(out), threading.Event()
    note_run(recipe, folder, "")
    watcher = threading.Thread(target=_watch, args=(folder, progress, over), daemon=True)
    watcher.start()
    try:
        return train(recipe, out, default_device(), answer_of)
    finally:
        over.set()
        watcher.join()


def _bounds(recipe: Recipe, cluster: Sequence[Machines], gpus: int) -> tuple[int, int]:
    """Fewest and most workers; the most need not be here yet, the fewest must, or the autoscaler may bring them.

    Raises:
        StageError: with the shortfall.
    """
    fewest, most = recipe.workers
    if fewest < 1 or most < fewest:
        raise ConfigError(f"workers: [{fewest}, {most}]; give the fewest, at least 1, and the most")
    who, remedy = f"each of {fewest} workers needs", "lower workers or cpus_per_worker"
    room(cluster, fewest, who, cpus=recipe.cpus_per_worker, gpus=gpus, remedy=remedy)
    return fewest, most


def _worker(config: dict[str, Any]) -> None:
    """A worker's whole life; errors that every worker has in common are noted, not raised, for Ray would try them again."""
    import cv2
    import torch

    recipe = Recipe.model_validate(config["recipe"])
    cv2.setNumThreads(1)
    torch.set_num_threads(recipe.cpus_per_worker)
    out, log = Folder(config["out"]), UnitLog("train")
    if out.exists("stopped.json"):
        return
    rank = ray.train.get_context().get_world_rank()
    about = {"unit": recipe.name, "rank": rank, "workers": ray.train.get_context().get_world_size(), "run": config["run_id"]}
    log("worker started", **about)
    device = f"cuda:{ray.train.torch.get_device().index or 0}" if torch.cuda.is_available() else "cpu"
    try:
        train(recipe, config["out"], device, answer_of, run_id=config["run_id"], leaving=_leaving, report=_report)
        log("worker done", **about)
    except EgorayError as error:
        log("worker failed", level=logging.ERROR, error=type(error).__name__, message=str(error), **about)
        if rank == 0:
            out.write_json("stopped.json", {"error": type(error).__name__, "message": str(error)})


def _leaving() -> bool:
    return ray.train.get_preemption_info() is not None


def _report(figures: dict[str, float]) -> None:
    ray.train.report(figures)


def answer_of(model: str, device: str) -> Answer:
    """The model as trials ask it: trackers by a box, the others by the sentence."""
    name = model.partition(":")[0]
    return by_box(build_tracker(model, device)) if name in TRACKERS else by_sentence(build_grounder(model, device))


def _watch(folder: Folder, progress: Progress | None, over: threading.Event) -> None:
    last = None
    while True:
        ended = over.wait(1.0)
        if progress and folder.exists("progress.json"):
            state = folder.read_json("progress.json")
            if state != last:
                progress(state)
                last = state
        if ended:
            return
