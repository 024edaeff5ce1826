"""Patches against the dense masks that they stand for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from egoray.core import masks
from egoray.core.patch import Patch

dense_masks = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@given(dense_masks)
def test_a_patch_is_the_mask_it_was_cut_from(mask):
    patch = Patch.of(mask)
    np.testing.assert_array_equal(patch.dense(), mask)
    assert patch.any() == mask.any()
    assert patch.encode() == masks.encode(mask)


@given(dense_masks, st.data())
def test_a_wider_patch_encodes_alike(mask, data):
    height, width = mask.shape
    tight = Patch.of(mask)
    top, left = data.draw(st.integers(0, tight.top)), data.draw(st.integers(0, tight.left))
    bottom = data.draw(st.integers(tight.top + tight.pixels.shape[0], height))
    right = data.draw(st.integers(tight.left + tight.pixels.shape[1], width))
    wide = Patch(mask[top:bottom, left:right], top, left, mask.shape)
    assert wide.encode() == masks.encode(mask)


@given(dense_masks, st.tuples(*[st.floats(-3, 12)] * 4))
def test_clipping_is_that_of_the_dense_mask(mask, box):
    kept = Patch.of(mask).inside(box)
    np.testing.assert_array_equal(kept.dense(), masks.keep_inside(mask, box))
    assert kept.encode() == masks.encode(masks.keep_inside(mask, box))


@pytest.mark.parametrize("size", [(3, 4), (1, 1), (1080, 1920)])
def test_the_empty_mask(size):
    patch = Patch.empty(size)
    assert not patch.any()
    assert patch.encode() == masks.encode(np.zeros(size, bool))
