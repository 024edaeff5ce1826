"""Start Ray here or join the cluster that the environment names; say plainly what the cluster cannot give."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

import ray
import ray.data
import ray.exceptions
from ray._private.state import state as ray_state

from egoray.errors import StageError

MANY = 1_000_000
"""Stands for machines without end."""


@dataclass(frozen=True, slots=True)
class Machines:
    """Some equal machines of a cluster.

    Args:
        number: how many there are; None: as many as an autoscaler is asked for.
        resources: what each has, by Ray's names.
        labels: of each; None where it is not known before they are there.
    """

    number: int | None
    resources: Mapping[str, float]
    labels: Mapping[str, str] | None = None

    def room(self, need: Mapping[str, float]) -> int:
        """How many workers of this size each machine holds."""
        return min(int(self.resources.get(name, 0.0) / amount + 1e-9) for name, amount in need.items())

    def answers(self, labels: Mapping[str, str]) -> bool:
        """Whether they have, or may have, these labels."""
        return self.labels is None or labels.items() <= self.labels.items()

    def __str__(self) -> str:
        here = "" if self.labels is not None else " that the autoscaler may add"
        return f"{self.number or 'any number'} × ({_amounts({n: self.resources.get(n, 0.0) for n in ('CPU', 'GPU')})}){here}"


@contextmanager
def connected(dashboard: bool = False) -> Iterator[list[Machines]]:
    """Ray, initialised for the body; yields the cluster's machines, see `machines`.

    Joins the cluster of ``RAY_ADDRESS`` (which `ray job submit` sets), or a Ray that is initialised already; otherwise
    starts one on this machine, on loopback, with a dashboard if asked for, and stops it at the end.

    Raises:
        StageError: if the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield machines()
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
    with redirect_stdout(sys.stderr):  # where Ray tells of dead workers: stdout is the answer's, and whoever waits for it may not read on
        try:
            yield machines()
        finally:
            ray.shutdown()


def machines() -> list[Machines]:
    """The machines of the cluster: those that are there, and those that its autoscaler may still add."""
    found: Counter[tuple[tuple[tuple[str, float], ...], tuple[tuple[str, str], ...]]] = Counter()
    for node in ray.nodes():
        if node["Alive"]:
            labels = {name: value for name, value in node["Labels"].items() if name != "ray.io/node-id"}
            resources = {name: amount for name, amount in node["Resources"].items() if name in ("CPU", "GPU")}
            found[tuple(sorted(resources.items())), tuple(sorted(labels.items()))] += 1
    here = [Machines(number, dict(resources), dict(labels)) for (resources, labels), number in found.items()]
    config = ray_state.get_cluster_config()
    for group in config.node_group_configs if config else ():
        alike = sum(one.number or 0 for one in here if (one.labels or {}).get("ray.io/node-group") == group.name)
        if group.max_count < 0 or group.max_count > alike:
            here.append(Machines(None if group.max_count < 0 else group.max_count - alike, dict(group.resources)))
    return here


def has_gpus(cluster: Sequence[Machines]) -> bool:
    """Whether any machine has a GPU."""
    return any(one.resources.get("GPU", 0.0) > 0 for one in cluster)


def pool_size(
    cluster: Sequence[Machines], *, cpus: float, gpus: float, wanted: int | None, units: int, labels: Mapping[str, str] | None = None
) -> int:
    """How many actors of this size to start: as many as fit, at most ``wanted``, and no more than there are units.

    Those that only fit on machines which the autoscaler may add count: they wait for it while the others work.

    Raises:
        StageError: if the cluster cannot hold a single one; the message gives the shortfall.
    """
    fit = room(cluster, 1, "an actor needs", cpus=cpus, gpus=gpus, labels=labels, remedy="lower cpus_per_worker or gpus_per_worker")
    return max(1, min(fit, wanted or fit, units))


def room(
    cluster: Sequence[Machines], fewest: int, who: str, *, cpus: float, gpus: float, remedy: str, labels: Mapping[str, str] | None = None
) -> int:
    """How many workers of this size the machines with these labels hold, each on one machine; those that may be added count.

    Raises:
        StageError: if that is less than ``fewest``; the message begins with ``who`` and gives what there is, the shortfall and the remedy.
    """
    need = {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}
    some = [one for one in cluster if one.answers(labels or {})]
    fit = sum(one.room(need) * (MANY if one.number is None else one.number) for one in some)
    if fit >= fewest:
        return fit
    there = ", ".join(map(str, cluster)) or "no machine"
    marks = "".join(f" and the label {name}={value}" for name, value in (labels or {}).items())
    if not some:
        raise StageError(f"{who} {_amounts(need)}{marks}: no machine has that label; the cluster has {there}; change node_labels")
    if fit:
        short = f"there is room for {fit}, {fewest - fit} too few"
    else:
        lacks = [{name: amount - one.resources.get(name, 0.0) for name, amount in need.items()} for one in some]
        least = min(lacks, key=lambda lack: sum(max(0.0, amount) / need[name] for name, amount in lack.items()))
        short = f"the machine that comes nearest lacks {_amounts({name: amount for name, amount in least.items() if amount > 0})}"
    raise StageError(f"{who} {_amounts(need)}{marks}: {short}; the cluster has {there}; {remedy}, or add a machine")


def _amounts(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items() if amount) or "no CPU"


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
