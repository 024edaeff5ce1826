"""Predict on Ray Data: clips with their questions → pool of actors that hold a grounding model → answer files.

One actor a GPU (or several, with gpus_per_worker below 1); a clip's expressions are answered together.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray

from egoray import __version__, registry
from egoray.config import PredictConfig
from egoray.core import paths
from egoray.core.storage import Folder
from egoray.core.workfolder import drop_stale, fingerprint
from egoray.evaluate.predict import ANSWERS, PredictPlan, answer, pack, unpack, work_folder
from egoray.models.base import Grounder
from egoray.ray_units import Progress, run_units

Builder = Callable[..., Grounder]
"""Called with the model's name, a torch device, and the model's own settings where given."""


@dataclass(frozen=True, slots=True)
class PredictWork:
    """Satisfies `Work`: a clip's questions in, their answers out.

    Args:
        config: the stage's settings.
        predictions: the folder that holds ``<split>/``.
        build: builds the model.
    """

    config: PredictConfig
    predictions: str
    build: Builder
    stage: str = "predict"

    def load(self, device: str) -> Grounder:
        """See `Work.load`."""
        return self.build(self.config.model, device, **self.config.model_options())

    def names(self, packed: str) -> tuple[str, str, str]:
        """See `Work.names`."""
        clip = unpack(packed)
        return clip.unit, clip.items[0].video_id, paths.parent(clip.paths[0])

    def do(self, model: Grounder, packed: str, out: Folder) -> dict[str, Any]:
        """See `Work.do`."""
        clip = unpack(packed)
        rows = answer(model, clip, self.predictions)
        (out / "answers").write_rows(f"{clip.unit}.parquet", rows, ANSWERS)
        return {"frames": len(clip.paths), "expressions": len(clip.items)}


def predict(
    plan: PredictPlan,
    out: str,
    config: PredictConfig,
    *,
    limit: int | None = None,
    retry_failed: bool = False,
    build: Builder = registry.build_grounder,
    uses_gpu: bool | None = None,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Answer every clip of the plan that has no answers yet; returns what ``work/<split>/summary.json`` holds.

    Args:
        plan: see `plan_from_files`.
        out: the folder that holds ``<split>/``, local or s3:// / gs://; answers to other splits stay as they are.
        config: the stage's settings.
        limit: only the first so many clips.
        retry_failed: try the clips again that earlier runs gave up.
        build: builds the model, in the actors.
        uses_gpu: whether an actor takes a GPU where there is one; None: as the model needs.
        progress: see `Progress`.

    Raises:
        ConfigError: if ``out`` cannot be written.
        ModelError: if the model cannot be loaded.
        StageError: if the cluster cannot run it, or units are unaccounted for.
    """
    started = time.monotonic()
    folder = work_folder(out, plan.split)
    answers = folder / "answers"
    ids = sorted(clip.unit for clip in plan.clips)
    folder.write_json(
        "run.json",
        {
            "stage": "predict",
            "dataset": plan.dataset,
            "split": plan.split,
            "config": config.model_dump(),
            "versions": {"egoray": __version__, "ray": ray.__version__},
            "fingerprint": fingerprint([config.fingerprint_fields(), ids]),
        },
    )
    drop_stale(folder, answers, set(ids), plan.failures, retry_failed)
    units = [(clip.unit, len(clip.paths), partial(pack, clip)) for clip in plan.clips[:limit]]
    if uses_gpu is None:
        uses_gpu = registry.grounder_entry(config.model)[0].needs_gpu
    where = paths.absolute(out)
    work = PredictWork(config, where, build)
    tally = run_units(work, units, folder, answers, uses_gpu=uses_gpu, progress=progress, lost=len(plan.failures))
    expressions = sum(len(clip.items) for clip in plan.clips[:limit])
    summary = {"stage": "predict", "model": config.model, "split": plan.split, "expressions": expressions, **tally.summary()}
    summary["seconds"] = round(time.monotonic() - started, 3)
    folder.write_json("summary.json", summary)
    return summary
