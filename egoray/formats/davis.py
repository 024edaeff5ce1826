"""DAVIS-2017's folders: a palette PNG a frame in which a pixel's number is its object, 0 for none.

``Annotations/480p/<video>/<frame>.png``, ``JPEGImages/480p/<video>/<frame>.jpg``, ``ImageSets/2017/<set>.txt``. Objects
cannot overlap: where two do, the smaller one shows. ``objects.json`` keeps ids, names and sentences, which DAVIS has not.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from egoray.core.masks import area, decode, encode
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.formats.egomask_json import json_object, path_part
from egoray.formats.exchange import MaskVideo, objects_of, read_sentences, reader, sentences_json
from egoray.formats.png import read_png
from egoray.schema import MaskRLE

MOST, VOID = 254, 255
_ANNOTATIONS, _LIST, _OBJECTS = "Annotations/480p", "ImageSets/2017/val.txt", "objects.json"


def write(out: Folder, videos: Sequence[MaskVideo]) -> dict[str, int]:
    """Write the folders, without pictures; how many PNGs, and how many pixels an overlap hid.

    Raises:
        FormatError: if a video has more than 254 objects.
    """
    frames = hidden = 0
    known = {}
    for video in videos:
        if len(video.objects) > MOST:
            raise FormatError(f"{video.video_id}: {len(video.objects)} objects, but a palette PNG holds {MOST}; choose another format")
        for frame in video.frame_names:
            numbers = np.zeros(video.size_hw, np.uint8)
            here = [(area(rle), n, rle) for n, item in enumerate(video.objects, start=1) if (rle := item.masks.get(frame))]
            for _, n, rle in sorted(here, key=lambda one: (-one[0], one[1])):
                numbers[decode(rle)] = n
            hidden += sum(size for size, _, _ in here) - int((numbers > 0).sum())
            out.write_bytes(f"{_ANNOTATIONS}/{path_part(video.video_id, out.uri)}/{path_part(frame, out.uri)}.png", _palette_png(numbers))
            frames += 1
        ids = {str(n): {"object_id": item.object_id, "category": item.category} for n, item in enumerate(video.objects, start=1)}
        known[video.video_id] = {"objects": ids, "fps": video.fps, "expressions": list(sentences_json(video))}
    out.write_bytes(_LIST, "".join(f"{video.video_id}\n" for video in videos).encode())
    out.write_json(_OBJECTS, known)
    return {"pngs": frames, "overlapping_pixels": hidden}


def picture(video: MaskVideo, n: int) -> str:
    """Where DAVIS' loaders look for the picture of the n-th frame."""
    return f"JPEGImages/480p/{video.video_id}/{video.frame_names[n]}.jpg"


@reader
def read(source: str) -> list[MaskVideo]:
    """The videos of a DAVIS folder; object n is the palette's number n, or what ``objects.json`` calls it.

    Raises:
        FormatError: if there is no video, or a PNG cannot be read.
    """
    folder = Folder(source)
    at = next((place for place in (_ANNOTATIONS, "Annotations/Full-Resolution", "Annotations") if (folder / place).folders()), None)
    if at is None:
        raise FormatError(f"{source}: no {_ANNOTATIONS}/<video>/*.png; give a folder in DAVIS' layout")
    known = json_object(folder.read_json(_OBJECTS), _OBJECTS) if folder.exists(_OBJECTS) else {}
    pictures_at = at.replace("Annotations", "JPEGImages")
    videos = []
    for video_id in (folder / at).folders():
        entry = known.get(video_id, {})
        listed = entry.get("objects", {})
        masks: dict[str, dict[str, MaskRLE]] = {str(of["object_id"]): {} for of in listed.values()}
        names = {str(of["object_id"]): str(of["category"]) for of in listed.values()}
        frames = [name.removesuffix(".png") for name in (folder / at / video_id).names(".png")]
        size_hw = (0, 0)
        for frame in frames:
            numbers = read_png(folder, f"{at}/{video_id}/{frame}.png")
            size_hw = numbers.shape
            for n in sorted(set(np.unique(numbers).tolist()) - {0, VOID}):
                object_id = str(listed.get(str(n), {}).get("object_id", n))
                masks.setdefault(object_id, {})[frame] = encode(numbers == n)
        objects = objects_of(masks, names)
        videos.append(
            MaskVideo(
                video_id=video_id,
                size_hw=size_hw,
                fps=float(entry.get("fps", 1.0)),
                frame_names=tuple(frames),
                images=tuple(f"{pictures_at}/{video_id}/{frame}.jpg" for frame in frames),
                objects=objects,
                expressions=read_sentences(entry.get("expressions"), {video_id: objects})[video_id],
            )
        )
    return videos


def _palette_png(numbers: np.ndarray) -> bytes:
    picture = Image.fromarray(numbers)
    picture.putpalette(_palette())
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return data.getvalue()


def _palette() -> list[int]:
    """PASCAL VOC's colours: the bits of n dealt in turn to red, green and blue, from the highest bit down."""
    colours = []
    for n in range(256):
        rgb = [0, 0, 0]
        for bit in range(8):
            rgb[bit % 3] |= (n >> bit & 1) << (7 - bit // 3)
        colours += rgb
    return colours
