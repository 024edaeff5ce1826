"""How well `express` uses a server and keeps to its limits. Prints one JSON line.

    PYTHONPATH=.:tests python benchmarks/express.py [--seconds 60] [--only rate|flight|faults|blocks|budget]

The server is the tests' own, in a process of its own: it answers after 200 ms, counts what arrives, and knows nothing of egoray.

- rate: requests a minute achieved over a hard limit, and the violations that the server counted over any 60 s; the same for tokens.
- flight: 64 requests in flight against one at a time, in answers/s.
- faults: with 10 % injected 429, 500 and 503: share completed, requests an answer.
- blocks: quick answers, blocks of many rows against blocks of one row, in clips/s.
- budget: spent over a cap of half the cost, the exit, and what a second run with room pays twice.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from egoray.config import ExpressConfig
from egoray.core.masks import encode
from egoray.core.storage import Folder
from egoray.core.video_writer import VideoWriter
from egoray.core.workfolder import MASKLETS, masklet_rows, write_objects, write_videos
from egoray.errors import StageError
from egoray.express import ray_express
from egoray.express.plan import plan_from_files
from egoray.schema import Masklet, ObjectTrack, Trajectory, VideoInfo

SIZE_HW = (64, 96)
FREE = {"requests_per_min": 1e6, "tokens_per_min": 1e12}
LIGHT = {"num_frames": 1, "zoom": False, "lookalikes": 0, "max_tokens": 64}


def write_work(folder: Path, clips: int, objects: int) -> str:
    """An annotation folder of small clips, each object with a mask on one frame; the clips lie beside it."""
    (folder / "clips").mkdir(parents=True)
    rng, work = np.random.default_rng(5), Folder(str(folder / "work"))
    videos, tracks, rows = [], [], []
    for i in range(clips):
        video_id, path = f"clip{i:05d}", folder / "clips" / f"clip{i:05d}.mp4"
        with VideoWriter(str(path), 5, SIZE_HW) as writer:
            writer.write(rng.integers(0, 255, (*SIZE_HW, 3), dtype=np.uint8))
        videos.append(VideoInfo(video_id=video_id, uri=str(path), num_frames=1, fps=5.0, height_px=64, width_px=96, source="bench"))
        for n in range(1, objects + 1):
            x, y = int(rng.integers(2, 70)), int(rng.integers(2, 40))
            mask = np.zeros(SIZE_HW, bool)
            mask[y : y + 20, x : x + 20] = True
            box = (float(x), float(y), float(x + 20), float(y + 20))
            ids = {"video_id": video_id, "object_id": str(n)}
            track = ObjectTrack(**ids, title=f"thing{i}x{n}", boxes={0: box}, size_hw=SIZE_HW)
            tracks.append((track, [Trajectory(**ids, start=0, stop=1, prompt_frame=0, prompt_box=box)]))
            rows += masklet_rows(Masklet(**ids, masks={0: encode(mask)}, scores={0: 1.0}), track.boxes)
    write_videos(work, videos)
    write_objects(work, tracks)
    (work / "masklets").write_rows("all.parquet", rows, MASKLETS)
    return str(folder)


@contextmanager
def server(**options: Any) -> Iterator[tuple[str, Any]]:
    """The address of a fresh server, and a function that gives its report."""
    command = [sys.executable, "-m", "support.openai_server", json.dumps(options)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None

    def report() -> dict[str, Any]:
        process.stdin.write("report\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1", report
    finally:
        process.stdin.close()
        process.wait()


def run(folder: str, url: str, **settings: Any) -> dict[str, Any]:
    """One run of the stage into a new folder, unless ``out`` names one."""
    out = settings.pop("out", None) or tempfile.mkdtemp(dir=folder)
    config = ExpressConfig(provider="openai", base_url=url, **{**FREE, **LIGHT, **settings})
    plan = plan_from_files(f"{folder}/work", f"{folder}/clips", config)
    return ray_express.express(plan, out, config, key="sk-benchmark")


def rate(folder: Path, seconds: float) -> dict[str, Any]:
    per_min = 1200
    work = write_work(folder / "rate", 1, int(1.05 * per_min * seconds / 60 / 2))
    found = {}
    for name, hard in (("requests", {"requests_per_min": per_min}), ("tokens", {"tokens_per_min": 2_000_000})):
        with server(latency_s=0.2, **hard) as (url, report):
            summary = run(work, url, **hard)
            seen = report()
        if name == "requests":
            achieved = (seen["requests"] - 1) / seen["seconds"] * 60 / per_min
        else:  # what the server counts on arrival: its own count of the prompt, plus max_tokens
            achieved = (seen["prompt_tokens"] + 64 * seen["requests"]) / seen["seconds"] * 60 / hard["tokens_per_min"]
        found[name] = {
            "peak_in_flight": seen["most_open"],
            "limit_a_minute": next(iter(hard.values())),
            "ratio": round(achieved, 4),
            "violations": seen["violations"],
            "seconds": round(seen["seconds"], 1),
            "objects_done": summary["done"],
        }
    return found


def flight(folder: Path) -> dict[str, Any]:
    many, few = write_work(folder / "many", 1, 960), write_work(folder / "few", 1, 20)
    found = {}
    for name, work, in_flight in (("parallel", many, 64), ("serial", few, 1)):
        with server(latency_s=0.2) as (url, report):
            run(work, url, in_flight=in_flight)
            seen = report()
        found[name] = (seen["answered"] - 1) / seen["seconds"]
    ratio = found["parallel"] / found["serial"]
    return {f"{name}_answers_per_s": round(value, 2) for name, value in found.items()} | {"ratio": round(ratio, 1)}


def faults(folder: Path) -> dict[str, Any]:
    work = write_work(folder / "faults", 1, 400)
    with server(latency_s=0.05, fault_share=0.1, faults=["429", "500", "503"], retry_after_s=0.1) as (url, report):
        summary = run(work, url)
        seen = report()
    complete = summary["done"] / summary["expected"]
    return {"complete": complete, "requests_an_answer": round(seen["requests"] / seen["answered"], 3), "answers": seen["answered"]}


def blocks(folder: Path) -> dict[str, Any]:
    work = write_work(folder / "blocks", 1500, 1)
    found = {}
    for name, rows in (("many_rows", ray_express.ROWS_A_BLOCK), ("one_row", 1)):
        ray_express.ROWS_A_BLOCK = rows
        with server() as (url, report):
            run(work, url, strategies=("direct",))
            seen = report()
        found[name] = seen["answered"] / seen["seconds"]
    ratio = found["many_rows"] / found["one_row"]
    return {f"{name}_clips_per_s": round(value, 1) for name, value in found.items()} | {"ratio": round(ratio, 2)}


def budget(folder: Path) -> dict[str, Any]:
    work = write_work(folder / "budget", 4, 25)
    with server(latency_s=0.05) as (url, report):
        run(work, url)
        whole = report()["usd"]
    out = str(folder / "capped")
    with server(latency_s=0.05) as (url, report):
        try:
            run(work, url, out=out, max_usd=whole / 2)
            stopped = ""
        except StageError as error:
            stopped = str(error)
        spent = report()["usd"]
        summary = run(work, url, out=out, max_usd=2 * whole)
        seen = report()
    return {
        "cap_usd": round(whole / 2, 6),
        "spent_usd": round(spent, 6),
        "ratio": round(spent / (whole / 2), 4),
        "stopped": stopped,
        "then_done": summary["done"] / summary["expected"],
        "paid_twice": seen["duplicates"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the rate runs")
    parser.add_argument("--only", choices=("rate", "flight", "faults", "blocks", "budget"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        parts = {
            "rate": lambda: rate(folder, args.seconds),
            "flight": lambda: flight(folder),
            "faults": lambda: faults(folder),
            "blocks": lambda: blocks(folder),
            "budget": lambda: budget(folder),
        }
        print(json.dumps({"cores": os.cpu_count()} | {name: part() for name, part in parts.items() if args.only in (None, name)}))


if __name__ == "__main__":
    main()
