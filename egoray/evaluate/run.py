"""Evaluate a folder of predictions: units of work, their scores as sums that add up in any order, and the tables at the end.

A unit is an expression of EgoMask, or what an exocentric set's evaluator judges at once. It ends as rows or as a failure
row; metrics are given only where every unit asked for has its rows, since a mean over what happened to be readable would
look like a result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any

import pyarrow as pa

from egoray import __version__
from egoray.config import EvaluateConfig
from egoray.core.pulse import Pulse
from egoray.core.storage import Folder
from egoray.core.workfolder import write_failure
from egoray.errors import ConfigError, EgorayError, FormatError
from egoray.evaluate.exocentric import ExocentricUnit, paper_figures, read_units, revos_overall, score_unit
from egoray.evaluate.expression import DETECTION, METRICS, score_expression
from egoray.evaluate.official import score_as_released
from egoray.evaluate.scores import ScoreSums
from egoray.evaluate.slices import AGE, in_order, slices_of
from egoray.formats.egomask import (
    gold_as_stored,
    missing_prediction,
    prediction_as_stored,
    read_detection,
    read_gold,
    read_items,
    read_prediction,
)
from egoray.formats.rvos import benchmark_of
from egoray.schema import FailureRow, GroundingItem

NUMBERS = ("num_frames", "num_gold", "num_pred", "num_both", "num_trajectories")
ROWS = pa.schema(
    [(name, pa.string()) for name in ("video_id", "expression_id", "object_id", "tier", "kind", "text")]
    + [(name, pa.float64()) for name in (*METRICS, *DETECTION, "object_area", "presence")]
    + [(name, pa.int32()) for name in NUMBERS]
)
VIDEOS = pa.schema([("video_id", pa.string()), ("num_expressions", pa.int32())] + [(m, pa.float64()) for m in (*METRICS, *DETECTION)])
ALL, TIER, VIDEO, ALONE = "all", "tier", "video", "alone"
_COUNT = "expressions"
Unit = GroundingItem | ExocentricUnit
Sums = dict[tuple[str, str], ScoreSums]
"""By (slice, its value); the whole is (`ALL`, "")."""
Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Part:
    """What any number of expressions come to: parts add up to a run in any order."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    sums: Sums = field(default_factory=dict)
    failures: list[FailureRow] = field(default_factory=list)
    done: int = 0
    skipped: int = 0

    def __add__(self, other: Part) -> Part:
        keys = self.sums.keys() | other.sums.keys()
        none = ScoreSums()
        sums = {key: self.sums.get(key, none) + other.sums.get(key, none) for key in keys}
        failures = self.failures + other.failures
        return Part(self.rows + other.rows, sums, failures, self.done + other.done, self.skipped + other.skipped)


def score_part(
    dataset: str,
    predictions: str,
    split: str,
    items: Sequence[Unit],
    config: EvaluateConfig,
    progress: Progress = lambda _: None,
) -> Part:
    """Score these units; a file that cannot be read costs its own unit and no other."""
    part, done, skipped, frames, started = Part(), 0, 0, 0, time.monotonic()
    total = {"total": len(items), "total_frames": sum(len(item.frame_names) for item in items)}
    for item in items:
        try:
            rows = _score(dataset, predictions, split, item, config)
        except EgorayError as error:
            message = " ".join(str(error).split())
            failure = FailureRow(stage="evaluate", unit=_name(item), error=type(error).__name__, message=message, attempt=1, retryable=True)
            part.failures.append(failure)
        else:
            done, skipped = (done + 1, skipped) if rows else (done, skipped + 1)
            for row in rows:
                part.rows.append({name: row.get(name) for name in ROWS.names})
                for key, sums in _sums_of(row):
                    part.sums[key] = part.sums.get(key, ScoreSums()) + sums
        frames += len(item.frame_names)
        tally = {"done": done + skipped, "failed": len(part.failures), "frames": frames}
        progress(tally | total | {"seconds": time.monotonic() - started})
    return Part(part.rows, part.sums, part.failures, done, skipped)


def _name(item: Unit) -> str:
    return item.name if isinstance(item, ExocentricUnit) else f"{item.video_id}/{item.expression_id}"


def _missing(predictions: str, split: str, item: Unit) -> str | None:
    """The file or folder that should hold the unit's prediction, if it is not there."""
    return item.missing(predictions) if isinstance(item, ExocentricUnit) else missing_prediction(predictions, split, item)


