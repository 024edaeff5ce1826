"""J&F of the exocentric benchmarks, by the rules of their official evaluators, from run lengths.

All frames count, also the first and the last; a frame without the object counts 1 where nothing is predicted, 0 where something
is. J and F of an expression are means over its frames, those of a benchmark means over its expressions. Two benchmarks have more:

* Ref-DAVIS17 has four annotators (expression 4 * object + annotator). Beside the mean over expressions, ``annotators`` merges an
  annotator's masks to one map (where two meet, the lower object has the pixel), matches maps to objects as the DAVIS unsupervised
  evaluator does, leaves out void pixels, and averages the annotators.
* ReVOS: ``overall`` is the mean of its referring and its reasoning expressions' means.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.optimize import linear_sum_assignment

from egoray import __version__
from egoray.config import EvaluateConfig
from egoray.core.masks import iou
from egoray.core.storage import Folder
from egoray.errors import EgorayError, FormatError
from egoray.evaluate.boundary import boundary_f
from egoray.evaluate.run import ALL, Part, Progress, write_failures
from egoray.evaluate.scores import ScoreSums
from egoray.formats import rvos
from egoray.schema import FailureRow, MaskRLE

JF = ("J", "F", "J&F")
ANNOTATORS = 4
ROWS = pa.schema(
    [(name, pa.string()) for name in ("video_id", "expression_id", "object_id", "kind", "text")]
    + [(name, pa.float64()) for name in JF]
    + [("num_frames", pa.int32())]
)
KIND, ANNOTATOR = "kind", "annotator"


@dataclass(frozen=True, slots=True)
class VideoQuestions:
    """A video's sentences, which some rules judge together."""

    questions: tuple[rvos.Question, ...]

    @property
    def num_frames(self) -> int:
        """Frames to be judged, once a sentence."""
        return sum(len(q.item.frame_names) for q in self.questions)


def score_frames(gold: dict[str, MaskRLE], predicted: dict[str, MaskRLE], frame_names: Sequence[str]) -> dict[str, float]:
    """J, F and J&F in [0, 1] of one expression; masks of absent frames are left out of the dicts.

    Raises:
        ValueError: if there is no frame, or two masks differ in size.
    """
    if not frame_names:
        raise ValueError("a video without frames has no score")
    j = f = 0.0
    for name in frame_names:
        truth, answer = gold.get(name), predicted.get(name)
        j += iou(truth, answer) if truth and answer else float(truth is answer)
        f += boundary_f(truth, answer)
    num = len(frame_names)
    return {"J": j / num, "F": f / num, "J&F": (j + f) / num / 2}


def score_part(predictions: str, videos: Sequence[VideoQuestions], config: EvaluateConfig, progress: Progress = lambda _: None) -> Part:
    """Score these videos; a file that cannot be read costs its own expression and no other."""
    part, skipped, frames, started = Part(), 0, 0, time.monotonic()
    total = {"total": sum(len(v.questions) for v in videos), "total_frames": sum(v.num_frames for v in videos)}
    for video in videos:
        answers: dict[str, dict[str, MaskRLE]] = {}
        for question in video.questions:
            item = question.item
            try:
                predicted = _prediction(predictions, question, config)
                if predicted is None:
                    skipped += 1
                    continue
                row = _score(question, predicted)
            except EgorayError as error:
                message = " ".join(str(error).split())
                unit = f"{item.video_id}/{item.expression_id}"
                failure = FailureRow(stage="evaluate", unit=unit, error=type(error).__name__, message=message, attempt=1, retryable=True)
                part.failures.append(failure)
                continue
            answers[item.expression_id] = predicted
            part.rows.append(row)
            own = ScoreSums.of({name: row[name] for name in JF})
            for key in ((ALL, ""), *([(KIND, item.kind)] if item.kind else [])):
                part.sums[key] = part.sums.get(key, ScoreSums()) + own
        if video.questions[0].item.tier == "ref-davis17" and len(answers) == len(video.questions):
            for annotator, own in _by_annotator(video.questions, answers).items():
                key = (ANNOTATOR, str(annotator))
                part.sums[key] = part.sums.get(key, ScoreSums()) + own
        frames += video.num_frames
        tally = {"done": len(part.rows) + skipped, "failed": len(part.failures), "frames": frames}
        progress(tally | total | {"seconds": time.monotonic() - started})
    return Part(part.rows, part.sums, part.failures, skipped)


def _prediction(predictions: str, question: rvos.Question, config: EvaluateConfig) -> dict[str, MaskRLE] | None:
    predicted = rvos.read_prediction(predictions, question)
    if predicted is None and config.missing == "error":
        where = "/".join((predictions, *rvos.prediction_parts(question)))
        raise FormatError(f"{where}: no such folder of PNGs; write black ones for nothing found, or use --missing empty or skip")
    return {} if predicted is None and config.missing == "empty" else predicted


def _score(question: rvos.Question, predicted: dict[str, MaskRLE]) -> dict[str, Any]:
    item = question.item
    try:
        scores = score_frames(rvos.read_gold(question), predicted, item.frame_names)
    except ValueError as error:
        raise FormatError(f"{item.video_id}, expression {item.expression_id}: {error}") from error
    about = {name: getattr(item, name) for name in ("video_id", "expression_id", "object_id", "kind", "text")}
    return about | scores | {"num_frames": len(item.frame_names)}


