"""J&F against a count by hand; F is given, as the frame rule of another file."""

import numpy as np
import pytest

from egoray.core.masks import encode
from egoray.evaluate.jf import mean_of_annotators, score_frames

A, B = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
A[:2], B[1:3] = True, True
EMPTY = encode(np.zeros((4, 4), bool))
NAMES = ["0", "1", "2", "3"]


def flat_f(gold, predicted):
    return 1.0 if gold is predicted is None else 0.5


@pytest.mark.parametrize(("skip_ends", "j", "f"), [(False, (1 / 3 + 1 + 0 + 1) / 4, 0.625), (True, 0.5, 0.75)])
def test_frames_and_their_ends(skip_ends, j, f):
    gold = {"0": encode(A), "1": EMPTY, "2": encode(A), "3": encode(B)}
    got = score_frames(gold, {"0": encode(B), "3": encode(B)}, NAMES, flat_f, skip_ends=skip_ends)
    assert got == pytest.approx({"J": j, "F": f, "J&F": (j + f) / 2})


def test_annotators_weigh_the_same():
    assert mean_of_annotators([[{"J": 1.0}, {"J": 0.0}, {"J": 0.5}], [{"J": 1.0}]]) == {"J": 0.75}


def test_no_frame_is_an_error():
    with pytest.raises(ValueError, match="no frame"):
        score_frames({}, {}, ["0", "1"], flat_f, skip_ends=True)
