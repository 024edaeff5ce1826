"""Which frames of a clip VideoLISA is trained on: those that it is shown at all, and those that it is shown in full and draws masks on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from egoray.models.videolisa.prompt import sparse_frames

_STRIDE = 32
"""A place to start every so many frames; it counts where the object shows within half of that."""
_NEAR = 3
"""The frames before and after the start are at most so far from it."""
_MIN_VALID, _MAX_ABSENT = 4, 2


def egomask_frames(present: NDArray[np.bool_], num_sparse: int, num_dense: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Ascending frames around a moment near the object, and the places in them of the dense ones, ascending too.

    Of the starts at every 32nd frame one is drawn that has the object within 16 frames. It, a frame 1 to 3 before it, one as far
    after it, and frames from outside of these are the sparse ones; at least 4 with the object, by exchange, where there are so many.
    The dense ones are drawn from those with the object and up to 2 without it.

    Source: EgoMask's training of VideoLISA. It fails for an object that is in every frame, or in fewer than 4, and repeats the last
    frames of a short clip. Here such an object gives what it has, topped up by frames without it; a clip of ``num_sparse`` frames or fewer
    is repeated as at inference; a dense frame comes twice only in a clip of fewer than ``num_dense``; and an object that shows
    only after the reach of the last start is its own start.

    Args:
        present: (frames,) where the object shows; at least one frame, and perhaps none with it.
        num_sparse: frames that are looked at.
        num_dense: how many of them are seen in full.
        rng: of all draws.
    """
    total = len(present)
    sparse = sparse_frames(total, num_sparse) if total <= num_sparse else _around(present, num_sparse, rng)
    distinct = np.unique(sparse)
    shown, absent = (rng.permutation(distinct[which]) for which in (present[distinct], ~present[distinct]))
    candidates = rng.permutation(np.concatenate([shown, absent[: max(_MAX_ABSENT, num_dense - len(shown))]]))
    return sparse, _places(sparse, np.resize(candidates[:num_dense], num_dense))


def spread_frames(num_frames: int, num_sparse: int, num_dense: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """As `egomask_frames`, for the exocentric sets: frames spread over the clip as at inference, and dense ones drawn among them."""
    sparse = sparse_frames(num_frames, num_sparse)
    return sparse, _places(sparse, np.resize(rng.permutation(np.unique(sparse))[:num_dense], num_dense))


def _places(sparse: list[int], dense: Iterable[int]) -> list[int]:
    return [sparse.index(frame) for frame in sorted(dense)]


def _around(present: NDArray[np.bool_], wanted: int, rng: np.random.Generator) -> list[int]:
    total, valid = len(present), np.flatnonzero(present)
    starts = [s for s in range(0, total, _STRIDE) if present[max(0, s - _STRIDE // 2) : s + _STRIDE // 2 + 1].any()]
    start = int(rng.choice(starts or valid if len(valid) else total))
    low, high = max(0, start - int(rng.integers(1, _NEAR + 1))), min(total - 1, start + int(rng.integers(1, _NEAR + 1)))
    near = list(dict.fromkeys((start, low, high)))
    inside = np.arange(low, high + 1)
    others = [*rng.permutation(np.setdiff1d(np.arange(total), inside)), *rng.permutation(np.setdiff1d(inside, near))]
    chosen = np.array([*near, *others][:wanted])
    missing = rng.permutation(np.setdiff1d(valid, chosen))
    short = max(0, min(_MIN_VALID - int(present[chosen].sum()), len(missing)))
    chosen[rng.permutation(np.flatnonzero(~present[chosen]))[:short]] = missing[:short]
    return sorted(int(frame) for frame in chosen)
