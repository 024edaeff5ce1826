"""What people decided about an annotation folder, as the stages after `review` read it: ``DIR/review/*.parquet``.

``items.parquet`` has one row an object, ``masks.parquet`` the frames that a person redrew (an empty mask: the object is not in
that frame), ``sentences.parquet`` the sentences that a person rewrote (an empty text: drop the sentence).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from egoray.core.storage import Folder
from egoray.schema import MaskRLE

ITEMS = pa.schema(
    [(name, pa.string()) for name in ("video_id", "object_id", "status", "reviewer", "time", "data_version", "note")],
)
MASKS = pa.schema(
    [
        ("video_id", pa.string()),
        ("object_id", pa.string()),
        ("frame", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("counts", pa.string()),
    ]
)
SENTENCES = pa.schema([("expression_id", pa.string()), ("text", pa.string())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewed:
    """People's verdicts: ``items[(video_id, object_id)]`` is its row, ``masks`` and ``texts`` are what they changed."""

    items: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    masks: dict[tuple[str, str], dict[int, MaskRLE]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def write_reviewed(
    folder: Folder, items: Sequence[dict[str, Any]], masks: Sequence[dict[str, Any]], sentences: Sequence[dict[str, Any]]
) -> None:
    """Replace the three tables in ``folder``; the items last, so that a reader never sees a verdict without its corrections."""
    folder.write_rows("masks.parquet", masks, MASKS)
    folder.write_rows("sentences.parquet", sentences, SENTENCES)
    folder.write_rows("items.parquet", items, ITEMS)


def read_reviewed(annotations: Folder) -> Reviewed | None:
    """The verdicts in ``annotations/review``; None where nobody has reviewed anything.

    Raises:
        FormatError: if a table cannot be read.
    """
    folder = annotations / "review"
    if not folder.exists("items.parquet"):
        return None
    found = Reviewed()
    for row in folder.read_rows(names=["items.parquet"]):
        found.items[row["video_id"], row["object_id"]] = row
    for row in folder.read_rows(names=["masks.parquet"]):
        rle = MaskRLE(size=(row["height"], row["width"]), counts=row["counts"])
        found.masks.setdefault((row["video_id"], row["object_id"]), {})[row["frame"]] = rle
    for row in folder.read_rows(names=["sentences.parquet"]):
        found.texts[row["expression_id"]] = row["text"]
    return found
