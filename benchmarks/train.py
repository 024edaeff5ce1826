"""What training promises, measured; one JSON line each.

    python benchmarks/train.py elastic [--times 3]   # a raylet SIGKILLed, one added, one drained: seconds until steps go on, world sizes
    python benchmarks/train.py overhead              # Ray Train over the same loop under torchrun, 2 workers: seconds a step
    python benchmarks/train.py scaling               # 2 workers against 1 where a sample only sleeps
    python benchmarks/train.py overfit [--svg FILE]  # each recipe on a tiny network and 8 clips: steps until IoU 0.8
    python benchmarks/train.py improve [--epochs N]  # nano-detector: IoU_gold_pred on held-out rooms before and after fine-tuning

All run the nano-detector's recipe, or a sample that sleeps, on clips rendered for the purpose (seeds apart from any training).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from egoray.core.storage import Folder
from egoray.synthetic.sample import write_sample

EGORAY = [sys.executable, "-m", "egoray.cli"]
SET = {"batch": 8, "save_s": 1000, "save_steps": 10, "resize_s": 3, "tensorboard": False, "epochs": None}


def rooms(folder: str, tier: str, videos: int, seed: int, seconds: float = 20.0) -> str:
    """The truth of rendered clips."""
    write_sample(folder, videos=videos, seed=seed, seconds=seconds, fps=5, tier=tier)
    return os.path.join(folder, "truth")


def command(data: str, out: str, **settings: object) -> list[str]:
    """`egoray train` on the nano-detector."""
    chosen = SET | settings
    pairs = [part for key, value in chosen.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    return [*EGORAY, "train", "--recipe", "nano-detector", "--data", data, "--out", out, "--json", *pairs]


def curve(out: str) -> list[dict[str, float]]:
    """The rows of a run's curve."""
    path = Path(out) / "curve.csv"
    if not path.exists():
        return []
    with path.open() as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def elastic(times: int) -> dict:
    """Two one-CPU raylets beside a head; one is killed, one added, one drained as a spot machine would be."""
    from ray._raylet import GcsClient
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3", "RAY_AUTH_MODE": "disabled"}
    steps, save_steps = 200, 30
    found = {"shrink_s": [], "grow_s": [], "redone": []}
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder:
            data, out = rooms(f"{folder}/rooms", "train", 2, 900), f"{folder}/out"
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": True, "dashboard_port": 0})
            try:
                nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
                cluster.wait_for_nodes()
                run = subprocess.Popen(
                    command(data, out, steps=steps, save_steps=save_steps, workers=[1, 2]),
                    env=os.environ | {"RAY_ADDRESS": cluster.address},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
                wait(out, lambda rows: len(rows) > 15 and rows[-1]["workers"] == 2, run)
                killed, before = time.monotonic(), curve(out)[-1]["step"]
                os.kill(nodes[1].all_processes["raylet"][0].process.pid, signal.SIGKILL)
                cluster.remove_node(nodes[1], allow_graceful=False)
                rows = wait(out, lambda rows: rows and rows[-1]["workers"] == 1, run)
                found["shrink_s"].append(round(time.monotonic() - killed, 1))
                found["redone"].append(before - min(row["step"] for row in rows if row["workers"] == 1) + 1)
                added = time.monotonic()
                nodes.append(cluster.add_node(num_cpus=1))
                wait(out, lambda rows: rows[-1]["workers"] == 2, run)
                found["grow_s"].append(round(time.monotonic() - added, 1))
                grown = curve(out)[-1]["step"]
                wait(out, lambda rows, grown=grown: rows[-1]["step"] > grown + 15, run)
                told = curve(out)[-1]["step"]
                deadline_s = 20
                deadline = int((time.time() + deadline_s) * 1000)
                node_id = nodes[2].node_id
                GcsClient(address=cluster.address).drain_node(node_id, 2, "spot", deadline)
                saved = None
                while time.time() * 1000 < deadline and saved is None:
                    marks = [int(p.parent.name[5:]) for p in Path(out).glob("checkpoints/step-*/checkpoint.json")]
                    saved = next((mark for mark in marks if mark > told and mark % save_steps), None)
                    time.sleep(0.2)
                found.setdefault("saved_before_deadline_s", []).append(
                    None if saved is None else round(deadline_s - (deadline / 1000 - time.time()), 1)
                )
                cluster.remove_node(nodes[2], allow_graceful=False)
                answer = json.loads(run.communicate(timeout=900)[0].splitlines()[-1])
                rows = curve(out)
                assert [row["step"] for row in rows] == list(range(1, steps + 1)), "a step is missing or there twice"
                found.setdefault("world_sizes", []).append(worlds(rows))
                assert answer["done"] == steps
            finally:
                cluster.shutdown()
    return {"benchmark": "train_elastic", "steps": steps, "median_shrink_s": statistics.median(found["shrink_s"]), **found}


def worlds(rows: list[dict[str, float]]) -> list[list[int]]:
    """[workers, steps] of each stretch."""
    stretches: list[list[int]] = []
    for row in rows:
        if not stretches or stretches[-1][0] != row["workers"]:
            stretches.append([int(row["workers"]), 0])
        stretches[-1][1] += 1
    return stretches


def wait(out: str, ready, run: subprocess.Popen, limit_s: float = 400) -> list[dict[str, float]]:
    """The curve as soon as it is ``ready``."""
    ends = time.monotonic() + limit_s
    while time.monotonic() < ends:
        rows = curve(out)
        if rows and ready(rows):
            return rows
        if run.poll() is not None:
            raise SystemExit(f"the run ended with {run.returncode}")
        time.sleep(0.3)
    raise SystemExit(f"nothing after {limit_s:g} s; the curve ends with {curve(out)[-1:]}")


def overhead(steps: int = 40) -> dict:
    """The loop in two processes, started by torchrun and by Ray Train; the first five steps are left out."""
    with tempfile.TemporaryDirectory() as folder:
        data = rooms(f"{folder}/rooms", "train", 2, 901)
        each: dict[str, list[float]] = {"torchrun": [], "ray": []}
        wall: dict[str, float] = {}
        for turn in range(3):
            for kind in each:
                out = f"{folder}/{kind}{turn}"
                started = time.monotonic()
                if kind == "ray":
                    line = command(data, out, steps=steps, workers=[2, 2], save_steps=1000)
                else:
                    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", __file__]
                    line = [*torchrun, "worker", "--data", data, "--out", out, "--steps", str(steps)]
                subprocess.run(
                    line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
                )
                wall[kind] = round(time.monotonic() - started, 1)
                each[kind] += [row["seconds"] for row in curve(out)[5:]]
        step = {kind: statistics.median(seconds) for kind, seconds in each.items()}
    return {
        "benchmark": "train_overhead",
        "workers": 2,
        "s_a_step": {kind: round(value, 4) for kind, value in step.items()},
        "ray_over_torchrun": round(step["ray"] / step["torchrun"], 3),
        "wall_s_with_start": wall,
    }


def worker(data: str, out: str, steps: int) -> None:
    """What torchrun starts."""
    import torch
    import torch.distributed as dist

    from egoray.train.forecast import read_recipe
    from egoray.train.ray_train import answer_of
    from egoray.train.run import note_run, train

    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    pairs = SET | {"steps": steps, "save_steps": 1000}
    recipe = read_recipe("nano-detector", None, [f"{key}={json.dumps(value)}" for key, value in pairs.items()], [data])
    if dist.get_rank() == 0:
        note_run(recipe, Folder(out), "")
    train(recipe, out, "cpu", answer_of)
    dist.destroy_process_group()


def scaling() -> dict:
    """Samples that sleep 100 ms; the step's own work is all that is left to lose."""
    seconds = {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={workers}", "--standalone", __file__]
            done = subprocess.run([*torchrun, "sleeper", "--out", folder], check=True, capture_output=True, text=True)
            seconds[workers] = json.loads(done.stdout.splitlines()[-1])
    return {
        "benchmark": "train_scaling",
        "s_a_step": {str(workers): round(value, 4) for workers, value in seconds.items()},
        "scaling": round(seconds[1] / seconds[2], 3),
    }


def sleeper(out: str) -> None:
    """What torchrun starts for `scaling`: prints the median seconds of a step."""
    import torch
    import torch.distributed as dist
    from torch import nn

    from egoray.train.checkpoints import Checkpoints
    from egoray.train.loop import Loop, Pace
    from egoray.train.order import Order
    from egoray.train.samples import Sentence, TrainingClip
    from egoray.train.world import World

    class Sleeper:
        """A linear layer behind a pause."""

        def __init__(self) -> None:
            torch.manual_seed(0)
            self.module = nn.Linear(64, 1)

        def prepare(self, clip, rng):
            return torch.ones(1, 64)

        def loss(self, sample):
            time.sleep(0.1)
            return self.module(sample).square().mean(), {}

        def blocks(self):
            return []

    class Watch:
        """Remembers the seconds of each step."""

        def __init__(self) -> None:
            self.seconds: list[float] = []

        def stepped(self, figures):
            self.seconds.append(figures["seconds"])

        def saving(self):
            pass

        def leaving(self):
            return False

    dist.init_process_group("gloo")
    watch = Watch()
    sentence = Sentence(text="a mug", object_id="1", targets=())
    clip = TrainingClip(root="", source="egomask-train", video_id="v", frame_names=("0",), images=("",), sentences=(sentence,))
    pace = Pace(steps=12, batch=16, lr=1e-3)
    Loop(Sleeper(), pace, [clip], Order([1], [1], None, 0), World(), Checkpoints(Folder(out), 1, "x"), "", watch).run()
    if dist.get_rank() == 0:
        print(json.dumps(statistics.median(watch.seconds[2:])), flush=True)
    dist.destroy_process_group()


def improve(epochs: float, videos: int = 16) -> dict:
    """The packaged nano-detector against itself fine-tuned on other rooms' sentences; both answer rooms neither has seen.

    ``exocentric J&F`` is of steady clips with large objects, as the paper reports what fine-tuning does to the exocentric sets.
    """
    from egoray.registry import build_grounder
    from egoray.train.trial import by_sentence, trial_items, try_on

    with tempfile.TemporaryDirectory() as folder:
        train = rooms(f"{folder}/train", "train", videos, 910, seconds=40.0)
        held = rooms(f"{folder}/held", "short", 10, 911, seconds=20.0)
        out = f"{folder}/out"
        started = time.monotonic()
        subprocess.run(command(train, out, epochs=epochs, workers=[2, 2], save_steps=1000), check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        elsewhere = steady(f"{folder}/steady", 12, 912, "medium")
        scores: dict[str, dict] = {}
        for name, model in (("base", "nano"), ("tuned", f"nano:{out}/model/model.safetensors")):
            answer = by_sentence(build_grounder(model))
            figures, _ = try_on(answer, held, trial_items(held, "short", 10))
            scores[name] = {key: round(100 * value, 1) for key, value in figures.items()}
            figures, _ = try_on(answer, elsewhere, trial_items(elsewhere, "medium", 12))
            scores[name]["exocentric J&F"] = round(100 * figures["J&F"], 1)
    return {"benchmark": "train_improve", "epochs": epochs, "training_s": round(seconds), **scores}


GOLDENS = Path(__file__).parents[1] / "tests" / "models" / "data"
TINY: dict[str, dict[str, object]] = {
    "nano-detector": {"steps": 60, "lr": 1e-3, "options.absent": 0.0},
    "nano-tracker": {"steps": 250, "lr": 1e-3, "options.side_px": 128, "options.num_frames": 2, "options.focal": 2.0, "options.click": 0.0},
    "sam2-egocentric": {"steps": 300, "lr": 1e-3, "model": "nano", "options.side_px": 128, "options.num_frames": 2, "options.focal": 2.0},
    "sa2va-4b-egomask": {
        "steps": 500,
        "lr": 3e-3,
        "model": "tiny",
        "options.num_points": 1024,
        "options.num_sentences": 1,
        "options.num_frames": 2,
    },
    "videolisa-3.8b-egomask": {
        "steps": 500,
        "lr": 3e-3,
        "model": str(GOLDENS / "videolisa"),
        "options.clip": str(GOLDENS / "videolisa" / "clip"),
        "options.num_sparse": 8,
        "options.num_dense": 2,
    },
}
"""Recipe → what is overridden so that a tiny network learns 8 clips by heart: learning rate, size, and what is frozen."""


def steady(folder: str, number: int, seed: int, tier: str, **knobs: object) -> str:
    """Rendered clips like the exocentric sets: large objects, nearly always in view; eight frames each; a training set or a benchmark."""
    import cv2
    import numpy as np

    from egoray.core.masks import encode
    from egoray.formats.egomask import BenchmarkObject, BenchmarkVideo, frame_name, write_benchmark, write_train
    from egoray.schema import Expression
    from egoray.synthetic.expressions import describe
    from egoray.synthetic.knobs import WorldConfig
    from egoray.synthetic.world import World

    videos = []
    images = Folder(folder) / ("train/JPEGImages" if tier == "train" else "JPEGImages/egotracks")
    for k in range(number):
        world = World(WorldConfig.exocentric(**{"seconds": 8.0, "fps": 5, "stride": 1} | knobs), (seed, k))
        video_id, names = f"steady{k}", []
        masks: dict[str, dict] = {thing.object_id: {} for thing in world.objects}
        for frame in range(0, world.num_frames, 5):
            names.append(frame_name(frame))
            coded = cv2.imencode(".jpg", cv2.cvtColor(world.frame(frame), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
            (images / video_id).write_bytes(f"{names[-1]}.jpg", coded.tobytes())
            for object_id, mask in world.masks(frame).items():
                masks[object_id][names[-1]] = encode(mask)
        shown = [thing for thing in world.objects if masks[thing.object_id]]
        rng = np.random.default_rng([seed, k])
        sentences = []
        for thing in shown:
            others = [*(other.attributes for other in world.objects if other is not thing), *world.others]
            for kind, text in enumerate(describe(thing.attributes, others, rng)):
                ids = {"expression_id": f"{k}-{thing.object_id}-{kind}", "video_id": video_id, "object_id": thing.object_id}
                sentences.append(Expression(**ids, text=text, kind="", source="synthetic"))
        things = tuple(BenchmarkObject(object_id=thing.object_id, category="", masks=masks[thing.object_id]) for thing in shown)
        videos.append(BenchmarkVideo(video_id=video_id, tier=tier, frame_names=tuple(names), objects=things, expressions=tuple(sentences)))
    (write_train if tier == "train" else write_benchmark)(folder, videos)
    return folder


def overfit(svg: str | None, only: str | None) -> dict:
    """The mean IoU of the training samples' masks (of the boxes, for the detector) over the last eighth of a run."""
    from egoray.train.curves import draw_curves
    from egoray.train.forecast import read_recipe
    from egoray.train.ray_train import train_here

    results, lines = {}, {}
    for name, overrides in TINY.items():
        if only and name != only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            if overrides.get("model") == "tiny":
                sys.path.insert(0, str(GOLDENS.parents[1]))
                from support.sa2va_golden import write_golden

                overrides = overrides | {"model": str(write_golden(Path(folder) / "tiny"))}
            large = {"num_objects": (1, 1), "area_fraction": 0.12, "num_clutter": 2, "distractors_per_object": 0.0, "size_hw": (120, 160)}
            data = steady(f"{folder}/eight", 8, 920, "train", **large)
            always = {
                "epochs": None,
                "batch": 8,
                "precision": "fp32",
                "missing": "drop",
                "tensorboard": False,
                "save_s": 1000,
                "warmup_steps": 5,
            }
            settings = always | {"schedule": "constant", "weight_decay": 0.0, "recompute": False} | overrides
            recipe = read_recipe(name, None, [f"{key}={json.dumps(value)}" for key, value in settings.items()], [data])
            started = time.monotonic()
            train_here(recipe, f"{folder}/out")
            rows = [(row["step"], row["iou"]) for row in curve(f"{folder}/out") if "iou" in row]
            lines[name] = smoothed(rows)
            reached = next((int(step) for step, value in lines[name] if value >= 0.8), None)
            results[name] = {
                "iou": round(lines[name][-1][1], 3),
                "steps_until_0.8": reached,
                "steps": len(rows),
                "seconds": round(time.monotonic() - started),
                "overridden": {key: value for key, value in overrides.items() if key != "steps"},
            }
            print(json.dumps({name: results[name]}), file=sys.stderr, flush=True)
    if svg:
        Path(svg).write_text(draw_curves(lines, "IoU of training samples, eight clips learned by heart", "steps"))
    return {"benchmark": "train_overfit", "clips": 8, **results}


def smoothed(rows: list[tuple[float, float]], window: int = 15) -> list[tuple[float, float]]:
    """Means over the last ``window`` steps."""
    return [(step, statistics.mean(v for _, v in rows[max(0, k - window + 1) : k + 1])) for k, (step, _) in enumerate(rows)]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["elastic", "overhead", "scaling", "overfit", "improve", "worker", "sleeper"])
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=4.0, help="improve")
    parser.add_argument("--svg", help="overfit: draw the curves here")
    parser.add_argument("--only", choices=list(TINY), help="overfit: one recipe")
    parser.add_argument("--data")
    parser.add_argument("--out")
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    if args.what == "worker":
        return worker(args.data, args.out, args.steps)
    if args.what == "sleeper":
        return sleeper(args.out)
    measures = {"elastic": lambda: elastic(args.times), "overhead": overhead, "scaling": scaling, "improve": lambda: improve(args.epochs)}
    measures["overfit"] = lambda: overfit(args.svg, args.only)
    return print(json.dumps(measures[args.what]()))


if __name__ == "__main__":
    main()
