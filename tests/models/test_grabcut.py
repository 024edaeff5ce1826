"""GrabCut in boxes: shapes that a box and an ellipse miss, and boxes that hold nothing."""

import numpy as np
import pytest

from egoray.models.base import Prompt, TrackRequest
from egoray.models.grabcut import GrabCut

SIZE = (120, 160)


def scene(mask, seed=0):
    """A textured red thing on textured blue-grey ground."""
    rng = np.random.default_rng(seed)
    ground = rng.normal((90, 110, 140), 18, (*SIZE, 3))
    thing = rng.normal((190, 60, 50), 18, (*SIZE, 3))
    return np.clip(np.where(mask[..., None], thing, ground), 0, 255).astype(np.uint8)


def ring(cy, cx, outer, inner):
    yy, xx = np.mgrid[: SIZE[0], : SIZE[1]]
    d = np.hypot(yy - cy, xx - cx)
    return (d <= outer) & (d >= inner)


def bracket(y, x, side, thick):
    mask = np.zeros(SIZE, bool)
    mask[y : y + side, x : x + thick] = True
    mask[y + side - thick : y + side, x : x + side] = True
    return mask


def tight(mask):
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (float(cols[0]), float(rows[0]), float(cols[-1] + 1), float(rows[-1] + 1))


def follow(masks):
    frames = [scene(m, i) for i, m in enumerate(masks)]
    request = TrackRequest(key="a", start=0, stop=len(masks), prompts={}, boxes={i: tight(m) for i, m in enumerate(masks)})
    return [found["a"] for _, found in GrabCut().track(enumerate(frames), [request])]


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize(
    "shapes",
    [[ring(50 + 3 * i, 60 + 5 * i, 24, 12) for i in range(6)], [bracket(30 + 2 * i, 40 + 5 * i, 44, 12) for i in range(6)]],
    ids=["ring", "bracket"],
)
def test_holes_and_corners_are_found(shapes):
    found = follow(shapes)
    scores = [iou(f.mask, m) for f, m in zip(found, shapes, strict=True)]
    assert np.mean(scores) > 0.85, scores
    assert all(f.score > 0.9 for f in found)


def test_a_box_outside_the_image_gives_an_empty_mask():
    request = TrackRequest(key="a", start=0, stop=1, prompts={}, boxes={0: (200.0, 10.0, 220.0, 30.0)})
    ((_, found),) = GrabCut().track([(0, scene(np.zeros(SIZE, bool)))], [request])
    assert not found["a"].mask.any()
    assert found["a"].score == 0.0


def test_flat_colour_falls_back_to_the_ellipse_and_says_so():
    request = TrackRequest(key="a", start=0, stop=1, prompts={}, boxes={0: (40.0, 40.0, 80.0, 70.0)})
    ((_, found),) = GrabCut().track([(0, np.full((*SIZE, 3), 128, np.uint8))], [request])
    assert found["a"].score == 0.0
    assert 0.7 < found["a"].mask[40:70, 40:80].mean() < 0.85


def test_one_pixel_boxes_work():
    request = TrackRequest(key="a", start=0, stop=1, prompts={}, boxes={0: (0.0, 0.0, 0.5, 0.5)})
    ((_, found),) = GrabCut().track([(0, scene(np.zeros(SIZE, bool)))], [request])
    assert found["a"].mask.sum() <= 1


def test_a_mask_told_by_a_person_is_kept_and_says_which_of_two_things_is_meant():
    left, right = [ring(60, 40 + i, 14, 0) for i in range(4)], [ring(60, 100 + i, 14, 0) for i in range(4)]
    frames = [scene(a | b, i) for i, (a, b) in enumerate(zip(left, right, strict=True))]
    boxes = {i: tight(a | b) for i, (a, b) in enumerate(zip(left, right, strict=True))}
    request = TrackRequest(key="a", start=0, stop=4, prompts={0: Prompt(mask=left[0])}, boxes=boxes)
    found = [f["a"] for _, f in GrabCut().track(enumerate(frames), [request])]
    assert np.array_equal(found[0].mask, left[0])
    assert found[0].score == 1.0
    assert min(iou(f.mask, m) for f, m in zip(found, left, strict=True)) > 0.8
