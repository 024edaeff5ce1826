"""100,000 tiny units: seconds to plan, seconds to find out what a resumed run still has to do, and the driver's memory. One JSON line.

    python benchmarks/many_units.py [--clips 11112] [--objects 9] [--left 200]

Every clip is the same file under its own name; every object has one trajectory, a unit of its own. All but ``--left`` units have
a result already, so the second figure is the scan of a resumed run; the rest is done by GrabCut on Ray.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from egoray.annotate.plan import plan_from_files
from egoray.annotate.ray_annotate import annotate
from egoray.config import AnnotateConfig
from egoray.core.storage import Folder
from egoray.core.workfolder import MASKLETS
from egoray.formats.egotracks import write_tracks
from egoray.schema import ObjectTrack, VideoInfo
from egoray.synthetic.sample import write_sample


def many_clips(folder: Path, clips: int, objects: int) -> Path:
    """``clips`` names of one short clip, and a tracks file with ``objects`` boxes in each."""
    write_sample(folder / "one", videos=1, seed=5, seconds=2, size_hw=(90, 160), fps=5)
    source = next((folder / "one" / "clips").glob("*.mp4"))
    (folder / "clips").mkdir()
    videos, tracks = [], []
    for number in range(clips):
        name = f"clip{number:06d}"
        shutil.copyfile(source, folder / "clips" / f"{name}.mp4")
        info = {"num_frames": 10, "fps": 5.0, "height_px": 90, "width_px": 160, "source": "synthetic", "stride": 1}
        videos.append(VideoInfo(video_id=name, uri="", **info))
        for k in range(objects):
            box = (5.0 + k, 5.0, 35.0 + k, 40.0)
            tracks.append(ObjectTrack(video_id=name, object_id=str(k + 1), title=f"thing {k}", boxes={k % 9: box}, size_hw=(90, 160)))
    write_tracks(folder / "tracks.json", videos, tracks, seed=0)
    return folder / "tracks.json"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=11112)
    parser.add_argument("--objects", type=int, default=9)
    parser.add_argument("--left", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ProcessPoolExecutor(1) as pool:  # what it takes to make the input is not the driver's
            tracks = pool.submit(many_clips, folder, args.clips, args.objects).result()
        config = AnnotateConfig(max_shard_frames=1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.monotonic()
        plan = plan_from_files(str(tracks), str(folder / "clips"), config)
        plan_s = time.monotonic() - started
        out = Folder(folder / "work")
        (out / "masklets").write_rows("empty.parquet", [], MASKLETS)
        empty = folder / "work" / "masklets" / "empty.parquet"
        nothing = empty.read_bytes()
        for shard in plan.shards[args.left :]:
            (folder / "work" / "masklets" / f"{shard.shard_id}.parquet").write_bytes(nothing)
        empty.unlink()
        first: list[float] = []
        started = time.monotonic()
        summary = annotate(plan, out.uri, config, progress=lambda state: first.append(time.monotonic()))
        wall_s = time.monotonic() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "benchmark": "many_units",
                "units": len(plan.shards),
                "plan_s": round(plan_s, 1),
                "resume_scan_s": round(first[0] - started, 1),
                "driver_peak_rss_mb": round(peak_mb),
                "before_planning_mb": round(before / 1024),
                "units_done_now": summary["done"] - summary["skipped"],
                "their_wall_s_with_ray": round(wall_s - (first[0] - started), 1),
            }
        )
    )


if __name__ == "__main__":
    main()
