"""Annotate on Ray Data: shards → pool of tracker actors → masklets in Parquet, resumable unit by unit.

A row of the dataset is one shard's description; the actor decodes, tracks, clips, and writes the shard's own file, so that
a finished shard survives whatever happens next and a repeated one replaces itself by the same bytes. Only status rows
come back. Ray restarts dead actors and retries their shard; a count of starts on disk stops one that kills its actor.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.data
import ray.exceptions

from egoray import __version__, registry
from egoray.annotate.box_tracker import track_shard
from egoray.annotate.plan import Plan, limited, pack, shard_frames, unpack
from egoray.config import AnnotateConfig
from egoray.core import video
from egoray.core.storage import Folder
from egoray.core.workfolder import (
    MASKLETS,
    drop_stale,
    fingerprint,
    finish_attempt,
    finished,
    start_attempt,
    write_failure,
    write_objects,
    write_videos,
)
from egoray.errors import ConfigError, EgorayError, ModelError, StageError
from egoray.models.base import VideoTracker
from egoray.ray_cluster import connected, pool_size, quiet_data, stage_error
from egoray.schema import FailureRow

Builder = Callable[..., VideoTracker]
"""Called with the model's name, a torch device, and the tracker's own settings where they are not the default."""
Progress = Callable[[dict[str, Any]], None]
"""Called at the start and after each unit with {"done", "failed", "total", "frames", "total_frames", "seconds", "unit"}; "unit"
is the finished unit's status row, None at the start."""


