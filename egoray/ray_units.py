"""Units of work on Ray Data, for the stages that run a model over clips: rows → pool of actors that hold the model → status rows.

A row is a unit's description as text; the actor writes the unit's own results, so that a finished unit survives whatever happens
next and a repeated one replaces itself by the same bytes. Only status rows come back. Ray restarts dead actors and retries
their unit; a count of starts on disk stops one that kills its actor.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
import ray.data
import ray.exceptions

from egoray.config import UnitConfig
from egoray.core.log import UnitLog
from egoray.core.pulse import Pulse
from egoray.core.storage import Folder
from egoray.core.workfolder import finish_attempt, finished, start_attempt, write_failure
from egoray.errors import ConfigError, EgorayError, ModelError, StageError
from egoray.ray_cluster import connected, has_gpus, pool_size, quiet_data, stage_error
from egoray.ray_metrics import Metrics, unit_ended
from egoray.schema import FailureRow

Progress = Callable[[dict[str, Any]], None]
"""Called at the start and after each unit with {"done", "failed", "total", "frames", "total_frames", "seconds", "unit"}; "unit"
is the finished unit's status row, None at the start."""

_MOST_BLOCKS = 5000


class Work(Protocol):
    """What a stage does with a unit, inside an actor; it travels there pickled."""

    @property
    def stage(self) -> str:
        """What a failure row calls the stage."""
        ...

    @property
    def config(self) -> UnitConfig:
        """The stage's settings."""
        ...

    def load(self, device: str) -> Any:
        """The model, loaded on a torch device.

        Raises:
            EgorayError: if it cannot be used; the run ends with this message.
        """
        ...

    def names(self, packed: str) -> tuple[str, str, str]:
        """Of a packed unit: its id, what a failure row calls it, and where to look when it kills its actor."""
        ...

    def do(self, model: Any, packed: str, out: Folder) -> dict[str, Any]:
        """Write the unit's results; gives what its status row says beside {"frames": number of frames}, e.g. "waited_s", the seconds
        that the model waited for frames."""
        ...


