"""Each frame has one verdict, by the definitions in the docs."""

from __future__ import annotations

import numpy as np
import pytest

from egoray.core.masks import encode
from egoray.report.failures import FAILURES, Verdict, dominant, verdicts
from egoray.schema import MaskRLE


def strip(start: int, stop: int) -> MaskRLE:
    """Columns ``start`` to ``stop`` of a 4 x 40 image."""
    mask = np.zeros((4, 40), dtype=bool)
    mask[:, start:stop] = True
    return encode(mask)


@pytest.mark.parametrize(
    ("gold", "predicted", "kind", "overlap"),
    [
        (strip(0, 10), strip(0, 10), "right", 1.0),
        (strip(0, 30), strip(0, 40), "right", 0.75),
        (strip(0, 29), strip(0, 40), "boundary", 29 / 40),
        (strip(0, 1), strip(0, 10), "boundary", 0.1),
        (strip(0, 1), strip(0, 11), "wrong object", 1 / 11),
        (strip(0, 10), strip(20, 30), "wrong object", 0.0),
        (strip(0, 10), None, "missed", None),
        (strip(0, 10), strip(0, 0), "missed", None),
        (None, strip(0, 10), "hallucinated", None),
        (strip(5, 5), strip(0, 10), "hallucinated", None),
        (None, None, "absent", None),
        (strip(0, 0), strip(0, 0), "absent", None),
    ],
)
def test_the_verdict_of_a_frame(gold: MaskRLE | None, predicted: MaskRLE | None, kind: str, overlap: float | None) -> None:
    sides = [{"f": rle} if rle else {} for rle in (gold, predicted)]
    assert verdicts(*sides, ["f"]) == [Verdict(kind, overlap)]


def test_verdicts_follow_the_frames_asked_for() -> None:
    gold, predicted = {"a": strip(0, 9), "c": strip(0, 9)}, {"b": strip(0, 9), "c": strip(0, 9), "elsewhere": strip(0, 9)}
    assert [v.kind for v in verdicts(gold, predicted, ["c", "b", "a", "d"])] == ["right", "hallucinated", "missed", "absent"]
    with pytest.raises(ValueError, match="cannot be compared"):
        verdicts(gold, {"a": encode(np.ones((2, 2), dtype=bool))}, ["a"])


def test_the_dominant_failure_counts_frames_and_ignores_right_ones() -> None:
    found = [Verdict("right", 0.9)] * 9 + [Verdict("boundary", 0.2)] * 2 + [Verdict("missed", None)] + [Verdict("absent", None)] * 9
    assert dominant(found) == "boundary"
    assert dominant(found[:9] + found[-9:]) == dominant([]) == "right"
    assert dominant([Verdict(kind, None) for kind in reversed(FAILURES)]) == "missed"
