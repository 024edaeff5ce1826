"""Which of the candidates the object is followed from.

Source: the paper's Grounded-SAM2 starts from the frame of highest confidence; its ablation "naive" from the first frame with a detection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from egoray.grounding.proposer import Candidate

Verifier = Callable[[Sequence[Candidate]], Sequence[Candidate]]
"""From a sentence's candidates (by frame, best first within one) to its anchors: one a frame at most, none for "nowhere"."""


def most_confident(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """The one of highest score; of equals the first."""
    return [max(candidates, key=lambda c: c.detection.score)] if candidates else []


def first_found(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """The best one of the first frame that has any."""
    return candidates[:1]
