"""Start Ray here or join the cluster that the environment names; say plainly what the cluster cannot give."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import ray.data
import ray.exceptions

from egoray.errors import StageError


@contextmanager
def connected(dashboard: bool = False) -> Iterator[dict[str, float]]:
    """Ray, initialised for the body; yields the cluster's total resources.

    Joins the cluster of ``RAY_ADDRESS`` (which `ray job submit` sets), or a Ray that is initialised already; otherwise
    starts one on this machine, on loopback, with a dashboard if asked for, and stops it at the end.

    Raises:
        StageError: if the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield ray.cluster_resources()
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    local = {}
    if address == "local":
        local = {"include_dashboard": dashboard}
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else each actor pool prints an alarming line (ray issue 53727)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StageError(f"no Ray cluster at {address} ({' '.join(str(error).split())[:200]}); check `ray status` there") from error
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def pool_size(resources: dict[str, float], *, cpus: float, gpus: float, wanted: int | None, units: int) -> int:
    """How many actors of this size to start: as many as fit, at most ``wanted``, and no more than there are units.

    Raises:
        StageError: if the cluster cannot hold a single one; the message gives the shortfall.
    """
    have_cpu, have_gpu = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    if have_cpu < cpus or have_gpu < gpus:
        raise StageError(
            f"an actor needs {cpus:g} CPU and {gpus:g} GPU, the cluster has {have_cpu:g} CPU and {have_gpu:g} GPU in all; "
            "lower cpus_per_worker or gpus_per_worker, or add a node"
        )
    fit = int(min(have_cpu / cpus, have_gpu / gpus if gpus else float("inf")))
    return max(1, min(fit, wanted or fit, units))


def quiet_data() -> None:
    """Ray Data prints nothing of its own: the stages tell people what goes on."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def stage_error(error: ray.exceptions.RayError) -> StageError:
    """What no unit is to blame for (out of memory, no resources, a lost head node), in one line."""
    reasons = re.findall(r"^\s*([\w.]*(?:Error|Exception): .*)$", str(error), re.MULTILINE) or [type(error).__name__]
    return StageError(f"the cluster could not go on ({reasons[-1]}); finished units are kept, run the same command again")
