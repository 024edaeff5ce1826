"""Annotate on Ray Data: shards → pool of tracker actors → masklets in Parquet, resumable unit by unit.

A row of the dataset is one shard's description; the actor decodes, tracks and clips, and writes the shard's own file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray

from egoray import __version__, registry
from egoray.annotate.box_tracker import track_shard
from egoray.annotate.plan import Plan, limited, pack, shard_frames, unpack
from egoray.config import AnnotateConfig
from egoray.core import video
from egoray.core.storage import Folder
from egoray.core.workfolder import MASKLETS, drop_stale, fingerprint, write_objects, write_videos
from egoray.models.base import VideoTracker
from egoray.ray_units import Progress, run_units

Builder = Callable[..., VideoTracker]
"""Called with the model's name, a torch device, and the tracker's own settings where they are not the default."""


@dataclass(frozen=True, slots=True)
class AnnotateWork:
    """Satisfies `Work`: a packed shard in, its masklets out.

    Args:
        config: the stage's settings.
        build: builds the tracker.
    """

    config: AnnotateConfig
    build: Builder
    stage: str = "annotate"

    def load(self, device: str) -> VideoTracker:
        """See `Work.load`."""
        return self.build(self.config.model, device, **self.config.tracker_options())

    def names(self, packed: str) -> tuple[str, str, str]:
        """See `Work.names`."""
        shard, _, _ = unpack(packed)
        label = f"{shard.video_id}:{shard.start}-{shard.stop}"
        return shard.shard_id, label, f"{shard.uri}, frames {shard.start} to {shard.stop - 1}"

    def do(self, model: VideoTracker, packed: str, out: Folder) -> dict[str, Any]:
        """See `Work.do`."""
        shard, boxes, stride = unpack(packed)
        wanted = shard_frames(shard)
        threads = max(1, int(self.config.cpus_per_worker))
        native = video.read_frames(shard.uri, [frame * stride for frame in wanted], threads=threads)
        wait = video.Wait()
        frames = wait.timed(video.decode_ahead((index // stride, image) for index, image in native))
        rows = track_shard(model, frames, shard, boxes, self.config.prompt_every)
        (out / "masklets").write_rows(f"{shard.shard_id}.parquet", rows, MASKLETS)
        return {"frames": len(wanted), "masks": len(rows), "waited_s": wait.seconds}


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
    masklets = folder / "masklets"
    _record_run(folder, plan, config)
    drop_stale(folder, masklets, {shard.shard_id for shard in plan.shards}, plan.failures, retry_failed)
    stride = {v.video_id: v.stride for v in plan.videos}
    units = [(s.shard_id, len(shard_frames(s)), partial(pack, s, plan.boxes[s.shard_id], stride[s.video_id])) for s in limited(plan, limit)]
    uses_gpu = registry.tracker_entry(config.model)[0].uses_gpu
    work = AnnotateWork(config, build)
    tally = run_units(work, units, folder, masklets, uses_gpu=uses_gpu, progress=progress, lost=len(plan.failures))
    summary = {"stage": "annotate", "model": config.model, **tally.summary(), "repairs": dict(plan.repairs)}
    summary["seconds"] = round(time.monotonic() - started, 3)
    folder.write_json("summary.json", summary)
    return summary


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