def _score(dataset: str, predictions: str, split: str, item: Unit, config: EvaluateConfig) -> list[dict[str, Any]]:
    """The unit's rows, one or more; [] for a unit that is skipped."""
    if config.missing != "empty" and (where := _missing(predictions, split, item)):
        if config.missing == "skip":
            return []
        remedy = "black PNGs" if isinstance(item, ExocentricUnit) else "{}"
        raise FormatError(f"{where}: no prediction; write {remedy} for nothing found, or use --missing empty or skip")
    try:
        if isinstance(item, ExocentricUnit):
            return score_unit(dataset, predictions, item)
        return [_score_item(dataset, predictions, split, item, config.official_compat)]
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{_name(item)}: {error}") from error


def _score_item(dataset: str, predictions: str, split: str, item: GroundingItem, official_compat: bool) -> dict[str, Any]:
    about = {name: getattr(item, name) for name in ("video_id", "expression_id", "object_id", "tier", "kind", "text")}
    predicted = read_prediction(predictions, split, item) or {}
    detection = read_detection(predictions, split, item)
    row = score_expression(item.frame_names, read_gold(dataset, item), predicted, detection)
    if official_compat:
        stored = prediction_as_stored(predictions, split, item) or {}
        where = f"{item.video_id}, expression {item.expression_id}"
        released = score_as_released(item.frame_names, gold_as_stored(dataset, item), stored, detection, where)
        row |= dict.fromkeys(METRICS) | released
    return about | row


def _sums_of(row: dict[str, Any]) -> Iterable[tuple[tuple[str, str], ScoreSums]]:
    values = {name: row[name] for name in (*METRICS, *DETECTION) if row.get(name) is not None} | {_COUNT: 1.0}
    own = ScoreSums.of(values)
    for key in ((ALL, ""), (TIER, row["tier"]), (VIDEO, row["video_id"]), *slices_of(row).items()):
        yield key, own
    if "alone" in row:
        yield (ALONE, ""), ScoreSums.of(row["alone"])
    for age, (iou, found, num) in row["since_last_seen"].items():
        sums = {"IoU_gold": Fraction(iou), "T_recall": Fraction(found), _COUNT: Fraction(num)}
        yield (AGE, age), ScoreSums(sums=sums, counts=dict.fromkeys(sums, num))


def means(sums: ScoreSums) -> dict[str, float | None]:
    """The metrics, each over the expressions that have it; None for one that none has.

    Where any expression has a detection, those without one count 0: a detector that found nothing writes no file.
    """
    values = sums.compute()
    count = sums.counts.get(_COUNT, 0)
    for name in DETECTION:
        if name in values:
            values[name] = float(sums.sums[name] / count)
    return {name: values.get(name) for name in (*METRICS, *DETECTION)}


