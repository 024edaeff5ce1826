"""What the formats of other tools are written from and read into: a video with its pictures' names, objects, masks and sentences."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

from pycocotools import mask as coco

from egoray.core.masks import area, bounding_box, from_json
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.formats.egomask import BenchmarkObject
from egoray.schema import Expression, MaskRLE


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskVideo:
    """A video of ``(height, width)`` frames at ``fps``: ``images[n]`` is the path of the frame ``frame_names[n]``.

    Paths are relative to the dataset, or to what the foreign file names them from. ``expressions`` may be empty.
    """

    video_id: str
    size_hw: tuple[int, int]
    fps: float
    frame_names: tuple[str, ...]
    images: tuple[str, ...]
    objects: tuple[BenchmarkObject, ...]
    expressions: tuple[Expression, ...] = ()


def reader(read: Callable[[str], list[MaskVideo]]) -> Callable[[str], list[MaskVideo]]:
    """Make what goes wrong inside ``read``, whatever the file held there, an error about the file."""

    @wraps(read)
    def guarded(source: str) -> list[MaskVideo]:
        try:
            return read(source)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise FormatError(f"{source}: malformed ({type(error).__name__}: {error}); is it of this format?") from error

    return guarded


def categories(videos: Sequence[MaskVideo]) -> list[str]:
    """The objects' names, each once, in alphabetical order."""
    return sorted({item.category for video in videos for item in video.objects})


def xywh(rle: MaskRLE) -> list[float]:
    """The tightest box as x, y, width, height in pixels; zeros for an empty mask."""
    x1, y1, x2, y2 = bounding_box(rle)
    return [x1, y1, x2 - x1, y2 - y1]


def read_segmentation(value: Any, size_hw: tuple[int, int], where: str) -> MaskRLE | None:
    """A mask of a COCO-like file: run lengths, whole or as a list, or polygons; None for null and for one without a pixel.

    Raises:
        FormatError: if it is none of these, or of another size.
    """
    if isinstance(value, list) and value:
        try:
            both = coco.merge(coco.frPyObjects(value, *size_hw))
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise FormatError(f"{where}: polygons that cannot be read ({error})") from error
        rle = MaskRLE(size=size_hw, counts=both["counts"].decode("ascii"))
    else:
        found = from_json(value or None, where)
        if found is None:
            return None
        rle = found
    if rle.size != size_hw:
        raise FormatError(f"{where}: a mask of {rle.size[0]} x {rle.size[1]} on a picture of {size_hw[0]} x {size_hw[1]}")
    return rle if area(rle) else None


def sentences_json(video: MaskVideo) -> Iterator[dict[str, str]]:
    """The video's sentences as plain rows, which `read_sentences` takes."""
    for e in video.expressions:
        yield {"id": e.expression_id, "video_id": video.video_id, "object_id": e.object_id, "text": e.text, "kind": e.kind}


def read_sentences(rows: Any, objects: Mapping[str, Sequence[BenchmarkObject]]) -> dict[str, tuple[Expression, ...]]:
    """Per video the sentences of a file that we wrote; where it has none, each object's name is one.

    Args:
        rows: as `sentences_json` gives them, or None.
        objects: the objects of each video.
    """
    found: dict[str, list[Expression]] = {video_id: [] for video_id in objects}
    for row in rows if isinstance(rows, list) else ():
        ids = {"video_id": str(row["video_id"]), "object_id": str(row["object_id"])}
        if ids["object_id"] in {item.object_id for item in objects.get(ids["video_id"], ())}:
            text, kind = str(row["text"]), str(row.get("kind", ""))
            found[ids["video_id"]].append(Expression(expression_id=str(row["id"]), **ids, text=text, kind=kind, source="imported"))
    for video_id, of in objects.items():
        if not found[video_id]:
            found[video_id] = [
                Expression(
                    expression_id=f"{video_id}/{item.object_id}",
                    video_id=video_id,
                    object_id=item.object_id,
                    text=item.category or f"object {item.object_id}",
                    kind="title",
                    source="imported",
                )
                for item in of
            ]
    return {video_id: tuple(of) for video_id, of in found.items()}


def objects_of(masks: Mapping[str, Mapping[str, MaskRLE]], names: Mapping[str, str]) -> tuple[BenchmarkObject, ...]:
    """Objects from their masks by id and frame, and their names by id; in the order of ``masks``."""
    return tuple(BenchmarkObject(object_id=key, category=names.get(key, ""), masks=dict(of)) for key, of in masks.items())


def by_clip(videos: Sequence[MaskVideo]) -> list[MaskVideo]:
    """The same with one video a folder of pictures, named after it: for tools that take each picture once.

    Medium clips cut from one long video share its pictures; their frames, masks and sentences come together.
    """
    together: dict[str, list[MaskVideo]] = {}
    for video in videos:
        together.setdefault(posixpath.dirname(video.images[0]), []).append(video)
    merged = []
    for folder, parts in together.items():
        frames = dict(sorted({frame: path for part in parts for frame, path in zip(part.frame_names, part.images, strict=True)}.items()))
        items: dict[str, BenchmarkObject] = {}
        for item in (item for part in parts for item in part.objects):
            before = items.get(item.object_id, item)
            items[item.object_id] = replace(before, masks={**before.masks, **item.masks})
        said = {(e.object_id, e.text): e for part in parts for e in part.expressions}
        video_id = posixpath.basename(folder)
        merged.append(
            replace(
                parts[0],
                video_id=video_id,
                frame_names=tuple(frames),
                images=tuple(frames.values()),
                objects=tuple(items.values()),
                expressions=tuple(replace(e, video_id=video_id) for e in said.values()),
            )
        )
    return merged


def locate(source: str, name: str) -> tuple[Folder, str]:
    """The folder and the file that ``source`` means: the file itself, or ``name`` in a folder."""
    if posixpath.splitext(source)[1] == posixpath.splitext(name)[1]:
        return Folder(posixpath.dirname(source) or "."), posixpath.basename(source)
    return Folder(source), name
