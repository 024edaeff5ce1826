"""Hugging Face `datasets`: ``data/<split>-*.parquet`` with a row a question, and the card that says which files are which split.

Columns: video_id, expression_id, object_id, category, expression, kind, height, width, fps, frames, images (paths, not
pixels), masks (``{"size": [h, w], "counts": str}`` or null, one a frame).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from egoray.core.masks import from_json
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.formats.egomask import BenchmarkObject
from egoray.formats.egomask_json import mask_json
from egoray.formats.exchange import MaskVideo, reader
from egoray.schema import Expression

_MASK = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("video_id", "expression_id", "object_id", "category", "expression", "kind")),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("fps", pa.float64()),
        ("frames", pa.list_(pa.string())),
        ("images", pa.list_(pa.string())),
        ("masks", pa.list_(_MASK)),
    ]
)
ROWS_A_FILE = 1000


def write(out: Folder, splits: Mapping[str, Sequence[MaskVideo]]) -> dict[str, int]:
    """Write each split's Parquet files and the card; how many rows each split has."""
    counts = {}
    for split, videos in splits.items():
        rows = [row for video in videos for row in _rows(video)]
        parts = max(1, -(-len(rows) // ROWS_A_FILE))
        for n in range(parts):
            part = rows[n * ROWS_A_FILE : (n + 1) * ROWS_A_FILE]
            out.write_rows(f"data/{split}-{n:05d}-of-{parts:05d}.parquet", part, SCHEMA)
        counts[split] = len(rows)
    out.write_bytes("README.md", _card(counts).encode())
    return counts


def _rows(video: MaskVideo) -> Iterator[dict[str, Any]]:
    """One a sentence, and one with no expression for an object that has none, so that no mask is lost."""
    for item in video.objects:
        masks = [rle and mask_json(rle) for rle in map(item.masks.get, video.frame_names)]
        said = [e for e in video.expressions if e.object_id == item.object_id]
        questions: list[Expression | None] = [*said] or [None]
        for e in questions:
            yield {
                "video_id": video.video_id,
                "expression_id": e.expression_id if e else None,
                "object_id": item.object_id,
                "category": item.category,
                "expression": e.text if e else None,
                "kind": e.kind if e else None,
                "height": video.size_hw[0],
                "width": video.size_hw[1],
                "fps": video.fps,
                "frames": list(video.frame_names),
                "images": list(video.images),
                "masks": masks,
            }


@reader
def read(source: str) -> list[MaskVideo]:
    """The videos of all Parquet files in ``source/data``, or in ``source``; those of one split where only its files are there.

    Raises:
        FormatError: if there is none, or a row lacks a column or has a malformed mask.
    """
    folder = Folder(source) / "data" if (Folder(source) / "data").names(".parquet") else Folder(source)
    names = folder.names(".parquet")
    if not names:
        raise FormatError(f"{source}: no data/*.parquet; give the folder of a Hugging Face data set")
    videos: dict[str, dict[str, Any]] = {}
    objects: dict[str, dict[str, BenchmarkObject]] = {}
    said: dict[str, list[Expression]] = {}
    for row in folder.read_rows(names=names):
        try:
            video_id, object_id = row["video_id"], row["object_id"]
            where = f"{folder.uri}, {video_id}/{object_id}"
            videos.setdefault(video_id, row)
            if len(row["masks"]) != len(row["frames"]):
                raise FormatError(f"{where}: {len(row['masks'])} masks for {len(row['frames'])} frames")
            if object_id not in objects.setdefault(video_id, {}):
                read = {frame: from_json(value, where) for frame, value in zip(row["frames"], row["masks"], strict=True)}
                masks = {frame: rle for frame, rle in read.items() if rle is not None}
                objects[video_id][object_id] = BenchmarkObject(object_id=object_id, category=row["category"], masks=masks)
            if row["expression"] is not None:
                ids = {"expression_id": row["expression_id"], "video_id": video_id, "object_id": object_id}
                said.setdefault(video_id, []).append(Expression(**ids, text=row["expression"], kind=row["kind"], source="imported"))
        except KeyError as error:
            raise FormatError(f"{folder.uri}: has no column {error}; expected {', '.join(SCHEMA.names)}") from error
    return [
        MaskVideo(
            video_id=video_id,
            size_hw=(row["height"], row["width"]),
            fps=row["fps"],
            frame_names=tuple(row["frames"]),
            images=tuple(row["images"]),
            objects=tuple(objects[video_id].values()),
            expressions=tuple(said.get(video_id, ())),
        )
        for video_id, row in videos.items()
    ]


def _card(counts: Mapping[str, int]) -> str:
    files = "".join(f"  - split: {split}\n    path: data/{split}-*.parquet\n" for split in counts)
    table = "".join(f"| {split} | {rows:,} |\n" for split, rows in counts.items())
    return f"""---
license: other
task_categories: [mask-generation, image-segmentation]
tags: [egocentric, video, referring-expressions]
configs:
- config_name: default
  data_files:
{files}---

# Spatiotemporal grounding on egocentric video

A row is a sentence and the masks of the object that it means: `masks[n]`, null where the object is absent, belongs to
`frames[n]`. `pycocotools.mask.decode` reads a mask. The pictures are not inside: `images[n]` is the path of each, relative to
the dataset's folder; get them with your own Ego4D licence.

| split | rows |
|---|---|
{table}"""
