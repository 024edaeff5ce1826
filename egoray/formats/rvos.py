"""Exocentric referring sets as released → records: Ref-DAVIS17, MeViS, ReasonVOS, ReVOS and Ref-YouTube-VOS.

====================  =============================================================================================
ref-davis17           ``meta_expressions/<split>/meta_expressions.json``, ``<split>/{meta.json,JPEGImages,Annotations}``
ref-youtube-vos       the same; ``valid`` has no Annotations and no meta.json
mevis                 ``<split>/{meta_expressions.json,mask_dict.json,JPEGImages}``; ``valid`` has no mask_dict.json
reasonvos             ``{meta_expressions.json,JPEGImages/<video>,Annotations/<source>_<video>_<object>}``
revos                 ``{meta_expressions_<split>_.json,mask_dict.json,JPEGImages}``
====================  =============================================================================================

An answer to any of them is a folder of PNGs, see `rvos_predictions`. Source: the releases' own loaders and evaluators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from egoray.core import paths
from egoray.core.masks import encode, union
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.formats.egomask_json import aligned_masks, bare, json_object, number_order, path_part, read_frames, read_object_id, visible
from egoray.formats.png import read_png
from egoray.schema import GroundingItem, MaskRLE

REF_DAVIS, MEVIS, REASON, REVOS, REF_YOUTUBE = "ref-davis17", "mevis", "reasonvos", "revos", "ref-youtube-vos"
SPLITS = {
    REF_DAVIS: ("valid", "train"),
    MEVIS: ("valid_u", "train", "valid"),
    REASON: ("test",),
    REVOS: ("valid", "train"),
    REF_YOUTUBE: ("train", "valid"),
}
"""A set's splits, the usual one first."""
ANNOTATORS = ("annotator 1, first frame", "annotator 1, full video", "annotator 2, first frame", "annotator 2, full video")
"""Who described each object of Ref-DAVIS17, having seen what: its expressions 4k to 4k + 3 are about the object k + 1."""
VOID = 255
"""The number of Ref-DAVIS17's pixels that are not judged."""
_REVOS_KINDS = {0: "referring", 1: "reasoning", 2: "hallucination"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One true object: its masks by frame name, or, where ``masks`` is None, the PNGs to read them from when wanted.

    ``folder`` lies below the dataset; a pixel belongs to the object where it has the number ``index``, or any but 0 where
    ``index`` is None.
    """

    object_id: str
    masks: Mapping[str, MaskRLE] | None = None
    folder: str = ""
    index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A sentence about a video: ``item.frame_names`` with an image each, and the folder its answer goes to.

    ``targets`` are the objects it means, together: none for a sentence about nothing in the video, None where the release
    has no masks (a split that only a server scores). ``item.tier`` is the split; ``item.object_id`` joins several by ",".
    """

    benchmark: str
    item: GroundingItem
    images: tuple[str, ...]
    targets: tuple[Target, ...] | None
    answer: str


def benchmark_of(root: str) -> str | None:
    """Which of these sets the folder holds, by the files of its layout; None for none of them, as for EgoMask's own."""
    folder = Folder(root)
    if any(folder.exists(f"{split}/meta_expressions.json") for split in SPLITS[MEVIS]):
        return MEVIS
    if any(folder.exists(_revos_file(split)) for split in SPLITS[REVOS]):
        return REVOS
    if any(folder.exists(_ytvos_file(split)) for split in ("valid", "train")):
        if folder.exists("valid/meta.json"):
            return REF_DAVIS
        return None if folder.exists("train/mask_dict.json") else REF_YOUTUBE  # EgoMask-Train has this file
    if folder.exists("meta_expressions.json"):
        return REASON if any("source" in entry for _, entry, _ in _videos(folder, "meta_expressions.json")) else None
    return None


def splits_of(root: str) -> list[str]:
    """The splits whose sentences and masks are both there; [] where `benchmark_of` knows no set.

    Raises:
        FormatError: if a file is malformed.
    """
    folder, benchmark = Folder(root), benchmark_of(root)
    if benchmark is None:
        return []
    if benchmark == REASON:
        return list(SPLITS[REASON])
    need = {
        MEVIS: ("{0}/meta_expressions.json", "{0}/mask_dict.json"),
        REVOS: (_revos_file("{0}"), "mask_dict.json"),
    }.get(benchmark, (_ytvos_file("{0}"), "{0}/meta.json"))
    return [split for split in SPLITS[benchmark] if all(folder.exists(name.format(split)) for name in need)]


def read(root: str, split: str | None = None) -> list[Question]:
    """The questions of a split in file order, the usual split of the set if none is given.

    Raises:
        ValueError: for a split that the set does not have.
        FormatError: if ``root`` holds none of these sets, or a file is missing or malformed; the message names it.
    """
    benchmark = benchmark_of(root)
    if benchmark is None:
        raise FormatError(f"{root}: holds none of {', '.join(SPLITS)} in its released layout")
    if split not in (None, *SPLITS[benchmark]):
        raise ValueError(f"{split}: {benchmark} has no such split; it has {', '.join(SPLITS[benchmark])}")
    readers: dict[str, Callable[[Folder, str], Iterator[Question]]] = {
        REF_DAVIS: partial(_read_ytvos, benchmark=REF_DAVIS),
        REF_YOUTUBE: partial(_read_ytvos, benchmark=REF_YOUTUBE),
        MEVIS: _read_mevis,
        REASON: _read_reason,
        REVOS: _read_revos,
    }
    return list(readers[benchmark](Folder(root), split or SPLITS[benchmark][0]))


def judged_frames(root: str, question: Question) -> tuple[str, ...]:
    """The frames that the set's evaluator looks at: all, but in ReasonVOS those with an annotation.

    Raises:
        FormatError: if a sentence of ReasonVOS has no annotations.
    """
    if question.benchmark != REASON or not question.targets:
        return question.item.frame_names
    folder = Folder(root) / question.targets[0].folder
    if not (names := folder.names(".png")):
        raise FormatError(f"{folder.uri}: no annotations (PNG files) of {question.answer}")
    return tuple(bare(name) for name in names)


def read_masks(root: str, target: Target, frames: Sequence[str]) -> dict[str, MaskRLE]:
    """The object's masks by frame name, in the order of ``frames``; a frame without the object has no key.

    Raises:
        FormatError: if a PNG is missing or unreadable.
    """
    if target.masks is not None:
        return {frame: target.masks[frame] for frame in frames if frame in target.masks}
    folder, found = Folder(root) / target.folder, {}
    for frame in frames:
        numbers = read_png(folder, f"{frame}.png")
        mask = numbers > 0 if target.index is None else numbers == target.index
        if mask.any():
            found[frame] = encode(mask)
    return found


def read_gold(root: str, question: Question) -> dict[str, MaskRLE]:
    """The masks of all that the sentence means, by frame name; a frame without any has no key.

    Raises:
        FormatError: if the release has no masks of this split, a PNG is missing or unreadable, or masks differ in size.
    """
    if question.targets is None:
        raise FormatError(f"{root}: has no masks of {question.item.tier}; that split is scored by the set's own server")
    frames = judged_frames(root, question)
    each = [read_masks(root, target, frames) for target in question.targets]
    gold = {}
    for frame in frames:
        if masks := [of_target[frame] for of_target in each if frame in of_target]:
            try:
                gold[frame] = union(masks)
            except ValueError as error:
                raise FormatError(f"{root}: {question.answer}, frame {frame}: {error}") from error
    return gold


def objects_of(questions: Sequence[Question]) -> dict[tuple[str, str], tuple[Question, Target]]:
    """Every object that a sentence means, by video and its own id, once, with a question about it."""
    found: dict[tuple[str, str], tuple[Question, Target]] = {}
    for question in questions:
        for target in question.targets or ():
            found.setdefault((question.item.video_id, target.object_id), (question, target))
    return found


def _read_ytvos(folder: Folder, split: str, benchmark: str) -> Iterator[Question]:
    """Ref-DAVIS17 and Ref-YouTube-VOS: an object is a number in the video's PNGs."""
    has_masks = benchmark == REF_DAVIS or split == "train"
    for video_id, entry, where in _videos(folder, _ytvos_file(split)):
        frames = read_frames(entry, where)
        images = tuple(paths.join(folder.uri, split, "JPEGImages", video_id, f"{frame}.jpg") for frame in frames)
        sentences = sorted(json_object(entry.get("expressions"), where).items(), key=lambda pair: number_order(pair[0]))
        if benchmark == REF_DAVIS and len(sentences) % len(ANNOTATORS):
            raise FormatError(f"{where}: has {len(sentences)} expressions, not {len(ANNOTATORS)} an object")
        for place, (exp_id, value) in enumerate(sentences):
            here = f"{where}, expression {exp_id}"
            object_id = read_object_id(json_object(value, here).get("obj_id"), here) if has_masks else ""
            target = (
                Target(object_id=object_id, folder=f"{split}/Annotations/{video_id}", index=_number(object_id, here)) if object_id else None
            )
            yield Question(
                benchmark=benchmark,
                item=GroundingItem(
                    video_id=video_id,
                    expression_id=path_part(exp_id, here),
                    object_id=object_id,
                    text=_text(value, "exp", here),
                    frame_names=frames,
                    tier=split,
                    kind=ANNOTATORS[place % len(ANNOTATORS)] if benchmark == REF_DAVIS else "",
                ),
                images=images,
                targets=(target,) if target else None,
                answer=f"{video_id}/{exp_id}",
            )


def _read_mevis(folder: Folder, split: str) -> Iterator[Question]:
    has_masks = split != "valid"
    lists = _mask_lists(folder, f"{split}/mask_dict.json") if has_masks else None
    return _read_lists(MEVIS, folder, split, f"{split}/meta_expressions.json", lists, f"{split}/JPEGImages")


def _read_revos(folder: Folder, split: str) -> Iterator[Question]:
    return _read_lists(REVOS, folder, split, _revos_file(split), _mask_lists(folder, "mask_dict.json"), "JPEGImages")


def _read_lists(
    benchmark: str, folder: Folder, split: str, name: str, lists: tuple[str, dict[str, Any]] | None, images_dir: str
) -> Iterator[Question]:
    """MeViS and ReVOS: an object is a list of masks under its annotation's number, a sentence means any number of them."""
    for video_id, entry, where in _videos(folder, name):
        frames = read_frames(entry, where)
        inside = "" if video_id.startswith(f"{images_dir}/") else f"{images_dir}/"
        images = tuple(paths.join(folder.uri, f"{inside}{video_id}", f"{frame}.jpg") for frame in frames)
        known: dict[str, Target] = {}
        for exp_id, value in json_object(entry.get("expressions"), where).items():
            here = f"{where}, expression {exp_id}"
            kind = _REVOS_KINDS.get(json_object(value, here).get("type_id", -1), "")
            object_ids = _numbers(value, "obj_id", here) if "obj_id" in value else _numbers(value, "anno_id", here)
            targets = None
            if lists:
                anno_ids = _numbers(value, "anno_id", here)
                for anno_id in anno_ids:
                    if anno_id not in known:
                        known[anno_id] = Target(object_id=anno_id, masks=_listed(lists, anno_id, frames, here))
                targets = tuple(known[anno_id] for anno_id in anno_ids)
            yield Question(
                benchmark=benchmark,
                item=GroundingItem(
                    video_id=video_id,
                    expression_id=path_part(exp_id, here),
                    object_id=",".join(object_ids),
                    text=_text(value, "exp", here),
                    frame_names=frames,
                    tier=split,
                    kind=kind,
                ),
                images=images,
                targets=targets,
                answer=f"{video_id}/{exp_id}",
            )


def _read_reason(folder: Folder, split: str) -> Iterator[Question]:
    for video_id, entry, where in _videos(folder, "meta_expressions.json"):
        frames = read_frames(entry, where)
        images = tuple(paths.join(folder.uri, "JPEGImages", video_id, f"{frame}.jpg") for frame in frames)
        sentences = entry.get("expressions")
        if not isinstance(sentences, list):
            raise FormatError(f"{where}: expected a list in 'expressions'")
        for place, value in enumerate(sentences):
            here = f"{where}, expression {place}"
            object_id = read_object_id(json_object(value, here).get("obj_id"), here)
            exp_id = path_part(str(value.get("exp_id", "")), here)
            name = path_part(f"{entry.get('source')}_{video_id}_{object_id}", here)
            yield Question(
                benchmark=REASON,
                item=GroundingItem(
                    video_id=video_id,
                    expression_id=exp_id,
                    object_id=object_id,
                    text=_text(value, "exp_text", here),
                    frame_names=frames,
                    tier=split,
                    kind="sentence" if value.get("is_sent") else "phrase",
                ),
                images=images,
                targets=(Target(object_id=object_id, folder=f"Annotations/{name}"),),
                answer=f"{name}/{exp_id}",
            )


def _videos(folder: Folder, name: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(video id, entry, place for an error) of each video; ReVOS names videos by paths, of plain steps."""
    path = f"{folder.uri}/{name}"
    for video_id, entry in json_object(json_object(folder.read_json(name), path).get("videos"), f"{path}, videos").items():
        where = f"{path}, video {video_id}"
        for step in video_id.split("/"):
            path_part(step, where)
        yield video_id, json_object(entry, where), where


def _mask_lists(folder: Folder, name: str) -> tuple[str, dict[str, Any]]:
    path = f"{folder.uri}/{name}"
    return path, json_object(folder.read_json(name), path)


def _listed(lists: tuple[str, dict[str, Any]], anno_id: str, frames: Sequence[str], where: str) -> dict[str, MaskRLE]:
    path, of_id = lists
    if anno_id not in of_id:
        raise FormatError(f"{path}: has no masks of {anno_id}, which an expression is about ({where})")
    return visible(aligned_masks(of_id[anno_id], frames, f"{path}, {anno_id}"))


def _numbers(value: Mapping[str, Any], key: str, where: str) -> list[str]:
    """The ids in a list of numbers, or the one that stands without a list."""
    found = value.get(key)
    return [read_object_id(each, where) for each in (found if isinstance(found, list) else [found])]


def _number(object_id: str, where: str) -> int:
    if not object_id.isdecimal() or not 0 < int(object_id) < VOID:
        raise FormatError(f"{where}: obj_id {object_id} is not a number of an object in a PNG, 1 to {VOID - 1}")
    return int(object_id)


def _text(value: Mapping[str, Any], key: str, where: str) -> str:
    text = value.get(key)
    if not isinstance(text, str):
        raise FormatError(f"{where}: has no text in {key!r}")
    return text


def _ytvos_file(split: str) -> str:
    return f"meta_expressions/{split}/meta_expressions.json"


def _revos_file(split: str) -> str:
    return f"meta_expressions_{split}_.json"
