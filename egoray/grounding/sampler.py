"""Which frames of a clip the proposer looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Sampler = Callable[[int], Sequence[int]]
"""From the number of frames of a clip to strictly ascending frames of it."""


def every(step: int = 1) -> Sampler:
    """Each ``step``-th frame, the first one included.

    Raises:
        ValueError: if ``step`` is below 1.
    """
    if step < 1:
        raise ValueError(f"every {step} frames: must be 1 or more")
    return lambda num_frames: range(0, num_frames, step)


every_frame = every()
"""All of them, as in the paper."""
