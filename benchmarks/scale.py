"""How far it scales, on paper and on a simulated cluster. One JSON line a figure.

    python benchmarks/scale.py cost [--markdown] [--set object_ms=8 ...]
    python benchmarks/scale.py simulate --actors 1 2 4
    python benchmarks/scale.py simulate --lanes 64 256
    python benchmarks/scale.py saturate [--units 3000]

- cost: GPU hours, core hours, hours and USD for EgoMask-Train, EgoTracks and all of Ego4D; every figure that goes in is a field of
  `Figures` below, with where it comes from, and can be set.
- simulate: a SIMULATED cluster. Actors are real processes and units go through egoray's own `run_units` on real Ray, but a unit sleeps
  instead of working. Sizes of units are those of the shards that egoray's planner makes of clips with EgoMask-Train's published statistics.
  `efficiency` is the ideal time (all sleep over all workers) over the time from when all actors are up to the last status row at the
  driver. `queue_alone` is what a queue without any overhead would reach: what it lacks to 1 is the wait for the last units. With lanes,
  eight async actors sleep many units at a time.
- saturate: units that take no time: how many a second the driver can hand out and take back, one unit a block and several.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import json
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest import mock

import numpy as np
import ray
import ray.data

from egoray import ray_units
from egoray.annotate.plan import shard_frames
from egoray.annotate.shards import plan_shards
from egoray.config import ExpressConfig, UnitConfig
from egoray.core.storage import Folder
from egoray.core.workfolder import MASKLETS
from egoray.express import prices, prompts
from egoray.express.pictures import boxed, close_up
from egoray.schema import Shard, Trajectory, VideoInfo

FPS = 5
SHARD_FRAMES = 300
LANE_ACTORS = 8


@dataclass(frozen=True, slots=True)
class Dataset:
    """How much there is: clips, their mean seconds, objects in all."""

    name: str
    clips: int
    clip_s: float
    objects: int


DATASETS = (
    Dataset("EgoMask-Train", 2_624, 369.94, 9_592),  # the EgoMask paper's table of statistics
    Dataset(
        "EgoTracks", 5_900, 369.94, 22_420
    ),  # its paper: 5.9k videos, 22.42k tracks; clips as long as those of EgoMask-Train, drawn from them
    Dataset("Ego4D", 35_712, 369.94, 135_700),  # its paper: 3,670 hours; as if cut and boxed as densely as EgoTracks is
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What goes into the model, and where each default was measured; "assumed" where it was not."""

    trajectories: float = 17.0  # an object's, EgoMask-Train in the EgoMask paper
    trajectory_share: float = 0.0133  # of the clip, that one trajectory lasts; same place
    frame_ms: float = 14.3  # SAM 2.1 large on an A100, compiled: 39.5 frames/s of one object (its README) less object_ms
    object_ms: float = 11.0  # SAM 2.1 tiny there: 91.2 frames/s with its encoder, so at most this for what each object costs
    speed: float = 0.35  # of the GPU rented against that one: an L4 has 0.39 of an A100's bf16 TFLOPS; less, since not compiled: assumed
    efficiency: float = 0.9  # of the pipeline against its bare tracker: the goal of benchmarks/pipeline.py
    decode_per_s: float = 350.0  # native frames a core: 1,559/s of 720p on two (docs/scale.md), 2.25 times the pixels in 1080p
    native_fps: float = 30.0
    jpeg_ms: float = 15.0  # to encode a 1080p picture and write it, one core; assumed
    answer_tokens: float = 200.0  # of an answer; assumed, 500 at most
    tokens_per_min: float = 450_000.0  # the account's limit: default of `egoray express`
    gpus: int = 32  # as many as cluster.yaml has
    build_cores: int = 16  # of the one machine that builds
    usd_gpu_hour: float = 0.50  # one L4 with 8 cores, spot; assumed, look it up in your region
    usd_core_hour: float = 0.02  # spot; assumed


