"""The JSON inside EgoMask's files, read with all its known spellings; each malformed value is named by file and place."""

from __future__ import annotations

import ast
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from egoray.core.masks import area, from_json
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.schema import Expression, MaskRLE

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "EgoMask expression")
_ORIGIN = ("kind", "source", "model", "prompt_version")


def path_part(name: str, where: str) -> str:
    """``name``, which is one step of a path.

    Raises:
        FormatError: if it is empty or would lead elsewhere ("..", "/", "\\\\").
    """
    if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
        raise FormatError(f"{where}: {name!r} cannot be the name of a file or folder")
    return name


def json_object(value: Any, where: str) -> dict[str, Any]:
    """``value``, which is a JSON object.

    Raises:
        FormatError: if it is not.
    """
    if not isinstance(value, dict):
        raise FormatError(f"{where}: expected a JSON object")
    return value


def number_order(text: str) -> tuple[int, str]:
    """A sort key that puts "2" before "10"."""
    return len(text), text


def visible(masks: Mapping[str, MaskRLE]) -> dict[str, MaskRLE]:
    """The masks with a pixel in them, by frame name."""
    return {frame: rle for frame, rle in masks.items() if area(rle)}


def mask_json(rle: MaskRLE) -> dict[str, Any]:
    """The mask as the released files hold it."""
    return {"size": list(rle.size), "counts": rle.counts}


def read_mask(value: Any, where: str) -> MaskRLE | None:
    """A mask, or None for null and for one without a pixel.

    Raises:
        FormatError: if it is malformed.
    """
    rle = from_json(value, where)
    return rle if rle is not None and area(rle) else None


def read_masks(folder: Folder, name: str) -> dict[str, MaskRLE]:
    """The file's masks by frame name without extension, null and empty ones left out.

    Raises:
        FormatError: if the file is missing, or a mask malformed.
    """
    path = f"{folder.uri}/{name}"
    read = {bare(frame): read_mask(value, f"{path}, frame {frame}") for frame, value in json_object(folder.read_json(name), path).items()}
    return {frame: rle for frame, rle in read.items() if rle is not None}


def aligned_masks(row: Any, names: Sequence[str], where: str) -> dict[str, MaskRLE]:
    """The masks of a list with an item a frame name.

    Raises:
        FormatError: if the lengths differ, or a mask is malformed.
    """
    if not isinstance(row, list) or len(row) != len(names):
        raise FormatError(f"{where}: expected a list of {len(names)} masks, one a frame")
    read = {name: read_mask(value, f"{where}, frame {name}") for name, value in zip(names, row, strict=True)}
    return {name: rle for name, rle in read.items() if rle is not None}


def read_videos(folder: Folder, name: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(video id, entry, place for an error) of each video of a meta file, in file order.

    Raises:
        FormatError: if the file is missing or has no object of videos.
    """
    path = f"{folder.uri}/{name}"
    document = json_object(folder.read_json(name), path)
    for video_id, entry in json_object(document.get("videos"), f"{path}, videos").items():
        where = f"{path}, video {video_id}"
        yield path_part(video_id, where), json_object(entry, where), where


def read_frames(entry: dict[str, Any], where: str) -> tuple[str, ...]:
    """The entry's frame names without extension, in file order.

    Raises:
        FormatError: if they are no list of plain names.
    """
    names = entry.get("frames")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError(f"{where}: expected a list of frame names in 'frames'")
    return tuple(path_part(bare(name), where) for name in names)


def bare(name: str) -> str:
    """A frame's name without the extension of an image."""
    for suffix in IMAGE_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def read_expressions(video_id: str, entry: dict[str, Any], where: str) -> list[tuple[str, Expression]]:
    """(exp_id, expression) of each sentence, in the order of the exp_ids; an id is derived where the file has none.

    Raises:
        FormatError: if one lacks its text or its object.
    """
    expressions = []
    for exp_id, value in sorted(json_object(entry.get("expressions"), where).items(), key=lambda pair: number_order(pair[0])):
        place = f"{where}, expression {exp_id}"
        text = json_object(value, place).get("exp")
        if not isinstance(text, str):
            raise FormatError(f"{place}: has no text in 'exp'")
        derived = uuid.uuid5(_NAMESPACE, "\n".join((video_id, exp_id, text)))
        expression = Expression(
            expression_id=str(value.get("expression_id", derived)),
            video_id=video_id,
            object_id=read_object_id(value.get("obj_id"), place),
            text=text,
            **({"kind": str(value.get("qtype", "")), "source": "egomask"} | {key: str(value[key]) for key in _ORIGIN if key in value}),
        )
        expressions.append((path_part(exp_id, place), expression))
    return expressions


def expression_json(expression: Expression) -> dict[str, str]:
    """The entry of a sentence: text and object as released, and beside them its own id and its origin."""
    origin = {key: getattr(expression, key) for key in _ORIGIN}
    return {"exp": expression.text, "obj_id": expression.object_id, "expression_id": expression.expression_id, **origin}


def read_object_id(value: Any, where: str) -> str:
    """An object's id from 1, "1" or [1].

    Raises:
        FormatError: if it is none of these.
    """
    inner = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(inner, bool) or not isinstance(inner, int | str):
        raise FormatError(f"{where}: expected the id of one object in 'obj_id', not {value!r}")
    return path_part(str(inner), where)


def read_pair(key: str, path: str) -> tuple[str, str]:
    """(video id, object id) from a key of mask_dict.json: "('vid', '1')" or "('vid', 1)".

    Raises:
        FormatError: if it is no such pair.
    """
    try:
        video_id, object_id = ast.literal_eval(key)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise FormatError(f"{path}: the key {key!r} is not a pair of video and object") from error
    return str(video_id), read_object_id(object_id, f"{path}, key {key!r}")
