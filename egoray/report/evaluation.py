"""One self-contained HTML page about an evaluation: its scores beside the paper's, and where and how the answers go wrong."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
from markupsafe import Markup

from egoray.core.masks import area
from egoray.core.storage import Folder
from egoray.errors import EgorayError, FormatError
from egoray.evaluate.slices import in_order
from egoray.formats.egomask import TIERS, images_dir, read_gold, read_items, read_prediction
from egoray.report.failures import FAILURES, RIGHT_FROM, Verdict, dominant, verdicts
from egoray.report.figures import answer_timeline, runs, score_bars, share_bar
from egoray.report.html import jpeg_uri, percent, render
from egoray.report.overlays import closeup
from egoray.schema import GroundingItem, MaskRLE

MAIN_METRIC = "IoU_gold_pred"
PAPER_TABLE = (  # EgoMask (ICCV 2025), its main table: IoU_gold_pred, %, on short, medium and long
    ("Grounded-SAM2, most confident detection first", (49.95, 25.73, 24.80)),
    ("Grounded-SAM2, first frame with a detection", (40.42, 15.11, 11.65)),
    ("Sa2VA-26B", (37.30, 25.83, 12.96)),
    ("Sa2VA-4B, fine-tuned on EgoMask-Train", (30.97, 18.52, 8.24)),
    ("Sa2VA-4B", (29.00, 17.02, 8.11)),
    ("VideoLISA-3.8B, fine-tuned on EgoMask-Train", (23.36, 9.98, 7.16)),
    ("VideoLISA-3.8B", (17.85, 6.48, 5.15)),
)
_ABLATION_METRICS = (MAIN_METRIC, "IoU_gold", "T_recall")
_FIRST_FRAMES = 5  # what Sa2VA looks at to find the object
_MAX_STILLS = 4
_TRUTH, _ANSWER = "#56B4E9", "#E69F00"
COLOURS = {"right": "#009E73", "boundary": "#F0E442", "wrong object": "#D55E00", "hallucinated": "#CC79A7", "missed": "#7F7F7F"}


@dataclass(frozen=True, slots=True)
class _Answer:
    """An expression with its row of scores and a verdict a frame; its masks are read again for the few that are shown."""

    row: Mapping[str, Any]
    item: GroundingItem
    found: Sequence[Verdict]

    @property
    def visible(self) -> list[int]:
        """The frames where the truth shows the object, by index."""
        return [i for i, verdict in enumerate(self.found) if verdict.kind not in ("absent", "hallucinated")]


def write_evaluation_report(evaluation: str, out: str, *, title: str = "Evaluation report", max_sequences: int = 12) -> str:
    """Write the page; its path. It needs no network, no script and no other file.

    The masks and images are read where the evaluation found them. Where the dataset or the predictions are gone, the page
    has the scores alone and says so; an answer that cannot be read is counted, and a missing image leaves its place empty.

    Args:
        evaluation: the work folder of `egoray evaluate`.
        out: the page's file, local or on an object store.
        title: the page's heading.
        max_sequences: expressions shown with timeline and stills, the lowest IoU_gold_pred first; of equal ones, the one
            with more frames at stake.

    Raises:
        ConfigError: if ``out`` cannot be written.
        FormatError: if ``evaluation`` holds no finished evaluation.
    """
    source = Folder(evaluation)
    if missing := [name for name in ("summary.json", "rows.parquet", "run.json") if not source.exists(name)]:
        raise FormatError(f"{evaluation}: holds no {missing[0]}; give the --out folder of a finished `egoray evaluate`")
    summary, run = source.read_json("summary.json"), source.read_json("run.json")["config"]
    rows = list(source.read_rows(names=["rows.parquet"]))
    if summary["metrics"] is None:
        raise FormatError(f"{evaluation}: has no metrics, since {summary['failed']} expressions could not be scored; see its failures/")
    metrics = summary["metrics"]  # JSON sorts its keys; the table's columns have the order to show
    answers, problems = _answers(rows, run)
    shown = sorted((a for a in answers if a.row.get(MAIN_METRIC) is not None), key=_worst_first)[:max_sequences]
    folder_uri, _, name = os.fspath(out).rpartition("/")
    page = render(
        "evaluation.html",
        title=title,
        source=source.uri,
        run=run,
        facts=_facts(summary, run),
        metrics=[(column, percent(metrics[column])) for column in (rows[0] if rows else metrics) if column in metrics],
        table=_main_table(rows),
        tiers=_bars(((f"{tier} ({len(found)})", _mean(found, MAIN_METRIC)) for tier, found in _by_tier(rows).items()), "By split"),
        ablations=_ablations(rows, answers),
        ablation_metrics=_ABLATION_METRICS,
        slices=_slices(summary),
        failures=_failures(answers) if answers else None,
        sequences=[_sequence(answer, run) for answer in shown],
        num_expressions=len(rows),
        problems=problems,
        colours=COLOURS,
        truth=_TRUTH,
        answer=_ANSWER,
    )
    Folder(folder_uri or ".").write_bytes(name, page)
    return os.fspath(out)


def _answers(rows: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> tuple[list[_Answer], list[str]]:
    """What of the rows can still be read, and for the rest what is wrong."""
    try:
        items = {(i.video_id, i.expression_id, i.object_id): i for i in read_items(run["dataset"], run["split"])}
    except (EgorayError, ValueError) as error:  # a ValueError: a split of an exocentric set, whose pictures are not shown
        return [], [str(error)]
    answers, problems = [], []
    for row in rows:
        item = items.get((row["video_id"], row["expression_id"], row["object_id"]))
        try:
            if item is None:
                raise FormatError(f"{run['dataset']}: no longer asks {row['video_id']}/{row['expression_id']}")
            gold, predicted = _masks(item, run)
            answers.append(_Answer(row, item, verdicts(gold, predicted, item.frame_names)))
        except (EgorayError, ValueError) as error:  # a ValueError: masks of two sizes
            problems.append(str(error))
    return answers, problems


def _masks(item: GroundingItem, run: Mapping[str, Any]) -> tuple[dict[str, MaskRLE], dict[str, MaskRLE]]:
    """The true and the predicted masks of a question."""
    return read_gold(run["dataset"], item), read_prediction(run["predictions"], run["split"], item) or {}


def _worst_first(answer: _Answer) -> tuple[float, int, str, str]:
    row = answer.row
    return (row[MAIN_METRIC], -sum(v.kind != "absent" for v in answer.found), row["video_id"], row["expression_id"])


def _facts(summary: Mapping[str, Any], run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures on top of the page: name and value."""
    metrics = summary["metrics"]
    facts = [("split", summary["split"]), ("expressions", f"{summary['num_expressions']:,}")]
    facts += [(metric, percent(metrics.get(metric))) for metric in (MAIN_METRIC, "IoU_gold", "J&F", "T_recall")]
    try:
        speed = Folder(run["predictions"]).read_json(f"work/{run['split']}/summary.json").get("frames_per_s")
    except (EgorayError, AttributeError):  # predictions made elsewhere record none
        speed = None
    return [*facts, ("inference, frames/s", f"{speed:,.2f}" if speed else "not recorded")]