def clips(number: int, dataset: Dataset, figures: Figures, seed: int = 0) -> Iterator[list[Shard]]:
    """Shards of clips with these statistics: trajectories begin anywhere and last exponentially long."""
    rng = random.Random(seed)
    total = round(dataset.clip_s * FPS)
    for index in range(number):
        info = VideoInfo(video_id=f"c{index}", uri="", num_frames=total, fps=FPS, height_px=1080, width_px=1920, source="simulated")
        found = []
        objects = dataset.objects / dataset.clips
        for number_of in range(int(objects) + (rng.random() < objects % 1)):
            for _ in range(round(figures.trajectories)):
                start = rng.randrange(total)
                stop = min(total, start + max(1, round(rng.expovariate(1 / (figures.trajectory_share * total)))))
                ids = {"video_id": info.video_id, "object_id": str(number_of + 1)}
                found.append(Trajectory(**ids, start=start, stop=stop, prompt_frame=start, prompt_box=(0.0, 0.0, 9.0, 9.0)))
        yield plan_shards(info, found, max_frames=SHARD_FRAMES, salt="")


def cost(dataset: Dataset, figures: Figures) -> dict[str, Any]:
    """What the dataset takes, stage by stage, and in all."""
    sampled = list(clips(200, dataset, figures))
    scale = dataset.clips / len(sampled)
    frames = scale * sum(len(shard_frames(shard)) for shards in sampled for shard in shards)
    seen = scale * sum(t.num_frames for shards in sampled for shard in shards for t in shard.trajectories)
    span = scale * sum(shard.stop - shard.start for shards in sampled for shard in shards)
    gpu_h = (frames * figures.frame_ms + seen * figures.object_ms) / 1000 / figures.speed / figures.efficiency / 3600
    decode_h = span / FPS * figures.native_fps / figures.decode_per_s / 3600
    tokens, usd = question_costs(figures)
    ask_h = dataset.objects * tokens / figures.tokens_per_min / 60
    seconds = dataset.clips * dataset.clip_s
    build_core_h = seconds * (figures.native_fps / figures.decode_per_s + figures.jpeg_ms / 1000) / 3600
    annotate_h, build_h = max(gpu_h / figures.gpus, decode_h / (figures.gpus * 8)), build_core_h / figures.build_cores
    money = {
        "annotate": gpu_h * figures.usd_gpu_hour,
        "express, gpt-4o": dataset.objects * usd,
        "build": build_core_h * figures.usd_core_hour,
    }
    return {
        "dataset": dataset.name,
        "video_hours": seconds / 3600,
        "frames": frames,
        "object_frames": seen,
        "gpu_hours": gpu_h,
        "decode_core_hours": decode_h,
        "requests": 3 * dataset.objects,
        "build_core_hours": build_core_h,
        "hours": {"annotate": annotate_h, "express, gpt-4o": ask_h, "build": build_h},
        "usd": money,
        "usd_with_batch_api": sum(money.values()) - money["express, gpt-4o"] * (1 - prices.BATCH_DISCOUNT),
        "usd_in_all": sum(money.values()),
    }


