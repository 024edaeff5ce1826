"""RefEgo annotation files → `ObjectTrack` and `Expression`: boxes at 2 fps with two sentences an object.

Source: the released ``refego_{train,val,test}_RefCOCOstyle_fps2.json``; the file's layout is known from its documentation
and from the code that loads it, so every field that the two leave open is read leniently.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from egoray.errors import FormatError
from egoray.formats.tracks_file import Findings, TracksFile, load_json, whole
from egoray.schema import Box, Expression

FPS = 2.0
"""RefEgo's frames a second; frame f of a clip is its f-th image."""

_EXPECTED = "expected refego_<split>_RefCOCOstyle_fps2.json with images[] and annotations[]"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "RefEgo expression")


@dataclass(slots=True)
class _Object:
    """An object of a clip: its annotations in file order, and each sentence once."""

    video_id: str
    object_id: str
    annotations: list[dict[str, Any]]
    texts: tuple[str, ...]


def read_refego(path: str | os.PathLike[str]) -> TracksFile:
    """The tracks of a RefEgo file, objects in file order; boxes are xyxy float pixels of the 640 px wide images.

    - ``video_id`` is the clip's id, frames are ``img_clip_id``: 0-based positions in the clip, at 2 fps.
    - A clip's objects are told apart by ``label`` and sentences, and are numbered 1, 2, ... in file order; annotations that
      give each sentence of an object its own boxes are one object where label and boxes agree.
    - ``title`` is ``label``, or the first sentence where that is missing. ``size_hw`` is the image's, (0, 0) for unknown.
    - A frame with ``is_obj_in`` false has no box. An object without a usable box is a failure ("EmptyTrack").

    Raises:
        FormatError: if the file is missing, not JSON, or of another schema; an annotation without clip or frame is named.

    Source: RefEgo's README and loader; the key of the annotations is ``annotations`` or ``annotation``.
    """
    document = load_json(path, _EXPECTED)
    images = document.get("images")
    by_image = {str(image.get("id")): image for image in images if isinstance(image, dict)} if isinstance(images, list) else {}
    found = Findings()
    for item in _objects(document, os.fspath(path)):
        found.clip_fps[item.video_id] = FPS
        boxes: dict[int, Box] = {}
        size_hw = (0, 0)
        for annotation in item.annotations:
            image = by_image.get(str(annotation.get("image_id")), {})
            height, width = whole(image.get("height")), whole(image.get("width"))
            size_hw = (height, width) if height and width and min(height, width) > 0 else size_hw
            if not annotation.get("is_obj_in", True):
                continue
            values = annotation.get("bbox")
            if box := found.box(values if isinstance(values, list) else [], size_hw):
                found.put(boxes, annotation["img_clip_id"], box)
        label = item.annotations[0].get("label")
        title = label if isinstance(label, str) and label else next(iter(item.texts), "")
        found.add(item.video_id, item.object_id, title, boxes, size_hw)
    return found.finish()


def read_refego_expressions(path: str | os.PathLike[str]) -> list[Expression]:
    """The sentences of a RefEgo file, object by object in file order, with the ids that `read_refego` gives the objects.

    ``expression_id`` is derived from clip, object and text, so reading again gives the same; [] for a file without captions.

    Raises:
        FormatError: as `read_refego`.
    """
    return [
        Expression(
            expression_id=str(uuid.uuid5(_NAMESPACE, "\n".join((item.video_id, item.object_id, text)))),
            video_id=item.video_id,
            object_id=item.object_id,
            text=text,
            kind="caption",
            source="refego",
        )
        for item in _objects(load_json(path, _EXPECTED), os.fspath(path))
        for text in item.texts
    ]


def _objects(document: dict[str, Any], name: str) -> list[_Object]:
    """The objects of all clips in file order; a second sentence with the label and boxes of an object joins it."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[dict[str, Any]]] = {}
    for clip_id, texts, annotation in _annotations(document, name):
        groups.setdefault((clip_id, str(annotation.get("label")), texts), []).append(annotation)
    merged: dict[tuple[str, str, str], _Object] = {}
    counts: dict[str, int] = {}
    for (clip_id, label, texts), group in groups.items():
        places = repr(sorted((a["img_clip_id"], str(a.get("bbox")), bool(a.get("is_obj_in", True))) for a in group))
        known = merged.get((clip_id, label, places))
        if known:
            known.texts += tuple(text for text in texts if text not in known.texts)
            continue
        counts[clip_id] = counts.get(clip_id, 0) + 1
        merged[clip_id, label, places] = _Object(clip_id, str(counts[clip_id]), group, tuple(dict.fromkeys(texts)))
    return list(merged.values())


def _annotations(document: dict[str, Any], name: str) -> Iterator[tuple[str, tuple[str, ...], dict[str, Any]]]:
    """(clip id, sentences, annotation) in file order, each with a whole ``img_clip_id`` from 0 on."""
    annotations = document.get("annotations", document.get("annotation"))
    if not isinstance(annotations, list):
        raise FormatError(f"{name}: has no list of annotations; {_EXPECTED}")
    for n, annotation in enumerate(annotations):
        where = f"{name}: annotations[{n}]"
        if not isinstance(annotation, dict):
            raise FormatError(f"{where} is not an object; {_EXPECTED}")
        clip_id, frame, caption = (annotation.get(key) for key in ("clip_id", "img_clip_id", "caption"))
        position = whole(frame)
        if not isinstance(clip_id, str) or position is None or position < 0:
            raise FormatError(f"{where} needs a clip_id and an img_clip_id from 0 on; {_EXPECTED}")
        texts = caption if isinstance(caption, list) else [caption]
        cleaned = tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())
        yield clip_id, cleaned, annotation | {"img_clip_id": position}


def image_name(clip_id: str, frame: int) -> str:
    """The name, without extension, of the ``frame``-th image of a clip ``<video>--<first>-<count>``: images keep the video's numbers.

    Raises:
        FormatError: if the clip's name is of another form.
    """
    match = re.fullmatch(r".+--(\d+)-\d+", clip_id)
    if match is None:
        raise FormatError(f"{clip_id}: not the name of a RefEgo clip, which is <video>--<first image>-<images>")
    return f"img{int(match[1]) + frame:010d}"
