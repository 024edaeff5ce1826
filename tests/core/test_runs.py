"""Runs read from the compressed text, against pycocotools."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from egoray.core import masks
from egoray.core.runs import draw, edges, extent, read_runs

dense_masks = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def compressed(counts, height, width):
    return coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"].decode()


@given(st.lists(st.integers(0, 5_000_000), min_size=1, max_size=12))
def test_runs_are_those_that_were_written(counts):
    total = sum(counts)
    assert read_runs(compressed(counts, 1, total)).tolist() == counts


@given(dense_masks, st.data())
def test_drawing_in_any_window_gives_the_pixels(mask, data):
    height, width = mask.shape
    starts, stops = edges(read_runs(masks.encode(mask).counts))
    assert (stops - starts).sum() == mask.sum()
    if not mask.any():
        return
    top, left, bottom, right = extent(starts, stops, height)
    if top > 0 or bottom < height:
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert (top, left, bottom, right) == (rows[0], cols[0], rows[-1] + 1, cols[-1] + 1)
    window = (
        data.draw(st.integers(0, top)),
        data.draw(st.integers(0, left)),
        data.draw(st.integers(bottom, height)),
        data.draw(st.integers(right, width)),
    )
    drawn = draw(starts, stops, height, window)
    np.testing.assert_array_equal(drawn.T, mask[window[0] : window[2], window[1] : window[3]])


def test_runs_that_touch_are_one_object():
    starts, stops = edges(read_runs(compressed([3, 2, 0, 4, 3], 3, 4)))
    assert draw(starts, stops, 3, (0, 0, 3, 4)).ravel().tolist() == [False] * 3 + [True] * 6 + [False] * 3


@pytest.mark.parametrize("text", ["\x10", "P", "0P", "~", "é", "o" * 9 + "0", "0O"])
def test_what_is_no_code_is_refused(text):
    with pytest.raises(ValueError, match=r"run"):
        read_runs(text)


def test_no_text_has_no_runs():
    assert read_runs("").size == 0
