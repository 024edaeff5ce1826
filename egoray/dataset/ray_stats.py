"""Dataset statistics over a cluster: chunks of objects in, sums and counts out; a small dataset stays in this process."""

from __future__ import annotations

from collections.abc import Sequence

import ray

from egoray.dataset.stats import Subject, read_subjects, subject_sums, summarize
from egoray.errors import FormatError
from egoray.evaluate.scores import ScoreSums
from egoray.formats.rvos import SPLITS
from egoray.ray_cluster import connected, pool_size

LOCAL_OBJECTS = 1000
CHUNK = 64


def stats(dataset: str, *, local_objects: int = LOCAL_OBJECTS) -> dict[str, dict[str, float]]:
    """The statistics of each part of a dataset by name (see `stats.summarize`); the same however the work is divided.

    Args:
        dataset: a folder in EgoMask's layout, benchmark or training set, or an exocentric set as released; on a cluster,
            one that all its machines see.
        local_objects: above this number of objects Ray is used.

    Raises:
        FormatError: if nothing is there, or a file is malformed; the message names it.
    """
    parts = read_subjects(dataset)
    if not parts:
        raise FormatError(
            f"{dataset}: holds no EgoMask benchmark (subset/*/meta_expressions.json) nor training set (train/mask_dict.json), nor an "
            f"exocentric set ({', '.join(SPLITS)}) with masks"
        )
    if sum(len(subjects) for subjects, _, _ in parts.values()) <= local_objects:
        return {name: summarize(_sums(part[0]), len(part[0]), *part[1:]) for name, part in parts.items()}
    with connected() as cluster:
        pool_size(cluster, cpus=1, gpus=0, wanted=None, units=1)  # else the tasks would wait for ever, and say nothing
        return {name: summarize(_ray_sums(part[0]), len(part[0]), *part[1:]) for name, part in parts.items()}


def _sums(subjects: Sequence[Subject]) -> ScoreSums:
    return sum(map(subject_sums, subjects), ScoreSums())


def _ray_sums(subjects: Sequence[Subject]) -> ScoreSums:
    task = ray.remote(num_cpus=1)(_sums)  # run lengths are counted on one core
    waiting = [task.remote(subjects[start : start + CHUNK]) for start in range(0, len(subjects), CHUNK)]
    total = ScoreSums()
    while waiting:
        done, waiting = ray.wait(waiting)
        try:
            total += ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
    return total
