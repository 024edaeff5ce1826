"""Paired intervals against cases that can be counted by hand, and the comparison of two folders."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from egoray.cli import main
from egoray.core.storage import Folder
from egoray.errors import ConfigError, FormatError
from egoray.evaluate.compare import compare, paired_intervals
from support.evaluated import write_rows


def column(*values: float | None) -> np.ndarray:
    return np.array([[np.nan if value is None else value] for value in values])


def test_the_means_are_over_pairs_defined_on_both_sides() -> None:
    (found,) = paired_intervals(column(0.1, None, 0.5, 0.2), column(0.3, 0.9, None, 0.1), list("abcd"))
    assert found["num"] == 2
    assert found["a"] == pytest.approx(0.15, abs=1e-15)
    assert found["b"] == pytest.approx(0.2, abs=1e-15)
    assert found["difference"] == pytest.approx(0.05, abs=1e-15)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
def test_intervals_are_the_quantiles_of_every_possible_draw(confidence: float) -> None:
    """All 4^4 draws of four clusters of unequal size, listed; the interval of many random draws is theirs."""
    differences = {"a": [0.30, 0.10], "b": [-0.05], "c": [0.22, 0.18, 0.35], "d": [0.02]}
    everything = [[value for name in draw for value in differences[name]] for draw in product(differences, repeat=4)]
    listed = sorted(float(np.mean(values)) for values in everything)
    clusters = [name for name, values in differences.items() for _ in values]
    b = column(*(value for values in differences.values() for value in values))
    (found,) = paired_intervals(np.zeros_like(b), b, clusters, resamples=200_000, confidence=confidence, seed=1)
    for side, tail in (("low", (1 - confidence) / 2), ("high", (1 + confidence) / 2)):
        near = [listed[min(255, max(0, round(256 * (tail + step))))] for step in (-0.012, 0.012)]
        assert near[0] - 1e-12 <= found[side] <= near[1] + 1e-12


def test_intervals_cover_the_true_difference_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(300):
        clip = rng.normal(0.1, 0.2, 40)
        b = (clip[:, None] + rng.normal(0, 0.05, (40, 3))).reshape(-1, 1)  # three expressions of a clip vary together
        (found,) = paired_intervals(np.zeros_like(b), b, [str(i // 3) for i in range(120)], resamples=400, seed=trial)
        hits += found["low"] <= 0.1 <= found["high"]
    assert 0.90 <= hits / 300 <= 0.98  # drawn one by one, expressions would give about 0.75


def test_one_clip_gives_no_interval() -> None:
    (found,) = paired_intervals(column(0.1, 0.2), column(0.2, 0.4), ["a", "a"])
    assert (found["low"], found["high"]) == (None, None)
    (found,) = paired_intervals(column(0.1, None), column(0.2, 0.4), ["a", "b"])  # the second says nothing of this metric
    assert (found["num"], found["low"]) == (1, None)
    (found,) = paired_intervals(column(None), column(0.2), ["a"])
    assert found == {"num": 0, "a": None, "b": None, "difference": None, "low": None, "high": None}


def test_the_same_seed_gives_the_same_intervals_and_arguments_are_checked() -> None:
    a, b, clips = np.zeros((20, 2)), np.random.default_rng(0).random((20, 2)), [str(i) for i in range(20)]
    assert paired_intervals(a, b, clips, seed=3) == paired_intervals(a, b, clips, seed=3)
    assert paired_intervals(a, b, clips, seed=3) != paired_intervals(a, b, clips, seed=4)
    with pytest.raises(ValueError, match="aligned"):
        paired_intervals(a, b[:-1], clips)
    with pytest.raises(ValueError, match="confidence"):
        paired_intervals(a, b, clips, confidence=1.0)


def row(video: str, expression: str, score: float | None, **more: Any) -> dict[str, Any]:
    return {
        "video_id": video,
        "expression_id": expression,
        "object_id": "1",
        "text": f"the thing of {video}",
        "tier": "long",
        "num_frames": 60,
        "IoU_gold_pred": score,
        "J&F": score,
        **more,
    }


def folders(tmp_path: Path, a: list[dict[str, Any]], b: list[dict[str, Any]]) -> tuple[str, str]:
    return write_rows(tmp_path / "a", a), write_rows(tmp_path / "b", b)


def test_splits_clips_and_what_changed(tmp_path: Path) -> None:
    """Two medium slices of one clip are one cluster; what only one side scored is counted."""
    medium = [row(f"clip--{i}", "0", 0.25, tier="medium") for i in range(2)] + [row("other--0", "0", 0.5, tier="medium")]
    a = [*medium, row("v", "0", 0.5), row("v", "1", 0.25), row("only", "0", 0.125)]
    b = [*medium[:2], medium[2] | {"IoU_gold_pred": 1.0}, row("v", "0", 0.25), row("v", "1", 0.25)]
    found = compare(*folders(tmp_path, a, b), resamples=200)
    assert (found["num_paired"], found["only_in_a"], found["only_in_b"]) == (5, 1, 0)
    assert {name: (s["num"], s["num_clips"]) for name, s in found["splits"].items()} == {"full": (5, 3), "medium": (3, 2), "long": (2, 1)}
    assert found["splits"]["long"]["metrics"]["IoU_gold_pred"]["difference"] == -0.125
    assert [(r["video_id"], r["difference"]) for r in found["changed"]] == [("other--0", 0.5), ("v", -0.25)]
    assert list(found["splits"]["medium"]["metrics"]) == ["IoU_gold_pred", "J&F"]


def test_a_run_against_itself_changes_nothing(tmp_path: Path) -> None:
    rows = [row(f"v{i}", "0", i / 8) for i in range(5)] + [row("v9", "0", None)]
    found = compare(*folders(tmp_path, rows, rows), resamples=200)
    metrics = found["splits"]["long"]["metrics"]["IoU_gold_pred"]
    assert (metrics["num"], metrics["difference"], metrics["low"], metrics["high"]) == (5, 0.0, 0.0, 0.0)
    assert found["changed"] == []


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    rows = [row("v", "0", 0.5)]
    a, b = folders(tmp_path, rows, [row("v", "0", 0.5, num_frames=61)])
    with pytest.raises(FormatError, match="num_frames of v/0/1 is 60 and 61"):
        compare(a, b)
    with pytest.raises(FormatError, match="no expression in common"):
        compare(a, write_rows(tmp_path / "c", [row("w", "0", 0.5)]))
    with pytest.raises(FormatError, match="v/0/1 twice"):
        compare(a, write_rows(tmp_path / "d", rows * 2))
    with pytest.raises(FormatError, match="finished `egoray evaluate`"):
        compare(a, str(tmp_path / "nowhere"))
    other = write_rows(tmp_path / "e", rows)
    Folder(other).write_json("run.json", {"config": {"official_compat": True}})
    with pytest.raises(FormatError, match="different rules"):
        compare(a, other)
    with pytest.raises(ConfigError, match="--metric magic"):
        compare(a, a, metric="magic")


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    a, b = folders(tmp_path, [row(f"v{i}", "0", 0.25) for i in range(9)], [row(f"v{i}", "0", 0.5) for i in range(9)])
    done = CliRunner().invoke(main, ["compare", a, b, "--json"])
    assert json.loads(done.stdout)["splits"]["long"]["metrics"]["J&F"]["low"] == 0.25
    done = CliRunner(env={"COLUMNS": "120"}).invoke(main, ["compare", a, b, "--top", "2"])
    assert done.exit_code == 0
    assert done.stdout == ""
    for piece in ("9 expressions of 9 clips", "25.0", "50.0", "+25.0*", "+25.0 to +25.0", "v1/0", "9 clips are few"):
        assert piece in done.stderr
    assert "v2/0" not in done.stderr
