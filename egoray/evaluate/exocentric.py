"""J&F of exocentric referring sets by the rules of their evaluators; a unit of work is what such an evaluator judges at once.

MeViS, ReasonVOS, ReVOS: an expression's answer against all that it means, together, over all judged frames.
Ref-DAVIS17: a video as one of four annotators described it. The answers to its objects are laid into one picture a frame;
void pixels are not judged; each true object gets the answer that fits best, as the unsupervised DAVIS 2017 evaluator
matches them, so that all of them together have the highest J&F; an object that no sentence is about counts too.
Both: all frames, the first and the last included; a frame without the object in truth and answer counts 1.
Source: the evaluators of MeViS, VideoLISA (ReasonVOS), ReferFormer (Ref-DAVIS17) and DAVIS 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from egoray.core.masks import encode
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.evaluate.expression import score_expression
from egoray.formats.png import Numbers, read_png
from egoray.formats.rvos import ANNOTATORS, MEVIS, REASON, REF_DAVIS, REVOS, VOID, Question, judged_frames, read, read_gold
from egoray.formats.rvos_predictions import is_merged, missing_answer, read_merged, read_prediction
from egoray.schema import MaskRLE

MAX_PROPOSALS = 20
"""Objects that an answer to Ref-DAVIS17 may number."""
ALONE = ("J", "F", "J&F")
"""The figures of Ref-DAVIS17's expressions each by itself, void pixels and other objects left out of account."""
PAPER = {  # EgoMask's exocentric table: before and after training on EgoMask-Train too; whether J or J&F is not stated
    REF_DAVIS: {"VideoLISA-3.8B": (0.6582, 0.6560), "Sa2VA-4B": (0.6975, 0.6997)},
    MEVIS: {"VideoLISA-3.8B": (0.4920, 0.4920), "Sa2VA-4B": (0.5001, 0.5555)},
    REASON: {"VideoLISA-3.8B": (0.4241, 0.4418), "Sa2VA-4B": (0.4235, 0.4554)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExocentricUnit:
    """Questions that are judged together: one, or one an object for an annotator of a video of Ref-DAVIS17."""

    questions: tuple[Question, ...]

    @property
    def name(self) -> str:
        """The unit, for a list of failures."""
        item = self.questions[0].item
        return f"{item.video_id}/{item.kind}" if self.questions[0].benchmark == REF_DAVIS else self.questions[0].answer

    @property
    def video_id(self) -> str:
        """The video."""
        return self.questions[0].item.video_id

    @property
    def frame_names(self) -> tuple[str, ...]:
        """The video's frames."""
        return self.questions[0].item.frame_names

    def missing(self, predictions: str) -> str | None:
        """The first folder that lacks an answer, None where all are there."""
        return next((where for q in self.questions if (where := missing_answer(predictions, q))), None)


def read_units(dataset: str, split: str | None) -> list[ExocentricUnit]:
    """The units of a split in file order.

    Raises:
        ValueError: for a split that the set does not have.
        FormatError: if a file is missing or malformed, or the split's masks are not released.
    """
    questions = read(dataset, split)
    if any(question.targets is None for question in questions):
        raise FormatError(f"{dataset}: has no masks of {questions[0].item.tier}; that split is scored by the set's own server")
    groups: dict[tuple[str, ...], list[Question]] = {}
    for question in questions:
        together = (question.item.video_id, question.item.kind) if question.benchmark == REF_DAVIS else (question.answer,)
        groups.setdefault(together, []).append(question)
    return [ExocentricUnit(questions=tuple(group)) for group in groups.values()]


def score_unit(dataset: str, predictions: str, unit: ExocentricUnit) -> list[dict[str, Any]]:
    """The unit's rows, as `score_expression` gives them; a missing answer is an empty one.

    For Ref-DAVIS17 a row a true object, with ``alone``: `ALONE` of its own expression; in the layout of merged answers no
    expression can be seen alone.

    Raises:
        FormatError: if a PNG is missing or unreadable, or an answer is of another size than the truth.
    """
    if unit.questions[0].benchmark == REF_DAVIS:
        return _score_annotator(dataset, predictions, unit.questions)
    (question,) = unit.questions
    frames = judged_frames(dataset, question)
    row = score_expression(frames, read_gold(dataset, question), read_prediction(predictions, dataset, question))
    return [_about(question) | row]


def _score_annotator(dataset: str, predictions: str, questions: Sequence[Question]) -> list[dict[str, Any]]:
    by_number = {target.index: question for question in questions for target in question.targets or ()}
    target = next(iter(questions[0].targets or ()))
    folder, frames = Folder(dataset) / target.folder, questions[0].item.frame_names
    truth = [read_png(folder, f"{frame}.png") for frame in frames]
    if not truth or not (num_gold := int(np.where(truth[0] == VOID, 0, truth[0]).max(initial=0))):
        raise FormatError(f"{folder.uri}: shows no object in the first frame, by which Ref-DAVIS17's evaluator counts them")
    answers = list(read_merged(predictions, questions, (truth[0].shape[0], truth[0].shape[1])))
    num_proposals = max(int(numbers.max(initial=0)) for numbers in answers)
    if num_proposals > MAX_PROPOSALS:
        raise FormatError(f"{predictions}: {questions[0].item.video_id}: a pixel has the number {num_proposals}; {MAX_PROPOSALS} at most")
    for frame, numbers, gold in zip(frames, answers, truth, strict=True):
        if numbers.shape != gold.shape:
            raise FormatError(f"{predictions}: {questions[0].item.video_id}, frame {frame}: is of {numbers.shape}, not of {gold.shape}")
        numbers[gold == VOID] = 0
    gold_masks = _split(frames, truth, num_gold)
    proposals = _split(frames, answers, max(num_proposals, num_gold))
    scored = [[score_expression(frames, gold, proposal) for gold in gold_masks] for proposal in proposals]
    best = linear_sum_assignment([[row["J&F"] for row in of_proposal] for of_proposal in scored], maximize=True)
    rows = []
    for place, number in sorted(zip(*best, strict=True), key=lambda pair: pair[1]):
        question = by_number.get(int(number) + 1)
        about = _about(question or questions[0])
        if question is None:
            about |= {"expression_id": f"anno_{ANNOTATORS.index(about['kind'])}", "object_id": str(number + 1), "text": ""}
        elif not is_merged(predictions):
            alone = score_expression(frames, gold_masks[number], read_prediction(predictions, dataset, question))
            about["alone"] = {metric: alone[metric] for metric in ALONE}
        rows.append(about | scored[place][number])
    return rows


def _split(frames: Sequence[str], pictures: Sequence[Numbers], count: int) -> list[dict[str, MaskRLE]]:
    """The masks of the objects 1 to ``count`` by frame name, where they have a pixel."""
    return [
        {frame: encode(numbers == number) for frame, numbers in zip(frames, pictures, strict=True) if (numbers == number).any()}
        for number in range(1, count + 1)
    ]


def _about(question: Question) -> dict[str, Any]:
    return {name: getattr(question.item, name) for name in ("video_id", "expression_id", "object_id", "tier", "kind", "text")}


def revos_overall(unit: ExocentricUnit, kinds: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """ReVOS' own summary, the mean of its referring and its reasoning expressions' means; {} for other sets or one kind alone.

    Args:
        unit: any of the set.
        kinds: the metrics by kind of expression.
    """
    if unit.questions[0].benchmark != REVOS or not {"referring", "reasoning"} <= kinds.keys():
        return {}
    return {metric: (kinds["referring"][metric] + kinds["reasoning"][metric]) / 2 for metric in ALONE}


def paper_figures(unit: ExocentricUnit) -> Mapping[str, tuple[float, float]]:
    """EgoMask's figures of the set by model, before and after; {} where it gives none."""
    return PAPER.get(unit.questions[0].benchmark, {})
