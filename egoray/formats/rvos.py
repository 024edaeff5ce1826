"""Exocentric referring benchmarks and training sets in their released layouts ↔ records.

| layout | where its sentences and its masks are |
|---|---|
| ref-davis17, ref-youtube-vos | ``meta_expressions/<split>/meta_expressions.json``; ``<split>/Annotations/<video>/``, palette PNGs |
| mevis | ``<split>/meta_expressions.json``; ``<split>/mask_dict.json`` by annotation, an expression means the union of its own |
| reasonvos | ``meta_expressions.json``; ``Annotations/<source>_<video>_<object>/<frame>.png``, non-zero is the object |
| revos | ``meta_expressions_<split>_.json``; ``mask_dict.json``, as mevis |

Source: the releases themselves and their official evaluators. Predictions are PNGs, non-zero where the object is, one folder a sentence.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from pycocotools import mask as coco

from egoray.core.masks import encode, to_coco
from egoray.core.storage import Folder
from egoray.core.video import read_image
from egoray.errors import FormatError
from egoray.formats.egomask_json import bare, json_object, number_order, path_part, read_frames, read_mask
from egoray.schema import GroundingItem, MaskRLE

LAYOUTS = {"ref-davis17": "valid", "ref-youtube-vos": "train", "mevis": "valid_u", "reasonvos": "all", "revos": "valid"}
"""Each layout with the split that is taken where none is named."""
VOID = 255
KINDS = {0: "referring", 1: "reasoning", 2: "hallucination"}
"""ReVOS' type_id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A sentence about a video; ``item.tier`` is the layout, ``annotations`` the ids of the masks that it means (their union)."""

    root: str
    split: str
    item: GroundingItem
    annotations: tuple[str, ...]

    @property
    def images(self) -> tuple[str, ...]:
        """The image files of its frames."""
        folder = _images(self.root, self.split, self.item)
        return tuple(os.path.join(folder, f"{name}.jpg") for name in self.item.frame_names)


def layout_of(root: str) -> str | None:
    """Which of `LAYOUTS` a folder has; None for another, such as EgoMask's."""
    folder = Folder(root)
    if folder.exists("meta_expressions_train_.json") or folder.exists("meta_expressions_valid_.json"):
        return "revos"
    if any(folder.exists(f"{split}/meta_expressions.json") for split in ("valid_u", "train", "valid")):
        return "mevis"
    if folder.exists("meta_expressions/valid/meta_expressions.json") and os.path.isdir(os.path.join(root, "valid", "Annotations")):
        return "ref-davis17"
    if folder.exists("meta_expressions/train/meta_expressions.json") and not folder.exists("train/mask_dict.json"):
        return "ref-youtube-vos"
    if folder.exists("meta_expressions.json") and os.path.isdir(os.path.join(root, "Annotations")):
        return "reasonvos"
    return None


def splits_of(root: str) -> list[str]:
    """The splits that a folder in one of `LAYOUTS` holds with their masks; [] for another folder."""
    layout, folder = layout_of(root), Folder(root)
    known = {
        "ref-davis17": ("meta_expressions/{}/meta_expressions.json", "{}/Annotations"),
        "ref-youtube-vos": ("meta_expressions/{}/meta_expressions.json", "{}/Annotations"),
        "mevis": ("{}/meta_expressions.json", "{}/mask_dict.json"),
        "revos": ("meta_expressions_{}_.json", "mask_dict.json"),
    }
    if layout not in known:
        return ["all"] if layout else []
    names, masks = known[layout]
    return [
        s for s in ("train", "valid_u", "valid") if folder.exists(names.format(s)) and os.path.exists(os.path.join(root, masks.format(s)))
    ]


def objects_of(questions: Sequence[Question]) -> list[Question]:
    """Each object that the questions are about once, as a question of its own without a text."""
    found: dict[tuple[str, str], Question] = {}
    for question in questions:
        for annotation in question.annotations:
            item = replace(question.item, expression_id="", object_id=annotation, text="")
            found.setdefault((item.video_id, annotation), replace(question, item=item, annotations=(annotation,)))
    return list(found.values())


