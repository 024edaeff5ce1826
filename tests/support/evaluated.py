"""A finished evaluation over rendered clips: made-up answers of each kind of failure, and rows counted on dense masks."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from egoray.core.masks import decode, encode
from egoray.core.storage import Folder
from egoray.formats.egomask import read_gold, read_items, read_prediction, write_prediction
from egoray.schema import GroundingItem, MaskRLE
from egoray.synthetic.sample import write_sample

MEASURED = ("T_recall", "T_precision", "IoU_all", "IoU_gold", "IoU_gold_pred", "J", "F", "J&F", "detection_flag")
ANSWERS = ("exact", "nothing", "shifted", "eroded", "everywhere")


def answer(kind: str, gold: dict[str, MaskRLE], item: GroundingItem) -> dict[str, MaskRLE]:
    """Masks of one kind: right, absent, beside the object, inside it, or a fixed corner in every frame."""
    if kind in ("exact", "nothing"):
        return gold if kind == "exact" else {}
    dense = {frame: decode(rle) for frame, rle in gold.items()}
    if kind == "shifted":
        return {frame: encode(np.roll(mask, mask.shape[1] // 2, axis=1)) for frame, mask in dense.items()}
    if kind == "eroded":
        return {frame: encode(mask & (np.arange(mask.shape[0])[:, None] % 4 > 1)) for frame, mask in dense.items()}
    corner = np.zeros(next(iter(dense.values())).shape, dtype=bool)
    corner[:10, :10] = True
    return dict.fromkeys(item.frame_names, encode(corner))


def measure(item: GroundingItem, gold: dict[str, MaskRLE], predicted: dict[str, MaskRLE]) -> dict[str, Any]:
    """A row, on dense masks, frame by frame."""
    ious, areas = {}, []
    for frame in item.frame_names:
        g, p = (decode(masks[frame]) if frame in masks else None for masks in (gold, predicted))
        if g is not None and p is not None:
            ious[frame] = float((g & p).sum() / (g | p).sum())
        if g is not None:
            areas.append(g.mean())
    either, both = gold.keys() | predicted.keys(), gold.keys() & predicted.keys()
    total = sum(ious.values())
    j = (total + len(item.frame_names) - len(either)) / len(item.frame_names)
    return {
        **{name: getattr(item, name) for name in ("video_id", "expression_id", "object_id", "text", "tier")},
        "T_recall": len(both) / len(gold),
        "T_precision": len(both) / len(predicted) if predicted else None,
        "IoU_all": j,
        "IoU_gold": total / len(gold),
        "IoU_gold_pred": total / len(either),
        "J": j,
        "F": j,
        "J&F": j,
        "detection_flag": float(bool(both)),
        "gold_area": float(np.mean(areas)),
        "presence": len(gold) / len(item.frame_names),
        "num_frames": len(item.frame_names),
        "num_gold": len(gold),
        "num_pred": len(predicted),
        "num_both": len(both),
    }


def write_evaluation(out: Path, dataset: str, predictions: str, split: str) -> str:
    """The work folder of an evaluation of these predictions; its path."""
    rows = []
    for item in read_items(dataset, split):
        rows.append(measure(item, read_gold(dataset, item), read_prediction(predictions, split, item) or {}))
    write_rows(out, rows)
    areas = {"area under 1 %": [], "area 1 % and over": []}
    for row in rows:
        areas["area under 1 %" if row["gold_area"] < 0.01 else "area 1 % and over"].append(row)
    slices = {name: means(found) for name, found in areas.items() if found}
    summary = {"split": split, "num_expressions": len(rows), "metrics": means(rows), "slices": slices}
    Folder(out).write_json("summary.json", summary)
    Folder(out).write_json("run.json", {"config": {"dataset": dataset, "predictions": predictions, "split": split}})
    return os.fspath(out)


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
    values = {metric: [row[metric] for row in rows if row[metric] is not None] for metric in MEASURED}
    return {metric: float(np.mean(found)) for metric, found in values.items() if found}


def write_rows(out: Path, rows: list[dict[str, Any]]) -> str:
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), out / "rows.parquet")
    return os.fspath(out)


def write_evaluated(
    folder: Path,
    *,
    split: str = "long",
    answers: tuple[str, ...] = ANSWERS,
    videos: int = 2,
    seconds: float = 10,
    size: tuple[int, int] = (72, 128),
) -> str:
    """``folder/truth``, ``folder/predictions`` with the kinds of answers in turn, and ``folder/evaluation``, whose path is returned."""
    write_sample(folder, videos=videos, seed=3, seconds=seconds, size_hw=size, tier="long", workers=1)
    dataset, predictions = str(folder / "truth"), str(folder / "predictions")
    for number, item in enumerate(read_items(dataset, split)):
        masks = answer(answers[number % len(answers)], read_gold(dataset, item), item)
        write_prediction(predictions, split, item, masks)
    Folder(predictions).write_json("summary.json", {"frames_per_s": 3.25})
    return write_evaluation(folder / "evaluation", dataset, predictions, split)
