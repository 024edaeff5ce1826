"""SA-V's JSON: a file a video, ``masklet[k][object]`` on every fourth frame, a mask of no area where the object is absent.

``<video>_manual.json``. The k-th of our frames is SA-V's frame 4k. Names of frames, objects and sentences stand beside.
"""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Sequence
from typing import Any

import numpy as np

from egoray.core.masks import area, encode
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.formats.egomask_json import json_object, mask_json, path_part
from egoray.formats.exchange import MaskVideo, objects_of, read_segmentation, read_sentences, reader, sentences_json
from egoray.schema import MaskRLE

EVERY = 4
"""SA-V's frames to one annotated frame."""
_SMALL_PX, _MEDIUM_PX = 32**2, 96**2


def write(out: Folder, videos: Sequence[MaskVideo]) -> dict[str, int]:
    """Write a file a video; how many videos and masklets."""
    for video in videos:
        out.write_json(f"{path_part(video.video_id, out.uri)}_manual.json", _as_json(video))
    return {"videos": len(videos), "masklets": sum(len(video.objects) for video in videos)}


def picture(video: MaskVideo, n: int) -> str:
    """Where SA-V's loaders look for the picture of the n-th annotated frame."""
    return f"JPEGImages_24fps/{video.video_id}/{EVERY * n:05d}.jpg"


def _as_json(video: MaskVideo) -> dict[str, Any]:
    nothing = encode(np.zeros(video.size_hw, bool))
    rows = [[item.masks.get(frame, nothing) for item in video.objects] for frame in video.frame_names]
    height, width = video.size_hw
    sizes = [[area(row[n]) for row in rows] for n in range(len(video.objects))]
    means = [float(np.mean([s for s in of if s])) if any(of) else 0.0 for of in sizes]
    seen = [[s > 0 for s in of] for of in sizes]
    return {
        "video_id": video.video_id,
        "video_duration": len(video.frame_names) / video.fps,
        "video_frame_count": float(EVERY * len(video.frame_names)),
        "video_height": float(height),
        "video_width": float(width),
        "video_resolution": float(height * width),
        "video_environment": "",
        "video_split": "",
        "masklet": [[mask_json(rle) for rle in row] for row in rows],
        "masklet_id": list(range(len(video.objects))),
        "masklet_size_rel": [mean / (height * width) for mean in means],
        "masklet_size_abs": means,
        "masklet_size_bucket": ["small" if m < _SMALL_PX else "medium" if m < _MEDIUM_PX else "large" for m in means],
        "masklet_visibility_changes": [sum(a != b for a, b in itertools.pairwise(of[of.index(True) :])) if any(of) else 0 for of in seen],
        "masklet_first_appeared_frame": [float(of.index(True)) if any(of) else 0.0 for of in seen],
        "masklet_frame_count": [len(video.frame_names)] * len(video.objects),
        "masklet_edited_frame_count": [0] * len(video.objects),
        "masklet_type": ["manual"] * len(video.objects),
        "masklet_stability_score": [None] * len(video.objects),
        "masklet_num": len(video.objects),
        "frame_names": list(video.frame_names),
        "frame_files": list(video.images),
        "objects": [{"object_id": item.object_id, "category": item.category} for item in video.objects],
        "expressions": list(sentences_json(video)),
    }


@reader
def read(source: str) -> list[MaskVideo]:
    """The videos of a file, or of all ``*_manual.json`` (else ``*_auto.json``) in a folder; empty masks are left out.

    Without names of its own, frame k is ``%05d`` of 4k and object n its ``masklet_id`` plus one.

    Raises:
        FormatError: if there is none, or one is malformed; the message names it.
    """
    if source.endswith(".json"):
        folder, names = Folder(posixpath.dirname(source) or "."), [posixpath.basename(source)]
    else:
        folder = Folder(source)
        names = folder.names("_manual.json") or folder.names("_auto.json")
    if not names:
        raise FormatError(f"{source}: no *_manual.json or *_auto.json; give a SA-V file, or a folder of them")
    return [_read(folder, name) for name in names]


def _read(folder: Folder, name: str) -> MaskVideo:
    where = f"{folder.uri}/{name}"
    document = json_object(folder.read_json(name), where)
    try:
        video_id = path_part(str(document["video_id"]), where)
        size_hw = (int(document["video_height"]), int(document["video_width"]))
        rows, ids = document["masklet"], document["masklet_id"]
        listed = document.get("objects") or [{"object_id": str(int(n) + 1), "category": ""} for n in ids]
        frames = tuple(document.get("frame_names") or (f"{EVERY * k:05d}" for k in range(len(rows))))
        if len(frames) != len(rows) or any(len(row) != len(ids) for row in rows):
            raise FormatError(f"{where}: masklet is not a mask for each of {len(frames)} frames and {len(ids)} objects")
        masks: dict[str, dict[str, MaskRLE]] = {str(of["object_id"]): {} for of in listed}
        for frame, row in zip(frames, rows, strict=True):
            for of, value in zip(listed, row, strict=True):
                rle = read_segmentation(value, size_hw, f"{where}, frame {frame}, object {of['object_id']}")
                if rle is not None:
                    masks[str(of["object_id"])][frame] = rle
        objects = objects_of(masks, {str(of["object_id"]): str(of["category"]) for of in listed})
        duration = float(document.get("video_duration") or 0)
        return MaskVideo(
            video_id=video_id,
            size_hw=size_hw,
            fps=len(rows) / duration if duration else 24 / EVERY,
            frame_names=frames,
            images=tuple(document.get("frame_files") or (f"JPEGImages_24fps/{video_id}/{frame}.jpg" for frame in frames)),
            objects=objects,
            expressions=read_sentences(document.get("expressions"), {video_id: objects})[video_id],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{where}: not a SA-V file ({type(error).__name__}: {error})") from error
