"""Evaluate on Ray: tasks that score a share of the expressions each, and a tree of merges; only rows and sums cross.

Source: `run.score_part`, whose parts add up in any order to the same figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, TypeVar

import ray
import ray.exceptions

from egoray.config import EvaluateConfig
from egoray.errors import StageError
from egoray.evaluate.exocentric import VideoQuestions, evaluate_exocentric
from egoray.evaluate.run import Part, Progress, evaluate, score_part
from egoray.ray_cluster import connected, pool_size
from egoray.schema import GroundingItem

T = TypeVar("T")
SHARES_A_WORKER = 4
"""Small enough shares that no worker waits long for the slowest, large enough that a task's start does not count."""
FAN_IN = 8


def evaluate_on_ray(
    dataset: str,
    split: str,
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

    def score_all(items: Sequence[GroundingItem], progress: Progress) -> Part:
        score = partial(score_part, dataset, predictions, split, config=config)
        return _scored(score, items, lambda item: (1, len(item.frame_names)), config, progress)

    return evaluate(dataset, split, predictions, out, config, limit=limit, score_all=score_all, progress=progress)


def evaluate_exocentric_on_ray(
    dataset: str,
    split: str | None,
    predictions: str,
    out: str,
    config: EvaluateConfig,
    *,
    limit: int | None = None,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """`exocentric.evaluate_exocentric` with the videos shared out over the cluster; see `evaluate_on_ray`.

    Raises:
        StageError: if the cluster cannot be reached, or a task was lost for good.
    """

    def score_all(score: Callable[..., Part], videos: Sequence[VideoQuestions], progress: Progress) -> Part:
        return _scored(score, videos, lambda video: (len(video.questions), video.num_frames), config, progress)

    return evaluate_exocentric(dataset, split, predictions, out, config, limit=limit, score_all=score_all, progress=progress)


def _scored(
    score_share: Callable[..., Part],
    items: Sequence[T],
    size_of: Callable[[T], tuple[int, int]],
    config: EvaluateConfig,
    progress: Progress,
) -> Part:
    """The sum of the parts of all items; ``size_of`` gives the expressions and frames of one."""
    with connected() as resources:
        size = pool_size(resources, cpus=1, gpus=0, wanted=config.workers, units=len(items))
        return _merged_tree(score_share, items, size_of, size, progress)


def _merged_tree(
    score_share: Callable[..., Part], items: Sequence[T], size_of: Callable[[T], tuple[int, int]], size: int, progress: Progress
) -> Part:
    run: Any = ray.remote(num_cpus=1, max_retries=3)(_score_share)  # a core each: decoding runs and drawing outlines is all it does
    merge = ray.remote(num_cpus=0, max_retries=3)(_merged)  # adding a few sums: no core of its own
    shares = [items[i :: size * SHARES_A_WORKER] for i in range(min(len(items), size * SHARES_A_WORKER))]
    waiting = list(shares)
    running: dict[ray.ObjectRef, Sequence[T]] = {}
    parts: list[ray.ObjectRef] = []
    started = time.monotonic()
    tally = {"done": 0, "failed": 0, "frames": 0}
    sizes = [size_of(item) for item in items]
    total = {"total": sum(num for num, _ in sizes), "total_frames": sum(frames for _, frames in sizes)}
    try:
        while waiting or running:
            while waiting and len(running) < size:
                share = waiting.pop()
                running[run.remote(score_share, share)] = share
            (done,), _ = ray.wait(list(running), num_returns=1)
            share = running.pop(done)
            parts.append(done)
            tally["done"] += sum(size_of(item)[0] for item in share)
            tally["frames"] += sum(size_of(item)[1] for item in share)
            progress(tally | total | {"seconds": time.monotonic() - started})
        while len(parts) > 1:
            parts = [merge.remote(*parts[i : i + FAN_IN]) for i in range(0, len(parts), FAN_IN)]
        return ray.get(parts[0])
    except ray.exceptions.RayError as error:
        raise StageError(
            f"a share of the expressions was lost ({' '.join(str(error).split())[:300]}); run the same command again"
        ) from error


def _score_share(score_share: Callable[..., Part], items: Sequence[T]) -> Part:
    return score_share(items)


def _merged(*parts: Part) -> Part:
    return reduce(Part.__add__, parts)
