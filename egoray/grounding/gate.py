"""Which of the tracked masks are given out."""

from __future__ import annotations

from collections.abc import Callable

Gate = Callable[[float], bool]
"""From the confidence in [0, 1] that the object is in a frame to whether its mask there is given out."""


def every_mask(confidence: float) -> bool:
    """Whatever the tracker found, as in the paper."""
    return True


def confident(least: float) -> Gate:
    """Only where the confidence is at least ``least``."""
    return lambda confidence: confidence >= least
