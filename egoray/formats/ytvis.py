"""YouTube-VIS files: an annotation a masklet, with a mask or null a frame; sentences stand beside.

``OUT/instances.json``; pictures are named from the dataset's root.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Any

from egoray.core.masks import area
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.formats.egomask_json import bare, json_object, mask_json
from egoray.formats.exchange import (
    MaskVideo,
    categories,
    locate,
    objects_of,
    read_segmentation,
    read_sentences,
    reader,
    sentences_json,
    xywh,
)
from egoray.schema import MaskRLE

FILE = "instances.json"


def write(out: Folder, videos: Sequence[MaskVideo]) -> dict[str, int]:
    """Write ``instances.json``; how many videos and masklets it has."""
    names = categories(videos)
    annotations: list[dict[str, Any]] = []
    for number, video in enumerate(videos, start=1):
        for item in video.objects:
            row = [item.masks.get(frame) for frame in video.frame_names]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": number,
                    "category_id": names.index(item.category) + 1,
                    "object_id": item.object_id,
                    "iscrowd": 0,
                    "height": video.size_hw[0],
                    "width": video.size_hw[1],
                    "length": 1,
                    "segmentations": [rle and mask_json(rle) for rle in row],
                    "bboxes": [rle and xywh(rle) for rle in row],
                    "areas": [rle and area(rle) for rle in row],
                }
            )
    document = {
        "info": {"description": "exported by egoray"},
        "videos": [
            {
                "id": n,
                "name": v.video_id,
                "height": v.size_hw[0],
                "width": v.size_hw[1],
                "fps": v.fps,
                "length": len(v.images),
                "file_names": list(v.images),
            }
            for n, v in enumerate(videos, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": n, "name": name, "supercategory": "object"} for n, name in enumerate(names, start=1)],
        "expressions": [row for video in videos for row in sentences_json(video)],
    }
    out.write_json(FILE, document)
    return {"videos": len(videos), "masklets": len(annotations)}


@reader
def read(source: str) -> list[MaskVideo]:
    """The videos of a YouTube-VIS file, or of the ``instances.json`` in a folder; objects are numbered in file order.

    Raises:
        FormatError: if it is missing or malformed; the message names the annotation.
    """
    folder, name = locate(source, FILE)
    where = f"{folder.uri}/{name}"
    document = json_object(folder.read_json(name), where)
    titles = {c["id"]: str(c["name"]) for c in document.get("categories", [])}
    entries = {v["id"]: v for v in document["videos"]}
    ids = {key: str(v.get("name") or posixpath.dirname(v["file_names"][0]).replace("/", "-") or key) for key, v in entries.items()}
    masks: dict[str, dict[str, dict[str, MaskRLE]]] = {video_id: {} for video_id in ids.values()}
    named: dict[str, dict[str, str]] = {video_id: {} for video_id in ids.values()}
    for annotation in document["annotations"]:
        entry, video_id = entries[annotation["video_id"]], ids[annotation["video_id"]]
        at = f"{where}, annotation {annotation.get('id')}"
        if len(annotation["segmentations"]) != len(entry["file_names"]):
            raise FormatError(f"{at}: {len(annotation['segmentations'])} masks for {len(entry['file_names'])} frames")
        object_id = str(annotation.get("object_id", len(masks[video_id]) + 1))
        size_hw = (int(entry["height"]), int(entry["width"]))
        row = [read_segmentation(value, size_hw, f"{at}, frame {n}") for n, value in enumerate(annotation["segmentations"])]
        frames = [_frame(path) for path in entry["file_names"]]
        masks[video_id][object_id] = {frame: rle for frame, rle in zip(frames, row, strict=True) if rle is not None}
        named[video_id][object_id] = titles.get(annotation.get("category_id"), "")
    objects = {video_id: objects_of(of, named[video_id]) for video_id, of in masks.items()}
    said = read_sentences(document.get("expressions"), objects)
    return [
        MaskVideo(
            video_id=ids[key],
            size_hw=(int(v["height"]), int(v["width"])),
            fps=float(v.get("fps", 1.0)),
            frame_names=tuple(map(_frame, v["file_names"])),
            images=tuple(v["file_names"]),
            objects=objects[ids[key]],
            expressions=said[ids[key]],
        )
        for key, v in entries.items()
    ]


def _frame(path: str) -> str:
    return bare(posixpath.basename(path))
