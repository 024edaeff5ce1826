"""From the network's small logits to masks of the frame's size, against enlarging everything."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from egoray.models.sam2_masks import fill_holes, to_patches


def enlarged(logits, size_hw):
    return F.interpolate(torch.from_numpy(logits)[None, None], size=size_hw, mode="bilinear", align_corners=False)[0, 0].numpy()


def blob(rng, side=32):
    y, x = np.mgrid[:side, :side]
    cy, cx, r = *rng.uniform(-4, side + 4, 2), rng.uniform(0.5, side / 2)
    return (r - np.hypot(y - cy, x - cx) + rng.normal(0, 0.3, (side, side))).astype(np.float32)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(360, 640), (1080, 1920), (97, 131), (32, 32), (20, 9), (1440, 1080)]))
@settings(max_examples=60, deadline=None)
def test_enlarging_the_part_is_enlarging_the_whole(seed, size_hw):
    logits = blob(np.random.default_rng(seed))
    (patch,) = to_patches([logits], size_hw)
    whole = enlarged(logits, size_hw)
    clear = np.abs(whole) > 1e-3
    np.testing.assert_array_equal(patch.dense()[clear], (whole > 0)[clear])


def test_a_small_object_costs_a_small_part():
    logits = np.full((256, 256), -5.0, np.float32)
    logits[100:104, 50:53] = 5.0
    (patch,) = to_patches([logits], (1080, 1920))
    assert patch.any()
    assert patch.pixels.size < 0.02 * 1080 * 1920


def test_no_object_no_pixels():
    (patch,) = to_patches([np.full((8, 8), -1024.0, np.float32)], (30, 40))
    assert patch.pixels.size == 0
    assert patch.dense().shape == (30, 40)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_without_overlap_each_pixel_has_the_most_certain_owner(seed):
    rng = np.random.default_rng(seed)
    maps = [blob(rng) for _ in range(3)]
    patches = to_patches(maps, (64, 96), non_overlapping=True)
    whole = np.stack([enlarged(m, (64, 96)) for m in maps])
    first, second = np.sort(whole, 0)[-1], np.sort(whole, 0)[-2]
    clear = (np.abs(first) > 1e-3) & (first - second > 1e-3)
    expected = (whole.argmax(0) == np.arange(3)[:, None, None]) & (whole > 0)
    np.testing.assert_array_equal(np.stack([p.dense() for p in patches])[:, clear], expected[:, clear])


def test_holes_up_to_the_area_are_filled_and_no_others():
    logits = np.full((20, 20), -3.0, np.float32)
    logits[2:18, 2:18] = 2.0
    logits[4, 4] = -1.0
    logits[5, 5] = -1.0  # touches the last one at a corner: one hole of two
    logits[10:13, 10:13] = -1.0
    filled = fill_holes(logits, 2)
    assert filled[4, 4] == filled[5, 5] == np.float32(0.1)
    changed = filled != logits
    assert changed.sum() == 2
    assert (fill_holes(logits, 9)[10:13, 10:13] > 0).all()
    assert (fill_holes(logits, 1) == logits).all()


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_maps_without_holes_stay(value):
    logits = np.full((6, 6), value, np.float32)
    np.testing.assert_array_equal(fill_holes(logits, 4), logits)
