"""Each figure of an expression, against its definition on dense masks."""

import dense
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egoray.core import masks
from egoray.evaluate.boundary import boundary_f
from egoray.evaluate.expression import METRICS, score_expression


def blob(rng, height, width):
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for _ in range(rng.integers(1, 3)):
        cy, cx, (a, b) = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.3, 1 + height / 3, 2)
        mask |= ((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 <= 1
    if rng.random() < 0.1:
        mask[:] = True
    return mask


def video(seed):
    """(gold, predicted) stacks whose masks are often near each other, and often absent."""
    rng = np.random.default_rng(seed)
    height, width, num = (int(rng.integers(low, high)) for low, high in ((1, 30), (1, 30), (1, 9)))
    gold = np.stack([blob(rng, height, width) & (rng.random() < 0.5) for _ in range(num)])
    predicted = np.stack([np.roll(g, rng.integers(-2, 3, 2), (0, 1)) if rng.random() < 0.6 else blob(rng, height, width) for g in gold])
    predicted[rng.random(num) < 0.3] = False
    return gold, predicted


def encoded(stack, empty_too):
    return {f"{5 * i:05d}": masks.encode(m) for i, m in enumerate(stack) if empty_too or m.any()}


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_metric_is_its_definition(seed, empty_too):
    gold, predicted = video(seed)
    frames = [f"{5 * i:05d}" for i in range(len(gold))]
    row = score_expression(frames, encoded(gold, empty_too), encoded(predicted, empty_too))
    expected = dense.metrics(gold, predicted)
    assert {m: row[m] for m in METRICS} == pytest.approx(expected, abs=1e-12)
    assert (row["num_frames"], row["num_gold"], row["num_pred"]) == (len(gold), gold.any((1, 2)).sum(), predicted.any((1, 2)).sum())


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_boundary_f_is_the_dense_one_to_the_last_bit(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(1, 60, 2))
    a, b = blob(rng, height, width), blob(rng, height, width)
    assert boundary_f(masks.encode(a), masks.encode(b)) == dense.boundary_f(a, b)
    assert boundary_f(masks.encode(a), None) == dense.boundary_f(a, np.zeros_like(a))
    assert boundary_f(None, None) == 1.0


def test_the_oracle_notices_an_absent_frame_that_counts():
    wrong = 0
    for seed in range(20):
        gold, predicted = video(seed)
        present = gold.any((1, 2))
        iou = [(g & p).sum() / max(1, (g | p).sum()) for g, p in zip(gold, predicted, strict=True)]
        wrong += present.any() and np.mean(iou) != pytest.approx(dense.metrics(gold, predicted)["IoU_gold"], abs=1e-12)
    assert wrong >= 10


def test_the_oracle_notices_a_wrong_reach(monkeypatch):
    rng = np.random.default_rng(3)
    a = blob(rng, 50, 50)
    b = np.roll(a, 2, 1)
    right = dense.boundary_f(a, b)
    monkeypatch.setattr("egoray.evaluate.boundary.TOLERANCE", 0.03)
    assert boundary_f(masks.encode(a), masks.encode(b)) != right


def square(at, size=(20, 30)):
    mask = np.zeros(size, bool)
    mask[at : at + 6, at : at + 6] = True
    return masks.encode(mask)


def test_edge_cases_are_the_sane_ones():
    nothing = score_expression(["a", "b"], {}, {})
    assert {m: nothing[m] for m in METRICS if nothing[m] is not None} == {
        "T_precision": 1.0,
        "T_f1": 1.0,
        "T_accuracy": 1.0,
        "IoU_all": 1.0,
        "J": 1.0,
        "F": 1.0,
        "J&F": 1.0,
    }
    hallucinated = score_expression(["a", "b"], {}, {"a": square(1)})
    assert (hallucinated["T_recall"], hallucinated["T_precision"], hallucinated["IoU_gold_pred"]) == (None, 0.0, 0.0)
    missed = score_expression(["a", "b"], {"a": square(1)}, {})
    assert (missed["T_recall"], missed["T_precision"], missed["IoU_gold"], missed["IoU_all"]) == (0.0, 0.0, 0.0, 0.5)


def test_a_frame_given_twice_counts_once_and_others_are_ignored():
    gold, predicted = {"a": square(1), "x": square(2)}, {"a": square(2), "y": square(1)}
    assert score_expression(["a", "b", "a"], gold, predicted) == score_expression(["a", "b"], gold, predicted)


def test_masks_of_two_sizes_name_the_frame():
    with pytest.raises(ValueError, match=r"frame b: masks of \(20, 30\) and \(6, 9\)"):
        score_expression(["a", "b"], {"b": square(1)}, {"b": square(1, (6, 9))})


def test_detection_is_judged_where_it_stands():
    gold = {"a": square(4)}
    exact = {"frame_name": "a", "input_boxes": [4, 4, 10, 10]}
    row = score_expression(["a", "b"], gold, {"a": square(4)}, exact)
    assert [row[f"detection_{k}"] for k in ("flag", "box_iou", "mask_iou")] == [1.0, 1.0, 1.0]
    elsewhere = score_expression(["a", "b"], gold, {"b": square(4)}, exact | {"frame_name": "b"})
    assert [elsewhere[f"detection_{k}"] for k in ("flag", "box_iou", "mask_iou")] == [0.0, 0.0, 0.0]
    without = score_expression(["a"], gold, {})
    assert without["detection_flag"] is None


def test_what_slices_are_made_of():
    frames = [str(i) for i in range(30)]
    gold = {f: square(3) for f in ("1", "2", "5", "29")}
    row = score_expression(frames, gold, {"2": square(3), "29": square(3)})
    assert row["num_trajectories"] == 3
    assert row["presence"] == pytest.approx(4 / 30)
    assert row["object_area"] == pytest.approx(36 / 600)
    assert row["since_last_seen"] == {
        "first seen": (0.0, 0, 1),
        "next frame": (1.0, 1, 1),
        "2 to 5 frames": (0.0, 0, 1),
        "more than 20 frames": (1.0, 1, 1),
    }
