"""A driver of its own for tests that break the cluster under it: python -m support.annotate_slowly RELEASE OUT WORKERS."""

import sys

from egoray.annotate.plan import plan_from_files
from egoray.annotate.ray_annotate import annotate
from egoray.config import AnnotateConfig
from support import trackers

if __name__ == "__main__":
    release, out, workers = sys.argv[1:]
    config = AnnotateConfig(max_shard_frames=8, workers=int(workers))
    plan = plan_from_files(f"{release}/egotracks.json", f"{release}/clips", config)
    print(annotate(plan, out, config, build=trackers.slow(0.1)))
