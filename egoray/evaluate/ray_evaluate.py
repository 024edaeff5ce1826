"""Evaluate on Ray: tasks that score a share of the expressions each, and a tree of merges; only rows and sums cross.

Source: `run.score_part`, whose parts add up in any order to the same figures.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import reduce
from typing import Any

import ray
import ray.exceptions

from egoray.config import EvaluateConfig
from egoray.errors import StageError
from egoray.evaluate.run import Part, Progress, Unit, evaluate, score_part
from egoray.ray_cluster import connected, pool_size

SHARES_A_WORKER = 4
"""Small enough shares that no worker waits long for the slowest, large enough that a task's start does not count."""
FAN_IN = 8


def evaluate_on_ray(
    dataset: str,
    split: str | None,
    predictions: str,
    out: str,
    config: EvaluateConfig,
    *,
    limit: int | None = None,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """`run.evaluate` with the expressions shared out over the cluster; the same figures to the last bit.

    A task whose worker or node dies is run again by Ray. All nodes must see the folders.

    Raises:
        StageError: if the cluster cannot be reached, or a task was lost for good.
    """

    def score_all(items: Sequence[Unit], progress: Progress) -> Part:
        with connected() as cluster:
            size = pool_size(cluster, cpus=1, gpus=0, wanted=config.workers, units=len(items), labels=config.node_labels)
            return _scored(dataset, predictions, split or "", items, config, size, progress)

    return evaluate(dataset, split, predictions, out, config, limit=limit, score_all=score_all, progress=progress)


def _scored(
    dataset: str, predictions: str, split: str, items: Sequence[Unit], config: EvaluateConfig, size: int, progress: Progress
) -> Part:
    # A core each: decoding runs and drawing outlines is all it does.
    score = ray.remote(num_cpus=1, max_retries=3, label_selector=dict(config.node_labels))(score_part)
    merge = ray.remote(num_cpus=0, max_retries=3)(_merged)  # adding a few sums: no core of its own
    shares = [items[i :: size * SHARES_A_WORKER] for i in range(min(len(items), size * SHARES_A_WORKER))]
    waiting = list(shares)
    running: dict[ray.ObjectRef, Sequence[Unit]] = {}
    parts: list[ray.ObjectRef] = []
    started = time.monotonic()
    tally = {"done": 0, "failed": 0, "frames": 0}
    total = {"total": len(items), "total_frames": sum(len(item.frame_names) for item in items)}
    try:
        while waiting or running:
            while waiting and len(running) < size:
                share = waiting.pop()
                running[score.remote(dataset, predictions, split, share, config)] = share
            (done,), _ = ray.wait(list(running), num_returns=1)
            share = running.pop(done)
            parts.append(done)
            tally["done"] += len(share)
            tally["frames"] += sum(len(item.frame_names) for item in share)
            progress(tally | total | {"seconds": time.monotonic() - started})
        while len(parts) > 1:
            parts = [merge.remote(*parts[i : i + FAN_IN]) for i in range(0, len(parts), FAN_IN)]
        return ray.get(parts[0])
    except ray.exceptions.RayError as error:
        raise StageError(
            f"a share of the expressions was lost ({' '.join(str(error).split())[:300]}); run the same command again"
        ) from error


def _merged(*parts: Part) -> Part:
    return reduce(Part.__add__, parts)
