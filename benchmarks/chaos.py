"""Annotation while its machines die: three raylets, an actor killed every 15 s, a raylet every 120 s and replaced at once. One JSON line.

    python benchmarks/chaos.py [--minutes 10] [--calm-minutes 2]

A calm run comes first and says how many frames fill the time; throughput is frames of units over the time since the first result.
The run must end by itself with every unit done, none twice, and the same bytes as the calm run's where both did it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from itertools import accumulate
from pathlib import Path

import psutil

from egoray.annotate.plan import plan_from_files, shard_frames
from egoray.config import AnnotateConfig
from egoray.synthetic.sample import write_sample

SETTINGS = ("--set", "max_shard_frames=20")


def many_clips(folder: Path, clips: int) -> None:
    """One rendered clip under many names, with its tracks."""
    write_sample(folder / "one", videos=1, seed=77, seconds=60)
    source = next((folder / "one" / "clips").glob("*.mp4"))
    document = json.loads((folder / "one" / "egotracks.json").read_text())
    (folder / "clips").mkdir()
    text = json.dumps(document["videos"][0])
    document["videos"] = []
    for number in range(clips):
        name = f"clip{number:05d}"
        shutil.copyfile(source, folder / "clips" / f"{name}.mp4")
        document["videos"].append(json.loads(text.replace(source.stem, name)))
    (folder / "tracks.json").write_text(json.dumps(document))


def annotate(folder: Path, out: Path, *, stop_s: float | None = None, limit: int | None = None) -> dict:
    """A calm run, stopped after ``stop_s``; or one of ``limit`` units under chaos, to its end."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    cluster.wait_for_nodes()
    line = [sys.executable, "-m", "egoray.cli", "annotate", "--tracks", str(folder / "tracks.json"), "--videos", str(folder / "clips")]
    line += ["--out", str(out), "--json", *SETTINGS, *(("--limit", str(limit)) if limit else ())]
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    run = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    rng, actors, raylets = random.Random(0), 0, 0
    first = None
    try:
        while run.poll() is None:
            time.sleep(0.5)
            if first is None:
                first = time.monotonic() if any((out / "masklets").glob("*.parquet")) else None
                continue
            since = time.monotonic() - first
            if stop_s and since > stop_s:
                break
            if not limit:
                continue
            if since > 15 * (actors + 1):
                actors += 1
                if alive := [p for p in psutil.process_iter(["cmdline"]) if "UnitActor" in " ".join(p.info["cmdline"] or ())]:
                    rng.choice(alive).send_signal(signal.SIGKILL)
            if since > 120 * (raylets + 1):
                raylets += 1
                gone = nodes.pop(rng.randrange(len(nodes)))
                os.kill(gone.all_processes["raylet"][0].process.pid, signal.SIGKILL)
                cluster.remove_node(gone, allow_graceful=False)
                nodes.append(cluster.add_node(num_cpus=1))
        seconds = time.monotonic() - (first or time.monotonic())
        done = {path.stem for path in (out / "masklets").glob("*.parquet")}
        if run.poll() is None:
            run.terminate()
        text, _ = run.communicate(timeout=60)
    finally:
        cluster.shutdown()
    summary = json.loads(text.splitlines()[-1]) if limit and text.strip() else {}
    return {"seconds": seconds, "done": done, "actors": actors, "raylets": raylets, "code": run.returncode, "summary": summary}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--calm-minutes", type=float, default=2.0)
    parser.add_argument("--clips", type=int, default=400)
    args = parser.parse_args()
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many_clips(folder, args.clips)
        plan = plan_from_files(str(folder / "tracks.json"), str(folder / "clips"), AnnotateConfig(max_shard_frames=20))
        frames = {shard.shard_id: len(shard_frames(shard)) for shard in plan.shards}
        calm = annotate(folder, folder / "calm", stop_s=60 * args.calm_minutes)
        wanted = sum(frames[unit] for unit in calm["done"]) / calm["seconds"] * 60 * args.minutes
        limit = bisect_left(list(accumulate(frames.values())), wanted) + 1
        stormy = annotate(folder, folder / "stormy", limit=limit)
        rates = {key: sum(frames[unit] for unit in run["done"]) / run["seconds"] for key, run in (("calm", calm), ("stormy", stormy))}
        both = calm["done"] & stormy["done"]
        same = sum(_digest(folder / "calm", unit) == _digest(folder / "stormy", unit) for unit in both)
    counts = {key: stormy["summary"].get(key) for key in ("expected", "done", "failed")}
    print(
        json.dumps(
            {
                "benchmark": "chaos",
                "minutes": round(stormy["seconds"] / 60, 1),
                "actors_killed": stormy["actors"],
                "raylets_killed": stormy["raylets"],
                "exit_code": stormy["code"],
                **counts,
                "frames_per_s": {key: round(value, 1) for key, value in rates.items()},
                "stormy_over_calm": round(rates["stormy"] / rates["calm"], 3),
                "same_bytes_as_calm": f"{same} of {len(both)}",
            }
        )
    )


def _digest(out: Path, unit: str) -> str:
    return hashlib.sha256((out / "masklets" / f"{unit}.parquet").read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
