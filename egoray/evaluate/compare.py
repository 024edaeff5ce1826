"""Two evaluations side by side: paired differences with bootstrap confidence intervals, and the expressions that changed most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egoray.core.storage import Folder
from egoray.errors import ConfigError, FormatError
from egoray.formats.egomask import TIERS, clip_of

METRICS = (
    *("T_recall", "T_precision", "T_f1", "T_accuracy"),
    *("IoU_all", "IoU_gold", "IoU_gold_pred", "J", "F", "J&F", "vIoU", "tIoU"),
    *("detection_flag", "detection_box_iou", "detection_mask_iou"),
)
"""The metrics of an evaluation, in the order in which tables show them."""

_DRAWS_AT_ONCE = 256  # bounds the matrix of draws: 256 x 12,000 clips are 25 MB

Row = Mapping[str, Any]
Key = tuple[str, str, str]


def compare(
    a: str, b: str, *, metric: str = "IoU_gold_pred", top: int = 10, resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """What changed from evaluation ``a`` to evaluation ``b``, over the expressions that both scored.

    Args:
        a: work folder of `egoray evaluate`, the baseline.
        b: the one to judge.
        metric: the metric by which expressions changed most.
        top: how many of those to list at most.
        resamples: bootstrap draws.
        confidence: of the intervals, in (0, 1).
        seed: of the draws; the same seed gives the same intervals.

    Returns:
        ``a``, ``b``, ``confidence``, ``resamples``, ``metric``; ``num_paired``, ``only_in_a``, ``only_in_b`` (expressions);
        ``splits``: by tier (and "full" where there are several) ``num``, ``num_clips`` and ``metrics``, as
        `paired_intervals` gives them; ``changed``: the expressions with the largest difference, largest first: video_id,
        expression_id, object_id, tier, text, a, b, difference (b - a). An expression that did not change is not listed.

    Raises:
        ConfigError: for an unknown metric.
        FormatError: if a folder holds no evaluation, or the two have no expression in common, were scored by different rules,
            or asked for other frames or sentences under the same ids.
    """
    if metric not in METRICS:
        raise ConfigError(f"--metric {metric}: unknown; known are {', '.join(METRICS)}")
    before, after = _rows(a), _rows(b)
    if _compat(a) != _compat(b):
        raise FormatError(f"{a} and {b} were scored by different rules; evaluate both with --official-compat, or both without")
    pairs = [(row, after[key]) for key, row in before.items() if key in after]
    if not pairs:
        raise FormatError(f"{a} and {b} have no expression in common; compare two evaluations of the same dataset and split")
    for old, new in pairs:
        for field in ("text", "num_frames", "tier"):
            if old.get(field) != new.get(field):
                raise FormatError(
                    f"{a} and {b} scored different questions: {field} of {'/'.join(_key(old))} is {old.get(field)!r} and {new.get(field)!r}"
                )
    tiers = [tier for tier in TIERS if any(old["tier"] == tier for old, _ in pairs)]
    groups = {"full": pairs} if len(tiers) != 1 else {}
    groups |= {tier: [pair for pair in pairs if pair[0]["tier"] == tier] for tier in tiers}
    return {
        "a": a,
        "b": b,
        "confidence": confidence,
        "resamples": resamples,
        "metric": metric,
        "num_paired": len(pairs),
        "only_in_a": len(before) - len(pairs),
        "only_in_b": len(after) - len(pairs),
        "splits": {name: _split(group, resamples, confidence, seed) for name, group in groups.items()},
        "changed": _changed(pairs, metric, top),
    }


def paired_intervals(
    values_a: NDArray[np.float64],
    values_b: NDArray[np.float64],
    clusters: Sequence[str],
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[dict[str, float | int | None]]:
    """Means of paired scores and the percentile bootstrap interval of their difference, metric by metric.

    Whole clusters are drawn, with replacement, for expressions of one clip share frames and objects and do not vary
    freely; each expression keeps its weight. All metrics see the same draws.

    Args:
        values_a: ``(N, M)`` scores of N expressions by M metrics, NaN where undefined.
        values_b: the same for the other run, in the same order.
        clusters: the cluster of each expression, N names.
        resamples: number of draws, at least 1.
        confidence: of the interval, in (0, 1).
        seed: of the draws.

    Returns:
        M mappings: ``num`` (pairs defined on both sides), and over these ``a`` and ``b`` (means), ``difference`` (b - a),
        ``low`` and ``high``. Without a pair all five are None; from one cluster alone no interval follows, and ``low`` and
        ``high`` are None.

    Raises:
        ValueError: if the shapes disagree, or ``resamples`` or ``confidence`` is out of range.

    Source: Efron's percentile bootstrap, on clusters as in Davison and Hinkley, Bootstrap Methods, 3.8.
    """
    if values_a.shape != values_b.shape or values_a.ndim != 2 or len(clusters) != len(values_a):
        raise ValueError(f"pairs must be aligned, got {values_a.shape} and {values_b.shape} scores in {len(clusters)} clusters")
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"resamples is {resamples} and confidence {confidence}; they must be at least 1 and inside (0, 1)")
    names, member = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    defined = ~(np.isnan(values_a) | np.isnan(values_b))
    num_metrics = values_a.shape[1]
    totals = np.zeros((len(names), 2 * num_metrics))  # of each cluster: the differences' sums, then the counts
    difference = np.where(defined, values_b - values_a, 0.0)
    np.add.at(totals, member, np.hstack([difference, defined.astype(float)]))
    drawn = np.full((resamples, num_metrics), np.nan)
    if len(names) > 1:
        rng = np.random.Generator(np.random.PCG64(seed))
        for start in range(0, resamples, _DRAWS_AT_ONCE):
            rows = drawn[start : start + _DRAWS_AT_ONCE]
            sums = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=len(rows)) @ totals
            np.divide(sums[:, :num_metrics], sums[:, num_metrics:], out=rows, where=sums[:, num_metrics:] > 0)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    found: list[dict[str, float | int | None]] = []
    for m in range(num_metrics):
        keep = defined[:, m]
        if not keep.any():
            found.append({"num": 0, **dict.fromkeys(("a", "b", "difference", "low", "high"))})
            continue
        draws = drawn[:, m][~np.isnan(drawn[:, m])]  # a draw without any defined pair says nothing
        varies = len(draws) > 0 and np.count_nonzero(totals[:, num_metrics + m]) > 1
        low, high = map(float, np.quantile(draws, tails)) if varies else (None, None)
        mean_a, mean_b = float(values_a[keep, m].mean()), float(values_b[keep, m].mean())
        found.append({"num": int(keep.sum()), "a": mean_a, "b": mean_b, "difference": mean_b - mean_a, "low": low, "high": high})
    return found


def _rows(folder: str) -> dict[Key, Row]:
    source = Folder(folder)
    if not source.exists("rows.parquet"):
        raise FormatError(f"{folder}: holds no rows.parquet; give the --out folder of a finished `egoray evaluate`")
    rows: dict[Key, Row] = {}
    for row in source.read_rows(names=["rows.parquet"]):
        if missing := {"video_id", "expression_id", "object_id", "tier"} - row.keys():
            raise FormatError(f"{folder}/rows.parquet: has no column {', '.join(sorted(missing))}")
        if _key(row) in rows:
            raise FormatError(f"{folder}/rows.parquet: lists {'/'.join(_key(row))} twice")
        rows[_key(row)] = row
    return rows


def _compat(folder: str) -> bool:
    source = Folder(folder)
    return source.exists("run.json") and bool(source.read_json("run.json").get("config", {}).get("official_compat"))


def _key(row: Row) -> Key:
    return (row["video_id"], row["expression_id"], row["object_id"])


def _split(pairs: Sequence[tuple[Row, Row]], resamples: int, confidence: float, seed: int) -> dict[str, Any]:
    shared = [metric for metric in METRICS if metric in pairs[0][0] and metric in pairs[0][1]]
    values = np.array([[[np.nan if row[m] is None else row[m] for m in shared] for row in pair] for pair in pairs], dtype=float)
    clips = [clip_of(old["video_id"], old["tier"]) for old, _ in pairs]
    found = paired_intervals(values[:, 0], values[:, 1], clips, resamples=resamples, confidence=confidence, seed=seed)
    return {"num": len(pairs), "num_clips": len(set(clips)), "metrics": dict(zip(shared, found, strict=True))}


def _changed(pairs: Sequence[tuple[Row, Row]], metric: str, top: int) -> list[dict[str, Any]]:
    changed = []
    for old, new in pairs:
        a, b = old.get(metric), new.get(metric)
        if a is not None and b is not None and a != b:
            what = {field: old.get(field) for field in ("video_id", "expression_id", "object_id", "tier", "text")}
            changed.append({**what, "a": a, "b": b, "difference": b - a})
    return sorted(changed, key=lambda row: (-abs(row["difference"]), _key(row)))[:top]