def _by_tier(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    return {tier: found for tier in TIERS if (found := [row for row in rows if row["tier"] == tier])}


def _mean(rows: Iterable[Mapping[str, Any]], metric: str) -> float | None:
    values = [row[metric] for row in rows if row.get(metric) is not None]
    return sum(values) / len(values) if values else None


def _bars(scores: Iterable[tuple[str, float | None]], title: str) -> Markup:
    return Markup(score_bars([(label, score) for label, score in scores if score is not None], title, highlight=False))


def _main_table(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str], bool]]:
    """Name, the three cells and whether it is this run; this run comes first."""
    means = {tier: _mean(found, MAIN_METRIC) for tier, found in _by_tier(rows).items()}
    paper = [(name, [f"{value:.2f}" for value in values], False) for name, values in PAPER_TABLE]
    return [("This run", ["–" if (mean := means.get(tier)) is None else f"{100 * mean:.2f}" for tier in TIERS], True), *paper]


def _ablations(rows: Sequence[Mapping[str, Any]], answers: Sequence[_Answer]) -> list[tuple[str, str, list[tuple[str, int, list[str]]]]]:
    """Title, note, and groups of expressions (name, how many, means), where the run has both sides of the question."""
    detected = [row for row in rows if row.get("detection_flag")]
    others = [row for row in rows if row.get("detection_flag") == 0]
    early: list[Mapping[str, Any]] = []
    late: list[Mapping[str, Any]] = []
    for answer in answers:
        (early if any(i < _FIRST_FRAMES for i in answer.visible) else late).append(answer.row)
    questions = [
        (
            "Initialisation: where the tracker was started",
            "By whether the frame of the first detection shows the object. In the paper, starting from the most confident detection "
            "instead of the first one adds 9.53, 10.62 and 13.15 to IoU_gold_pred on short, medium and long.",
            [("started on a frame with the object", detected), ("started elsewhere, or nowhere", others)] if detected else [],
        ),
        (
            "Validity of the first five frames",
            "By whether the object is visible in any of the video’s first five frames. In the paper Sa2VA, which looks for the object "
            "there, falls to about 0 where it is not.",
            [("visible in them", early), ("not visible in them", late)] if early or late else [],
        ),
    ]
    return [
        (title, note, [(name, len(found), [percent(_mean(found, metric)) for metric in _ABLATION_METRICS]) for name, found in groups])
        for title, note, groups in questions
        if groups
    ]


