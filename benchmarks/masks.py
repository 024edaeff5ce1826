"""How good the masks of `--model grabcut` are on a fresh sample, beside the box itself and the ellipse in it. Prints one JSON line.

    python benchmarks/masks.py [--seed N] [--videos 6]

IoU_gold is the mean over objects of the mean over gold frames; "pierced_or_bent" are the objects whose outline is holed or not
convex (mugs, scissors, keys, ...). Every clip has hands that hide things.
"""

from __future__ import annotations

import argparse
import json
import tempfile

import numpy as np

from egoray.annotate.plan import plan_from_files
from egoray.annotate.ray_annotate import annotate
from egoray.config import AnnotateConfig
from egoray.evaluate.scores import score
from egoray.synthetic.sample import write_sample

CONVEX = ("bottle", "can", "box", "bowl", "plate", "book")
COLUMNS = ("iou_gold", "iou_gold_pred", "box_fill_iou_gold", "ellipse_iou_gold")


def means(rows: list[dict]) -> dict[str, float | int]:
    scored = [row for row in rows if row["iou_gold"] is not None]
    return {"objects": len(scored)} | {c: round(float(np.mean([row[c] for row in scored])), 4) for c in COLUMNS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=90417)
    parser.add_argument("--videos", type=int, default=6)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_sample(f"{folder}/sample", videos=args.videos, seed=args.seed)
        config = AnnotateConfig()
        plan = plan_from_files(f"{folder}/sample/egotracks.json", f"{folder}/sample/clips", config)
        annotate(plan, f"{folder}/work", config)
        rows = score(f"{folder}/sample/truth", f"{folder}/work", "medium")["rows"]
    bent = [row for row in rows if not row["title"].endswith(CONVEX)]
    print(json.dumps({"seed": args.seed, "all": means(rows), "pierced_or_bent": means(bent)}))


if __name__ == "__main__":
    main()
