"""J, F and J&F of the exocentric benchmarks, by the rules of their evaluators; the boundary measure is a parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from egoray.core.masks import area, iou
from egoray.evaluate.scores import ScoreSums
from egoray.schema import MaskRLE

BoundaryF = Callable[[MaskRLE | None, MaskRLE | None], float]


def score_frames(
    gold: Mapping[str, MaskRLE],
    predicted: Mapping[str, MaskRLE],
    frame_names: Sequence[str],
    boundary_f: BoundaryF,
    *,
    skip_ends: bool = False,
) -> dict[str, float]:
    """J, F and J&F in [0, 1] of one object or expression, each a mean over the frames; absent in both counts 1.

    Args:
        gold: true masks by frame name; an empty mask is no mask.
        predicted: masks to judge, of the same size.
        frame_names: the video's frames in time order.
        boundary_f: F of one frame.
        skip_ends: leave out the first and last frame, as DAVIS' semi-supervised rule does; referring benchmarks judge all.

    Raises:
        ValueError: if no frame is left, or two masks differ in size.
    """
    names = frame_names[1:-1] if skip_ends else frame_names
    if not names:
        raise ValueError(f"no frame to judge among {len(frame_names)}")
    total = ScoreSums()
    for name in names:
        truth, answer = _seen(gold.get(name)), _seen(predicted.get(name))
        j = iou(truth, answer) if truth and answer else float(truth is answer)
        total += ScoreSums.of({"J": j, "F": boundary_f(truth, answer)})
    means = total.compute()
    return {**means, "J&F": (means["J"] + means["F"]) / 2}


def mean_of_annotators(annotators: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, float]:
    """The mean over annotators of each one's mean over its objects ({} for none); annotators weigh the same."""
    means = [sum(map(ScoreSums.of, scores), ScoreSums()).compute() for scores in annotators]
    return sum(map(ScoreSums.of, means), ScoreSums()).compute()


def _seen(mask: MaskRLE | None) -> MaskRLE | None:
    return mask if mask and area(mask) else None