def _slices(summary: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """Bars by slice; IoU_gold where single frames have no IoU_gold_pred."""
    charts = []
    for name, values in (summary.get("slices") or {}).items():
        title = name.replace("_", " ")
        ordered = ((value, values[value]) for value in in_order(values))
        bars = [(f"{value} ({means['num']:,})", means.get(MAIN_METRIC, means.get("IoU_gold"))) for value, means in ordered]
        charts.append((title, _bars(bars, title)))
    return charts


def _failures(answers: Sequence[_Answer]) -> dict[str, Any]:
    frames = Counter(verdict.kind for answer in answers for verdict in answer.found)
    mostly = Counter(dominant(answer.found) for answer in answers)
    at_stake = sum(frames[kind] for kind in COLOURS)
    rows = [
        {
            "kind": kind,
            "definition": FAILURES.get(kind, f"both are there, with an IoU of {RIGHT_FROM:g} or more"),
            "frames": f"{frames[kind]:,}",
            "share": f"{100 * frames[kind] / at_stake:.1f} %" if at_stake else "–",
            "expressions": f"{mostly[kind]:,}",
        }
        for kind in COLOURS
    ]
    bar = share_bar([(kind, colour, frames[kind]) for kind, colour in COLOURS.items()], "Frames by verdict")
    return {"rows": rows, "bar": Markup(bar), "num_absent": f"{frames['absent']:,}"}


def _sequence(answer: _Answer, run: Mapping[str, Any]) -> dict[str, Any]:
    """A section of the page: what was asked, the timeline, and stills where the images are at hand."""
    item, row = answer.item, answer.row
    seconds = _frame_s(item)
    parts = [(k, c, runs(i for i, v in enumerate(answer.found) if v.kind == k)) for k, c in COLOURS.items() if k != "missed"]
    counts = Counter(verdict.kind for verdict in answer.found)
    folder = images_dir(run["dataset"], item)
    gold, predicted = _masks(item, run)
    stills = [
        (f"{i * seconds:g} s, {caption}", _still(os.path.join(folder, f"{frame}.jpg"), gold.get(frame), predicted.get(frame)))
        for i, caption in _telling_frames(answer, gold, predicted).items()
        for frame in [item.frame_names[i]]
    ]
    return {
        "text": item.text,
        "ids": f"{item.video_id} / expression {item.expression_id} / object {item.object_id}, {item.tier}",
        "mostly": dominant(answer.found),
        "counts": ", ".join(f"{counts[kind]} {kind}" for kind in (*COLOURS, "absent") if counts[kind]),
        "scores": [(metric, percent(row.get(metric))) for metric in (MAIN_METRIC, "IoU_gold", "J&F", "T_recall") if metric in row],
        "timeline": Markup(answer_timeline(seconds, runs(answer.visible), parts, len(item.frame_names))),
        "stills": [(caption, picture) for caption, picture in stills if picture],
        "num_without_image": sum(not picture for _, picture in stills),
    }


def _frame_s(item: GroundingItem) -> float:
    """Seconds between frames: RefEgo's images are at 2 fps, EgoTracks' at 1 fps; the release tells them by name."""
    return 0.5 if item.frame_names[0].startswith("img") else 1.0


def _telling_frames(answer: _Answer, gold: Mapping[str, MaskRLE], predicted: Mapping[str, MaskRLE]) -> dict[int, str]:
    """At most four frames by index, ascending, with captions: of each kind the one that shows it best."""
    best: dict[str, tuple[float, int]] = {}
    for i, (verdict, frame) in enumerate(zip(answer.found, answer.item.frame_names, strict=True)):
        if verdict.kind == "absent":
            continue
        side = predicted if verdict.kind == "hallucinated" else gold
        weight = {"right": verdict.iou, "boundary": -(verdict.iou or 0.0)}.get(verdict.kind)
        score = float(area(side[frame])) if weight is None else weight
        if verdict.kind not in best or score > best[verdict.kind][0]:
            best[verdict.kind] = (score, i)
    chosen = [best[kind][1] for kind in (*FAILURES, "right") if kind in best]
    captions = {}
    for i in sorted(chosen[:_MAX_STILLS]):
        kind, overlap = answer.found[i]
        captions[i] = kind if overlap is None else f"{kind}, IoU {100 * overlap:.0f}"
    return captions


def _still(path: str, gold: MaskRLE | None, predicted: MaskRLE | None) -> str:
    """The frame around both masks, the truth and the answer in their colours; "" without its image."""
    image = cv2.imread(path, cv2.IMREAD_COLOR_RGB) if os.path.isfile(path) else None
    if image is None:
        return ""
    masks = {colour: rle for colour, rle in ((_TRUTH, gold), (_ANSWER, predicted)) if rle is not None}
    height, width = next(iter(masks.values())).size
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return jpeg_uri(closeup(image, masks, {colour: colour for colour in masks}))
