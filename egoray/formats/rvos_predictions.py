"""Answers to exocentric questions: a PNG a frame, in ``<video>/<expression>/`` (ReasonVOS: ``<source>_<video>_<object>/<expression>/``).

Any pixel but 0 is the object. Ref-DAVIS17's evaluator takes the values as certainty × 100 instead, and no object from below 50,
so that 255 is written: every evaluator reads it alike. For Ref-DAVIS17 the folders ``anno_0`` to ``anno_3`` are read too, which
hold all objects of one annotator as numbers in ``anno_<k>/<video>/<frame>.png``.
Source: the sets' evaluators, and the scripts that write what they read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from egoray.core.masks import decode, encode
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.formats.png import Numbers, png_size, read_png, write_png
from egoray.formats.rvos import ANNOTATORS, REF_DAVIS, Question, judged_frames
from egoray.schema import MaskRLE

CERTAIN = 50
"""The least value that Ref-DAVIS17's evaluator takes for the object."""


def write_prediction(root: str, question: Question, masks: Mapping[str, MaskRLE]) -> None:
    """Write a PNG for each of the question's frames, black where ``masks`` has none; the last frame's file comes last.

    Args:
        root: the folder of predictions.
        question: from `rvos.read`.
        masks: by frame name, of the images' size.

    Raises:
        FormatError: if ``masks`` is empty and the first image, which tells the size, cannot be read.
        ValueError: if ``masks`` has a frame that the question lacks.
    """
    if unknown := masks.keys() - set(question.item.frame_names):
        raise ValueError(f"{question.answer}: has no frame {min(unknown)}")
    if masks:
        size = next(iter(masks.values())).size
    else:
        folder, _, name = question.images[0].rpartition("/")
        size = png_size(Folder(folder), name)
    folder_of = Folder(root) / question.answer
    for frame in question.item.frame_names:
        mask = decode(masks[frame]) if frame in masks else np.zeros(size, bool)
        write_png(folder_of, f"{frame}.png", mask.view(np.uint8) * np.uint8(255))


def is_answered(root: str, question: Question) -> bool:
    """Whether every frame of the question has its PNG."""
    return {f"{frame}.png" for frame in question.item.frame_names} <= set((Folder(root) / question.answer).names(".png"))


def missing_answer(root: str, question: Question) -> str | None:
    """The folder in which no PNG answers the question; None where there is any."""
    folder = Folder(root) / (_annotator(root, question) or question.answer)
    return None if folder.names(".png") else folder.uri


def read_prediction(root: str, dataset: str, question: Question) -> dict[str, MaskRLE]:
    """The non-empty masks of an answer by frame name, at the frames that are judged; {} where there is no answer at all.

    Raises:
        FormatError: if a frame's PNG is missing or unreadable, or has values that no evaluator would take for the object.
    """
    if missing_answer(root, question):
        return {}
    folder, found, most = Folder(root) / question.answer, {}, 0
    for frame in judged_frames(dataset, question):
        numbers = read_png(folder, f"{frame}.png")
        most = max(most, int(numbers.max(initial=0)))
        mask = numbers >= (CERTAIN if question.benchmark == REF_DAVIS else 1)
        if mask.any():
            found[frame] = encode(mask)
    _check_scale(most, question, folder)
    return found


def is_merged(root: str) -> bool:
    """Whether Ref-DAVIS17's answers lie in ``anno_0`` to ``anno_3``, the objects of an annotator in one picture a frame."""
    return bool((Folder(root) / "anno_0").folders())


def read_merged(root: str, questions: Sequence[Question], size_hw: tuple[int, int]) -> Iterator[Numbers]:
    """A frame at a time the ``(H, W)`` numbers of the objects that one annotator of Ref-DAVIS17 describes, 0 for none.

    A pixel belongs to the object whose answer is most certain of it, to the first of equals. An expression without an
    answer has no pixel.

    Args:
        root: the folder of predictions.
        questions: the annotator's, one an object, in their order.
        size_hw: (height, width) of a frame in which no expression has an answer.

    Raises:
        FormatError: as `read_prediction`, or if answers differ in size.
    """
    merged = _annotator(root, questions[0])
    answered = [] if merged else [(n, q) for n, q in enumerate(questions, 1) if missing_answer(root, q) is None]
    there = merged is not None and missing_answer(root, questions[0]) is None
    most = dict.fromkeys((n for n, _ in answered), 0)
    for frame in questions[0].item.frame_names:
        if merged and there:
            yield read_png(Folder(root) / merged, f"{frame}.png")
            continue
        best, numbers = np.full(size_hw, CERTAIN - 1, np.uint8), np.zeros(size_hw, np.uint8)
        for number, question in answered:
            folder = Folder(root) / question.answer
            certainty = read_png(folder, f"{frame}.png")
            if certainty.shape != size_hw:
                raise FormatError(f"{folder.uri}/{frame}.png: is of {certainty.shape}, not of {size_hw} as the annotation")
            numbers[certainty > best] = number
            best = np.maximum(best, certainty)
            most[number] = max(most[number], int(certainty.max(initial=0)))
        yield numbers
    for number, question in answered:
        _check_scale(most[number], question, Folder(root) / question.answer)


def _annotator(root: str, question: Question) -> str | None:
    """The folder of the question's annotator and video, where answers are merged."""
    if question.benchmark != REF_DAVIS or not is_merged(root):
        return None
    return f"anno_{ANNOTATORS.index(question.item.kind)}/{question.item.video_id}"


def _check_scale(most: int, question: Question, folder: Folder) -> None:
    """Refuse values of 0 and 1, of which Ref-DAVIS17's evaluator would see nothing."""
    if most == 1 and question.benchmark == REF_DAVIS:
        raise FormatError(f"{folder.uri}: has values 0 and 1; Ref-DAVIS17's evaluator takes certainty × 100: write 255 for the object")