def read_questions(root: str, split: str | None = None) -> list[Question]:
    """The sentences of a split in file order, those of a video together.

    Args:
        root: a folder in one of `LAYOUTS`.
        split: one of its own; None takes the layout's usual one.

    Raises:
        FormatError: if the layout is none of them, or a file is missing or malformed; it is named.
    """
    layout = layout_of(root)
    if layout is None:
        raise FormatError(f"{root}: in none of the layouts {', '.join(LAYOUTS)}")
    split = split or LAYOUTS[layout]
    name = {
        "ref-davis17": f"meta_expressions/{split}/meta_expressions.json",
        "ref-youtube-vos": f"meta_expressions/{split}/meta_expressions.json",
        "mevis": f"{split}/meta_expressions.json",
        "reasonvos": "meta_expressions.json",
        "revos": f"meta_expressions_{split}_.json",
    }[layout]
    questions = []
    for video_id, entry in _videos(root, name):
        where = f"{root}/{name}, video {video_id}"
        frames = read_frames(entry, where)
        for exp_id, sentence in _sentences(entry, where):
            objects = _ids(sentence.get("obj_id"), f"{where}, expression {exp_id}")
            kind = str(entry.get("source", "")) if layout == "reasonvos" else KINDS.get(sentence.get("type_id", -1), "")
            item = GroundingItem(
                video_id=video_id,
                expression_id=path_part(exp_id, where),
                object_id=",".join(objects),
                text=str(sentence.get("exp", sentence.get("exp_text", ""))),
                frame_names=frames,
                tier=layout,
                kind=kind,
            )
            masks = _ids(sentence["anno_id"], where) if "anno_id" in sentence else objects
            questions.append(Question(root=root, split=split, item=item, annotations=masks))
    if not questions:
        raise FormatError(f"{root}/{name}: holds no expression")
    return questions


def read_gold(question: Question) -> dict[str, MaskRLE]:
    """What the sentence means, by frame name: a frame without it has no key.

    Raises:
        FormatError: if a mask is missing or malformed; file and frame are named.
    """
    item = question.item
    if item.tier in ("mevis", "revos"):
        folder = question.root if item.tier == "revos" else os.path.join(question.root, question.split)
        table = _mask_table(folder)
        found: dict[str, list[MaskRLE]] = {}
        for annotation in question.annotations:
            row = table.get(annotation)
            where = f"{folder}/mask_dict.json, annotation {annotation}"
            if not isinstance(row, list) or len(row) != len(item.frame_names):
                raise FormatError(f"{where}: expected a list of {len(item.frame_names)} masks, one a frame of {item.video_id}")
            for name, value in zip(item.frame_names, row, strict=True):
                if (mask := read_mask(value, f"{where}, frame {name}")) is not None:
                    found.setdefault(name, []).append(mask)
        return {name: union(found[name]) for name in item.frame_names if name in found}
    masks: dict[str, MaskRLE] = {}
    for name in item.frame_names:
        picture = read_index(_annotation_path(question, name))
        if picture is None:
            continue
        wanted = picture != 0 if item.tier == "reasonvos" else np.isin(picture, [int(a) for a in question.annotations])
        if wanted.any():
            masks[name] = encode(wanted)
    return masks


def read_void(question: Question) -> dict[str, MaskRLE]:
    """The pixels of Ref-DAVIS17's frames that nobody judges (colour index 255), by frame name.

    Raises:
        FormatError: if a mask file is damaged.
    """
    void = {}
    for name in question.item.frame_names if question.item.tier == "ref-davis17" else ():
        picture = read_index(_annotation_path(question, name))
        if picture is not None and (picture == VOID).any():
            void[name] = encode(picture == VOID)
    return void


def write_prediction(root: str, question: Question, masks: Mapping[str, MaskRLE], size_hw: tuple[int, int]) -> None:
    """Write an answer as the official evaluators read it: a PNG a frame, 255 on the object, black where it is not.

    Args:
        root: the folder of all answers.
        question: see `Question`.
        masks: by frame name.
        size_hw: of the frames.
    """
    folder = os.path.join(root, *prediction_parts(question))
    os.makedirs(folder, exist_ok=True)
    for name in question.item.frame_names:
        mask = coco.decode(to_coco(masks[name])) if name in masks else np.zeros(size_hw, np.uint8)
        part = os.path.join(folder, f".{name}.part")
        Picture.fromarray(mask * np.uint8(255)).save(part, format="PNG")
        os.replace(part, os.path.join(folder, f"{name}.png"))