def _by_annotator(questions: Sequence[rvos.Question], answers: dict[str, dict[str, MaskRLE]]) -> dict[int, ScoreSums]:
    """One value of J, F and J&F an object, by annotator."""
    void = rvos.read_void(questions[0])
    names = questions[0].item.frame_names
    sums: dict[int, ScoreSums] = {}
    for annotator in range(ANNOTATORS):
        mine = sorted((q for q in questions if int(q.item.expression_id) % ANNOTATORS == annotator), key=lambda q: int(q.item.object_id))
        maps = _apart([answers[q.item.expression_id] for q in mine])
        gold = [_judged(rvos.read_gold(q), void) for q in mine]
        proposed = [_judged(one, void) for one in maps]
        table = [[score_frames(truth, one, names) for truth in gold] for one in proposed]
        rows, columns = linear_sum_assignment(-np.array([[cell["J&F"] for cell in row] for row in table]))
        sums[annotator] = sum((ScoreSums.of(table[r][c]) for r, c in zip(rows, columns, strict=True)), ScoreSums())
    return sums


def _apart(answers: Sequence[dict[str, MaskRLE]]) -> list[dict[str, MaskRLE]]:
    """The answers without pixels that an earlier one has."""
    taken: dict[str, list[MaskRLE]] = {}
    apart = []
    for answer in answers:
        mine = {}
        for name, mask in answer.items():
            left = rvos.without(mask, rvos.union(taken[name])) if name in taken else mask
            if left is not None:
                mine[name] = left
                taken.setdefault(name, []).append(left)
        apart.append(mine)
    return apart


def _judged(masks: dict[str, MaskRLE], void: dict[str, MaskRLE]) -> dict[str, MaskRLE]:
    left = {name: rvos.without(mask, void[name]) if name in void else mask for name, mask in masks.items()}
    return {name: mask for name, mask in left.items() if mask is not None}


def evaluate_exocentric(
    dataset: str,
    split: str | None,
    predictions: str,
    out: str,
    config: EvaluateConfig,
    *,
    limit: int | None = None,
    score_all: Callable[..., Part] | None = None,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Score a benchmark and write rows.parquet, failures/, run.json and summary.json; returns the summary.

    Args:
        dataset: in one of `rvos.LAYOUTS`.
        split: see `rvos.read_questions`.
        predictions: the folder of all answers, see `rvos.prediction_parts`.
        out: work folder; what an earlier evaluation left there is replaced.
        config: the stage's settings; ``official_compat`` means nothing here.
        limit: only the first so many videos.
        score_all: takes a function from videos to a `Part`, the videos and ``progress``, and scores them elsewhere.
        progress: called with {"done", "failed", "total", "frames", "total_frames", "seconds"}.

    Raises:
        FormatError: if the dataset cannot be read.
        ConfigError: if ``out`` cannot be written.
    """
    started = time.monotonic()
    videos = by_video(rvos.read_questions(dataset, split))[:limit]
    questions = [q for video in videos for q in video.questions]
    score = partial(score_part, predictions, config=config)
    part = score_all(score, videos, progress) if score_all else score(videos, progress=progress)
    order = {(q.item.video_id, q.item.expression_id, q.item.object_id): n for n, q in enumerate(questions)}
    rows = sorted(part.rows, key=lambda row: order[row["video_id"], row["expression_id"], row["object_id"]])
    summary: dict[str, Any] = {
        "stage": "evaluate",
        "benchmark": questions[0].item.tier,
        "split": questions[0].split,
        "num_expressions": len(questions),
        "expected": len(questions),
        "done": len(rows),
        "failed": len(part.failures),
        "skipped": part.skipped,
        "seconds": round(time.monotonic() - started, 3),
        "metrics": None,
    }
    if rows and len(part.failures) <= config.max_failures:
        summary |= _metrics(part)
    folder = Folder(out)
    given = {"dataset": dataset, "predictions": predictions, "split": questions[0].split}
    folder.write_json("run.json", {"config": given | config.model_dump(), "egoray": __version__})
    folder.write_rows("rows.parquet", rows, ROWS)
    write_failures(folder, part.failures)
    folder.write_json("summary.json", summary)
    return summary


def forecast(dataset: str, split: str | None, predictions: str, limit: int | None = None) -> dict[str, Any]:
    """What `evaluate_exocentric` would score, and how many expressions have no folder of answers.

    Raises:
        FormatError: if the dataset cannot be read.
    """
    videos = by_video(rvos.read_questions(dataset, split))[:limit]
    questions = [q for video in videos for q in video.questions]
    missing = sum(not os.path.isdir(os.path.join(predictions, *rvos.prediction_parts(q))) for q in questions)
    return {
        "benchmark": questions[0].item.tier,
        "expressions": len(questions),
        "videos": len(videos),
        "frames": sum(video.num_frames for video in videos),
        "missing_predictions": missing,
    }


def by_video(questions: Sequence[rvos.Question]) -> list[VideoQuestions]:
    """The questions of each video together, in file order."""
    videos: dict[str, list[rvos.Question]] = {}
    for question in questions:
        videos.setdefault(question.item.video_id, []).append(question)
    return [VideoQuestions(tuple(asked)) for asked in videos.values()]


def _metrics(part: Part) -> dict[str, Any]:
    found: dict[str, Any] = {"metrics": part.sums[ALL, ""].compute()}
    kinds = {value: sums.compute() for (name, value), sums in sorted(part.sums.items()) if name == KIND}
    if kinds:
        found["kinds"] = kinds
    if {"referring", "reasoning"} <= kinds.keys():
        found["overall"] = {m: (kinds["referring"][m] + kinds["reasoning"][m]) / 2 for m in JF}
    annotators = [sums.compute() for (name, _), sums in sorted(part.sums.items()) if name == ANNOTATOR]
    if annotators:
        found["annotators"] = {m: sum(a[m] for a in annotators) / len(annotators) for m in JF}
    return found
