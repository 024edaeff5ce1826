"""The baselines that a box alone gives, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from egoray.core.masks import decode
from egoray.evaluate.region import box_ellipse, box_fill

SIZE = (12, 17)


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
