"""What stands in for a tracker's memory where the tracker has none: candidates linked to the anchor by what they look like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter, itemgetter

from egoray.grounding.proposer import Candidate

Linker = Callable[[Sequence[Candidate], Sequence[Candidate]], dict[int, Candidate]]
"""From a sentence's anchors (one at least) and all its candidates, by frame, to the one of each frame that is the same object."""


def alike(least: float = 0.6) -> Linker:
    """Of each frame the candidate whose score times likeness is highest, if it looks at least ``least`` like the nearest anchor.

    Likeness is the histograms' Bhattacharyya coefficient, in [0, 1].
    """

    def link(anchors: Sequence[Candidate], candidates: Sequence[Candidate]) -> dict[int, Candidate]:
        linked = {}
        for frame, together in groupby(candidates, key=attrgetter("frame")):
            nearest = min(anchors, key=lambda anchor: abs(anchor.frame - frame))
            likely = [(alikeness * one.detection.score, one) for one in together if (alikeness := likeness(one, nearest)) >= least]
            if likely:
                linked[frame] = max(likely, key=itemgetter(0))[1]
        return linked | {anchor.frame: anchor for anchor in anchors}

    return link


def likeness(a: Candidate, b: Candidate) -> float:
    """How much two candidates look alike, in [0, 1].

    Raises:
        ValueError: if a look was not taken.
    """
    if a.look is None or b.look is None:
        raise ValueError("candidates without a look cannot be linked; let the proposer take looks")
    return float(a.look @ b.look)