def read_prediction(root: str, question: Question) -> dict[str, MaskRLE] | None:
    """An answer by frame name, empty masks left out; None where its folder is missing.

    Raises:
        FormatError: if a PNG is damaged.
    """
    folder = os.path.join(root, *prediction_parts(question))
    if not os.path.isdir(folder):
        return None
    found = {}
    for name in question.item.frame_names:
        picture = read_index(os.path.join(folder, f"{name}.png"))
        if picture is not None and picture.any():
            found[name] = encode(picture != 0)
    return found


def prediction_parts(question: Question) -> tuple[str, ...]:
    """The answer's folder below the root: <video>/<exp>, or ReasonVOS' <source>_<video>_<object>/<exp>."""
    item = question.item
    if item.tier == "reasonvos":
        return _reason_folder(item), item.expression_id
    return *item.video_id.split("/"), item.expression_id


def union(masks: Sequence[MaskRLE]) -> MaskRLE:
    """The pixels of any of the masks (one at least), of one size."""
    if len(masks) == 1:
        return masks[0]
    merged = coco.merge([to_coco(m) for m in masks])
    return MaskRLE(size=masks[0].size, counts=merged["counts"].decode("ascii"))


def without(mask: MaskRLE, void: MaskRLE) -> MaskRLE | None:
    """The mask's pixels outside of ``void``; None where none is left."""
    kept = coco.decode(to_coco(mask)).astype(bool) & ~coco.decode(to_coco(void)).astype(bool)
    return encode(kept) if kept.any() else None


def read_index(path: str) -> NDArray[np.uint8] | None:
    """The (H, W) values of a palette or grey PNG; None where there is no file.

    Raises:
        FormatError: if it is damaged, or has colours instead of one value a pixel.
    """
    if not os.path.exists(path):
        return None
    try:
        with Picture.open(path) as picture:
            values = np.asarray(picture if picture.mode in ("P", "L") else picture.convert("L"), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise FormatError(f"{path}: not a readable PNG; replace or remove it") from error
    return values


def _sentences(entry: dict[str, Any], where: str) -> list[tuple[str, dict[str, Any]]]:
    expressions = entry.get("expressions")
    if isinstance(expressions, list):  # ReasonVOS
        return [(str(e.get("exp_id", n)), json_object(e, where)) for n, e in enumerate(expressions)]
    table = json_object(expressions, f"{where}, expressions")
    return [(exp_id, json_object(table[exp_id], where)) for exp_id in sorted(table, key=number_order)]


def _ids(value: Any, where: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(v, int | str) and str(v).isdigit() for v in values):
        raise FormatError(f"{where}: object ids {value!r} are no numbers")
    return tuple(str(v) for v in values)


def _videos(root: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each video and its entry; the name of one of ReVOS' is a path."""
    where = f"{root}/{name}"
    videos = json_object(json_object(Folder(root).read_json(name), where).get("videos"), f"{where}, videos")
    for video_id, entry in videos.items():
        for part in video_id.split("/"):
            path_part(part, where)
        yield video_id, json_object(entry, f"{where}, video {video_id}")


def _reason_folder(item: GroundingItem) -> str:
    return path_part(f"{item.kind}_{item.video_id}_{item.object_id}", item.video_id)


def _images(root: str, split: str, item: GroundingItem) -> str:
    """The folder of a video's frames; ReVOS' names may or may not begin with JPEGImages."""
    base = os.path.join(root, split) if item.tier in ("ref-davis17", "ref-youtube-vos", "mevis") else root
    inside = os.path.join(base, "JPEGImages", item.video_id)
    return inside if os.path.isdir(inside) or item.tier != "revos" else os.path.join(base, item.video_id)


def _annotation_path(question: Question, name: str) -> str:
    item = question.item
    if item.tier == "reasonvos":
        return os.path.join(question.root, "Annotations", _reason_folder(item), f"{bare(name)}.png")
    return os.path.join(question.root, question.split, "Annotations", item.video_id, f"{bare(name)}.png")


@lru_cache(maxsize=2)
def _mask_table(folder: str) -> dict[str, Any]:
    return json_object(Folder(folder).read_json("mask_dict.json"), f"{folder}/mask_dict.json")


def size_of(question: Question) -> tuple[int, int]:
    """(height, width) of the video's first image.

    Raises:
        FormatError: if it cannot be read.
    """
    height, width, _ = read_image(question.images[0]).shape
    return height, width
