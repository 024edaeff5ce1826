"""The runs inside a run-length mask: read from COCO's compressed text in one go, and drawn where the object is and nowhere else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Runs = NDArray[np.int64]
_MAX_LETTERS = 7
"""Letters of one run: 35 bits, more than any mask needs."""


def read_runs(counts: str) -> Runs:
    """The lengths of the runs, background first, column by column.

    COCO's compressed code holds five bits a letter from "0" on, the sixth saying that more follow, the third run on as the
    difference to the last but one.

    Raises:
        ValueError: if the text is no such code, or a run has a negative length.
    """
    letters = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    if not letters.size:
        return letters
    ends = np.flatnonzero(letters & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1]) if ends.size else ends
    lengths = ends - starts + 1
    if ((letters < 0) | (letters > 63)).any() or not ends.size or ends[-1] != letters.size - 1 or lengths.max() > _MAX_LETTERS:
        raise ValueError("not COCO's compressed run lengths")
    place = 5 * (np.arange(letters.size) - np.repeat(starts, lengths))
    values = np.add.reduceat((letters & 31) << place, starts)
    values -= np.where(letters[ends] & 16, np.int64(1) << 5 * lengths, 0)
    runs = values.copy()
    runs[1::2] = values[1::2].cumsum()
    runs[2::2] = values[2::2].cumsum()
    if (runs < 0).any():
        raise ValueError("a run of negative length")
    return runs


def edges(runs: Runs) -> tuple[Runs, Runs]:
    """First pixels of the foreground runs and the pixels after their last, in column order; runs of no pixel left out."""
    bounds = runs.cumsum()
    starts, stops = bounds[: len(bounds) // 2 * 2 : 2], bounds[1::2]
    some = stops > starts
    return starts[some], stops[some]


def extent(starts: Runs, stops: Runs, height: int) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) around the foreground of at least one run, bottom and right one past the last pixel."""
    first, last = starts // height, (stops - 1) // height
    left, right = int(first[0]), int(last[-1]) + 1
    if (first != last).any():  # a run that goes on in the next column touches the bottom and the top
        return 0, left, height, right
    return int((starts - first * height).min()), left, int((stops - first * height).max()), right


def draw(starts: Runs, stops: Runs, height: int, window: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """``(right - left, bottom - top)`` bool: the foreground in the window (top, left, bottom, right), transposed.

    The window must hold all of it.
    """
    top, left, bottom, right = window
    rows = bottom - top
    change = np.zeros((right - left) * rows + 1, np.int8)
    shift = left * rows + top
    change[starts - starts // height * (height - rows) - shift] += 1
    last = stops - 1
    change[last - last // height * (height - rows) - shift + 1] -= 1
    return change[:-1].cumsum(dtype=np.int8).view(bool).reshape(right - left, rows)
