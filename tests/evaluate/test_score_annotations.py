"""An annotation folder against a truth written by hand: the figures follow from pixel counts made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from egoray.core.masks import encode
from egoray.errors import FormatError
from egoray.evaluate.scores import score
from egoray.formats.egomask import BenchmarkObject, BenchmarkVideo, frame_name, write_benchmark
from egoray.schema import Expression
from support.annotated import NUM_FRAMES, appearances, write_annotated
from support.release import SIZE_HW, disc

FRAMES = range(0, NUM_FRAMES, 5)


def gold_frames(number: int) -> list[int]:
    return [f for f in FRAMES if any(start <= f < stop for start, stop in appearances(number))]


def write_truth(folder: Path, *, clips: int = 2, numbers: tuple[int, ...] = (0, 1), size_hw: tuple[int, int] = SIZE_HW) -> str:
    """The discs as they were drawn, with two expressions each."""
    videos = []
    for video_id in (f"clip-{i}" for i in range(clips)):
        ids = {"video_id": video_id, "kind": "short", "source": "test"}
        videos.append(
            BenchmarkVideo(
                video_id=video_id,
                tier="medium",
                frame_names=tuple(frame_name(f) for f in FRAMES),
                objects=tuple(
                    BenchmarkObject(
                        object_id=str(n + 1),
                        category=f"disc {n}",
                        masks={frame_name(f): encode(disc(f, n, size_hw)[0]) for f in gold_frames(n)},
                    )
                    for n in numbers
                ),
                expressions=tuple(
                    Expression(**ids, expression_id=f"{n}{k}", object_id=str(n + 1), text=f"disc {n}") for n in numbers for k in "ab"
                ),
            )
        )
    write_benchmark(folder, videos)
    return str(folder)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_annotated(tmp_path_factory.mktemp("exact"))


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_annotated(tmp_path_factory.mktemp("half"), keep=0.5)


def test_exact_masks_score_one(exact: str, tmp_path: Path) -> None:
    found = score(write_truth(tmp_path), exact, "medium")
    assert [(r["video_id"], r["object_id"], r["title"]) for r in found["rows"]] == [
        (f"clip-{i}", object_id, title) for i in range(2) for object_id, title in (("1", "red cup"), ("2", "green lid"))
    ]
    assert found["means"]["iou_gold"] == found["means"]["iou_gold_pred"] == 1.0
    assert [r["num_gold"] for r in found["rows"]] == [r["num_pred"] for r in found["rows"]] == [4, 4, 4, 4]


def test_figures_are_those_counted_by_pixel(half: str, tmp_path: Path) -> None:
    rows = score(write_truth(tmp_path), half, "medium")["rows"]
    for row in rows:
        number = int(row["object_id"]) - 1
        cut, filled, ellipse = [], [], []
        for frame in gold_frames(number):
            mask, (x, y, width, height) = disc(frame, number)
            cut.append(mask[: int(y + height / 2)].sum() / mask.sum())
            filled.append(mask.sum() / (width * height))
            yy, xx = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]] + 0.5
            inside = ((xx - x - width / 2) / (width / 2)) ** 2 + ((yy - y - height / 2) / (height / 2)) ** 2 <= 1
            ellipse.append((inside & mask).sum() / (inside | mask).sum())
        assert row["iou_gold"] == pytest.approx(np.mean(cut))
        assert row["box_fill_iou_gold"] == pytest.approx(np.mean(filled))
        assert row["ellipse_iou_gold"] == pytest.approx(np.mean(ellipse))
        assert row["iou_gold"] < row["box_fill_iou_gold"] < row["ellipse_iou_gold"]


def test_an_object_that_was_lost_counts_zero(exact: str, tmp_path: Path) -> None:
    found = score(write_truth(tmp_path, clips=3), exact, "medium")
    lost = [row for row in found["rows"] if row["video_id"] == "clip-2"]
    assert [(r["iou_gold"], r["box_fill_iou_gold"], r["num_pred"], r["title"]) for r in lost] == [(0.0, 0.0, 0, "")] * 2
    assert found["means"]["iou_gold"] == pytest.approx(4 / 6)


def test_an_object_without_gold_has_no_value_and_moves_no_mean(exact: str, tmp_path: Path) -> None:
    found = score(write_truth(tmp_path, numbers=(0, 2)), exact, "medium")
    unseen = [row for row in found["rows"] if row["object_id"] == "3"]
    assert [(r["iou_gold"], r["box_fill_iou_gold"], r["num_gold"]) for r in unseen] == [(None, None, 0)] * 2
    assert found["means"]["iou_gold"] == 1.0


def test_nothing_to_score_is_an_error(exact: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="split short holds no object"):
        score(write_truth(tmp_path), exact, "short")


def test_another_resolution_is_an_error_that_names_both(exact: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"clip-0/1.*\(72, 96\), \(144, 192\)"):
        score(write_truth(tmp_path, size_hw=(144, 192)), exact, "medium")