def evaluate(
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
    """Score the split and write rows.parquet, videos.parquet, failures/, run.json and summary.json; returns the summary.

    Args:
        dataset: in EgoMask's layout, or that of an exocentric set that `egoray.formats.rvos` reads.
        split: short, medium (or mid), long or full; for an exocentric set one of its own, None for its usual one.
        predictions: the folder that holds ``<split>/``, in the layout of the released evaluator; for an exocentric set
            the folder of its videos, in the layout of its evaluator.
        out: work folder; what an earlier evaluation left there is replaced.
        config: the stage's settings.
        limit: only the first so many units.
        score_all: takes the items and ``progress`` and scores them elsewhere; if not given, here, one after another.
        progress: called with {"done", "failed", "total", "frames", "total_frames", "seconds"}.

    Raises:
        FormatError: if the dataset cannot be read, or has no expression.
        ConfigError: for an unknown split, or if ``out`` cannot be written.
    """
    started = time.monotonic()
    items = _items(dataset, split, limit)
    split = _split_of(items, split)
    if config.official_compat and isinstance(items[0], ExocentricUnit):
        raise ConfigError("--official-compat is EgoMask's; an exocentric set is always scored by its own evaluator's rules")
    own = partial(score_part, dataset, predictions, split, config=config)
    folder = Folder(out)
    with Pulse(folder, "evaluate") as pulse:

        def tell(state: dict[str, Any]) -> None:
            pulse.tell(state)
            progress(state)

        part = (score_all or own)(items, progress=tell)
    order = {key: n for n, key in enumerate(key for item in items for key in _keys(item))}
    rows = sorted(part.rows, key=lambda row: _place(row, order))
    frames = sum(row["num_frames"] for row in rows)
    seconds = time.monotonic() - started
    summary: dict[str, Any] = {
        "stage": "evaluate",
        "split": split,
        "num_expressions": sum(len(_keys(item)) for item in items),
        "official_compat": config.official_compat,
        "missing": config.missing,
        "expected": len(items),
        "done": part.done,
        "failed": len(part.failures),
        "skipped": part.skipped,
        "seconds": round(seconds, 3),
        "frames": frames,
        "frames_per_s": round(frames / seconds, 1),
        "metrics": None,
    }
    if rows and len(part.failures) <= config.max_failures:
        summary |= _tables(part.sums)
    if isinstance(items[0], ExocentricUnit):
        summary |= {"benchmark": items[0].questions[0].benchmark, "paper": paper_figures(items[0])}
        if overall := revos_overall(items[0], summary.get("slices", {}).get("kind", {})):
            summary["overall"] = overall
    given = {"dataset": dataset, "predictions": predictions, "split": split}
    folder.write_json("run.json", {"config": given | config.model_dump(), "egoray": __version__})
    folder.write_rows("rows.parquet", rows, ROWS)
    of_videos = [(video, sums) for (name, video), sums in sorted(part.sums.items()) if name == VIDEO]
    videos = [{"video_id": video, "num_expressions": sums.counts[_COUNT], **means(sums)} for video, sums in of_videos]
    folder.write_rows("videos.parquet", videos, VIDEOS)
    for name in (folder / "failures").names(".parquet"):
        (folder / "failures").delete(name)
    for failure in part.failures:
        write_failure(folder, failure.unit.replace("/", "_"), failure)
    folder.write_json("summary.json", summary)
    if summary["expected"] != summary["done"] + summary["failed"] + summary["skipped"]:
        raise FormatError(f"{out}: of {len(items)} units {part.done} have rows and {len(part.failures)} a failure row; report this")
    return summary


def forecast(dataset: str, split: str | None, predictions: str, limit: int | None = None) -> dict[str, Any]:
    """What `evaluate` would score: expressions, videos, frames, and how many units have no prediction, or not all of it.

    Raises:
        FormatError: as `evaluate`.
        ConfigError: for an unknown split.
    """
    items = _items(dataset, split, limit)
    return {
        "expressions": sum(len(_keys(item)) for item in items),
        "videos": len({item.video_id for item in items}),
        "frames": sum(len(item.frame_names) for item in items),
        "missing_predictions": sum(_missing(predictions, _split_of(items, split), item) is not None for item in items),
    }


def _items(dataset: str, split: str | None, limit: int | None) -> list[Unit]:
    try:
        if benchmark_of(dataset):
            items: Sequence[Unit] = read_units(dataset, split)
        elif split is None:
            raise ConfigError("--split: say which of EgoMask's splits to score: short, medium, long or full")
        else:
            items = read_items(dataset, split)
    except ValueError as error:
        raise ConfigError(f"--split {error}") from error
    if not items:
        raise FormatError(f"{dataset}: split {split} has no expressions")
    return list(items[:limit])


def _split_of(items: Sequence[Unit], given: str | None) -> str:
    first = items[0]
    return first.questions[0].item.tier if isinstance(first, ExocentricUnit) else given or ""


def _keys(item: Unit) -> list[tuple[str, str, str]]:
    """(video, object, expression) of each of the unit's expressions."""
    items = [question.item for question in item.questions] if isinstance(item, ExocentricUnit) else [item]
    return [(each.video_id, each.object_id, each.expression_id) for each in items]


def _place(row: Mapping[str, Any], order: Mapping[tuple[str, str, str], int]) -> tuple[int, str, str]:
    """Where a row stands: as its expression in the file; objects that no expression is about come last."""
    key = row["video_id"], row["object_id"], row["expression_id"]
    return order.get(key, len(order)), row["video_id"], f"{row['expression_id']} {row['object_id']:>4}"


def _tables(sums: Sums) -> dict[str, Any]:
    values: dict[str, list[str]] = {}
    for name, value in sorted(sums):
        if name not in (ALL, VIDEO, ALONE):
            values.setdefault(name, []).append(value)
    slices: dict[str, dict[str, Any]] = {name: {value: {} for value in in_order(found)} for name, found in values.items()}
    for name, of_name in slices.items():
        for value in of_name:
            each = sums[name, value]
            of_name[value] = {"num": each.counts[_COUNT]} | {m: mean for m, mean in means(each).items() if mean is not None}
    alone = {"metrics_alone": sums[ALONE, ""].compute()} if (ALONE, "") in sums else {}
    return {"metrics": means(sums[ALL, ""]), "slices": slices} | alone