@dataclass(slots=True)
class Tally:
    """How a run went: units ``done`` and ``failed`` in all, those ``skipped`` since they had a result, and the work of this run."""

    total: int
    done: int
    failed: int
    skipped: int
    frames: int = 0
    seconds: float = 0.0
    peak_rss_mb: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Its share of ``summary.json``."""
        rate = round(self.frames / self.seconds, 2) if self.frames else 0.0
        counts = {"expected": self.total, "done": self.done, "failed": self.failed, "skipped": self.skipped}
        return counts | {"frames": self.frames, "frames_per_s": rate, "peak_rss_mb": self.peak_rss_mb}


class UnitActor:
    """Holds the model; takes packed units, returns a status row for each."""

    def __init__(self, work: Work, out: str, run_id: str, device: str) -> None:
        self.work, self.out, self.run_id, self.device = work, Folder(out), run_id, device
        self.log, self.metrics = UnitLog(work.stage), Metrics(stage=work.stage)
        self.unusable: EgorayError | None = None
        try:
            self.model = work.load(device)
        except EgorayError as error:
            self.unusable = error
        _set_threads(max(1, int(work.config.cpus_per_worker)))

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[Any]]]:
        for packed in batch["packed"]:
            yield {key: [value] for key, value in self._unit(str(packed)).items()}

    def _unit(self, packed: str) -> dict[str, Any]:
        unit, label, where = self.work.names(packed)
        started = time.monotonic()
        status: dict[str, Any] = {"unit": unit, "frames": 0, "error": "", "message": "", "fatal": False}
        if self.unusable:
            return status | {"error": type(self.unusable).__name__, "message": str(self.unusable), "fatal": True}
        attempt = 0
        try:
            attempt = start_attempt(self.out, unit, self.run_id)
            self.log("unit started", unit=unit, label=label, attempt=attempt)
            if attempt > self.work.config.max_attempts:
                raise StageError(
                    f"{where}: its actor died in each of {attempt - 1} attempts; "
                    "run with --retry-failed after looking at the clip or at the memory of the machine"
                )
            status |= self.work.do(self.model, packed, self.out)
        except (ConfigError, ModelError) as error:
            return status | {"error": type(error).__name__, "message": str(error), "fatal": True}
        except MemoryError:
            raise
        except Exception as error:
            status |= {"error": type(error).__name__, "message": " ".join(str(error).split())}
            failure = FailureRow(
                stage=self.work.stage, unit=label, error=status["error"], message=status["message"], attempt=attempt, retryable=True
            )
            write_failure(self.out, unit, failure)
        finish_attempt(self.out, unit, self.run_id)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        status |= {"seconds": time.monotonic() - started, "peak_rss_mb": round(peak_mb, 1)}
        told = {name: value for name, value in status.items() if name != "fatal" and value != ""}
        failed = bool(status["error"])
        self.log("unit failed" if failed else "unit done", level=logging.ERROR if failed else logging.INFO, label=label, **told)
        unit_ended(self.metrics, status, self.device)
        return status


def run_units(
    work: Work,
    units: Sequence[tuple[str, int, Callable[[], str]]],
    out: Folder,
    results: Folder,
    *,
    uses_gpu: bool,
    progress: Progress = lambda _: None,
    lost: int = 0,
) -> Tally:
    """Do every unit that has neither a result nor a failure row yet.

    Args:
        work: what is done.
        units: id, number of frames and packed description of each.
        out: the work folder.
        results: where a finished unit has its Parquet file.
        uses_gpu: an actor gets ``gpus_per_worker`` where the cluster has any.
        progress: see `Progress`.
        lost: units that failed before any was started, counted as failed.

    Raises:
        ConfigError, ModelError: if the model cannot be loaded, or ``out`` cannot be written.
        StageError: if the cluster cannot run it, or units are unaccounted for.
    """
    ids = {unit for unit, _, _ in units}
    present, given_up = finished(results) & ids, finished(out / "failures") & ids
    over = present | given_up
    todo = [(frames, packed) for unit, frames, packed in units if unit not in over]
    tally = Tally(total=len(units) + lost, done=len(present), failed=lost + len(given_up - present), skipped=len(present))
    total_frames = sum(frames for frames, _ in todo)
    started = time.monotonic()  # from here on, until the first unit tells when work began: Ray's own start is not the model's

    metrics = Metrics(stage=work.stage)
    with Pulse(out, work.stage) as pulse:

        def tell(unit: dict[str, Any] | None) -> None:
            state = {"done": tally.done, "failed": tally.failed, "skipped": tally.skipped, "total": tally.total, "frames": tally.frames}
            state |= {"total_frames": total_frames, "seconds": tally.seconds, "unit": unit}
            pulse.tell(state)
            progress(state)
            if ray.is_initialized():
                metrics.show("egoray_units_waiting", tally.total - tally.done - tally.failed)

        tell(None)
        for status in _statuses(work, [{"packed": packed()} for _, packed in todo], out, uses_gpu) if todo else ():
            if status["fatal"]:
                raise {"ConfigError": ConfigError, "ModelError": ModelError}.get(status["error"], StageError)(status["message"])
            if tally.frames == 0:
                started = max(started, time.monotonic() - status["seconds"])
            tally.done += not status["error"]
            tally.failed += bool(status["error"])
            tally.frames += status["frames"]
            tally.peak_rss_mb = max(tally.peak_rss_mb, status["peak_rss_mb"])
            tally.seconds = time.monotonic() - started
            tell(status)
    tally.done = len(finished(results) & ids)
    tally.failed = lost + len((finished(out / "failures") & ids) - finished(results))
    if missing := tally.total - tally.done - tally.failed:
        raise StageError(f"{out.uri}: {missing} of {tally.total} units have neither a result nor a failure row; run the same command again")
    return tally


def _statuses(work: Work, rows: list[dict[str, str]], out: Folder, uses_gpu: bool) -> Iterator[dict[str, Any]]:
    """Run the rows through the actor pool; one status row a unit, as each finishes."""
    config = work.config
    with connected() as cluster:
        gpus = config.gpus_per_worker if uses_gpu and has_gpus(cluster) else 0.0
        place = {"cpus": config.cpus_per_worker, "gpus": gpus, "labels": config.node_labels}
        size = pool_size(cluster, wanted=config.workers, units=len(rows), **place)
        quiet_data()
        where = os.path.abspath(out.uri) if "://" not in out.uri else out.uri
        run_id = f"{ray.get_runtime_context().get_job_id()}-{time.time_ns():x}"
        # A unit a block, so that a dead actor costs one; a block costs the driver 13 ms, so tiny units by the ten thousand share some.
        # The order in which units finish is the order in which they are reported: nobody waits for a slow one.
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS)).map_batches(
            UnitActor,
            fn_constructor_args=(work, where, run_id, "cuda" if gpus else "cpu"),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),  # the next unit waits at the actor
            num_cpus=config.cpus_per_worker,
            num_gpus=gpus,
            label_selector=config.node_labels or None,
        )
        try:
            yield from dataset.iter_rows()
        except ray.exceptions.RayError as error:
            raise stage_error(error) from error


def _set_threads(threads: int) -> None:
    """Ray gives its workers one thread each; the libraries that the model has loaded get what the actor reserved."""
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