class AnnotateShard:
    """The actor: holds one tracker; takes a packed shard, leaves a masklets file or a failure row, returns a status row.

    Args:
        out: the work folder.
        run_id: starts are counted within one run, so that a driver's death is never held against a shard.
        config: the stage's settings as a dict.
        build: builds the tracker from its name and a torch device.
        device: torch device for the tracker.
    """

    def __init__(self, out: str, run_id: str, config: dict[str, Any], build: Builder, device: str) -> None:
        self.out, self.run_id = Folder(out), run_id
        self.config = AnnotateConfig(**config)
        self.threads = max(1, int(self.config.cpus_per_worker))
        self.unusable: EgorayError | None = None
        try:
            self.tracker = build(self.config.model, device, **self.config.tracker_options())
        except EgorayError as error:
            self.unusable = error
        _set_threads(self.threads)

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[Any]]]:
        for text in batch["packed"]:
            status = self._unit(str(text))
            yield {key: [value] for key, value in status.items()}

    def _unit(self, text: str) -> dict[str, Any]:
        shard, boxes, stride = unpack(text)
        started = time.monotonic()
        status = {"unit": shard.shard_id, "frames": 0, "masks": 0, "error": "", "message": "", "fatal": False}
        if self.unusable:
            return status | {"error": type(self.unusable).__name__, "message": str(self.unusable), "fatal": True}
        attempt = 0
        try:
            attempt = start_attempt(self.out, shard.shard_id, self.run_id)
            if attempt > self.config.max_attempts:
                raise StageError(
                    f"{shard.uri}, frames {shard.start} to {shard.stop - 1}: its actor died in each of {attempt - 1} attempts; "
                    "run with --retry-failed after looking at the clip or at the memory of the machine"
                )
            wanted = shard_frames(shard)
            native = video.read_frames(shard.uri, [frame * stride for frame in wanted], threads=self.threads)
            frames = video.decode_ahead((index // stride, image) for index, image in native)
            rows = track_shard(self.tracker, frames, shard, boxes, self.config.prompt_every)
            (self.out / "masklets").write_rows(f"{shard.shard_id}.parquet", rows, MASKLETS)
            status |= {"frames": len(wanted), "masks": len(rows)}
        except (ConfigError, ModelError) as error:
            return status | {"error": type(error).__name__, "message": str(error), "fatal": True}
        except MemoryError:
            raise
        except Exception as error:
            status |= {"error": type(error).__name__, "message": " ".join(str(error).split())}
            unit = f"{shard.video_id}:{shard.start}-{shard.stop}"
            failure = FailureRow(
                stage="annotate", unit=unit, error=status["error"], message=status["message"], attempt=attempt, retryable=True
            )
            write_failure(self.out, shard.shard_id, failure)
        finish_attempt(self.out, shard.shard_id, self.run_id)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return status | {"seconds": time.monotonic() - started, "peak_rss_mb": round(peak_mb, 1)}


def annotate(
    plan: Plan,
    out: str,
    config: AnnotateConfig,
    *,
    limit: int | None = None,
    retry_failed: bool = False,
    build: Builder = registry.build_tracker,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Track every shard of the plan that has no result yet; returns what ``summary.json`` holds.

    Args:
        plan: see `make_plan`.
        out: work folder, local or s3:// / gs://.
        config: the stage's settings.
        limit: only the first so many shards of the plan.
        retry_failed: try the shards again that earlier runs gave up.
        build: builds the tracker, in the actors.
        progress: see `Progress`.

    Raises:
        ConfigError: if ``out`` cannot be written.
        ModelError: if the tracker cannot be loaded.
        StageError: if the cluster cannot run it, or units are unaccounted for.
    """
    started = time.monotonic()
    folder = Folder(out)
    shards = limited(plan, limit)
    _record_run(folder, plan, config)
    drop_stale(folder, folder / "masklets", {shard.shard_id for shard in plan.shards}, plan.failures, retry_failed)
    present = finished(folder / "masklets")
    given_up = finished(folder / "failures")
    todo = [shard for shard in shards if shard.shard_id not in present | given_up]
    total = {"total": len(shards) + len(plan.failures), "total_frames": sum(len(shard_frames(s)) for s in todo)}
    tally = {"done": sum(s.shard_id in present for s in shards), "failed": len(plan.failures), "frames": 0}
    tally["failed"] += sum(s.shard_id in given_up - present for s in shards)
    skipped = tally["done"]
    stride = {v.video_id: v.stride for v in plan.videos}
    rows = [{"packed": pack(s, plan.boxes[s.shard_id], stride[s.video_id])} for s in todo]
    progress(tally | total | {"seconds": 0.0, "unit": None})
    tracking = time.monotonic()  # from here on, until the first unit tells when work began: Ray's own start is not the tracker's
    peak_mb = 0.0
    for status in _statuses(rows, folder.uri, config, build) if rows else ():
        if status["fatal"]:
            raise {"ConfigError": ConfigError, "ModelError": ModelError}[status["error"]](status["message"])
        if tally["frames"] == 0:
            tracking = max(tracking, time.monotonic() - status["seconds"])
        tally["failed" if status["error"] else "done"] += 1
        tally["frames"] += status["frames"]
        peak_mb = max(peak_mb, status["peak_rss_mb"])
        progress(tally | total | {"seconds": time.monotonic() - tracking, "unit": status})
    seconds = time.monotonic() - tracking
    summary = {
        "stage": "annotate",
        "model": config.model,
        "expected": total["total"],
        "done": len(finished(folder / "masklets") & {s.shard_id for s in shards}),
        "failed": len(plan.failures) + len((finished(folder / "failures") - finished(folder / "masklets")) & {s.shard_id for s in shards}),
        "skipped": skipped,
        "seconds": round(time.monotonic() - started, 3),
        "frames": tally["frames"],
        "frames_per_s": round(tally["frames"] / seconds, 2) if tally["frames"] else 0.0,
        "peak_rss_mb": peak_mb,
        "repairs": dict(plan.repairs),
    }
    folder.write_json("summary.json", summary)
    if summary["expected"] != summary["done"] + summary["failed"]:
        lost = summary["expected"] - summary["done"] - summary["failed"]
        raise StageError(
            f"{out}: {lost} of {summary['expected']} units have neither a result nor a failure row; run the same command again"
        )
    return summary


def _statuses(rows: list[dict[str, str]], out: str, config: AnnotateConfig, build: Builder) -> Iterator[dict[str, Any]]:
    """Run the rows through the actor pool; one status row a shard, as each finishes."""
    entry, _ = registry.tracker_entry(config.model)
    with connected() as resources:
        gpus = config.gpus_per_worker if entry.uses_gpu and resources.get("GPU", 0) else 0.0
        size = pool_size(resources, cpus=config.cpus_per_worker, gpus=gpus, wanted=config.workers, units=len(rows))
        quiet_data()
        # The order in which shards finish is the order in which they are reported: nobody waits for a slow one.
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            AnnotateShard,
            fn_constructor_args=(os.path.abspath(out) if "://" not in out else out, ray.get_runtime_context().get_job_id() + _now()),
            fn_constructor_kwargs={"config": config.model_dump(), "build": build, "device": "cuda" if gpus else "cpu"},
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),  # the next shard waits at the actor
            num_cpus=config.cpus_per_worker,
            num_gpus=gpus,
        )
        try:
            yield from dataset.iter_rows()
        except ray.exceptions.RayError as error:
            raise stage_error(error) from error


def _now() -> str:
    return f"-{time.time_ns():x}"


def _record_run(folder: Folder, plan: Plan, config: AnnotateConfig) -> None:
    """Write run.json, the tables of videos and objects, and the units lost in planning."""
    units = sorted(s.shard_id for s in plan.shards)
    folder.write_json(
        "run.json",
        {
            "stage": "annotate",
            "config": config.model_dump(),
            "versions": {"egoray": __version__, "ray": ray.__version__},
            "fingerprint": fingerprint([config.fingerprint_fields(), units]),
        },
    )
    write_videos(folder, plan.videos)
    write_objects(folder, plan.objects)


def _set_threads(threads: int) -> None:
    """Ray gives its workers one thread each; the libraries that the tracker has loaded get what the actor reserved."""
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
