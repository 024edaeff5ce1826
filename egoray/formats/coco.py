"""COCO instance files: a picture a frame, an annotation a mask; videos and tracks stand beside, as CocoVID has them.

``OUT/labels.json``; pictures are named from the dataset's root. A file of other origin reads if each annotation has a
``track_id`` (or ``instance_id``, ``object_id``) and each picture a ``video_id``, or a folder of its own for each video.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
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

FILE = "labels.json"
_TRACK_KEYS = ("track_id", "instance_id", "object_id")


def write(out: Folder, videos: Sequence[MaskVideo]) -> dict[str, int]:
    """Write ``labels.json``; how many images and annotations it has."""
    document = as_json(videos)
    out.write_json(FILE, document)
    return {key: len(document[key]) for key in ("images", "annotations")}


def as_json(videos: Sequence[MaskVideo]) -> dict[str, Any]:
    """The document: images, annotations with compressed run lengths, categories, and beside them videos and expressions."""
    names = categories(videos)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, video in enumerate(videos, start=1):
        height, width = video.size_hw
        for n, (frame, path) in enumerate(zip(video.frame_names, video.images, strict=True)):
            images.append({"id": len(images) + 1, "file_name": path, "height": height, "width": width, "video_id": number, "frame_id": n})
            for item in video.objects:
                if rle := item.masks.get(frame):
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": len(images),
                            "category_id": names.index(item.category) + 1,
                            "segmentation": mask_json(rle),
                            "area": area(rle),
                            "bbox": xywh(rle),
                            "iscrowd": 0,
                            "video_id": number,
                            "track_id": item.object_id,
                        }
                    )
    return {
        "info": {"description": "exported by egoray"},
        "videos": [
            {"id": n, "name": v.video_id, "height": v.size_hw[0], "width": v.size_hw[1], "fps": v.fps}
            for n, v in enumerate(videos, start=1)
        ],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": n, "name": name, "supercategory": "object"} for n, name in enumerate(names, start=1)],
        "expressions": [row for video in videos for row in sentences_json(video)],
    }


@reader
def read(source: str) -> list[MaskVideo]:
    """The videos of a COCO file (or of the ``labels.json`` in a folder), pictures in the order of their names.

    Raises:
        FormatError: if it is missing or malformed, or nothing says which masks are one object.
    """
    folder, name = locate(source, FILE)
    where = f"{folder.uri}/{name}"
    document = json_object(folder.read_json(name), where)
    names = {c["id"]: str(c.get("name", "")) for c in _rows(document, "categories", where)}
    known = {v["id"]: v for v in _rows(document, "videos", where)} if "videos" in document else {}
    images: dict[Any, dict[str, Any]] = {}
    of_video: dict[str, list[dict[str, Any]]] = {}
    for image in _rows(document, "images", where, ("id", "file_name", "height", "width")):
        images[image["id"]] = image
        entry = known.get(image.get("video_id"))
        video_id = str(entry["name"]) if entry else posixpath.basename(posixpath.dirname(image["file_name"])) or "video"
        image["in"] = video_id
        of_video.setdefault(video_id, []).append(image)
    masks: dict[str, dict[str, dict[str, MaskRLE]]] = {}
    titles: dict[tuple[str, str], str] = {}
    for n, annotation in enumerate(_rows(document, "annotations", where, ("image_id", "segmentation"))):
        at = f"{where}, annotation {annotation.get('id', n)}"
        image = images.get(annotation["image_id"], {})
        if not image:
            raise FormatError(f"{at}: is on image {annotation['image_id']}, which is not listed")
        track = next((str(annotation[key]) for key in _TRACK_KEYS if annotation.get(key) is not None), None)
        if track is None:
            raise FormatError(f"{at}: no track_id, so nothing says which masks are one object; number the objects of each video")
        rle = read_segmentation(annotation["segmentation"], (int(image["height"]), int(image["width"])), at)
        if rle is not None:
            masks.setdefault(image["in"], {}).setdefault(track, {})[_frame(image)] = rle
            titles.setdefault((image["in"], track), names.get(annotation.get("category_id"), ""))
    objects = {v: objects_of(masks.get(v, {}), {t: name for (video_id, t), name in titles.items() if video_id == v}) for v in of_video}
    said = read_sentences(document.get("expressions"), objects)
    by_name = {str(v["name"]): v for v in known.values()}
    videos = []
    for video_id, pictures in of_video.items():
        pictures.sort(key=lambda image: (image.get("frame_id", 0), image["file_name"]))
        videos.append(
            MaskVideo(
                video_id=video_id,
                size_hw=(int(pictures[0]["height"]), int(pictures[0]["width"])),
                fps=float(by_name.get(video_id, {}).get("fps", 1.0)),
                frame_names=tuple(map(_frame, pictures)),
                images=tuple(image["file_name"] for image in pictures),
                objects=objects[video_id],
                expressions=said[video_id],
            )
        )
    return videos


def _frame(image: dict[str, Any]) -> str:
    return bare(posixpath.basename(image["file_name"]))


def _rows(document: dict[str, Any], key: str, where: str, needed: Iterable[str] = ("id",)) -> list[dict[str, Any]]:
    rows = document.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise FormatError(f"{where}: expected a list of objects in {key!r}")
    for n, row in enumerate(rows):
        if lacking := [name for name in needed if name not in row]:
            raise FormatError(f"{where}: {key}[{n}] has no {lacking[0]!r}")
    return rows
