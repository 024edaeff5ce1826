"""Region scores against a slow oracle on dense masks that shares no code with the package."""

from __future__ import annotations

import math

import numpy as np
import pytest

from egoray.core.masks import decode, encode
from egoray.evaluate.region import box_ellipse, box_fill, mean_ious

SIZE = (12, 17)


def oracle(gold: dict, predicted: dict, frames: list, *, empty_is_present: bool = False) -> dict[str, float]:
    """Plain loops over pixels of ``{frame: (H, W) bool}``; ``empty_is_present`` plants the released evaluator's bug."""
    values: dict[str, list[float]] = {"IoU_gold": [], "IoU_gold_pred": [], "IoU_all": []}
    for frame in frames:
        both = either = in_gold = in_predicted = 0
        for y in range(SIZE[0]):
            for x in range(SIZE[1]):
                g = frame in gold and bool(gold[frame][y, x])
                p = frame in predicted and bool(predicted[frame][y, x])
                both, either, in_gold, in_predicted = both + (g and p), either + (g or p), in_gold + g, in_predicted + p
        value = both / either if either else 1.0
        has_gold = frame in gold if empty_is_present else in_gold > 0
        has_predicted = frame in predicted if empty_is_present else in_predicted > 0
        if has_gold:
            values["IoU_gold"].append(value)
        if has_gold or has_predicted:
            values["IoU_gold_pred"].append(value)
        values["IoU_all"].append(value)
    return {metric: sum(found) / len(found) for metric, found in values.items() if found}


def random_case(seed: int) -> tuple[dict, dict, list]:
    """Dense masks on some of 8 frames, a few of them empty, a few keys outside the judged frames."""
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(2):
        masks = {f"{5 * i:05d}": rng.random(SIZE) < rng.choice([0.0, 0.2, 0.7]) for i in range(10) if rng.random() < 0.6}
        cases.append(masks)
    return cases[0], cases[1], [f"{5 * i:05d}" for i in range(8)]


def encoded(masks: dict) -> dict:
    return {frame: encode(mask) for frame, mask in masks.items()}


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_the_oracle(seed: int) -> None:
    gold, predicted, frames = random_case(seed)
    assert mean_ious(encoded(gold), encoded(predicted), frames) == pytest.approx(oracle(gold, predicted, frames), abs=1e-12)


def test_the_oracle_catches_a_planted_bug() -> None:
    disagreements = 0
    for seed in range(20):
        gold, predicted, frames = random_case(seed)
        ours, planted = mean_ious(encoded(gold), encoded(predicted), frames), oracle(gold, predicted, frames, empty_is_present=True)
        disagreements += ours != pytest.approx(planted, abs=1e-12)
    assert disagreements >= 5


def test_nothing_predicted_scores_zero_and_the_absent_share() -> None:
    full = encode(np.ones(SIZE, dtype=bool))
    assert mean_ious({"00000": full}, {}, ["00000", "00005", "00010", "00015"]) == {"IoU_gold": 0.0, "IoU_gold_pred": 0.0, "IoU_all": 0.75}


def test_a_mean_over_no_frame_is_left_out() -> None:
    empty, full = encode(np.zeros(SIZE, dtype=bool)), encode(np.ones(SIZE, dtype=bool))
    assert mean_ious({}, {}, []) == {}
    assert mean_ious({0: empty}, {0: empty}, [0]) == {"IoU_all": 1.0}
    assert mean_ious({}, {0: full}, [0]) == {"IoU_gold_pred": 0.0, "IoU_all": 0.0}
    assert mean_ious({7: full}, {7: full}, [0]) == {"IoU_all": 1.0}


def test_masks_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        mean_ious({0: encode(np.ones((4, 5), dtype=bool))}, {0: encode(np.ones((5, 4), dtype=bool))}, [0])


def test_box_fill_covers_the_pixels_that_the_box_touches() -> None:
    filled = decode(box_fill((2.3, 1.0, 5.1, 4.0), SIZE))
    expected = np.zeros(SIZE, dtype=bool)
    expected[1:4, 2:6] = True
    assert np.array_equal(filled, expected)
    assert not decode(box_fill((20.0, 1.0, 25.0, 4.0), SIZE)).any()


@pytest.mark.parametrize("box", [(2.0, 1.0, 12.0, 9.0), (-3.0, -2.5, 6.25, 7.0), (10.5, 3.0, 30.0, 11.0)])
def test_ellipse_follows_the_pixel_centres(box: tuple[float, float, float, float]) -> None:
    x1, y1, x2, y2 = box
    for y, row in enumerate(decode(box_ellipse(box, SIZE))):
        for x, inside in enumerate(row):
            radius = math.hypot((x + 0.5 - (x1 + x2) / 2) / ((x2 - x1) / 2), (y + 0.5 - (y1 + y2) / 2) / ((y2 - y1) / 2))
            assert inside == (radius <= 1), (x, y)


def test_ellipse_of_a_box_without_area_is_empty() -> None:
    assert not decode(box_ellipse((3.0, 3.0, 3.0, 8.0), SIZE)).any()


def test_ellipse_covers_pi_quarters_of_a_large_box() -> None:
    share = decode(box_ellipse((10.0, 20.0, 210.0, 140.0), (200, 300))).sum() / (200 * 120)
    assert share == pytest.approx(math.pi / 4, abs=0.002)
