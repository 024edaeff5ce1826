"""Put a benchmark's questions to a grounding model: clips with all their sentences as units of work, answers as files.

Answers lie in the benchmark's own layout (EgoMask: OUT/<split>/<video>/<exp>/; others: OUT/<video>/<exp>/), and once more as a
table: OUT/work/<split>/answers/*.parquet has a row an expression and judged frame, with the confidence and, if found, the mask.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import pyarrow as pa

from egoray.config import PredictConfig
from egoray.core import paths
from egoray.core.clip import ImageClip
from egoray.core.storage import Folder
from egoray.core.video import digest
from egoray.core.workfolder import fingerprint
from egoray.errors import ConfigError, FormatError
from egoray.formats.egomask import images_dir, read_items, write_prediction
from egoray.formats.rvos import Question, benchmark_of, read
from egoray.formats.rvos_predictions import write_prediction as write_pngs
from egoray.models.base import Grounded, Grounder
from egoray.schema import FailureRow, GroundingItem

EGOMASK = "egomask"
ANSWERS = pa.schema(
    [(name, pa.string()) for name in ("video_id", "expression_id", "object_id", "frame_name")]
    + [("frame", pa.int32()), ("score", pa.float32()), ("height", pa.int32()), ("width", pa.int32()), ("counts", pa.string())]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipQuestions:
    """A clip and all that is asked about it; ``paths`` are its images, one a frame name of its items.

    ``benchmark`` is `EGOMASK` or one that `rvos` reads, ``answers`` the folders of those answers.
    """

    unit: str
    split: str
    benchmark: str
    paths: tuple[str, ...]
    items: tuple[GroundingItem, ...]
    answers: tuple[str, ...]

    def question(self, number: int) -> Question:
        """One of its questions, as `rvos` has them."""
        return Question(benchmark=self.benchmark, item=self.items[number], images=self.paths, targets=None, answer=self.answers[number])


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictPlan:
    """The units of a run, and the questions that cannot be asked."""

    dataset: str
    split: str
    clips: tuple[ClipQuestions, ...]
    failures: tuple[FailureRow, ...]


def plan_from_files(dataset: str, split: str | None, config: PredictConfig) -> PredictPlan:
    """The questions of a split by clip; a clip without images and a sentence without a word are failures.

    ``dataset`` is EgoMask's folder or an exocentric benchmark's that `rvos` reads; there None takes its usual split.

    Raises:
        FormatError: if the dataset cannot be read, or has no expression.
        ConfigError: for an unknown split.
    """
    questions = _questions(dataset, split)
    named = questions[0].item.tier if benchmark_of(dataset) else str(split)
    clips: dict[str, list[Question]] = {}
    failures = []
    for question in questions:
        item = question.item
        if re.search(r"[^\W_]", item.text):
            clips.setdefault(item.video_id, []).append(question)
        else:
            failures.append(_failure(f"{item.video_id}/{item.expression_id}", f"nothing to look for in {item.text!r}"))
    units, seen = [], cache(digest)
    for video_id, asked in clips.items():
        images = tuple(map(paths.absolute, asked[0].images))
        folder = paths.parent(images[0])
        if not paths.is_folder(folder):
            failures.append(_failure(video_id, f"{folder}: no such folder of images; fetch it, or predict another split"))
            continue
        items = tuple(question.item for question in asked)
        texts = [(item.expression_id, item.object_id, item.text) for item in items]
        unit = fingerprint([config.fingerprint_fields(), named, video_id, texts, items[0].frame_names, seen(folder)])
        answers = tuple(question.answer for question in asked)
        units.append(ClipQuestions(unit=unit, split=named, benchmark=asked[0].benchmark, paths=images, items=items, answers=answers))
    return PredictPlan(dataset=dataset, split=named, clips=tuple(units), failures=tuple(failures))


def _questions(dataset: str, split: str | None) -> list[Question]:
    try:
        if benchmark_of(dataset):
            return read(dataset, split)
        items = read_items(dataset, split or "")
    except ValueError as error:
        raise ConfigError(f"--split {error}") from error
    if not items:
        raise FormatError(f"{dataset}: split {split} has no expressions")
    questions = []
    for item in items:
        folder = images_dir(dataset, item)
        images = tuple(paths.join(folder, f"{name}.jpg") for name in item.frame_names)
        questions.append(Question(benchmark=EGOMASK, item=item, images=images, targets=None, answer=""))
    return questions


def forecast(plan: PredictPlan, limit: int | None = None) -> dict[str, Any]:
    """What a run would do, in numbers."""
    clips = plan.clips[:limit]
    return {
        "clips": len(clips),
        "expressions": sum(len(clip.items) for clip in clips),
        "frames": sum(len(clip.paths) for clip in clips),
        "cannot_be_asked": len(plan.failures),
    }


def pack(clip: ClipQuestions) -> str:
    """The unit as text."""
    return json.dumps(asdict(clip))


def unpack(text: str) -> ClipQuestions:
    """What `pack` packed."""
    row = json.loads(text)
    items = tuple(GroundingItem(**{**item, "frame_names": tuple(item["frame_names"])}) for item in row["items"])
    return ClipQuestions(**row | {"items": items, "paths": tuple(row["paths"]), "answers": tuple(row["answers"])})


def work_folder(predictions: str, split: str) -> Folder:
    """Where a run over a split keeps its records: run.json, summary.json, answers/, failures/."""
    return Folder(predictions) / "work" / split


def answer(model: Grounder, clip: ClipQuestions, predictions: str) -> list[dict[str, Any]]:
    """Ask the model, write an answer file for each expression, and give the rows of the table `ANSWERS`.

    Raises:
        FormatError: if an image cannot be read.
        ModelError: if the model cannot run.
    """
    rows = []
    answers = model.ground(ImageClip(clip.paths), [item.text for item in clip.items])
    for number, (item, found) in enumerate(zip(clip.items, answers, strict=True)):
        masks = {item.frame_names[frame]: found.masks[frame] for frame in sorted(found.masks)}
        if clip.benchmark == EGOMASK:
            write_prediction(predictions, clip.split, item, masks, _detection(item, found))
        else:
            write_pngs(predictions, clip.question(number), masks)
        rows += _rows(item, found)
    return rows


def _detection(item: GroundingItem, found: Grounded) -> dict[str, Any] | None:
    if found.detection is None:
        return None
    frame, detection = found.detection
    return {
        "frame_idx": frame,
        "frame_name": item.frame_names[frame],
        "labels": [item.text],
        "input_boxes": list(detection.box),
        "confidences": [detection.score],
    }


def _rows(item: GroundingItem, found: Grounded) -> list[dict[str, Any]]:
    rows = []
    for frame in sorted(found.scores.keys() | found.masks.keys()):
        rle = found.masks.get(frame)
        height, width = rle.size if rle else (None, None)
        rows.append(
            {
                "video_id": item.video_id,
                "expression_id": item.expression_id,
                "object_id": item.object_id,
                "frame_name": item.frame_names[frame],
                "frame": frame,
                "score": found.scores.get(frame),
                "height": height,
                "width": width,
                "counts": rle.counts if rle else None,
            }
        )
    return rows


def _failure(unit: str, message: str) -> FailureRow:
    return FailureRow(stage="predict", unit=unit, error="FormatError", message=message, attempt=1, retryable=False)
