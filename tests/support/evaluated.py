"""A finished evaluation over rendered clips: made-up answers of each kind of failure."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from egoray.config import EvaluateConfig
from egoray.core.masks import decode, encode
from egoray.core.storage import Folder
from egoray.evaluate.run import evaluate
from egoray.formats.egomask import read_gold, read_items, write_prediction
from egoray.schema import GroundingItem, MaskRLE
from egoray.synthetic.sample import write_sample

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
        gold = read_gold(dataset, item)
        masks = answer(answers[number % len(answers)], gold, item)
        detection = {"frame_idx": 0, "frame_name": next(iter(masks), item.frame_names[0]), "labels": [], "input_boxes": [0, 0, 9, 9]}
        write_prediction(predictions, split, item, masks, detection)
    Folder(predictions).write_json(f"work/{split}/summary.json", {"frames_per_s": 3.25})
    evaluate(dataset, split, predictions, str(folder / "evaluation"), EvaluateConfig())
    return str(folder / "evaluation")