@cache
def question_costs(figures: Figures) -> tuple[float, float]:
    """Tokens and USD of one object's three questions, as `egoray express` asks them of a 1080p clip."""
    config = ExpressConfig(provider="openai")
    price = prices.PRICES["gpt-4o"]
    nothing = np.zeros((1080, 1920, 3), np.uint8)
    view, close = boxed(nothing, (1.0, 1.0, 2.0, 2.0), config.max_tiles), close_up(nothing, (1.0, 1.0, 2.0, 2.0))
    pictures = [view] * config.num_frames + [close]
    asked = [prompts.ask_for(kind, config, "mug", pictures) for kind in config.strategies]
    asked.append(prompts.ask_which(config, ["the red mug with a chipped rim beside the kettle"] * config.per_object, [view] * 4))
    prompt = sum(prices.prompt_tokens(question, price) for question in asked)
    answers = len(asked) * figures.answer_tokens
    return prompt + answers, prices.usd(price, prompt, 0, round(answers))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The costs as the table of docs/scale.md."""

    def line(name: str, *values: str) -> str:
        return f"| {' | '.join((name, *values))} |"

    def each(name: str, value: Any) -> str:
        return line(name, *(f"{value(row):,.{0 if value(row) >= 100 else 1}f}" for row in rows))

    table = [line("", *(row["dataset"] for row in rows)), "|---|" + "---:|" * len(rows)]
    table += [
        each("hours of video", lambda row: row["video_hours"]),
        each("frames encoded, million", lambda row: row["frames"] / 1e6),
        each("objects in frames, million", lambda row: row["object_frames"] / 1e6),
        each("annotate, GPU hours", lambda row: row["gpu_hours"]),
        each("its decoding, core hours", lambda row: row["decode_core_hours"]),
        each("express, thousand requests", lambda row: row["requests"] / 1e3),
        each("build, core hours", lambda row: row["build_core_hours"]),
    ]
    for stage in rows[0]["hours"]:
        table.append(each(f"**{stage}, hours**", lambda row, stage=stage: row["hours"][stage]))
    for stage in rows[0]["usd"]:
        table.append(each(f"{stage}, USD", lambda row, stage=stage: row["usd"][stage]))
    table += [each("**USD in all**", lambda row: row["usd_in_all"])]
    table += [each("USD with the Batch API", lambda row: row["usd_with_batch_api"])]
    return "\n".join(table)


@dataclass(frozen=True, slots=True)
class Sleep:
    """Satisfies `Work`: a unit sleeps, then leaves a result as annotation does. ``lanes``: its actor has slept already."""

    config: UnitConfig
    ready: str
    actors: int
    lanes: bool = False
    stage: str = "simulated"

    def load(self, device: str) -> None:
        """Waits until all actors are there, so that their start is not counted."""
        here = Path(self.ready)
        (here / f"{os.getpid()}-{time.time_ns()}").touch()
        while len(os.listdir(here)) < self.actors:
            time.sleep(0.05)

    def names(self, packed: str) -> tuple[str, str, str]:
        """The unit's number stands for all."""
        return packed.partition(" ")[0], packed, packed

    def do(self, model: None, packed: str, out: Folder) -> dict[str, Any]:
        """Sleeps."""
        unit, seconds = packed.split()
        began = time.time() - (float(seconds) if self.lanes else 0.0)
        if not self.lanes:
            time.sleep(float(seconds))
        (out / "masklets").write_rows(f"{unit}.parquet", [], MASKLETS)
        return {"frames": 1, "began": began, "waited_s": 0.0}


class Lanes(ray_units.UnitActor):
    """An actor whose units sleep beside each other."""

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, list[Any]]]:
        """See `UnitActor`."""
        for packed in batch["packed"]:
            await asyncio.sleep(float(str(packed).split()[1]))
            yield {key: [value] for key, value in self._unit(str(packed)).items()}


def run(seconds: Sequence[float], actors: int, lanes: int = 0) -> dict[str, float]:
    """Sleep the units through `run_units`; gives the wall time from when all actors are up, and how long they took to come."""
    pool = ray.data.ActorPoolStrategy

    def wide(size: int, max_tasks_in_flight_per_actor: int) -> Any:
        del max_tasks_in_flight_per_actor
        return pool(size=size, max_concurrent_calls_per_actor=lanes, max_tasks_in_flight_per_actor=lanes + 2)

    began: list[float] = []

    def progress(state: dict[str, Any]) -> None:
        if state["unit"]:
            began.append(state["unit"]["began"])

    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        (Path(name) / "ready").mkdir()
        if lanes:
            stack.enter_context(mock.patch.object(ray_units, "UnitActor", Lanes))
            stack.enter_context(mock.patch.object(ray_units.ray.data, "ActorPoolStrategy", wide))
        out = Folder(str(Path(name) / "work"))
        config = UnitConfig(workers=actors, cpus_per_worker=0.01, gpus_per_worker=0)
        work = Sleep(config, str(Path(name) / "ready"), actors, lanes=bool(lanes))
        units = [(f"u{i:06d}", 1, (lambda i=i, s=s: f"u{i:06d} {s:.4f}")) for i, s in enumerate(seconds)]
        started = time.time()
        tally = ray_units.run_units(work, units, out, out / "masklets", uses_gpu=False, progress=progress)
        ended = time.time()
    assert tally.done == len(seconds), tally
    return {"wall_s": ended - min(began), "start_s": min(began) - started}


