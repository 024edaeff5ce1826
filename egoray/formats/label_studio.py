"""Label Studio: ``tasks.json``, a task a frame with a brush region a mask, in Label Studio's own bit-packed run lengths.

Its code packs the RGBA pixels, row by row, all four bytes of a pixel alike: 32 bits for their number, 5 for the word's size
less 1, four times 4 for the sizes of lengths less 1; then for each run a 1, 2 bits that choose a size, the length less 1,
and the word. A 0 in place of the 1 starts that many words written out.
"""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from egoray.core.masks import Mask, decode, encode
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.formats.egomask_json import bare
from egoray.formats.exchange import MaskVideo, categories, locate, objects_of, read_sentences, reader, sentences_json
from egoray.schema import MaskRLE

FILE = "tasks.json"
PREFIX = "/data/local-files/?d="
"""Where a Label Studio with local storage serves the dataset's pictures."""
_SIZES = (3, 4, 8, 16)
_WORD, _CHANNELS = 8, 4


def write(out: Folder, videos: Sequence[MaskVideo]) -> dict[str, int]:
    """Write ``tasks.json`` and ``config.xml``, the labelling interface; how many tasks and regions."""
    tasks: list[dict[str, Any]] = []
    regions = 0
    for video in videos:
        height, width = video.size_hw
        said = list(sentences_json(video))
        for frame, path in zip(video.frame_names, video.images, strict=True):
            result = [
                {
                    "id": f"{item.object_id}",
                    "type": "brushlabels",
                    "from_name": "label",
                    "to_name": "image",
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "value": {"format": "rle", "rle": pack(decode(rle)), "brushlabels": [item.category or "object"]},
                    "meta": {"text": [item.object_id]},
                }
                for item in video.objects
                if (rle := item.masks.get(frame))
            ]
            regions += len(result)
            known = {"video_id": video.video_id, "frame": frame, "fps": video.fps, "expressions": said}
            size = {"height": height, "width": width}
            tasks.append({"data": {"image": f"{PREFIX}{path}", **known, **size}, "annotations": [{"result": result}]})
    out.write_json(FILE, tasks)
    labels = "".join(f'    <Label value="{_quoted(name or "object")}"/>\n' for name in categories(videos))
    interface = (
        f'<View>\n  <Image name="image" value="$image"/>\n  <BrushLabels name="label" toName="image">\n{labels}  </BrushLabels>\n</View>\n'
    )
    out.write_bytes("config.xml", interface.encode())
    return {"tasks": len(tasks), "regions": regions}


@reader
def read(source: str) -> list[MaskVideo]:
    """The videos of a file of tasks (an export too), or of the ``tasks.json`` in a folder; brush regions only.

    A task's video is ``data.video_id``, else the folder of its picture; a region's object is its first ``meta.text``.

    Raises:
        FormatError: if it is missing or malformed, or a region says no object.
    """
    folder, name = locate(source, FILE)
    where = f"{folder.uri}/{name}"
    tasks = folder.read_json(name)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks):
        raise FormatError(f"{where}: expected a list of tasks, each with data")
    videos: dict[str, dict[str, Any]] = {}
    for n, task in enumerate(tasks):
        data, at = task["data"], f"{where}, task {n}"
        try:
            path = _path(str(data["image"]))
            frame = str(data.get("frame") or bare(posixpath.basename(path)))
            video_id = str(data.get("video_id") or posixpath.basename(posixpath.dirname(path)) or "video")
            entry = videos.setdefault(video_id, {"frames": {}, "masks": {}, "names": {}, "data": data, "size": None})
            entry["frames"][frame] = path
            if "height" in data:
                entry["size"] = (int(data["height"]), int(data["width"]))
            for region in itertools.chain.from_iterable(a.get("result", []) for a in task.get("annotations", [])[:1]):
                if region.get("type") != "brushlabels":
                    continue
                text = region.get("meta", {}).get("text") or [""]
                object_id = str(text[0] if isinstance(text, list) else text)
                if not object_id:
                    raise FormatError(f"{at}: a region without its object's number; write it into the region's text (Info, Meta)")
                size_hw = (int(region["original_height"]), int(region["original_width"]))
                entry["size"] = size_hw
                mask = unpack(region["value"]["rle"], size_hw, at)
                if mask.any():
                    entry["masks"].setdefault(object_id, {})[frame] = encode(mask)
                    entry["names"].setdefault(object_id, str(region["value"]["brushlabels"][0]))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise FormatError(f"{at}: malformed ({type(error).__name__}: {error})") from error
    found = []
    for video_id, entry in videos.items():
        if entry["size"] is None:
            raise FormatError(f"{where}: nothing says how large the pictures of {video_id} are; it has no mask")
        masks: dict[str, dict[str, MaskRLE]] = entry["masks"]
        objects = objects_of(masks, entry["names"])
        found.append(
            MaskVideo(
                video_id=video_id,
                size_hw=entry["size"],
                fps=float(entry["data"].get("fps", 1.0)),
                frame_names=tuple(entry["frames"]),
                images=tuple(entry["frames"].values()),
                objects=objects,
                expressions=read_sentences(entry["data"].get("expressions"), {video_id: objects})[video_id],
            )
        )
    return found


def pack(mask: Mask) -> list[int]:
    """The ``(H, W)`` mask as the bytes of Label Studio's code, 255 for inside."""
    flat = mask.ravel()
    bits = [f"{flat.size * _CHANNELS:032b}", f"{_WORD - 1:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    for start, stop in itertools.pairwise(edges):
        left, word = (stop - start) * _CHANNELS, "1" * _WORD if flat[start] else "0" * _WORD
        while left:
            length = min(left, 1 << _SIZES[-1])
            choice = next(n for n, size in enumerate(_SIZES) if length <= 1 << size)
            bits.append(f"1{choice:02b}{length - 1:0{_SIZES[choice]}b}{word}")
            left -= length
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def unpack(rle: Sequence[int], size_hw: tuple[int, int], where: str) -> Mask:
    """The ``(H, W)`` mask of Label Studio's bytes: where the alpha of a pixel is above 127.

    Raises:
        FormatError: if the bytes end early, or hold another number of pixels.
    """
    text = "".join(f"{byte:08b}" for byte in rle)
    place = 0

    def number(size: int) -> int:
        nonlocal place
        if place + size > len(text):
            raise FormatError(f"{where}: the run lengths of a brush end early")
        value = int(text[place : place + size], 2)
        place += size
        return value

    total, word = number(32), number(5) + 1
    sizes = [number(4) + 1 for _ in range(4)]
    if total != size_hw[0] * size_hw[1] * _CHANNELS:
        raise FormatError(f"{where}: a brush of {total} bytes on a picture of {size_hw[0]} x {size_hw[1]}")
    out = np.zeros(total, np.uint8)
    at = 0
    while at < total:
        repeated, length = number(1), number(sizes[number(2)]) + 1
        if repeated:
            out[at : at + length] = number(word)
        else:
            for n in range(at, min(at + length, total)):
                out[n] = number(word)
        at += length
    return out.reshape(*size_hw, _CHANNELS)[..., 3] > 127


def _path(url: str) -> str:
    """The picture's path, from the ``d`` of a local file's address, or from the address itself."""
    parts = urlsplit(url)
    return parse_qs(parts.query).get("d", [parts.path])[0].lstrip("/")


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