def queue_alone(seconds: Sequence[float], workers: int) -> float:
    """Seconds that a queue without overhead takes: each worker takes the next unit when it is free."""
    free = [0.0] * workers
    for one in seconds:
        heapq.heapreplace(free, free[0] + one)
    return max(free)


def simulate(workers: int, *, mean_s: float, each: int, lanes: int, seed: int) -> dict[str, Any]:
    """One figure of the simulated cluster."""
    sizes = [len(shard_frames(shard)) for shards in clips(300, DATASETS[0], Figures()) for shard in shards]
    rng = random.Random(seed)
    chosen = [rng.choice(sizes) for _ in range(workers * each)]
    seconds = [size * mean_s / fmean(chosen) for size in chosen]
    ideal = sum(seconds) / workers
    found = run(seconds, workers // lanes if lanes else workers, lanes)
    spread = {f"p{q}": round(float(np.percentile(sizes, q))) for q in (5, 50, 95)} | {"most": max(sizes)}
    return {
        "benchmark": "scale_simulated",
        "workers": workers,
        "processes": workers // lanes if lanes else workers,
        "units": len(seconds),
        "mean_unit_s": mean_s,
        "shard_frames": spread,
        "ideal_s": round(ideal, 1),
        "wall_s": round(found["wall_s"], 1),
        "efficiency": round(ideal / found["wall_s"], 3),
        "queue_alone": round(ideal / queue_alone(seconds, workers), 3),
        "units_per_s": round(len(seconds) / found["wall_s"], 1),
        "start_s": round(found["start_s"], 1),
    }


def saturate(units: int, a_block: int) -> dict[str, Any]:
    """Units a second of no work at all, through two actors, ``a_block`` units a block."""
    with mock.patch.object(ray_units, "_MOST_BLOCKS", max(1, units // a_block)):
        found = run([0.0] * units, 2)
    return {
        "benchmark": "scale_saturate",
        "units": units,
        "units_a_block": a_block,
        "wall_s": round(found["wall_s"], 1),
        "units_per_s": round(units / found["wall_s"], 1),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    costs = commands.add_parser("cost")
    costs.add_argument("--set", dest="figures", action="append", default=[], metavar="FIGURE=VALUE")
    costs.add_argument("--markdown", action="store_true")
    simulated = commands.add_parser("simulate")
    simulated.add_argument("--actors", type=int, nargs="*", default=[])
    simulated.add_argument("--lanes", type=int, nargs="*", default=[], help="workers in all, in eight async actors")
    simulated.add_argument("--mean-s", type=float, default=2.0, help="seconds of the mean unit; a real one takes four times as long")
    simulated.add_argument("--each", type=int, default=20, help="units a worker")
    simulated.add_argument("--seed", type=int, default=0)
    saturated = commands.add_parser("saturate")
    saturated.add_argument("--units", type=int, default=3000)
    saturated.add_argument("--a-block", type=int, nargs="*", default=[1, 20])
    args = parser.parse_args()
    if args.command == "cost":
        kinds = {field.name: type(field.default) for field in fields(Figures)}
        given = dict(one.split("=", 1) for one in args.figures)
        rows = [cost(dataset, replace(Figures(), **{k: kinds[k](v) for k, v in given.items()})) for dataset in DATASETS]
        print(markdown(rows) if args.markdown else "\n".join(json.dumps(row | {"benchmark": "scale_cost"}) for row in rows))
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    if args.command == "saturate":
        for a_block in args.a_block:
            print(json.dumps(saturate(args.units, a_block)), flush=True)
        return
    more = {"mean_s": args.mean_s, "each": args.each, "seed": args.seed}
    for actors in args.actors:
        print(json.dumps(simulate(actors, lanes=0, **more)), flush=True)
    for workers in args.lanes:
        print(json.dumps(simulate(workers, lanes=workers // LANE_ACTORS, **more)), flush=True)


if __name__ == "__main__":
    main()
